//! The content security policies of pages.

use ruma::serde::{Base64, base64::Standard};
use sha2::{Digest, Sha256};

/// Returns the policy source for a script or style inside the page.
pub(super) fn hash_source(text: &str) -> String {
    let hash: Base64<Standard, _> = Base64::new(Sha256::digest(text).to_vec());
    // Matrix writes Base64 without padding; the hash of 32 bytes needs one padding character.
    format!("'sha256-{}='", hash.encode())
}
