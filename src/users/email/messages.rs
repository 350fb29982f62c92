//! The messages with which users show that an e-mail address is theirs.

use ruma::{OwnedServerName, OwnedUserId};

use super::ValidationPurpose;
use crate::{
    config::Config,
    mail::{EmailAddress, MailMessage},
};

/// The path of the page that the link in a message opens.
pub(super) const CONFIRM_PATH: &str = "/_parlour/email/confirm";

/// Writes messages about validations.
#[derive(Clone)]
pub(super) struct ValidationMessages {
    server_name: OwnedServerName,
    public_url: String,
}

/// A validation and the account that has its address.
pub(super) struct MessageSubject<'a> {
    pub(super) address: EmailAddress,
    pub(super) purpose: ValidationPurpose,
    /// The user whose account has the address.
    pub(super) owner: Option<OwnedUserId>,
    pub(super) session_id: &'a str,
    pub(super) token: &'a str,
}

impl ValidationMessages {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            server_name: config.server.name.clone(),
            public_url: config.public_url().to_string(),
        }
    }

    /// Returns the message for a validation. It has no link if the purpose and the state of the address do not fit.
    pub(super) fn write(&self, subject: MessageSubject<'_>) -> MailMessage {
        let server = &self.server_name;
        let MessageSubject {
            address,
            purpose,
            owner,
            session_id,
            token,
        } = subject;
        let link = format!(
            "{}{CONFIRM_PATH}?sid={session_id}&token={token}",
            self.public_url
        );
        let (title, text) = match (purpose, owner) {
            (ValidationPurpose::Password, Some(user_id)) => (
                format!("Set another password on {server}"),
                format!(
                    "Someone wants to set another password for the account {user_id}.\n\
                     If it was you, open this page and confirm it:\n\n{link}\n\n\
                     If it was not you, do nothing: the password stays as it is.\n"
                ),
            ),
            (ValidationPurpose::Password, None) => (
                format!("There is no account with this address on {server}"),
                format!(
                    "Someone wants to set another password for an account on {server}, and gave this\n\
                     e-mail address. No account there has it. If it was you, try another address.\n"
                ),
            ),
            (ValidationPurpose::Add | ValidationPurpose::Register, Some(user_id)) => (
                format!("Your e-mail address on {server}"),
                format!(
                    "Someone wants to use this e-mail address for an account on {server}.\n\
                     The account {user_id} has it already. If it was you, log in to that account,\n\
                     or set another password for it if you have forgotten it.\n"
                ),
            ),
            (ValidationPurpose::Add | ValidationPurpose::Register, None) => (
                format!("Confirm your e-mail address for {server}"),
                format!(
                    "Someone wants to use this e-mail address for an account on {server}.\n\
                     If it was you, open this page and confirm it:\n\n{link}\n\n\
                     If it was not you, do nothing.\n"
                ),
            ),
        };
        MailMessage {
            to: address,
            subject: title,
            text,
            unsubscribe_url: None,
        }
    }
}
