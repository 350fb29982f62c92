//! Tests of the rooms, each on a database of its own.

mod converging;
mod handshakes;
mod importing;
mod local_rooms;
mod receiving;
mod remote;
mod remote_invitations;
mod serving;
mod test_server;

use std::{collections::HashMap, sync::Arc};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    api::{Direction, client::room::create_room::v3::Request},
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_alias_id,
    signatures::Ed25519KeyPair,
    user_id,
};
use serde_json::{json, value::to_raw_value};

use self::test_server::{TestServer, alice, bob, open_rooms};
use super::*;
use crate::{
    error::Error,
    matrix::{NotificationCounters, Pdu},
    numbers::UserNum,
    storage::testing::TestDb,
};
