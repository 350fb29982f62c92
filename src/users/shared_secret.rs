//! Registration with the server's shared secret, compatible with the tools of other homeservers.
//!
//! See the [documentation of Synapse](https://element-hq.github.io/synapse/latest/admin_api/register_api.html).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hmac::{Hmac, KeyInit, Mac};
use ruma::profile::ProfileFieldValue;
use serde::Deserialize;
use sha1::Sha1;

use super::{
    NewDevice, UserEnvironment, UserNames, UserProfiles, UserSessions,
    account_creation::{AccountCreation, NewAccount, RegisteredAccount},
    guest_registration::RegistrationParts,
    passwords::Passwords,
    secrets,
    uia::StageResult,
};
use crate::{
    clock::Clock,
    config::SecretString,
    error::{Error, RefusalCode, Result},
};

/// The lifetime of a nonce, in milliseconds.
const NONCE_LIFETIME_MS: i64 = 60 * 1000;
/// The largest number of valid nonces. Anyone may request them.
const MAX_VALID_NONCES: usize = 1000;

/// The body of a registration with the shared secret.
#[derive(Deserialize)]
pub struct SharedSecretRegistration {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    displayname: Option<String>,
    #[serde(default)]
    admin: bool,
    #[serde(default)]
    user_type: Option<String>,
    mac: String,
}

/// The nonces that were issued.
#[derive(Default)]
struct RegistrationNonces {
    expire_ms: Mutex<HashMap<String, i64>>,
}

impl RegistrationNonces {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.expire_ms
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self, now: i64) -> Result<String> {
        let mut nonces = self.lock();
        nonces.retain(|_, expires| *expires > now);
        if nonces.len() >= MAX_VALID_NONCES {
            return Err(Error::Unavailable("too many nonces are in use".to_owned()));
        }
        let nonce = secrets::random_token();
        nonces.insert(nonce.clone(), now.saturating_add(NONCE_LIFETIME_MS));
        Ok(nonce)
    }

    fn redeem(&self, nonce: &str, now: i64) -> bool {
        self.lock()
            .remove(nonce)
            .is_some_and(|expires| expires > now)
    }
}

/// Registers users for clients that know the shared secret.
#[derive(Clone)]
pub struct SharedSecretAccounts {
    clock: Clock,
    /// The secret, if it is configured and not empty.
    secret: Option<SecretString>,
    nonces: Arc<RegistrationNonces>,
    passwords: Arc<Passwords>,
    usernames: UserNames,
    creation: AccountCreation,
    sessions: UserSessions,
    profiles: UserProfiles,
}

impl SharedSecretAccounts {
    /// Creates the service.
    pub(super) fn new(
        environment: &UserEnvironment,
        parts: &RegistrationParts<'_>,
        profiles: &UserProfiles,
    ) -> Self {
        let secret = environment.registration.shared_secret.as_ref();
        let secret = secret.filter(|secret| !secret.expose().is_empty());
        Self {
            clock: environment.clock.clone(),
            secret: secret.cloned(),
            nonces: Arc::default(),
            passwords: environment.passwords.clone(),
            usernames: parts.usernames.clone(),
            creation: parts.creation.clone(),
            sessions: parts.sessions.clone(),
            profiles: profiles.clone(),
        }
    }

    /// Returns a nonce for one registration with the shared secret.
    ///
    /// # Errors
    ///
    /// `RefusalCode::Unrecognized` when the server has no shared secret.
    pub fn issue_nonce(&self) -> Result<String> {
        self.shared_secret()?;
        self.nonces.issue(self.clock.now_ms())
    }

    /// Registers a user for a client that knows the shared secret.
    ///
    /// # Errors
    ///
    /// `RefusalCode::Unrecognized` when the server has none, [`Error::Forbidden`] when the MAC is wrong.
    pub async fn register(&self, request: SharedSecretRegistration) -> Result<RegisteredAccount> {
        let secret = self.shared_secret()?;
        let now = self.clock.now_ms();
        if !self.nonces.redeem(&request.nonce, now) {
            return Err(Error::invalid_param("the nonce is unknown or has expired"));
        }
        if !is_authentic(secret, &request) {
            return Err(Error::forbidden("the MAC is wrong"));
        }
        let user_id = self.usernames.available_user_id(&request.username).await?;
        Passwords::check(&request.password)?;
        let hash = self.passwords.hash(request.password).await?;
        let account = NewAccount {
            user_id,
            password_hash: Some(hash),
            admin: request.admin,
            guest: false,
            device: Some(NewDevice::default()),
        };
        let registered = self
            .creation
            .create(account, StageResult::default())
            .await?;
        if let (Some(name), Some(login)) = (request.displayname, &registered.login) {
            let session = self
                .sessions
                .authenticate(&login.tokens.access_token)
                .await?;
            let name = ProfileFieldValue::DisplayName(name);
            self.profiles
                .set_field(&session, &session.user_id, &name)
                .await?;
        }
        Ok(registered)
    }

    fn shared_secret(&self) -> Result<&str> {
        let secret = self.secret.as_ref().map(SecretString::expose);
        secret.ok_or_else(|| {
            Error::refused(
                RefusalCode::Unrecognized,
                "there is no such endpoint".to_owned(),
            )
        })
    }
}

/// Checks the MAC over the request's fields, which are separated by NUL, in constant time.
fn is_authentic(secret: &str, request: &SharedSecretRegistration) -> bool {
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(secret.as_bytes()) else {
        return false;
    };
    let role = if request.admin { "admin" } else { "notadmin" };
    let fields = [&request.nonce, &request.username, &request.password, role];
    mac.update(fields.join("\0").as_bytes());
    if let Some(user_type) = &request.user_type {
        mac.update(b"\0");
        mac.update(user_type.as_bytes());
    }
    let Some(claimed) = from_hex(&request.mac) else {
        return false;
    };
    mac.verify_slice(&claimed).is_ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    let pairs = digits.chunks_exact(2);
    Some(
        pairs
            .map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | digit))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::users::testing::TestUsers;

    async fn with_secret() -> TestUsers {
        TestUsers::new(|config| {
            config.registration.open = false;
            config.registration.shared_secret = Some(SecretString::new("swordfish"));
        })
        .await
    }

    fn request(nonce: &str, secret: &str, admin: bool) -> SharedSecretRegistration {
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).unwrap();
        let role = if admin { "admin" } else { "notadmin" };
        mac.update(format!("{nonce}\0alice\0password\0{role}").as_bytes());
        let bytes = mac.finalize().into_bytes();
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let hex: String = digits
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect();
        let body = json!({
            "nonce": nonce, "username": "alice", "password": "password", "admin": admin,
            "displayname": "Alice", "mac": hex,
        });
        serde_json::from_value(body).unwrap()
    }

    #[tokio::test]
    async fn the_shared_secret_registers_an_administrator() {
        let test = with_secret().await;
        let nonce = test.users.shared_secret.issue_nonce().unwrap();

        let registered = test
            .users
            .shared_secret
            .register(request(&nonce, "swordfish", true));
        let registered = registered.await.unwrap();

        let token = registered.login.unwrap().tokens.access_token;
        let session = test.users.sessions.authenticate(&token).await.unwrap();
        assert!(session.is_admin);
        let profile = test.users.profiles.get(&session.user_id).await.unwrap();
        assert_eq!(profile.get("displayname"), Some(&json!("Alice")));
        assert_eq!(
            test.users
                .registration_tokens
                .first_admin_token()
                .await
                .unwrap(),
            None
        );
    }

    #[tokio::test]
    async fn a_wrong_secret_or_a_used_nonce_is_refused() {
        let test = with_secret().await;
        let nonce = test.users.shared_secret.issue_nonce().unwrap();

        let wrong = test
            .users
            .shared_secret
            .register(request(&nonce, "guess", true));
        assert!(matches!(wrong.await, Err(Error::Forbidden(_))));
        let again = test
            .users
            .shared_secret
            .register(request(&nonce, "swordfish", true));
        assert!(matches!(again.await, Err(Error::InvalidParam(_))));
    }

    #[tokio::test]
    async fn the_endpoint_does_not_exist_without_a_secret() {
        let test = TestUsers::new(|_| {}).await;

        let refused = test.users.shared_secret.issue_nonce();

        assert!(matches!(
            refused,
            Err(Error::Refused {
                code: RefusalCode::Unrecognized,
                ..
            })
        ));
    }

    #[test]
    fn hexadecimal_is_read_in_either_case() {
        assert_eq!(from_hex("00fFa1"), Some(vec![0, 255, 161]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
    }
}
