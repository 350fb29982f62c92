//! The server's ed25519 key.

use ruma::{
    OwnedServerName, OwnedServerSigningKeyId, ServerName, ServerSigningKeyId,
    api::federation::authentication::XMatrixSigningInput,
    canonical_json::CanonicalJsonObject,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{Ed25519KeyPair, hash_and_sign_event, sign_event, sign_json},
};

use crate::error::{Error, Result};

/// The name of the server and the key with which it signs.
#[derive(Debug)]
pub struct SigningKey {
    server_name: OwnedServerName,
    key_id: OwnedServerSigningKeyId,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Reads a key from its PKCS #8 document.
    ///
    /// # Errors
    ///
    /// When the document is not an ed25519 key, or the version is not a valid key version.
    pub fn from_der(server_name: OwnedServerName, document: &[u8], version: &str) -> Result<Self> {
        let key_id = ServerSigningKeyId::parse(format!("ed25519:{version}"))
            .map_err(|source| Error::internal("read the version of the signing key", source))?;
        let pair = Ed25519KeyPair::from_der(document, version.to_owned())
            .map_err(|source| Error::internal("read the signing key", source))?;
        Ok(Self {
            server_name,
            key_id,
            pair,
        })
    }

    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// Returns the id under which the key is published.
    pub fn key_id(&self) -> &ServerSigningKeyId {
        &self.key_id
    }

    /// Returns the public key, with which others verify the signatures.
    pub fn public_key(&self) -> Base64 {
        Base64::new(self.pair.public_key().to_vec())
    }

    /// Returns the signing input for a request to another server.
    pub fn signing_input(&self, destination: &ServerName) -> XMatrixSigningInput<'_> {
        let origin = self.server_name.clone();
        XMatrixSigningInput::new(origin, destination.to_owned(), &self.pair)
    }

    /// Adds this server's signature to an object that is not an event.
    ///
    /// # Errors
    ///
    /// When the object has malformed `signatures`.
    pub fn sign(&self, object: &mut CanonicalJsonObject) -> Result<()> {
        sign_json(self.server_name.as_str(), &self.pair, object)
            .map_err(|source| Error::internal("sign an object", source))
    }

    /// Adds the content hash and this server's signature to an event.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] when the event is larger than an event may be.
    pub fn hash_and_sign(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<()> {
        hash_and_sign_event(
            self.server_name.as_str(),
            &self.pair,
            event,
            &rules.redaction,
        )
        .map_err(|e| Error::TooLarge(format!("the event cannot be signed: {e}")))
    }

    /// Adds this server's signature to an event that already has its hash.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] when it is not an event.
    pub fn sign_event(
        &self,
        event: &mut CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<()> {
        sign_event(
            self.server_name.as_str(),
            &self.pair,
            event,
            &rules.redaction,
        )
        .map_err(|e| Error::BadJson(format!("the event cannot be signed: {e}")))
    }
}
