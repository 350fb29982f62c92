//! Sending e-mail through the SMTP server of the configuration.
//!
//! `address` checks e-mail addresses, `message` has the messages that this server writes, and `queue` sends them. The
//! users and the purposes of the messages are above this module. `docs/design/mail.md` explains how.

mod address;
mod message;
mod queue;
mod smtp;

pub use self::{
    address::EmailAddress,
    message::MailMessage,
    queue::{MailQueue, QueuePlace},
};
