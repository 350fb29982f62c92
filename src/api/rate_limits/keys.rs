//! The owners of token buckets.

use std::net::IpAddr;

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};

use crate::{
    api::client_address::{ClientAddress, subscriber_network},
    mail::EmailAddress,
    users::Session,
};

/// The subject of a rate limit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RateLimitKey {
    /// A network address. For IPv6 it is the /64 network, because one subscriber has all of it.
    Address(IpAddr),
    User(OwnedUserId),
    Server(OwnedServerName),
    /// Another server and a user to whom it sends.
    ServerTo(OwnedServerName, OwnedUserId),
    /// The recipient of e-mails.
    Email(EmailAddress),
    /// A user and another user to whom they send.
    UserTo(OwnedUserId, OwnedUserId),
    /// An application service whose requests are not limited.
    Exempt,
}

impl From<&Session> for RateLimitKey {
    fn from(session: &Session) -> Self {
        if session.is_exempt_from_limits() {
            Self::Exempt
        } else {
            Self::User(session.user_id.clone())
        }
    }
}

impl From<&UserId> for RateLimitKey {
    fn from(user_id: &UserId) -> Self {
        Self::User(user_id.to_owned())
    }
}

impl From<&ServerName> for RateLimitKey {
    fn from(server: &ServerName) -> Self {
        Self::Server(server.to_owned())
    }
}

impl From<&ClientAddress> for RateLimitKey {
    fn from(peer: &ClientAddress) -> Self {
        Self::Address(subscriber_network(peer.0))
    }
}
