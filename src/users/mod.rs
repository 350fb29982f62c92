//! Accounts and their data: sessions, passwords, profiles, account data, push rules, filters.
//!
//! The permissions of accounts are checked here; the rows are in `storage`, HTTP is in `api`. This module does not make
//! users leave rooms and sends no profile changes to rooms: it returns the changes.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#client-authentication).

mod account;
mod account_data;
mod account_restrictions;
mod filters;
mod login;
mod passwords;
mod profile;
mod push_rules;
mod pushers;
mod refresh_tokens;
mod register;
mod remote_users;
mod secrets;
mod server_notices;
mod sessions;
mod shared_secret;
mod short_lived_tokens;
mod uia;
mod upgraded_rooms;
mod user_directory;
mod user_list;
mod usernames;

use std::sync::Arc;

use ruma::{OwnedServerName, OwnedUserId, UserId};

pub use self::{
    account_restrictions::AccountRestriction,
    login::{NewDevice, StartedSession},
    profile::ProfileChange,
    push_rules::write_push_rules,
    refresh_tokens::{ACCESS_TOKEN_LIFETIME, IssuedTokens},
    register::RegisteredAccount,
    sessions::Session,
    shared_secret::SharedSecretRegistration,
    uia::StageInput,
    user_directory::DirectoryUser,
    user_list::{ListedUser, UserListPage, UserListRequest},
};
use self::{
    passwords::Passwords, sessions::LastSeenWriter, sessions::SessionCache,
    shared_secret::RegistrationNonces, uia::UiaSessions,
};
use crate::{
    clock::Clock,
    config::{Config, RegistrationSection},
    error::{Error, Result},
    storage::{Db, UserNum},
    tasks::Tasks,
};

/// The accounts of this server. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    inner: Arc<UsersInner>,
}

struct UsersInner {
    db: Db,
    clock: Clock,
    server_name: OwnedServerName,
    registration: RegistrationSection,
    all_users_searchable: bool,
    all_users_listed: bool,
    notices_sender: Option<OwnedUserId>,
    passwords: Passwords,
    sessions: Arc<SessionCache>,
    last_seen: LastSeenWriter,
    uia: UiaSessions,
    nonces: RegistrationNonces,
    tasks: Tasks,
    /// Held while users of other servers are added to the directory.
    remote_users_lock: tokio::sync::Mutex<()>,
}

impl Users {
    /// Starts to serve the accounts in a database.
    pub fn new(db: &Db, clock: &Clock, config: &Config, tasks: &Tasks) -> Self {
        let sessions = Arc::new(SessionCache::default());
        db.journal().add_follower(sessions.clone());
        Self {
            inner: Arc::new(UsersInner {
                db: db.clone(),
                clock: clock.clone(),
                server_name: config.server.name.clone(),
                registration: config.registration.clone(),
                notices_sender: notices_sender(config),
                all_users_searchable: config.directory.all_users_searchable,
                all_users_listed: config.directory.all_users_listed,
                passwords: Passwords::new(&config.passwords),
                sessions,
                last_seen: LastSeenWriter::start(db, tasks),
                uia: UiaSessions::default(),
                nonces: RegistrationNonces::default(),
                tasks: tasks.clone(),
                remote_users_lock: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Returns those of the users who are guests.
    pub async fn guests_among(&self, users: &[UserNum]) -> Result<Vec<UserNum>> {
        let mut db = self.inner.db.read().await?;
        crate::storage::users::accounts::guests_among(&mut db, users).await
    }

    /// Returns whether an account is active and not a guest's, suspended or locked.
    pub async fn may_act(&self, user: UserNum) -> Result<bool> {
        let mut db = self.inner.db.read().await?;
        let account = crate::storage::users::accounts::find(&mut db, user).await?;
        Ok(account.is_some_and(|account| {
            !(account.deactivated || account.suspended || account.locked || account.guest)
        }))
    }

    /// Returns the number of a user of this server whose account is active.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for all other users.
    async fn active_user_num(&self, user_id: &UserId) -> Result<UserNum> {
        let unknown = || Error::not_found("there is no such user");
        if user_id.server_name() != self.inner.server_name {
            return Err(unknown());
        }
        let mut db = self.inner.db.read().await?;
        let strings = &self.inner.db.strings;
        let user = strings.find_user(&mut db, user_id.as_str()).await?;
        let user = user.ok_or_else(unknown)?;
        match crate::storage::users::accounts::find(&mut db, user).await? {
            Some(account) if !account.deactivated => Ok(user),
            _ => Err(unknown()),
        }
    }
}

/// Returns the user who sends server notices.
fn notices_sender(config: &Config) -> Option<OwnedUserId> {
    let localpart = config.server_notices.localpart.as_ref()?;
    UserId::parse_with_server_name(localpart.as_str(), &config.server.name).ok()
}

/// Checks a text that is stored and searched unchanged: its length, and that it contains no character that a database
/// refuses.
fn check_text(name: &str, text: &str, max_bytes: usize) -> Result<()> {
    if text.len() > max_bytes {
        return Err(Error::invalid_param(format!(
            "{name} is longer than {max_bytes} bytes"
        )));
    }
    if text.contains('\0') {
        return Err(Error::invalid_param(format!("{name} contains U+0000")));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing {
    use std::time::Duration;

    use super::*;
    use crate::storage::testing::TestDb;

    /// Users with their own database, a clock that only advances on request, and cheap password hashes.
    pub(crate) struct TestUsers {
        pub(crate) users: Users,
        pub(crate) clock: Clock,
        pub(crate) test: TestDb,
    }

    impl TestUsers {
        pub(crate) async fn new(configure: impl FnOnce(&mut Config)) -> Self {
            let test = TestDb::new().await;
            let clock = Clock::manual(1_000_000);
            let mut config = Config::default();
            config.passwords.memory_kib = 8;
            config.passwords.iterations = 1;
            config.registration.open = true;
            configure(&mut config);
            let users = Users::new(&test.db, &clock, &config, &test.tasks);
            Self { users, clock, test }
        }

        pub(crate) fn advance(&self, by: Duration) {
            self.clock.advance(by);
        }

        /// Registers a user whose password is "password" and returns the first session.
        pub(crate) async fn register(&self, name: &str) -> StartedSession {
            let request = serde_json::json!({
                "username": name, "password": "password", "auth": {"type": "m.login.dummy"},
            });
            self.register_with(request).await.unwrap()
        }

        pub(crate) async fn register_with(
            &self,
            body: serde_json::Value,
        ) -> Result<StartedSession> {
            let registered = self.users.register(register_request(&body)).await?;
            Ok(registered.login.expect("did not inhibit the login"))
        }

        pub(crate) async fn session(&self, name: &str) -> Arc<Session> {
            let login = self.register(name).await;
            let token = login.tokens.access_token;
            self.users.authenticate(&token).await.unwrap()
        }
    }

    pub(crate) fn register_request(
        body: &serde_json::Value,
    ) -> ruma::api::client::account::register::v3::Request {
        use ruma::api::IncomingRequestExt;
        let body = serde_json::to_vec(body).unwrap();
        let request = axum::http::Request::post("/_matrix/client/v3/register")
            .body(&body[..])
            .unwrap();
        IncomingRequestExt::try_from_http_request(request, &[] as &[&str]).unwrap()
    }
}
