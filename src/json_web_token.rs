//! JSON Web Tokens in their compact form: [RFC 7519](https://www.rfc-editor.org/rfc/rfc7519).
//!
//! The crates for it bring many dependencies for a few short functions.

use hmac::{Hmac, KeyInit, Mac};
use ruma::serde::{Base64, base64::UrlSafe};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::Sha256;

/// The algorithm of tokens that are signed with a shared secret, HMAC with SHA-256.
const SHARED_SECRET_ALGORITHM: &str = "HS256";

/// The part of a token's header that is checked.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
}

/// Returns the text of a token that is signed, which is the token without its signature.
pub fn signing_input(algorithm: &str, claims: &Value) -> String {
    let header = json!({ "typ": "JWT", "alg": algorithm });
    format!("{}.{}", encode_json(&header), encode_json(claims))
}

/// Returns a token with its signature.
pub fn with_signature(signing_input: &str, signature: &[u8]) -> String {
    format!("{signing_input}.{}", encode(signature))
}

/// Returns a token that is signed with a shared secret.
pub fn sign_with_secret(claims: &Value, secret: &[u8]) -> String {
    let input = signing_input(SHARED_SECRET_ALGORITHM, claims);
    let signature = new_mac(secret, &input).finalize().into_bytes();
    with_signature(&input, &signature)
}

/// Returns the claims of a token that is signed with a shared secret. Returns `None` if it is malformed, or signed in
/// another way. The caller checks the claims, such as the time when the token expires.
pub fn verify_with_secret<T: DeserializeOwned>(token: &str, secret: &[u8]) -> Option<T> {
    let (input, signature) = token.rsplit_once('.')?;
    let (header, claims) = input.split_once('.')?;
    let header: TokenHeader = serde_json::from_slice(&decode(header)?).ok()?;
    if header.alg != SHARED_SECRET_ALGORITHM {
        return None;
    }
    new_mac(secret, input)
        .verify_slice(&decode(signature)?)
        .ok()?;
    serde_json::from_slice(&decode(claims)?).ok()
}

/// Encodes bytes as they are written in tokens.
pub fn encode(bytes: &[u8]) -> String {
    Base64::<UrlSafe, _>::new(bytes).encode()
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn new_mac(secret: &[u8], input: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("the length of the key is fine");
    mac.update(input.as_bytes());
    mac
}

fn encode_json(value: &Value) -> String {
    encode(value.to_string().as_bytes())
}

fn decode(text: &str) -> Option<Vec<u8>> {
    Some(Base64::<UrlSafe>::parse(text).ok()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of [RFC 7515](https://www.rfc-editor.org/rfc/rfc7515#appendix-A.1).
    const EXAMPLE_TOKEN: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
        eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
        dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const EXAMPLE_KEY: &str =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";

    fn verify(token: &str, secret: &[u8]) -> Option<Value> {
        verify_with_secret(token, secret)
    }

    #[test]
    fn the_example_of_the_standard_is_valid() {
        let key = decode(EXAMPLE_KEY).unwrap();

        let claims = verify(EXAMPLE_TOKEN, &key).unwrap();

        assert_eq!(claims["iss"], "joe");
        assert_eq!(claims["exp"], 1_300_819_380);
    }

    #[test]
    fn a_signed_token_is_valid_for_its_secret_only() {
        let claims = json!({ "iss": "parlour" });

        let token = sign_with_secret(&claims, b"swordfish");

        assert_eq!(verify(&token, b"swordfish"), Some(claims));
        assert_eq!(verify(&token, b"trout"), None);
        let other = sign_with_secret(&json!({ "iss": "other" }), b"swordfish");
        let (input, _) = token.rsplit_once('.').unwrap();
        let (_, signature) = other.rsplit_once('.').unwrap();
        assert_eq!(verify(&format!("{input}.{signature}"), b"swordfish"), None);
    }

    #[test]
    fn a_token_without_the_expected_algorithm_is_invalid() {
        let unsigned = format!("{}.", signing_input("none", &json!({})));
        let input = signing_input("ES256", &json!({}));
        let signature = new_mac(b"swordfish", &input).finalize().into_bytes();

        assert_eq!(verify(&unsigned, b""), None);
        let other = with_signature(&input, &signature);
        assert_eq!(verify(&other, b"swordfish"), None);
        for malformed in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d"] {
            assert_eq!(verify(malformed, b"swordfish"), None, "{malformed}");
        }
    }
}
