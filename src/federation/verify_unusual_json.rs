//! Verifies requests that ruma cannot verify, because the body contains fractions, very large numbers, or very deep
//! nesting.
//!
//! Events with these are dropped, either by the room's rules or because this server cannot store them. But a
//! transaction that contains them must not be refused: its sender would retry it forever, and send nothing else.
//! Servers that accept such numbers sign them as they send them.

use ruma::{
    ServerName, SigningKeyAlgorithm,
    api::federation::authentication::XMatrix,
    canonical_json::CanonicalJsonObject,
    exports::http::Request,
    signatures::{PublicKeyMap, verify_canonical_json_bytes},
};
use serde_json::Value;

use crate::matrix::canonical_text;

/// The greatest depth of a body. It limits the memory that an unauthenticated request can use, and exceeds the depth
/// that an event of the permitted size can have.
const MAX_SIGNED_DEPTH: usize = 1_000_000;

/// Returns `Some` if a body that ruma cannot parse has a valid signature.
pub(super) fn verify_request<B: AsRef<[u8]>>(
    proof: &XMatrix,
    request: &Request<B>,
    own: &ServerName,
    keys: &PublicKeyMap,
) -> Option<()> {
    let body = request.body().as_ref();
    if serde_json::from_slice::<CanonicalJsonObject>(body).is_ok() {
        return None;
    }
    let body = canonical_text(body, MAX_SIGNED_DEPTH).ok()?;
    let key = keys.get(proof.origin.as_str())?.get(proof.key.as_str())?;
    let quoted = |text: &str| Value::from(text).to_string();
    let uri = request.uri().path_and_query()?.as_str();
    let text = format!(
        r#"{{"content":{body},"destination":{},"method":{},"origin":{},"uri":{}}}"#,
        quoted(own.as_str()),
        quoted(request.method().as_str()),
        quoted(proof.origin.as_str()),
        quoted(uri),
    );
    let (algorithm, signature) = (SigningKeyAlgorithm::Ed25519, proof.sig.as_bytes());
    verify_canonical_json_bytes(&algorithm, key.as_bytes(), signature, text.as_bytes()).ok()
}
