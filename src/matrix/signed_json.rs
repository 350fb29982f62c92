//! Objects that are signed with the keys of users.
//!
//! See the [specification](https://spec.matrix.org/v1.19/appendices/#signing-json).

use ruma::{
    SigningKeyAlgorithm, UserId,
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    serde::Base64,
    signatures::{to_canonical_json_string_for_signing, verify_canonical_json_bytes},
};

/// Returns whether two objects are equal apart from `signatures` and `unsigned`.
pub fn is_equal_without_signatures(one: &CanonicalJsonObject, other: &CanonicalJsonObject) -> bool {
    let signed = |object| to_canonical_json_string_for_signing(object).ok();
    signed(one).is_some_and(|one| signed(other) == Some(one))
}

/// Returns a user's signature of an object with a key.
pub fn user_signature<'a>(
    object: &'a CanonicalJsonObject,
    user_id: &UserId,
    key_id: &str,
) -> Option<&'a str> {
    let CanonicalJsonValue::Object(signatures) = object.get("signatures")? else {
        return None;
    };
    let CanonicalJsonValue::Object(of_user) = signatures.get(user_id.as_str())? else {
        return None;
    };
    match of_user.get(key_id)? {
        CanonicalJsonValue::String(signature) => Some(signature),
        _ => None,
    }
}

/// Returns whether a user signed an object with an ed25519 key.
pub fn is_signed_by_user(
    object: &CanonicalJsonObject,
    user_id: &UserId,
    key_id: &str,
    public_key: &str,
) -> bool {
    let check = || {
        let signature = Base64::<ruma::serde::base64::Standard>::parse(user_signature(
            object, user_id, key_id,
        )?)
        .ok()?;
        let public_key = Base64::<ruma::serde::base64::Standard>::parse(public_key).ok()?;
        let json = to_canonical_json_string_for_signing(object).ok()?;
        verify_canonical_json_bytes(
            &SigningKeyAlgorithm::Ed25519,
            public_key.as_bytes(),
            signature.as_bytes(),
            json.as_bytes(),
        )
        .ok()
    };
    check().is_some()
}

#[cfg(test)]
mod tests {
    use ruma::{
        signatures::{Ed25519KeyPair, sign_json},
        user_id,
    };
    use serde_json::json;

    use super::*;

    fn object(value: serde_json::Value) -> CanonicalJsonObject {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_signature_is_valid_for_its_key_and_object() {
        let alice = user_id!("@alice:localhost");
        let document = Ed25519KeyPair::generate();
        let pair = Ed25519KeyPair::from_der(&document, "KEY".to_owned()).unwrap();
        let mut signed = object(json!({ "a": 1, "unsigned": { "b": 2 } }));
        sign_json(alice.as_str(), &pair, &mut signed).unwrap();
        let public_key = Base64::<ruma::serde::base64::Standard>::new(pair.public_key().to_vec());
        let public_key = public_key.encode();

        assert!(is_signed_by_user(
            &signed,
            alice,
            "ed25519:KEY",
            &public_key
        ));
        assert!(!is_signed_by_user(
            &signed,
            alice,
            "ed25519:OTHER",
            &public_key
        ));
        assert!(!is_signed_by_user(
            &signed,
            user_id!("@bob:localhost"),
            "ed25519:KEY",
            &public_key
        ));
        assert!(!is_signed_by_user(&signed, alice, "ed25519:KEY", "AAAA"));
        signed.insert("a".to_owned(), CanonicalJsonValue::Bool(true));
        assert!(!is_signed_by_user(
            &signed,
            alice,
            "ed25519:KEY",
            &public_key
        ));
    }

    #[test]
    fn objects_are_compared_without_their_signatures() {
        let one = object(json!({ "a": 1, "signatures": {}, "unsigned": {} }));

        assert!(is_equal_without_signatures(
            &one,
            &object(json!({ "a": 1 }))
        ));
        assert!(!is_equal_without_signatures(
            &one,
            &object(json!({ "a": 2 }))
        ));
    }
}
