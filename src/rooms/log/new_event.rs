//! An event to be sent, before it is built.

use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    error::{Error, Result},
    matrix::StickyDuration,
    numbers::DeviceNum,
};

/// The longest transaction id of a client, in bytes. It must fit into a PostgreSQL index together
/// with the other columns.
const MAX_TXN_ID_BYTES: usize = 1_024;

/// An event to be sent.
#[derive(Clone, Debug)]
pub struct EventToSend {
    pub sender: OwnedUserId,
    pub kind: TimelineEventType,
    /// `None` for message events.
    pub state_key: Option<String>,
    pub content: Box<RawValue>,
    /// The event that it redacts.
    pub redacts: Option<OwnedEventId>,
    /// Lets a client send the event again without a second copy of it.
    pub transaction: Option<ClientTransaction>,
    /// The time that an application service gives the event; `None` is now.
    pub timestamp: Option<MilliSecondsSinceUnixEpoch>,
    /// The time for which the event is sticky.
    pub sticky: Option<StickyDuration>,
}

#[derive(Deserialize)]
struct RedactsContent {
    redacts: Option<OwnedEventId>,
}

impl EventToSend {
    /// Returns a message event. If it is a redaction, its content names the redacted event.
    pub fn message(
        sender: OwnedUserId,
        kind: TimelineEventType,
        content: Box<RawValue>,
        transaction: Option<ClientTransaction>,
    ) -> Self {
        let redacts = (kind == TimelineEventType::RoomRedaction)
            .then(|| {
                serde_json::from_str::<RedactsContent>(content.get())
                    .ok()?
                    .redacts
            })
            .flatten();
        Self {
            sender,
            kind,
            state_key: None,
            content,
            redacts,
            transaction,
            timestamp: None,
            sticky: None,
        }
    }

    /// Returns the event with a time of its own, if one is given.
    #[must_use]
    pub fn at(mut self, timestamp: Option<MilliSecondsSinceUnixEpoch>) -> Self {
        self.timestamp = timestamp;
        self
    }

    /// Returns the event as one that is sticky for a time, if one is given.
    #[must_use]
    pub fn sticky_for(mut self, duration: Option<StickyDuration>) -> Self {
        self.sticky = duration;
        self
    }

    /// Returns the new membership, if this is a member event.
    pub fn membership(&self) -> Option<MembershipState> {
        #[derive(Deserialize)]
        struct EventMembership {
            membership: MembershipState,
        }
        if self.kind != TimelineEventType::RoomMember {
            return None;
        }
        let content: EventMembership = serde_json::from_str(self.content.get()).ok()?;
        Some(content.membership)
    }

    /// Returns a state event.
    pub fn state(
        sender: OwnedUserId,
        kind: &StateEventType,
        state_key: &str,
        content: Box<RawValue>,
    ) -> Self {
        Self {
            sender,
            kind: TimelineEventType::from(kind.to_string()),
            state_key: Some(state_key.to_owned()),
            content,
            redacts: None,
            transaction: None,
            timestamp: None,
            sticky: None,
        }
    }
}

/// A client's transaction id. It identifies an event of one device.
#[derive(Clone, Debug)]
pub struct ClientTransaction {
    pub device: DeviceNum,
    pub txn_id: String,
}

/// Checks a client's transaction id.
///
/// # Errors
///
/// [`Error::InvalidParam`] when it cannot be stored.
pub(crate) fn check_txn_id(txn_id: &str) -> Result<()> {
    if txn_id.len() > MAX_TXN_ID_BYTES || txn_id.contains('\0') {
        return Err(Error::invalid_param(format!(
            "the transaction id must have at most {MAX_TXN_ID_BYTES} bytes and must not contain U+0000"
        )));
    }
    Ok(())
}
