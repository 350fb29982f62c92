//! Pushers: the gateways through which users want to be notified while their clients are not connected.
//!
//! They are stored here, and [`crate::push`] sends through them. A pusher belongs to the device that set it, and is
//! deleted with it.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#push-notifications).

use ruma::{
    api::client::push::{Pusher, PusherKind, set_pusher::v3::PusherAction},
    push::HttpPusherData,
};
use url::Url;

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
            pushers::{self, PusherKey},
            unsubscribe_tokens::{self, UnsubscribeTokenRow},
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
/// The lifetime of the token with which a user unsubscribes from digests, in milliseconds.
const UNSUBSCRIBE_LIFETIME_MS: i64 = 90 * 24 * 60 * 60 * 1000;
/// The path of a push gateway.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

/// The pushers of users.
#[derive(Clone)]
pub struct UserPushers {
    db: Db,
    clock: Clock,
    /// Whether this server can send e-mail.
    allow_email: bool,
    /// Whether gateways may be reached without TLS.
    allow_http: bool,
}

impl UserPushers {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            allow_email: environment.mail.is_enabled(),
            allow_http: environment.push.allow_private_addresses,
        }
    }

    /// Returns the pushers of a user.
    pub async fn list(&self, session: &Session) -> Result<Vec<Pusher>> {
        let mut db = self.db.read().await?;
        let stored = pushers::of_user(&mut db, session.user).await?;
        let read = |json: &String| Ok(serde_json::from_str(json)?);
        stored.iter().map(read).collect()
    }

    /// Adds, replaces or removes a pusher of a user.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for a pusher that this server could never use, or if the user has too many.
    pub async fn set(&self, session: &Session, action: PusherAction) -> Result<()> {
        match action {
            PusherAction::Post(data) => self.add(session, &data.pusher, data.append).await,
            PusherAction::Delete(ids) => {
                check_ids(&ids.app_id, &ids.pushkey)?;
                self.remove(session.user, &ids.app_id, &ids.pushkey).await
            }
            _ => Err(Error::invalid_param("unknown pusher action")),
        }
    }

    /// Removes a pusher of a user, if there is one.
    pub async fn remove(&self, user: UserNum, app_id: &str, pushkey: &str) -> Result<()> {
        let mut tx = self.db.write().await?;
        pushers::remove(&mut tx, user, app_id, pushkey).await?;
        pushers::announce_change(&mut tx, user);
        tx.commit().await
    }

    async fn add(&self, session: &Session, pusher: &Pusher, append: bool) -> Result<()> {
        let (app_id, pushkey) = (&*pusher.ids.app_id, &*pusher.ids.pushkey);
        check_ids(app_id, pushkey)?;
        self.check_kind(pusher)?;
        let json = serde_json::to_string(pusher)?;
        if json.len() > MAX_PUSHER_BYTES || json.contains("\\u0000") {
            return Err(Error::invalid_param(
                "the pusher is too large, or contains U+0000",
            ));
        }
        let (user, device) = (session.user, session.device);
        let mut tx = self.db.write().await?;
        if matches!(pusher.kind, PusherKind::Email(_)) {
            check_owner(&mut tx, user, pushkey).await?;
        }
        pushers::remove(&mut tx, user, app_id, pushkey).await?;
        if pushers::of_user(&mut tx, user).await?.len() >= MAX_PUSHERS_PER_USER {
            return Err(Error::invalid_param(
                "there are too many pushers: remove some of them",
            ));
        }
        if !append {
            pushers::remove_of_others(&mut tx, user, app_id, pushkey).await?;
        }
        let pusher = pushers::NewPusher {
            user,
            device,
            app_id,
            pushkey,
            json: &json,
            set_at: pushers::announce_change(&mut tx, user),
        };
        pushers::set(&mut tx, pusher).await?;
        tx.commit().await
    }
}

impl UserPushers {
    /// Issues a token with which an e-mail pusher can be removed without a login.
    pub async fn issue_unsubscribe_token(
        &self,
        user: UserNum,
        app_id: &str,
        pushkey: &str,
    ) -> Result<String> {
        let token = secrets::random_token();
        let hash = secrets::hash_token(&token);
        let key = PusherKey {
            user,
            app_id,
            pushkey,
        };
        let now = self.clock.now_ms();
        let expires_ts = now.saturating_add(UNSUBSCRIBE_LIFETIME_MS);
        let mut tx = self.db.write().await?;
        unsubscribe_tokens::insert(&mut tx, &hash, key, expires_ts, now).await?;
        tx.commit().await?;
        Ok(token)
    }

    /// Returns the e-mail address whose pusher a token removes.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the token is unknown or has expired.
    pub async fn subscribed_address(&self, token: &str) -> Result<String> {
        let pusher = self.find_subscription(token).await?;
        Ok(pusher.pushkey)
    }

    /// Removes the e-mail pusher to which a token belongs, if it is still there.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the token is unknown or has expired.
    pub async fn unsubscribe(&self, token: &str) -> Result<()> {
        let pusher = self.find_subscription(token).await?;
        self.remove(pusher.user_num, &pusher.app_id, &pusher.pushkey)
            .await
    }

    async fn find_subscription(&self, token: &str) -> Result<UnsubscribeTokenRow> {
        let (hash, now) = (secrets::hash_token(token), self.clock.now_ms());
        let mut db = self.db.read().await?;
        let found = unsubscribe_tokens::find(&mut db, &hash, now).await?;
        found.ok_or_else(|| Error::forbidden("this link has expired"))
    }

    fn check_kind(&self, pusher: &Pusher) -> Result<()> {
        match &pusher.kind {
            PusherKind::Http(data) => self.check_gateway(data),
            PusherKind::Email(_) if self.allow_email && pusher.ids.app_id == EMAIL_APP_ID => Ok(()),
            PusherKind::Email(_) if self.allow_email => Err(Error::invalid_param(format!(
                "the app_id of an e-mail pusher must be {EMAIL_APP_ID}"
            ))),
            _ => Err(Error::invalid_param(
                "this server does not support pushers of this kind",
            )),
        }
    }

    /// "MUST be an HTTPS URL with a path of `/_matrix/push/v1/notify`."
    fn check_gateway(&self, data: &HttpPusherData) -> Result<()> {
        let is_allowed = |scheme: &str| scheme == "https" || scheme == "http" && self.allow_http;
        let is_gateway = Url::parse(&data.url)
            .is_ok_and(|url| is_allowed(url.scheme()) && url.path() == GATEWAY_PATH);
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

fn check_ids(app_id: &str, pushkey: &str) -> Result<()> {
    check_text("app_id", app_id, APP_ID_BYTES)?;
    check_text("pushkey", pushkey, PUSHKEY_BYTES)
}
