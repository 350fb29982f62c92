//! The HTML of the page of a user's account.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use ruma::UserId;
use url::form_urlencoded;

use super::{
    ACCOUNT_PATH, SIGN_OUT_PATH,
    provider_pages::{ConfirmationField, provider_link},
};
use crate::{
    api::html_page::{HtmlPage, escape_html, wrong_input},
    config::ProviderSection,
    users::LinkedAccount,
};

/// A device of the user.
pub(super) struct DeviceLine {
    pub(super) device_id: String,
    pub(super) name: String,
    /// The app, if it signed in on the pages of this server.
    pub(super) app: Option<String>,
    /// The time since the device was last seen, in milliseconds.
    pub(super) last_seen_ms: Option<i64>,
    pub(super) last_seen_ip: Option<String>,
}

/// The first part of the page.
pub(super) struct Overview<'a> {
    pub(super) user_id: &'a UserId,
    pub(super) display_name: &'a str,
    pub(super) devices: &'a [DeviceLine],
    /// The part about identity providers, as HTML.
    pub(super) providers: &'a str,
    pub(super) has_password: bool,
    pub(super) wrong: &'a str,
}

impl Overview<'_> {
    pub(super) fn page(&self) -> Response {
        let user_id = escape_html(self.user_id.as_str());
        let display_name = escape_html(self.display_name);
        let wrong = wrong_input(self.wrong);
        let devices: String = self.devices.iter().map(DeviceLine::item).collect();
        let providers = self.providers;
        let password = if self.has_password { PASSWORD_FORM } else { "" };
        let reset = action_address("org.matrix.cross_signing_reset", None);
        let deactivate = action_address("org.matrix.account_deactivate", None);
        let content = format!(
            r#"<p>Signed in as <strong>{user_id}</strong></p>
      <form method="post" action="{SIGN_OUT_PATH}"><button class="link">Sign out of this browser</button></form>
      {wrong}
      <h2>Profile</h2>
      <form method="post">
        <label>Display name
          <input type="text" name="display_name" value="{display_name}" autocomplete="nickname" maxlength="255"></label>
        <button name="change" value="profile">Save</button>
      </form>
      <h2>Devices</h2>
      <ul>{devices}</ul>
      {password}
      {providers}
      <h2>Encryption</h2>
      <p><a href="{reset}">Reset your cryptographic identity</a></p>
      <h2>Leaving</h2>
      <p><a href="{deactivate}">Deactivate the account</a></p>"#
        );
        HtmlPage::new("Your account", &content).into_response()
    }
}

const DEACTIVATION_BUTTON: &str = r#"<label class="check"><input type="checkbox" name="also" value="yes"> Hide my messages
          from people who join later</label>
        <button name="change" value="deactivate" class="danger">Deactivate the account for ever</button>"#;

const PASSWORD_FORM: &str = r#"<h2>Password</h2>
      <form method="post">
        <label>Current password
          <input type="password" name="password" autocomplete="current-password" required></label>
        <label>New password
          <input type="password" name="new_password" autocomplete="new-password" required></label>
        <label class="check"><input type="checkbox" name="also" value="yes"> Sign out all devices</label>
        <button name="change" value="password">Change the password</button>
      </form>"#;

impl DeviceLine {
    fn item(&self) -> String {
        let address = action_address("org.matrix.device_view", Some(&self.device_id));
        let (title, seen) = (escape_html(self.title()), self.seen());
        format!(r#"<li><a href="{address}">{title}</a> <span class="small">{seen}</span></li>"#)
    }

    fn title(&self) -> &str {
        match &*self.name {
            "" => &self.device_id,
            name => name,
        }
    }

    fn seen(&self) -> String {
        let Some(ms) = self.last_seen_ms else {
            return "never seen".to_owned();
        };
        let ago = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let minutes = ago.as_secs() / 60;
        match minutes {
            0..2 => "seen just now".to_owned(),
            2..120 => format!("seen {minutes} minutes ago"),
            120..2_880 => format!("seen {} hours ago", minutes / 60),
            _ => format!("seen {} days ago", minutes / 1_440),
        }
    }
}

/// Returns the part about one device, on which the user signs it out.
pub(super) fn device(line: &DeviceLine, wrong: &str) -> Response {
    let wrong = wrong_input(wrong);
    let device_id = escape_html(&line.device_id);
    let app = match &line.app {
        Some(app) => format!("<dt>App</dt><dd>{}</dd>", escape_html(app)),
        None => String::new(),
    };
    let address = match &line.last_seen_ip {
        Some(ip) => format!("<dt>Address</dt><dd>{}</dd>", escape_html(ip)),
        None => String::new(),
    };
    let seen = line.seen();
    let content = format!(
        r#"{wrong}
      <dl><dt>Device id</dt><dd>{device_id}</dd>{app}<dt>Activity</dt><dd>{seen}</dd>{address}</dl>
      <p>Sign this device out if you do not know it, or do not use it any more. Encrypted messages that are only on it are
        then lost.</p>
      <form method="post">
        <input type="hidden" name="device_id" value="{device_id}">
        <button name="change" value="device">Sign this device out</button>
      </form>
      <p><a href="{ACCOUNT_PATH}">Back to your account</a></p>"#
    );
    HtmlPage::new(line.title(), &content).into_response()
}

/// Returns the part on which a user deactivates the account.
pub(super) fn deactivation(
    user_id: &UserId,
    confirmation: &ConfirmationField,
    wrong: &str,
) -> Response {
    let (user_id, wrong) = (escape_html(user_id.as_str()), wrong_input(wrong));
    let fields = confirmation.with_button(DEACTIVATION_BUTTON);
    let content = format!(
        r#"{wrong}
      <p>Nobody can ever sign in as <strong>{user_id}</strong> again, and nobody can take the name. You leave all rooms.
        This cannot be undone.</p>
      <form method="post">
        {fields}
      </form>
      <p><a href="{ACCOUNT_PATH}">Back to your account</a></p>"#
    );
    HtmlPage::new("Deactivate your account?", &content).into_response()
}

/// Returns the part on which a user lets an app reset the cross-signing keys.
pub(super) fn cross_signing_reset(confirmation: &ConfirmationField, wrong: &str) -> Response {
    let wrong = wrong_input(wrong);
    let button =
        r#"<button name="change" value="reset" class="danger">Let my app reset it</button>"#;
    let fields = confirmation.with_button(button);
    let content = format!(
        r#"{wrong}
      <p>Do this only if you have lost all your verified devices and your recovery key. Everyone whom you have verified
        has to verify you again.</p>
      <p>Go on only if you have just started this in your app.</p>
      <form method="post">
        {fields}
      </form>
      <p><a href="{ACCOUNT_PATH}">Back to your account</a></p>"#
    );
    HtmlPage::new("Reset your cryptographic identity?", &content).into_response()
}

/// Returns the part after a user has allowed the reset.
pub(super) fn reset_allowed() -> Response {
    let content = "<p>Go back to your app now. It can reset your cryptographic identity for the next ten minutes.</p>";
    HtmlPage::new("Go back to your app", content).into_response()
}

/// Returns the part about identity providers: the linked accounts, and links with which more are linked.
pub(super) fn provider_list<'a>(
    providers: impl Iterator<Item = &'a ProviderSection>,
    linked: &[LinkedAccount],
) -> String {
    let mut content = String::new();
    for provider in providers {
        let account = linked
            .iter()
            .find(|account| account.provider == provider.id);
        let label = format!("Link an account at {}", provider.name);
        content += &account.map_or_else(
            || provider_link(&provider.id, &label, "link", ACCOUNT_PATH),
            linked_item,
        );
    }
    match content {
        content if content.is_empty() => content,
        content => format!("<h2>Sign in with</h2>{content}"),
    }
}

fn linked_item(account: &LinkedAccount) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("action", "parlour.unlink");
    query.append_pair("provider", &account.provider);
    let address = escape_html(&format!("{ACCOUNT_PATH}?{}", query.finish()));
    let (name, label) = (
        escape_html(&account.provider_name),
        escape_html(&account.label),
    );
    format!(r#"<p>{name}: {label} <a href="{address}">Unlink</a></p>"#)
}

/// Returns the part on which a user unlinks an account at an identity provider.
pub(super) fn unlinking(
    account: &LinkedAccount,
    confirmation: &ConfirmationField,
    wrong: &str,
) -> Response {
    let wrong = wrong_input(wrong);
    let (name, label) = (
        escape_html(&account.provider_name),
        escape_html(&account.label),
    );
    let provider = escape_html(&account.provider);
    let fields =
        confirmation.with_button(r#"<button name="change" value="unlink">Unlink it</button>"#);
    let content = format!(
        r#"{wrong}
      <p>You can then no longer sign in as <strong>{label}</strong> with {name}. Devices that are signed in stay so.</p>
      <form method="post">
        <input type="hidden" name="provider" value="{provider}">
        {fields}
      </form>
      <p><a href="{ACCOUNT_PATH}">Back to your account</a></p>"#
    );
    HtmlPage::new("Unlink this account?", &content).into_response()
}

/// Returns the address of a part of the page, for an attribute.
fn action_address(action: &str, device_id: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("action", action);
    if let Some(device_id) = device_id {
        query.append_pair("device_id", device_id);
    }
    escape_html(&format!("{ACCOUNT_PATH}?{}", query.finish()))
}
