//! The page of a user's account: the profile, the devices, the password, and the dangerous changes.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#oauth-20-account-management).

use axum::{
    Router,
    extract::State,
    http::{Method, Uri, header::SET_COOKIE},
    response::{IntoResponse, Response},
};
use ruma::{OwnedDeviceId, profile::ProfileFieldValue};
use serde::Deserialize;

use super::{
    ACCOUNT_PATH, SIGN_IN_PATH,
    account_pages::{self, DeviceLine, Overview},
    browser::{
        PageForm, SignedIn, local_address, redirect, redirect_to_sign_in, redirect_with_cookie,
        removed_cookie, session_cookie,
    },
    error::{PageError, reason_for_user},
    provider_pages::{ConfirmationField, check_confirmation},
};
use crate::{
    api::{App, client::charge_profile_change, endpoint::read_query, endpoint_at},
    error::{Error, Result},
    users::BrowserUser,
};

/// The parameters of the page.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#account-management-url-parameters).
#[derive(Default, Deserialize)]
#[serde(default)]
struct AccountQuery {
    action: String,
    device_id: String,
    /// The id of an identity provider.
    provider: String,
}

/// A part of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AccountAction {
    Overview,
    DeviceView,
    DeviceDelete,
    Deactivate,
    ResetCrossSigning,
    /// Not of the specification: unlinking an account at an identity provider.
    Unlink,
}

/// The fields of all forms; each form has some of them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AccountForm {
    change: String,
    display_name: String,
    device_id: String,
    password: String,
    new_password: String,
    /// Whether to sign out all devices, or to erase the messages: the value of a check box.
    also: String,
    /// The id of an identity provider.
    provider: String,
}

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint_at(Method::GET, ACCOUNT_PATH, show_account))
        .merge(endpoint_at(Method::POST, ACCOUNT_PATH, change_account))
}

impl AccountAction {
    /// Returns the action with a name. Unknown actions open the page itself.
    fn from_name(name: &str) -> Self {
        match name {
            "org.matrix.device_view" | "org.matrix.session_view" => Self::DeviceView,
            "org.matrix.device_delete" | "org.matrix.session_end" => Self::DeviceDelete,
            "org.matrix.account_deactivate" => Self::Deactivate,
            "org.matrix.cross_signing_reset" => Self::ResetCrossSigning,
            "parlour.unlink" => Self::Unlink,
            _ => Self::Overview,
        }
    }
}

/// `GET /_parlour/account`
async fn show_account(
    State(app): State<App>,
    SignedIn(user): SignedIn,
    uri: Uri,
) -> Result<Response, PageError> {
    let query: AccountQuery = read_query(&uri)?;
    let Some(user) = user else {
        return Ok(redirect_to_sign_in(&uri));
    };
    Ok(page(&app, &user, &query, &uri, "").await?)
}

/// `POST /_parlour/account`, sent by the forms of the page.
async fn change_account(
    State(app): State<App>,
    SignedIn(user): SignedIn,
    uri: Uri,
    PageForm(form): PageForm<AccountForm>,
) -> Result<Response, PageError> {
    let query: AccountQuery = read_query(&uri)?;
    let Some(user) = user else {
        return Ok(redirect_to_sign_in(&uri));
    };
    let changed = match &*form.change {
        "profile" => set_display_name(&app, &user, &form).await,
        "password" => set_password(&app, &user, form).await,
        "device" => sign_device_out(&app, &user, &form).await,
        "deactivate" => deactivate(&app, &user, form).await,
        "reset" => allow_reset(&app, &user, form).await,
        "unlink" => unlink(&app, &user, form).await,
        _ => Ok(redirect(ACCOUNT_PATH)),
    };
    match changed {
        Err(error @ (Error::Internal { .. } | Error::Unavailable(_) | Error::StorageFull)) => {
            Err(error.into())
        }
        Err(error) => {
            let reason = reason_for_user(&error);
            let mut response = page(&app, &user, &query, &uri, &reason).await?;
            *response.status_mut() = error.into_response().status();
            Ok(response)
        }
        Ok(response) => Ok(response),
    }
}

/// Returns a part of the page.
async fn page(
    app: &App,
    user: &BrowserUser,
    query: &AccountQuery,
    uri: &Uri,
    wrong: &str,
) -> Result<Response> {
    let session = &user.session;
    let address = local_address(uri);
    let confirmation = ConfirmationField::of_user(app, user, &address);
    match AccountAction::from_name(&query.action) {
        AccountAction::Overview => overview(app, user, wrong).await,
        AccountAction::DeviceView | AccountAction::DeviceDelete => {
            let lines = device_lines(app, user).await?;
            let line = lines.iter().find(|line| line.device_id == query.device_id);
            let line = line.ok_or_else(|| Error::not_found("you have no such device"))?;
            Ok(account_pages::device(line, wrong))
        }
        AccountAction::Deactivate => Ok(account_pages::deactivation(
            &session.user_id,
            &confirmation.await?,
            wrong,
        )),
        AccountAction::ResetCrossSigning => {
            let confirmation = confirmation.await?;
            Ok(account_pages::cross_signing_reset(&confirmation, wrong))
        }
        AccountAction::Unlink => {
            let linked = app.users.oauth.providers.linked_accounts(session).await?;
            let account = linked
                .iter()
                .find(|account| account.provider == query.provider);
            let account = account.ok_or_else(|| Error::not_found("it is not linked"))?;
            Ok(account_pages::unlinking(
                account,
                &confirmation.await?,
                wrong,
            ))
        }
    }
}

async fn overview(app: &App, user: &BrowserUser, wrong: &str) -> Result<Response> {
    let user_id = &user.session.user_id;
    let profile = app.users.profiles.get(user_id).await?;
    let providers = &app.users.oauth.providers;
    let linked = providers.linked_accounts(&user.session).await?;
    let display_name = profile.get("displayname").and_then(|name| name.as_str());
    let overview = Overview {
        user_id,
        display_name: display_name.unwrap_or_default(),
        devices: &device_lines(app, user).await?,
        providers: &account_pages::provider_list(providers.list(), &linked),
        has_password: user.has_password,
        wrong,
    };
    Ok(overview.page())
}

/// Returns the devices of a user, the one that was used last first.
async fn device_lines(app: &App, user: &BrowserUser) -> Result<Vec<DeviceLine>> {
    let num = user.session.user;
    let apps = app.users.oauth.clients.apps_of_devices(num).await?;
    let now = app.clock.now_ms();
    let mut devices = app.devices.management.list(num).await?;
    devices.sort_by_key(|device| std::cmp::Reverse(device.last_seen_ts));
    let lines = devices.into_iter().map(|device| {
        let seen_ms = device.last_seen_ts.map(|ts| i64::from(ts.0));
        DeviceLine {
            app: apps.get(device.device_id.as_str()).cloned(),
            name: device.display_name.unwrap_or_default(),
            last_seen_ms: seen_ms.map(|seen| now.saturating_sub(seen)),
            last_seen_ip: device.last_seen_ip,
            device_id: device.device_id.into(),
        }
    });
    Ok(lines.collect())
}

async fn set_display_name(app: &App, user: &BrowserUser, form: &AccountForm) -> Result<Response> {
    let session = &user.session;
    session.must_not_be_suspended()?;
    let value = ProfileFieldValue::DisplayName(form.display_name.trim().to_owned());
    let field = value.field_name();
    let cost = charge_profile_change(&app.rooms, &app.limits, session, &field).await?;
    let profiles = &app.users.profiles;
    let change = profiles
        .set_field(session, &session.user_id, &value)
        .await?;
    if change.is_some() {
        cost.keep();
    }
    let workflow = &app.workflows.profiles;
    workflow.publish_profile(session, change).await?;
    Ok(redirect(ACCOUNT_PATH))
}

async fn set_password(app: &App, user: &BrowserUser, form: AccountForm) -> Result<Response> {
    let session = &user.session;
    check_confirmation(app, user, form.password).await?;
    let logs_out = !form.also.is_empty();
    let account = &app.users.account;
    account
        .set_password(session, form.new_password, logs_out)
        .await?;
    let mut response = redirect(ACCOUNT_PATH);
    if logs_out {
        let sessions = &app.users.oauth.browser_sessions;
        let renewed = sessions.start_for(session.user_id.clone()).await?;
        let cookie = session_cookie(&renewed, &app.config);
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(response)
}

async fn sign_device_out(app: &App, user: &BrowserUser, form: &AccountForm) -> Result<Response> {
    let device_id: OwnedDeviceId = (&*form.device_id).into();
    let devices = &app.devices.management;
    devices.delete(user.session.user, &[&device_id]).await?;
    Ok(redirect(ACCOUNT_PATH))
}

async fn deactivate(app: &App, user: &BrowserUser, form: AccountForm) -> Result<Response> {
    let session = &user.session;
    check_confirmation(app, user, form.password).await?;
    let erases = !form.also.is_empty();
    app.workflows.accounts.deactivate(session, erases).await?;
    app.workflows.identity_bindings.unbind_all(session).await?;
    Ok(redirect_with_cookie(
        SIGN_IN_PATH,
        removed_cookie(&app.config),
    ))
}

async fn allow_reset(app: &App, user: &BrowserUser, form: AccountForm) -> Result<Response> {
    check_confirmation(app, user, form.password).await?;
    app.users.uia_pages.allow_cross_signing_reset(&user.session);
    Ok(account_pages::reset_allowed())
}

async fn unlink(app: &App, user: &BrowserUser, form: AccountForm) -> Result<Response> {
    check_confirmation(app, user, form.password).await?;
    let providers = &app.users.oauth.providers;
    providers.unlink(user, &form.provider).await?;
    Ok(redirect(ACCOUNT_PATH))
}
