//! Random tokens and ids, and the hashes under which tokens are stored.

use ruma::serde::{Base64, base64::UrlSafe};
use sha2::{Digest, Sha256};

use crate::storage::users::tokens::TokenHash;

/// The length of a device id that the server generates.
const DEVICE_ID_LETTERS: usize = 10;

/// Returns a token that nobody can guess.
pub(super) fn random_token() -> String {
    Base64::<UrlSafe, _>::new(rand::random::<[u8; 32]>().to_vec()).encode()
}

/// Returns the hash under which a token is stored.
///
/// A token is 256 random bits, so a fast hash is enough, and the timing of an index over hashes reveals nothing.
pub(super) fn hash_token(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

/// Returns a random device id.
pub(super) fn random_device_id() -> String {
    random_letters(b'A', DEVICE_ID_LETTERS)
}

/// Returns random letters of the alphabet that begins with `first`.
pub(super) fn random_letters(first: u8, count: usize) -> String {
    (0..count)
        .map(|_| char::from(first + rand::random_range(0..26_u8)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_unique_and_url_safe() {
        let (one, other) = (random_token(), random_token());

        assert_ne!(one, other);
        assert_eq!(one.len(), 43);
        let fits = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
        assert!(one.chars().all(fits));
    }

    #[test]
    fn device_ids_are_capital_letters() {
        let id = random_device_id();

        assert_eq!(id.len(), 10);
        assert!(id.chars().all(|c| c.is_ascii_uppercase()));
    }
}
