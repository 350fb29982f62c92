//! The server's ed25519 key.

use ruma::{
    OwnedServerName, ServerName,
    canonical_json::CanonicalJsonObject,
    room_version_rules::RoomVersionRules,
    signatures::{Ed25519KeyPair, hash_and_sign_event, sign_event},
};

use crate::error::{Error, Result};

/// The name of the server and the key with which it signs.
#[derive(Debug)]
pub struct SigningKey {
    server_name: OwnedServerName,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// Reads a key from its PKCS #8 document.
    ///
    /// # Errors
    ///
    /// When the document is no ed25519 key.
    pub fn from_der(server_name: OwnedServerName, document: &[u8], version: &str) -> Result<Self> {
        let pair = Ed25519KeyPair::from_der(document, version.to_owned())
            .map_err(|source| Error::internal("read the signing key", source))?;
        Ok(Self { server_name, pair })
    }

    /// Returns the name of the server.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
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

    /// Adds this server's signature to an event that has its hash.
    ///
    /// # Errors
    ///
    /// [`Error::BadJson`] when it is no event.
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
