//! The page at `/` of a server that was built without the chat page. It explains how to connect a client.

use axum::{
    Router,
    http::{
        HeaderName,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    routing::get,
};

use crate::{
    api::{app::App, content_policy::hash_source, html_page::escape_html},
    config::Config,
};

const WELCOME_PAGE: &str = include_str!("welcome.html");
const WELCOME_STYLE: &str = include_str!("welcome.css");
const WELCOME_SCRIPT: &str = include_str!("welcome.js");

/// Serves the page.
pub(super) fn routes(config: &Config) -> Router<App> {
    let page = page(config);
    let headers = headers();
    Router::new().route("/", get(move || async move { (headers, page) }))
}

fn page(config: &Config) -> String {
    let registration = if config.registration.open {
        "Registration is open: anyone can create an account."
    } else {
        "Registration is closed: the administrator of this server can give you a registration token."
    };
    WELCOME_PAGE
        .replace("{{style}}", WELCOME_STYLE)
        .replace("{{script}}", WELCOME_SCRIPT)
        .replace("{{server_name}}", &escape_html(config.server.name.as_str()))
        .replace("{{public_url}}", &escape_html(config.public_url().as_str()))
        .replace("{{registration}}", registration)
}

/// Returns the headers of the page. It loads nothing and cannot be framed. Its only style and script are named by their
/// hashes, and the script may contact this server only.
fn headers() -> [(HeaderName, String); 5] {
    let policy = format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash_source(WELCOME_STYLE),
        hash_source(WELCOME_SCRIPT)
    );
    [
        (CONTENT_SECURITY_POLICY, policy),
        (CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (CACHE_CONTROL, "no-cache".to_owned()),
        (REFERRER_POLICY, "no-referrer".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_the_server_and_loads_nothing() {
        let page = page(&Config::default());

        assert!(page.contains("http://127.0.0.1:8008"));
        assert!(page.contains("Registration is closed"));
        assert!(!page.contains("{{"));
        for loading in ["src=", "url(", "@import", "<link"] {
            assert!(!page.contains(loading), "{loading}");
        }
    }
}
