//! Pushers: the gateways through which users want to be notified while their clients are not connected.
//!
//! They are stored here, and [`crate::push`] sends through them. A pusher belongs to the device that set it, and is
//! deleted with it.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#push-notifications).

mod subscription;
mod unsubscribing;
mod web_push_key;

use std::sync::Arc;

use ruma::{
    api::client::push::{Pusher, PusherKind, set_pusher::v3::PusherAction},
    push::HttpPusherData,
};
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;
use url::Url;

pub use self::{subscription::WebPushSubscription, web_push_key::WebPushKey};
use super::{Session, UserEnvironment, check_text, secrets};
use crate::{
    clock::Clock,
    error::{Error, RefusalCode, Result},
    mail::EmailAddress,
    numbers::UserNum,
    storage::{
        Db, WriteTx,
        users::{
            email_addresses,
            pushers::{self, PusherActivation, PusherRow},
        },
    },
};

/// The longest pushkey, in bytes.
const PUSHKEY_BYTES: usize = 512;
/// The longest application id, in bytes: 64 characters.
const APP_ID_BYTES: usize = 64;
/// The largest pusher, in bytes.
const MAX_PUSHER_BYTES: usize = 16 * 1024;
/// The largest number of pushers of a user: more than anyone has devices.
const MAX_PUSHERS_PER_USER: usize = 200;
/// The application id of e-mail pushers: "If the `kind` is `"email"`, this is `"m.email"`."
pub(super) const EMAIL_APP_ID: &str = "m.email";
/// The time within which a client must send back the token that activates a pusher, in milliseconds.
const ACTIVATION_LIFETIME_MS: i64 = 5 * 60 * 1000;
/// The path of a push gateway.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

/// The pushers of users.
#[derive(Clone)]
pub struct UserPushers {
    db: Db,
    clock: Clock,
    /// Whether this server can send e-mail.
    allow_email: bool,
    /// Whether gateways and push services may be reached without TLS.
    allow_http: bool,
    /// The key for Web Push, once it was needed.
    web_push_key: Arc<OnceCell<WebPushKey>>,
}

/// A change of a pusher that a user asks for.
#[derive(Clone, Debug)]
pub struct PusherChange {
    pub action: PusherAction,
    /// Whether notifications are sent through the pusher.
    pub is_enabled: bool,
}

/// The state of a pusher that was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PusherState {
    Active,
    /// Nothing is sent through it until the client has sent back a token.
    AwaitsActivation,
}

impl UserPushers {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            allow_email: environment.mail.is_enabled(),
            allow_http: environment.push.allow_private_addresses,
            web_push_key: Arc::default(),
        }
    }

    /// Returns the key with which this server identifies itself to push services.
    pub async fn web_push_key(&self) -> Result<&WebPushKey> {
        self.web_push_key
            .get_or_try_init(|| WebPushKey::load_or_create(&self.db))
            .await
    }

    /// Returns the pushers of a user in the client format.
    pub async fn list(&self, session: &Session) -> Result<Vec<Map<String, Value>>> {
        let mut db = self.db.read().await?;
        let rows = pushers::rows_of_user(&mut db, session.user).await?;
        rows.iter().map(client_format).collect()
    }

    /// Adds, replaces or removes a pusher of a user.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for a pusher that this server could never use, or if the user has too many.
    pub async fn set(&self, session: &Session, change: PusherChange) -> Result<PusherState> {
        match change.action {
            PusherAction::Post(data) => {
                let is_enabled = change.is_enabled;
                self.add(session, &data.pusher, data.append, is_enabled)
                    .await
            }
            PusherAction::Delete(ids) => {
                check_ids(&ids.app_id, &ids.pushkey)?;
                self.remove(session.user, &ids.app_id, &ids.pushkey).await?;
                Ok(PusherState::Active)
            }
            _ => Err(Error::invalid_param("unknown pusher action")),
        }
    }

    /// Activates the pusher to which a token was sent.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the user has no pusher of the application; [`Error::Refused`] when no such token was
    /// sent, or it has expired.
    pub async fn activate(&self, session: &Session, app_id: &str, token: &str) -> Result<()> {
        let mut tx = self.db.write().await?;
        let mut rows = pushers::rows_of_user(&mut tx, session.user).await?;
        rows.retain(|row| row.app_id == app_id);
        if rows.is_empty() {
            return Err(Error::not_found("you have no pusher with this app_id"));
        }
        let found = rows.iter().find_map(|row| {
            let activation = row.activation()?;
            (activation.token == token).then_some((row, activation))
        });
        let Some((row, activation)) = found else {
            return Err(Error::refused(
                RefusalCode::UnknownActivationToken,
                "this token was not sent to a pusher, or was replaced or used",
            ));
        };
        if activation.expires_ts <= self.clock.now_ms() {
            return Err(Error::refused(
                RefusalCode::ExpiredActivationToken,
                "this token has expired: set the pusher again",
            ));
        }
        let after = pushers::announce_change(&mut tx, session.user);
        pushers::activate(&mut tx, row.key(), after).await?;
        tx.commit().await
    }

    /// Removes a pusher of a user, if there is one.
    pub async fn remove(&self, user: UserNum, app_id: &str, pushkey: &str) -> Result<()> {
        let mut tx = self.db.write().await?;
        pushers::remove(&mut tx, user, app_id, pushkey).await?;
        pushers::announce_change(&mut tx, user);
        tx.commit().await
    }

    async fn add(
        &self,
        session: &Session,
        pusher: &Pusher,
        append: bool,
        is_enabled: bool,
    ) -> Result<PusherState> {
        let (app_id, pushkey) = (&*pusher.ids.app_id, &*pusher.ids.pushkey);
        check_ids(app_id, pushkey)?;
        if session.device_id.is_none() {
            return Err(Error::invalid_param(
                "a pusher belongs to a device, and this session has none",
            ));
        }
        let json = serde_json::to_string(pusher)?;
        if json.len() > MAX_PUSHER_BYTES || json.contains("\\u0000") {
            return Err(Error::invalid_param(
                "the pusher is too large, or contains U+0000",
            ));
        }
        let subscription = self.check_kind(pusher, &json)?;
        let user = session.user;
        let mut tx = self.db.write().await?;
        if matches!(pusher.kind, PusherKind::Email(_)) {
            check_owner(&mut tx, user, pushkey).await?;
        }
        let mut rows = pushers::rows_of_user(&mut tx, user).await?;
        let before = rows.extract_if(.., |row| (&*row.app_id, &*row.pushkey) == (app_id, pushkey));
        let before = before.last();
        if rows.len() >= MAX_PUSHERS_PER_USER {
            return Err(Error::invalid_param(
                "there are too many pushers: remove some of them",
            ));
        }
        if !append {
            pushers::remove_of_others(&mut tx, user, app_id, pushkey).await?;
        }
        let activation = subscription
            .filter(|subscription| !is_active_with(before.as_ref(), subscription))
            .map(|_| self.new_activation());
        let pusher = pushers::NewPusher {
            user,
            // Another device may only switch the pusher on or off.
            device: before.map_or(session.device, |row| row.device),
            app_id,
            pushkey,
            json: &json,
            is_enabled,
            activation: activation.as_ref(),
            set_at: pushers::announce_change(&mut tx, user),
        };
        pushers::set(&mut tx, pusher).await?;
        tx.commit().await?;
        Ok(match activation {
            Some(_) => PusherState::AwaitsActivation,
            None => PusherState::Active,
        })
    }

    fn new_activation(&self) -> PusherActivation {
        PusherActivation {
            token: secrets::random_token(),
            expires_ts: self.clock.now_ms().saturating_add(ACTIVATION_LIFETIME_MS),
        }
    }
}

impl UserPushers {
    /// Checks that this server can use a pusher. Returns its subscription if it is for Web Push.
    fn check_kind(&self, pusher: &Pusher, json: &str) -> Result<Option<WebPushSubscription>> {
        match &pusher.kind {
            PusherKind::Http(data) => self.check_gateway(data).map(|()| None),
            PusherKind::Email(_) if self.allow_email => {
                check_email_app_id(&pusher.ids.app_id).map(|()| None)
            }
            PusherKind::Email(_) => Err(Error::invalid_param("this server does not send e-mail")),
            _ => {
                let subscription = WebPushSubscription::parse(json)?;
                if self.is_allowed_scheme(subscription.url.scheme()) {
                    return Ok(Some(subscription));
                }
                Err(Error::invalid_param("url must be an HTTPS address"))
            }
        }
    }

    fn is_allowed_scheme(&self, scheme: &str) -> bool {
        scheme == "https" || scheme == "http" && self.allow_http
    }

    /// "MUST be an HTTPS URL with a path of `/_matrix/push/v1/notify`."
    fn check_gateway(&self, data: &HttpPusherData) -> Result<()> {
        let is_gateway = Url::parse(&data.url)
            .is_ok_and(|url| self.is_allowed_scheme(url.scheme()) && url.path() == GATEWAY_PATH);
        if is_gateway {
            return Ok(());
        }
        Err(Error::invalid_param(format!(
            "url must be an HTTPS address with the path {GATEWAY_PATH}"
        )))
    }
}

/// Checks that an e-mail address belongs to the account of a user: nobody else may receive e-mail there.
async fn check_owner(tx: &mut WriteTx, user: UserNum, address: &str) -> Result<()> {
    let address = EmailAddress::parse(address)?;
    let owner = email_addresses::owner(tx, address.as_str()).await?;
    if owner == Some(user) {
        return Ok(());
    }
    Err(Error::refused(
        RefusalCode::ThreepidNotFound,
        "the e-mail address does not belong to your account",
    ))
}

fn check_email_app_id(app_id: &str) -> Result<()> {
    if app_id == EMAIL_APP_ID {
        return Ok(());
    }
    Err(Error::invalid_param(format!(
        "the app_id of an e-mail pusher must be {EMAIL_APP_ID}"
    )))
}

/// Returns whether a pusher was active with the same subscription.
fn is_active_with(before: Option<&PusherRow>, subscription: &WebPushSubscription) -> bool {
    before.is_some_and(|row| {
        let same = WebPushSubscription::parse(&row.pusher);
        row.activation_token.is_none() && same.is_ok_and(|same| same == *subscription)
    })
}

/// Returns a pusher in the client format, with the fields that the server adds: those of
/// [MSC3881](https://github.com/matrix-org/matrix-spec-proposals/pull/3881), and whether a Web Push pusher is active.
fn client_format(row: &PusherRow) -> Result<Map<String, Value>> {
    let mut pusher: Map<String, Value> = serde_json::from_str(&row.pusher)?;
    let is_web_push = WebPushSubscription::parse(&row.pusher).is_ok();
    if let Some(Value::Object(data)) = pusher.get_mut("data").filter(|_| is_web_push) {
        let is_active = row.activation_token.is_none();
        data.insert("activated".to_owned(), json!(is_active));
    }
    for (name, value) in [
        ("org.matrix.msc3881.enabled", json!(row.is_enabled)),
        ("org.matrix.msc3881.device_id", json!(row.device_id)),
    ] {
        pusher.insert(name.to_owned(), value);
    }
    Ok(pusher)
}

fn check_ids(app_id: &str, pushkey: &str) -> Result<()> {
    check_text("app_id", app_id, APP_ID_BYTES)?;
    check_text("pushkey", pushkey, PUSHKEY_BYTES)
}
