//! JSON Web Tokens whose content the library for OpenID Connect does not know.
//!
//! See [RFC 7519](https://www.rfc-editor.org/rfc/rfc7519).

use openidconnect::{
    JsonWebKey, JsonWebKeyId,
    core::{CoreJsonWebKeySet, CoreJwsSigningAlgorithm},
};
use ruma::serde::{Base64, base64::UrlSafe};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::client::SIGNING_ALGORITHMS;

/// The reason why a token is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenRefusal {
    Malformed,
    /// No key of the provider can have signed it.
    UnknownKey,
    WrongSignature,
}

#[derive(Deserialize)]
struct TokenHeader {
    alg: CoreJwsSigningAlgorithm,
    kid: Option<JsonWebKeyId>,
    /// Extensions that a reader must understand. None is known.
    crit: Option<Value>,
}

/// Verifies the signature of a token, and returns its claims.
pub(super) fn verify_signature(
    token: &str,
    keys: &CoreJsonWebKeySet,
) -> Result<Map<String, Value>, TokenRefusal> {
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenRefusal::Malformed)?;
    let (header, _) = signed.split_once('.').ok_or(TokenRefusal::Malformed)?;
    let header = decode(header).ok_or(TokenRefusal::Malformed)?;
    let header: TokenHeader =
        serde_json::from_slice(&header).map_err(|_| TokenRefusal::Malformed)?;
    if header.crit.is_some() || !SIGNING_ALGORITHMS.contains(&header.alg) {
        return Err(TokenRefusal::Malformed);
    }
    let signature = decode(signature).ok_or(TokenRefusal::Malformed)?;
    let mut refusal = TokenRefusal::UnknownKey;
    for key in keys.keys() {
        if header.kid.is_some() && header.kid.as_ref() != key.key_id() {
            continue;
        }
        // This also checks that the key is for such signatures.
        match key.verify_signature(&header.alg, signed.as_bytes(), &signature) {
            Ok(()) => return payload_of(token).ok_or(TokenRefusal::Malformed),
            Err(_) => refusal = TokenRefusal::WrongSignature,
        }
    }
    Err(refusal)
}

/// Returns the claims of a token, whose signature the caller has verified.
pub(super) fn payload_of(token: &str) -> Option<Map<String, Value>> {
    let payload = decode(token.split('.').nth(1)?)?;
    serde_json::from_slice(&payload).ok()
}

fn decode(part: &str) -> Option<Vec<u8>> {
    let decoded: Base64<UrlSafe, Vec<u8>> = Base64::parse(part).ok()?;
    Some(decoded.into_inner())
}
