//! Requests whose body has no canonical form, since it holds an event with fractions or very large numbers.
//!
//! Such an event is dropped, if not by its room's rules then because this server cannot keep it; but a transaction with
//! it must not be refused: its sender would repeat it for ever, and send nothing else. Servers that do not mind such
//! numbers sign the body as they send it.

use ruma::{
    ServerName, SigningKeyAlgorithm,
    api::federation::authentication::XMatrix,
    canonical_json::CanonicalJsonObject,
    exports::http::Request,
    signatures::{PublicKeyMap, verify_canonical_json_bytes},
};
use serde_json::Value;

/// Returns `Some` if a body without a canonical form was signed as it is.
pub(super) fn verify<B: AsRef<[u8]>>(
    proof: &XMatrix,
    request: &Request<B>,
    (own, keys): (&ServerName, &PublicKeyMap),
) -> Option<()> {
    let body = std::str::from_utf8(request.body().as_ref()).ok()?;
    if serde_json::from_str::<CanonicalJsonObject>(body).is_ok()
        || !serde_json::from_str::<Value>(body).is_ok_and(|body| body.is_object())
    {
        return None;
    }
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
