//! The names that the LiveKit server gets for rooms and users. They reveal neither.
//!
//! [MSC4195](https://github.com/matrix-org/matrix-spec-proposals/pull/4195) allows secret random bits in the names of
//! rooms. There are none, so that the names need not be stored. A LiveKit server can only recognise the name of a room
//! whose id it knows already.

use ruma::{
    RoomId, UserId,
    serde::{Base64, base64::Standard},
};
use serde::Serialize;
use serde_json::json;
use sha2::{Digest, Sha256};

/// The slot that clients mean that do not know slots: the call of the whole room.
pub(super) const ROOM_CALL_SLOT: &str = "m.call#ROOM";

/// The name of a room at the LiveKit server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct LiveKitRoomName(String);

/// The identity of a participant at the LiveKit server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct ParticipantIdentity(String);

impl LiveKitRoomName {
    /// Returns the name for a slot of a room.
    pub fn of_slot(room_id: &RoomId, slot_id: &str) -> Self {
        Self(hash_texts(&[room_id.as_str(), slot_id]))
    }

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ParticipantIdentity {
    /// Returns the identity of a device, for clients that know only one membership for each device. It is not hashed,
    /// because those clients compare it with the device.
    pub fn of_device(user_id: &UserId, device_id: &str) -> Self {
        Self(format!("{user_id}:{device_id}"))
    }

    /// Returns the identity of one membership of a device.
    pub fn of_member(user_id: &UserId, device_id: &str, member_id: &str) -> Self {
        Self(hash_texts(&[user_id.as_str(), device_id, member_id]))
    }

    /// Returns the identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the hash of a list of texts, in unpadded Base64. The JSON of such a list is canonical.
fn hash_texts(texts: &[&str]) -> String {
    let hash = Sha256::digest(json!(texts).to_string());
    Base64::<Standard, _>::new(hash).encode()
}

#[cfg(test)]
mod tests {
    use ruma::{room_id, user_id};

    use super::*;

    /// The examples of MSC4195.
    #[test]
    fn names_are_hashes_as_in_the_proposal() {
        let room = LiveKitRoomName::of_slot(room_id!("!roomid:example.com"), "slot1234");
        let alice = user_id!("@alice:example.com");
        let member = ParticipantIdentity::of_member(alice, "DEVICE123", "memberABC");

        assert_eq!(room.as_str(), "O8437W3+jmzMVjoIP3tNwbm+XxHQk2iKpOA7aqw3qSc");
        assert_eq!(
            member.as_str(),
            "J+T45tGruxc+HrUOqJJlyQSV33m728Cme4+vt8/SWrU"
        );
    }

    #[test]
    fn a_device_is_named_with_its_user() {
        let device = ParticipantIdentity::of_device(user_id!("@a:b"), "PHONE");

        assert_eq!(device.as_str(), "@a:b:PHONE");
    }
}
