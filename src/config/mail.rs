//! The section of the configuration about e-mail.

use serde::{Deserialize, Serialize};

use super::{
    addresses::email_address,
    values::{SecretString, between, empty_is_none},
};

/// `[mail]`: the SMTP server through which this server sends e-mail.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MailSection {
    /// The host name of the SMTP server. If unset, this server sends no e-mail, and accounts have no e-mail addresses.
    #[serde(with = "empty_is_none")]
    pub smtp_host: Option<String>,
    #[serde(deserialize_with = "between::<1, 65_535, _, _>")]
    pub smtp_port: u16,
    pub smtp_encryption: SmtpEncryption,
    #[serde(with = "empty_is_none")]
    pub smtp_username: Option<String>,
    #[serde(with = "empty_is_none")]
    pub smtp_password: Option<SecretString>,
    /// The e-mail address of this server.
    #[serde(
        serialize_with = "empty_is_none::serialize",
        deserialize_with = "email_address"
    )]
    pub from: Option<String>,
}

/// The encryption of the connection to the SMTP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SmtpEncryption {
    /// The connection begins without encryption, and must change to TLS before anything is sent.
    StartTls,
    /// TLS from the beginning.
    Tls,
    /// No encryption: for a server on the same machine.
    None,
}

impl Default for MailSection {
    fn default() -> Self {
        Self {
            smtp_host: None,
            smtp_port: 587,
            smtp_encryption: SmtpEncryption::StartTls,
            smtp_username: None,
            smtp_password: None,
            from: None,
        }
    }
}

/// A key that must be set because another one is.
pub(super) struct MissingMailKey {
    pub(super) missing: &'static str,
    pub(super) set: &'static str,
}

impl MailSection {
    /// Returns a key that must be set, and is not.
    pub(super) fn missing_key(&self) -> Option<MissingMailKey> {
        let key = |missing, set| Some(MissingMailKey { missing, set });
        match (&self.smtp_host, &self.from) {
            (Some(_), None) => return key("mail.from", "mail.smtp_host"),
            (None, Some(_)) => return key("mail.smtp_host", "mail.from"),
            _ => {}
        }
        match (&self.smtp_username, &self.smtp_password) {
            (Some(_), None) => key("mail.smtp_password", "mail.smtp_username"),
            (None, Some(_)) => key("mail.smtp_username", "mail.smtp_password"),
            _ => None,
        }
    }
}
