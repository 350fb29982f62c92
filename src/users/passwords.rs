//! Hashing and checking passwords with argon2id, outside the asynchronous threads.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::{
    config,
    error::{Error, RefusalCode, Result},
};

/// The number of passwords that may wait to be hashed. More are refused, so that memory and waiting time stay bounded.
const MAX_WAITING_PASSWORDS: usize = 512;
/// The longest password, in bytes.
const MAX_PASSWORD_BYTES: usize = 512;
/// A salt and a hash without a password, against which the passwords of unknown users are checked.
const UNKNOWN_USER_HASH: &str =
    "cGFybG91cjogbm8gc2FsdA$cGFybG91ciBrbm93cyBub2JvZHkgYnkgdGhlIG5hbWU";

/// Hashes and checks passwords.
pub(super) struct Passwords {
    argon2: Argon2<'static>,
    unknown_user_hash: String,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Passwords {
    /// Prepares argon2id with the configured parameters.
    pub(super) fn new(config: &config::PasswordsSection) -> Self {
        let (memory, passes) = (config.memory_kib, config.iterations);
        // The configuration accepts only parameters that argon2 supports.
        let params = Params::new(memory, passes, 1, None).unwrap_or_default();
        let nobody = format!(
            "$argon2id$v=19$m={},t={},p=1${UNKNOWN_USER_HASH}",
            params.m_cost(),
            params.t_cost()
        );
        let max_concurrent = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            unknown_user_hash: nobody,
            permits: Arc::new(Semaphore::new(max_concurrent)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Checks that a password may be set.
    ///
    /// # Errors
    ///
    /// `RefusalCode::WeakPassword` when it is empty, [`Error::InvalidParam`] when it is too long.
    pub(super) fn check(password: &str) -> Result<()> {
        if password.is_empty() {
            return Err(Error::refused(
                RefusalCode::WeakPassword,
                "the password is empty".to_owned(),
            ));
        }
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(Error::invalid_param(format!(
                "the password is longer than {MAX_PASSWORD_BYTES} bytes"
            )));
        }
        Ok(())
    }

    /// Returns the hash of a password, in PHC format.
    pub(super) async fn hash(&self, password: String) -> Result<String> {
        let argon2 = self.argon2.clone();
        self.run_in_turn(move || {
            let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>())?;
            let hash = argon2.hash_password(password.as_bytes(), &salt)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Returns whether a password has this hash. Without a hash it takes the same time and returns `false`.
    pub(super) async fn verify(&self, password: String, hash: Option<String>) -> Result<bool> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(false);
        }
        let argon2 = self.argon2.clone();
        let is_somebody = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.unknown_user_hash.clone());
        self.run_in_turn(move || {
            let hash = PasswordHash::new(&hash)?;
            match argon2.verify_password(password.as_bytes(), &hash) {
                Ok(()) => Ok(is_somebody),
                Err(argon2::password_hash::Error::Password) => Ok(false),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// Runs a computation on a blocking thread, a few at a time.
    async fn run_in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> argon2::password_hash::Result<T> + Send + 'static,
    ) -> Result<T> {
        let _place = PasswordQueuePlace::enter(&self.waiting)?;
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|e| Error::internal("wait to hash a password", e))?;
        let done = spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        done.await
            .map_err(|e| Error::internal("hash a password", e))?
            .map_err(|e| Error::internal("hash a password", e.to_string()))
    }
}

/// A place in the queue.
struct PasswordQueuePlace<'a>(&'a AtomicUsize);

impl<'a> PasswordQueuePlace<'a> {
    fn enter(waiting: &'a AtomicUsize) -> Result<Self> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::SeqCst) >= MAX_WAITING_PASSWORDS {
            return Err(Error::Unavailable(
                "too many logins are in progress, try again later".to_owned(),
            ));
        }
        Ok(place)
    }
}

impl Drop for PasswordQueuePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap_passwords() -> Passwords {
        Passwords::new(&config::PasswordsSection {
            memory_kib: 8,
            iterations: 1,
        })
    }

    #[tokio::test]
    async fn only_the_right_password_passes() {
        let passwords = cheap_passwords();
        let hash = passwords.hash("übers3kr1t".into()).await.unwrap();
        let passes = async |word: &str| {
            let verified = passwords.verify(word.to_owned(), Some(hash.clone()));
            verified.await.unwrap()
        };

        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        assert!(passes("übers3kr1t").await);
        assert!(!passes("wrong").await);
        assert!(!passes(&"x".repeat(MAX_PASSWORD_BYTES + 1)).await);
    }

    #[tokio::test]
    async fn an_unknown_user_is_checked_as_slowly_and_never_passes() {
        let passwords = cheap_passwords();

        assert!(!passwords.verify("any".into(), None).await.unwrap());
        let nobody = PasswordHash::new(&passwords.unknown_user_hash).unwrap();
        assert_eq!(nobody.hash.unwrap().len(), 32);
        assert_eq!(nobody.params.get_decimal("m"), Some(8));
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let passwords = cheap_passwords();
        let places: Vec<_> = (0..MAX_WAITING_PASSWORDS)
            .map(|_| PasswordQueuePlace::enter(&passwords.waiting))
            .collect();

        let refused = passwords.hash("x".into()).await;

        assert!(matches!(refused, Err(Error::Unavailable(_))));
        drop(places);
        assert!(passwords.hash("x".into()).await.is_ok());
    }
}
