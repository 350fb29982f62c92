//! The key with which the server identifies itself to push services.
//!
//! See VAPID, [RFC 8292](https://www.rfc-editor.org/rfc/rfc8292).

use p256::ecdsa::{Signature, SigningKey, signature::Signer};
use serde_json::json;
use url::Url;

use crate::{
    error::{Error, Result},
    json_web_token,
    storage::{Db, users::web_push_keys},
};

/// The time for which a push service may accept a signature, in seconds. The most that the standard allows is a day.
const SIGNATURE_LIFETIME_S: i64 = 12 * 60 * 60;

/// The key with which the server identifies itself to push services. Browsers bind their subscriptions to it.
pub struct WebPushKey {
    signing_key: SigningKey,
}

impl WebPushKey {
    /// Returns the stored key. If there is none, creates it.
    pub(super) async fn load_or_create(db: &Db) -> Result<Self> {
        let stored = {
            let mut conn = db.read().await?;
            web_push_keys::find(&mut conn).await?
        };
        if let Some(stored) = stored {
            return Self::from_bytes(&stored);
        }
        let mut tx = db.write().await?;
        // Another request may have created it meanwhile.
        if let Some(stored) = web_push_keys::find(&mut tx).await? {
            return Self::from_bytes(&stored);
        }
        let key = Self::generate();
        web_push_keys::insert(&mut tx, &key.signing_key.to_bytes()).await?;
        tx.commit().await?;
        Ok(key)
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let signing_key = SigningKey::from_slice(bytes)
            .map_err(|source| Error::internal("read the key for Web Push", source))?;
        Ok(Self { signing_key })
    }

    fn generate() -> Self {
        loop {
            // A number of this size is almost always a valid key.
            if let Ok(signing_key) = SigningKey::from_slice(&rand::random::<[u8; 32]>()) {
                return Self { signing_key };
            }
        }
    }

    /// Returns the public key, uncompressed and in URL-safe Base64, which clients give to their push service.
    pub fn public_key(&self) -> String {
        let point = self.signing_key.verifying_key().to_encoded_point(false);
        json_web_token::encode(point.as_bytes())
    }

    /// Returns the value of the header `Authorization` for requests to a push service.
    ///
    /// `contact` is the address at which the operators of the push service can reach those of this server.
    pub fn authorization(&self, service: &Url, contact: &str, now_ms: i64) -> String {
        let claims = json!({
            "aud": service.origin().ascii_serialization(),
            "exp": now_ms / 1000 + SIGNATURE_LIFETIME_S,
            "sub": contact,
        });
        let signed = json_web_token::signing_input("ES256", &claims);
        let signature: Signature = self.signing_key.sign(signed.as_bytes());
        let token = json_web_token::with_signature(&signed, &signature.to_bytes());
        format!("vapid t={token}, k={}", self.public_key())
    }
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::{VerifyingKey, signature::Verifier};
    use ruma::serde::{Base64, base64::UrlSafe};
    use serde_json::Value;

    use super::*;
    use crate::storage::testing::TestDb;

    fn decode(text: &str) -> Vec<u8> {
        Base64::<UrlSafe>::parse(text).unwrap().into_inner()
    }

    #[tokio::test]
    async fn the_key_is_created_once() {
        let test = TestDb::new().await;

        let first = WebPushKey::load_or_create(&test.db).await.unwrap();
        let second = WebPushKey::load_or_create(&test.db).await.unwrap();

        assert_eq!(first.public_key(), second.public_key());
        assert_eq!(decode(&first.public_key()).len(), 65);
    }

    #[test]
    fn requests_are_signed_for_the_origin_of_the_push_service() {
        let key = WebPushKey::generate();
        let url = Url::parse("https://push.example.org:8443/send/1?a=b").unwrap();

        let header = key.authorization(&url, "https://chat.example.org", 1_700_000_000_123);

        let parameters = header.strip_prefix("vapid t=").unwrap();
        let (token, public_key) = parameters.split_once(", k=").unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let verifying_key = VerifyingKey::from_sec1_bytes(&decode(public_key)).unwrap();
        let signature = Signature::from_slice(&decode(signature)).unwrap();
        verifying_key.verify(signed.as_bytes(), &signature).unwrap();
        let (_, claims) = signed.split_once('.').unwrap();
        let claims: Value = serde_json::from_slice(&decode(claims)).unwrap();
        assert_eq!(claims["aud"], "https://push.example.org:8443");
        assert_eq!(claims["exp"], 1_700_043_200);
        assert_eq!(claims["sub"], "https://chat.example.org");
    }
}
