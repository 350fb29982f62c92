//! Web pages that need no script: confirmations, sign-in, the account.

use axum::{
    http::{
        StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};

use super::content_policy::hash_source;

const PAGE_HTML: &str = include_str!("html_page/page.html");
const PAGE_STYLE: &str = include_str!("html_page/style.css");

/// A page. It loads nothing, cannot be framed, and runs no script except the one that it names.
pub(super) struct HtmlPage<'a> {
    status: StatusCode,
    title: &'a str,
    content: &'a str,
    script: &'a str,
    form_target: &'a str,
}

impl<'a> HtmlPage<'a> {
    /// Returns a page. `content` is HTML.
    pub(super) fn new(title: &'a str, content: &'a str) -> Self {
        Self {
            status: StatusCode::OK,
            title,
            content,
            script: "",
            form_target: "",
        }
    }

    /// Returns the same page with another status.
    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    /// Returns the same page with permission to run the script in its content.
    pub(super) fn with_script(self, script: &'a str) -> Self {
        Self { script, ..self }
    }

    /// Returns the same page whose forms may lead to this origin or scheme, too. Browsers apply the policy also to
    /// redirects after a form was sent.
    pub(super) fn with_form_target(self, form_target: &'a str) -> Self {
        Self {
            form_target,
            ..self
        }
    }
}

impl IntoResponse for HtmlPage<'_> {
    fn into_response(self) -> Response {
        let script_source = match self.script {
            "" => "'none'".to_owned(),
            script => hash_source(script),
        };
        let policy = format!(
            "default-src 'none'; style-src {}; script-src {script_source}; base-uri 'none'; \
             form-action 'self' {}; frame-ancestors 'none'",
            hash_source(PAGE_STYLE),
            self.form_target,
        );
        let headers = [
            (CONTENT_SECURITY_POLICY, policy),
            (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
            (CACHE_CONTROL, "no-store".to_owned()),
            // The address may have a secret, which only this server may see again.
            (REFERRER_POLICY, "same-origin".to_owned()),
            (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        ];
        let page = PAGE_HTML
            .replace("{{style}}", PAGE_STYLE)
            .replace("{{title}}", &escape_html(self.title))
            .replace("{{content}}", self.content);
        (self.status, headers, page).into_response()
    }
}

/// Returns a text for the content or a quoted attribute of an element.
pub(super) fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// Returns a paragraph that says what was wrong, or nothing.
pub(super) fn wrong_input(reason: &str) -> String {
    match reason {
        "" => String::new(),
        reason => format!(
            r#"<p class="wrong" role="alert">{}</p>"#,
            escape_html(reason)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_leave_its_element_or_attribute() {
        assert_eq!(
            escape_html(r#"<a href="&'">"#),
            "&lt;a href=&quot;&amp;&#39;&quot;&gt;"
        );
    }
}
