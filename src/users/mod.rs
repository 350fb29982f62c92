//! Accounts and their data: sessions, passwords, profiles, account data, push rules, filters.
//!
//! The permissions of accounts are checked here; the rows are in `storage`, HTTP is in `api`. This module does not make
//! users leave rooms and sends no profile changes to rooms: it returns the changes.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#client-authentication).

mod account;
mod account_creation;
mod account_data;
mod account_lookup;
mod account_restrictions;
mod application_services;
mod email;
mod filters;
mod guest_registration;
mod identity_bindings;
mod last_seen;
mod login;
mod new_session;
mod oauth;
mod openid;
mod password_check;
mod passwords;
mod profile;
mod push_rules;
mod pushers;
mod refresh_tokens;
mod register;
mod registration_auth;
mod registration_tokens;
mod remote_users;
mod room_tags;
mod secrets;
mod server_notices;
mod session_cache;
mod sessions;
mod shared_secret;
mod short_lived_tokens;
mod stored_account_data;
mod uia;
mod upgraded_rooms;
mod user_directory;
mod user_list;
mod usernames;

use std::{ops::Deref, sync::Arc};

use ruma::{OwnedServerName, OwnedUserId, UserId};

pub use self::{
    account::AccountChanges,
    account_creation::RegisteredAccount,
    account_data::{AccountDataEntries, AccountDataEntry},
    account_lookup::AccountLookup,
    account_restrictions::{AccountModeration, AccountRestriction},
    application_services::{
        ApplicationService, ApplicationServiceRegistry, ApplicationServices, AssertedIdentity,
        RegistrationSource, ServiceRegistration, find_registration_problems,
    },
    email::{EmailAddresses, EmailValidations, PendingValidation, TokenRequest, ValidationPurpose},
    filters::{StoredFilters, SyncFilter},
    identity_bindings::UserIdentityBindings,
    login::UserLogin,
    new_session::{NewDevice, StartedSession},
    oauth::{
        ACCOUNT_PATH, AuthorizationRefusal, AuthorizationRequest, BrowserUser, ClientMetadata,
        CodeExchange, IdentityProviders, LinkedAccount, NewBrowserSession, NewSignInRequest,
        OAuthError, OAuthErrorCode, OAuthGrant, OAuthResult, OAuthScope, OAuthServices,
        PendingIdentity, ProviderAnswer, ProviderIdentity, ProviderOutcome, SignInPurpose,
        WaitingDevice,
    },
    openid::{OpenIdToken, OpenIdTokens},
    profile::{ProfileChange, UserProfiles},
    push_rules::{UserPushRules, write_push_rules},
    pushers::{PusherChange, PusherState, UserPushers, WebPushKey, WebPushSubscription},
    refresh_tokens::{ACCESS_TOKEN_LIFETIME, IssuedTokens, RefreshTokens},
    register::AccountRegistration,
    registration_tokens::RegistrationTokens,
    room_tags::{NewRoomTag, RoomTags},
    server_notices::NoticeRooms,
    sessions::{Session, UserSessions},
    shared_secret::{SharedSecretAccounts, SharedSecretRegistration},
    uia::{InteractiveAuth, StageInput, UiaPages},
    upgraded_rooms::UpgradedRoomSettings,
    user_directory::{DirectoryUser, UserDirectory, UserSearchPage},
    user_list::{ListedUser, UserList, UserListPage, UserListRequest},
    usernames::UserNames,
};
use self::{
    account_creation::AccountCreation,
    guest_registration::RegistrationParts,
    password_check::{PasswordCheck, VerifiedUser},
    passwords::Passwords,
    registration_auth::RegistrationAuth,
    short_lived_tokens::ShortLivedTokens,
    uia::UiaSessions,
};
pub use crate::storage::users::identity_bindings::IdentityBindingRow as IdentityBinding;
use crate::{
    clock::Clock,
    config::{Config, DirectorySection, PushSection, RegistrationSection},
    error::{Error, Result},
    mail::MailQueue,
    storage::Db,
    tasks::Tasks,
};

/// The accounts of this server: one service for each kind of data. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    services: Arc<UserServices>,
}

/// The services of [`Users`], each built on those above it.
pub struct UserServices {
    /// Accounts by user id, and their properties.
    pub lookup: AccountLookup,
    /// The sessions of logged-in devices.
    pub sessions: UserSessions,
    /// New tokens for refresh tokens.
    pub refresh_tokens: RefreshTokens,
    /// The OAuth 2.0 API and its pages.
    pub oauth: OAuthServices,
    /// Proofs of identity for other services.
    pub openid: OpenIdTokens,
    /// Application services.
    pub application_services: ApplicationServices,
    /// User names and whether they can be registered.
    pub usernames: UserNames,
    /// Tokens with which users can register.
    pub registration_tokens: RegistrationTokens,
    /// Checks of passwords.
    #[cfg(test)]
    password_check: PasswordCheck,
    /// Messages with which users show that an e-mail address is theirs.
    pub email_validations: EmailValidations,
    /// User-interactive authentication of requests.
    pub uia: InteractiveAuth,
    /// Web pages for stages of the authentication.
    pub uia_pages: UiaPages,
    /// Logins.
    pub login: UserLogin,
    /// Registration of accounts.
    pub registration: AccountRegistration,
    /// Profiles of the users of this server.
    pub profiles: UserProfiles,
    /// Registration with the shared secret.
    pub shared_secret: SharedSecretAccounts,
    /// The e-mail addresses of accounts.
    pub email_addresses: EmailAddresses,
    /// Changes of passwords, and deactivation.
    pub account: AccountChanges,
    /// Suspension and locking by administrators.
    pub moderation: AccountModeration,
    /// Push rules.
    pub push_rules: UserPushRules,
    /// Pushers.
    pub pushers: UserPushers,
    /// Account data, global and of rooms.
    pub account_data: AccountDataEntries,
    /// Tags of rooms.
    pub room_tags: RoomTags,
    /// Settings for rooms that were upgraded.
    pub upgraded_rooms: UpgradedRoomSettings,
    /// Filters for `/sync` and `/messages`.
    pub filters: StoredFilters,
    /// Addresses at identity servers.
    pub identity_bindings: UserIdentityBindings,
    /// Rooms for server notices.
    pub notices: NoticeRooms,
    /// Searches for users.
    pub directory: UserDirectory,
    /// The list of this server's users.
    pub user_list: UserList,
}

impl Deref for Users {
    type Target = UserServices;

    fn deref(&self) -> &UserServices {
        &self.services
    }
}

/// The resources that all services of users share.
struct UserEnvironment {
    db: Db,
    clock: Clock,
    tasks: Tasks,
    server_name: OwnedServerName,
    registration: RegistrationSection,
    directory: DirectorySection,
    push: PushSection,
    config: Config,
    mail: MailQueue,
    /// The user who sends server notices.
    notices_sender: Option<OwnedUserId>,
    application_services: ApplicationServiceRegistry,
    passwords: Arc<Passwords>,
}

impl Users {
    /// Starts to serve the accounts in a database.
    ///
    /// # Errors
    ///
    /// When identity providers are configured, and the system's certificates cannot be used.
    pub fn new(
        db: &Db,
        clock: &Clock,
        config: &Config,
        tasks: &Tasks,
        mail: &MailQueue,
    ) -> Result<Self> {
        let environment = UserEnvironment {
            db: db.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            server_name: config.server.name.clone(),
            registration: config.registration.clone(),
            directory: config.directory.clone(),
            push: config.push.clone(),
            config: config.clone(),
            mail: mail.clone(),
            notices_sender: notices_sender(config),
            application_services: ApplicationServiceRegistry::new(config.server.name.clone()),
            passwords: Arc::new(Passwords::new(&config.passwords)),
        };
        Ok(Self {
            services: Arc::new(UserServices::new(&environment)?),
        })
    }
}

impl UserServices {
    /// Builds the services, each from those above it.
    fn new(environment: &UserEnvironment) -> Result<Self> {
        let lookup = AccountLookup::new(environment);
        let sessions = UserSessions::start(environment);
        let tokens = ShortLivedTokens::new(environment);
        let usernames = UserNames::new(environment);
        let registration_tokens = RegistrationTokens::new(environment);
        let password_check = PasswordCheck::new(environment, &lookup);
        let email_validations = EmailValidations::new(environment);
        let uia_sessions = Arc::new(UiaSessions::default());
        let uia = InteractiveAuth::new(
            environment,
            &uia_sessions,
            &password_check,
            &registration_tokens,
            &email_validations,
        );
        let creation = AccountCreation::new(environment, &registration_tokens);
        let auth = RegistrationAuth::new(environment, &uia);
        let parts = RegistrationParts {
            usernames: &usernames,
            sessions: &sessions,
            auth: &auth,
            tokens: &registration_tokens,
            creation: &creation,
        };
        let profiles = UserProfiles::new(environment, &lookup);
        let push_rules = UserPushRules::new(environment);
        let refresh_tokens = RefreshTokens::new(environment);
        let login = UserLogin::new(environment, &password_check, &uia, &tokens);
        Ok(Self {
            oauth: OAuthServices::new(environment, &parts, &login, &refresh_tokens)?,
            refresh_tokens,
            openid: OpenIdTokens::new(&tokens),
            uia_pages: UiaPages::new(environment, &uia_sessions, &password_check),
            login,
            registration: AccountRegistration::new(environment, &parts),
            application_services: ApplicationServices::new(environment, &creation),
            shared_secret: SharedSecretAccounts::new(environment, &parts, &profiles),
            email_addresses: EmailAddresses::new(environment, &email_validations, &uia),
            account: AccountChanges::new(environment, &uia),
            moderation: AccountModeration::new(environment, &lookup),
            pushers: UserPushers::new(environment),
            account_data: AccountDataEntries::new(environment, &push_rules),
            room_tags: RoomTags::new(environment),
            upgraded_rooms: UpgradedRoomSettings::new(environment),
            filters: StoredFilters::new(environment),
            identity_bindings: UserIdentityBindings::new(environment),
            notices: NoticeRooms::new(environment),
            directory: UserDirectory::new(environment),
            user_list: UserList::new(environment),
            lookup,
            sessions,
            usernames,
            registration_tokens,
            email_validations,
            uia,
            profiles,
            push_rules,
            #[cfg(test)]
            password_check,
        })
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

    use ruma::{RoomId, room_id};

    use super::*;
    use crate::storage::{rooms::room_table, testing::TestDb};

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
            let mail = MailQueue::new(&config, &clock, &test.tasks).unwrap();
            let users = Users::new(&test.db, &clock, &config, &test.tasks, &mail).unwrap();
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
            let registered = self
                .users
                .registration
                .register(register_request(&body))
                .await?;
            Ok(registered.login.expect("did not inhibit the login"))
        }

        /// Creates a room that this server knows.
        pub(crate) async fn room(&self) -> &'static RoomId {
            let room_id = room_id!("!a:localhost");
            let mut tx = self.test.db.write().await.unwrap();
            let made = room_table::insert(&mut tx, room_id.as_str(), "12").await;
            assert!(made.unwrap().is_some());
            tx.commit().await.unwrap();
            room_id
        }

        pub(crate) async fn session(&self, name: &str) -> Arc<Session> {
            let login = self.register(name).await;
            let token = login.tokens.access_token;
            self.users.sessions.authenticate(&token).await.unwrap()
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
