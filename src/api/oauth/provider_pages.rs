//! Parts of pages about identity providers: links to them, and the confirmation of dangerous changes.

use url::form_urlencoded;

use crate::{
    api::{App, RequestClass, html_page::escape_html},
    config::ProviderSection,
    error::{Error, Result},
    users::{BrowserUser, IdentityProviders},
};

/// The part of a form in which a user confirms a dangerous change.
pub(super) struct ConfirmationField {
    /// HTML.
    pub(super) content: String,
    /// Whether the form can be sent, or the user has to sign in again before.
    pub(super) is_possible: bool,
}

/// Returns the links with which users sign in with the providers, as HTML.
pub(super) fn provider_links<'a>(
    providers: impl Iterator<Item = &'a ProviderSection>,
    next: &str,
) -> String {
    let links = providers.map(|provider| {
        let label = format!("Continue with {}", provider.name);
        provider_link(&provider.id, &label, "", next)
    });
    links.collect()
}

/// Returns a link to a provider, as HTML. `action` is `link`, `confirm` or empty.
pub(super) fn provider_link(id: &str, label: &str, action: &str, next: &str) -> String {
    let address = escape_html(&begin_address(id, action, next));
    let label = escape_html(label);
    format!(r#"<p><a class="button" href="{address}">{label}</a></p>"#)
}

/// Returns the address that leads to a provider. `action` is `link`, `confirm` or empty.
pub(super) fn begin_address(id: &str, action: &str, next: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if !action.is_empty() {
        query.append_pair("action", action);
    }
    query.append_pair("next", next);
    // The id has only characters that an address can have.
    format!("/_parlour/oauth/providers/{id}/begin?{}", query.finish())
}

/// Returns the address of a page about a person whom a provider knows.
pub(super) fn pending_address(path: &str, id: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("sign_in", id);
    format!("{path}?{}", query.finish())
}

impl ConfirmationField {
    /// Returns the part for a user: the password or, without one, a recent sign-in with a provider. `next` is the page.
    pub(super) async fn of_user(app: &App, user: &BrowserUser, next: &str) -> Result<Self> {
        if user.has_password {
            return Ok(Self::password());
        }
        if user.signed_in_with_provider_recently(app.clock.now_ms()) {
            return Ok(Self {
                content: String::new(),
                is_possible: true,
            });
        }
        let providers = &app.users.oauth.providers;
        let links = confirmation_links(providers, user, next).await?;
        Ok(Self {
            content: format!("<p>Sign in again first.</p>{links}"),
            is_possible: false,
        })
    }

    fn password() -> Self {
        let content = r#"<label>Your password
          <input type="password" name="password" autocomplete="current-password" required></label>"#;
        Self {
            content: content.to_owned(),
            is_possible: true,
        }
    }

    /// Returns the part with the button of the form, which is HTML.
    pub(super) fn with_button(&self, button: &str) -> String {
        if self.is_possible {
            format!("{}{button}", self.content)
        } else {
            self.content.clone()
        }
    }
}

/// Returns links to the providers with which a user can sign in again.
pub(super) async fn confirmation_links(
    providers: &IdentityProviders,
    user: &BrowserUser,
    next: &str,
) -> Result<String> {
    let linked = providers.linked_accounts(&user.session).await?;
    let links = linked.iter().map(|account| {
        let label = format!("Continue with {}", account.provider_name);
        provider_link(&account.provider, &label, "confirm", next)
    });
    Ok(links.collect())
}

/// Asks for the password again, so that somebody at an open browser can do no lasting harm. Users without a password
/// must have signed in with a provider a short time ago.
///
/// # Errors
///
/// [`Error::Forbidden`] when the password is wrong, or the sign-in is too old.
pub(super) async fn check_confirmation(
    app: &App,
    user: &BrowserUser,
    password: String,
) -> Result<()> {
    let session = &user.session;
    if !user.has_password {
        if user.signed_in_with_provider_recently(app.clock.now_ms()) {
            return Ok(());
        }
        return Err(Error::forbidden("sign in again before you do this"));
    }
    app.limits.check(RequestClass::Login, &*session.user_id)?;
    let sessions = &app.users.oauth.browser_sessions;
    match sessions.check_password(session, password).await {
        Err(Error::Forbidden(_)) => Err(Error::forbidden("the password is wrong")),
        other => other,
    }
}
