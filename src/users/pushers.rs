//! Pushers: the gateways through which users want to be notified while their clients are not connected.
//!
//! They are stored here, and [`crate::push`] sends through them. A pusher belongs to the device that set it, and is
//! deleted with it.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#push-notifications).

use ruma::api::client::push::{Pusher, PusherKind, set_pusher::v3::PusherAction};
use url::Url;

use super::{Session, UserEnvironment, check_text};
use crate::{
    error::{Error, Result},
    numbers::UserNum,
    storage::{Db, users::pushers},
};

/// The longest pushkey, in bytes.
const PUSHKEY_BYTES: usize = 512;
/// The longest application id, in bytes: 64 characters.
const APP_ID_BYTES: usize = 64;
/// The largest pusher, in bytes.
const MAX_PUSHER_BYTES: usize = 16 * 1024;
/// The largest number of pushers of a user: more than anyone has devices.
const MAX_PUSHERS_PER_USER: usize = 200;
/// The path of a push gateway.
const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

/// The pushers of users.
#[derive(Clone)]
pub struct UserPushers {
    db: Db,
    /// Whether gateways may be reached without TLS.
    allow_http: bool,
}

impl UserPushers {
    /// Creates the service.
    pub(super) fn new(environment: &UserEnvironment) -> Self {
        Self {
            db: environment.db.clone(),
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
        self.check_kind(&pusher.kind)?;
        let json = serde_json::to_string(pusher)?;
        if json.len() > MAX_PUSHER_BYTES || json.contains("\\u0000") {
            return Err(Error::invalid_param(
                "the pusher is too large, or contains U+0000",
            ));
        }
        let (user, device) = (session.user, session.device);
        let mut tx = self.db.write().await?;
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
    /// "MUST be an HTTPS URL with a path of `/_matrix/push/v1/notify`."
    fn check_kind(&self, kind: &PusherKind) -> Result<()> {
        let PusherKind::Http(data) = kind else {
            return Err(Error::invalid_param(
                "this server supports only pushers of the kind http",
            ));
        };
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

fn check_ids(app_id: &str, pushkey: &str) -> Result<()> {
    check_text("app_id", app_id, APP_ID_BYTES)?;
    check_text("pushkey", pushkey, PUSHKEY_BYTES)
}
