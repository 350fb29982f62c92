//! The messages that this server sends by e-mail.

use super::EmailAddress;

/// A message in plain text.
#[derive(Clone, Debug)]
pub struct MailMessage {
    pub to: EmailAddress,
    pub subject: String,
    /// The text, with a newline at the end of each line.
    pub text: String,
    /// The URL at which the recipient can unsubscribe from messages like this.
    pub unsubscribe_url: Option<String>,
}
