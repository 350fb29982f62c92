//! What a commit tells those who follow the journal.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, events::room::member::MembershipState,
};

use crate::matrix::{Counters, TimelineEvent};

/// The number of a user in the table `strings`.
pub type UserNum = i64;
/// The number of a device in the table `devices`.
pub type DeviceNum = i64;
/// The number of a room in the table `rooms`.
pub type RoomNum = i64;

/// One fact that a commit made true.
#[derive(Clone, Debug)]
pub enum Change {
    /// An event came into a room's timeline.
    Event {
        /// The room.
        room: RoomNum,
        /// The number of its sender.
        sender: UserNum,
        /// The event and its place.
        event: Arc<TimelineEvent>,
    },
    /// An event lost its content to a redaction.
    Redacted {
        /// The room.
        room: RoomNum,
        /// What is left of the event, and why.
        event: Arc<TimelineEvent>,
    },
    /// A room was stored anew, after another server: what memory holds of it is void.
    Imported {
        /// The room.
        room: RoomNum,
    },
    /// History came into a room's timeline, before events that stand there already.
    Backfilled {
        /// The room.
        room: RoomNum,
    },
    /// A user's membership of a room changed, or the user forgot the room.
    Membership {
        /// The user's number.
        user: UserNum,
        /// The user.
        user_id: OwnedUserId,
        /// Whether the user is of this server.
        local: bool,
        /// The room.
        room: RoomNum,
        /// What the user is now; `None` after forgetting.
        membership: Option<MembershipState>,
        /// JSON list of stripped state, with an invitation or a knock.
        stripped_state: Option<Arc<str>>,
    },
    /// A room that a user was something to is deleted, and all that is left of it for them is how it ended.
    Removed {
        /// The user.
        user: UserNum,
        /// The number that the room had.
        room: RoomNum,
        /// The journal position at which the user ceased to be a member.
        left_at: i64,
        /// What they are told.
        removed: Arc<Removed>,
    },
    /// A room is gone.
    RoomDeleted {
        /// The number that it had.
        room: RoomNum,
    },
    /// A user has read a room up to an event.
    Receipt {
        /// The room.
        room: RoomNum,
        /// Who has read how far.
        receipt: Arc<Receipt>,
    },
    /// What a user has read of a room changed, and with it the unread counts.
    Read {
        /// The user.
        user: UserNum,
        /// The room.
        room: RoomNum,
        /// How far, and what the counters were there.
        reading: Reading,
    },
    /// A user's account data changed, globally or in a room.
    AccountData {
        /// Whose.
        user: UserNum,
        /// In which room; `None` is global.
        room: Option<RoomNum>,
        /// The type of the account data event.
        kind: Arc<str>,
        /// Its new content, as JSON.
        content: Arc<str>,
    },
    /// A message waits for a device.
    ToDevice {
        /// Whose device.
        user: UserNum,
        /// Which one.
        device: DeviceNum,
    },
    /// A message waits for devices of another server's users.
    ToServer {
        /// The server.
        server: OwnedServerName,
    },
    /// The keys of a user's devices changed, or the user's own, or the signatures of either.
    DeviceList {
        /// Whose.
        user: UserNum,
        /// Who alone is told of it; `None` is everyone who shares a room with the user.
        watcher: Option<UserNum>,
    },
    /// The one-time or fallback keys of a device changed.
    KeyCounts {
        /// Whose device.
        user: UserNum,
        /// Which one.
        device: DeviceNum,
        /// What is left of them.
        counts: Arc<KeyCounts>,
        /// Whether somebody claimed one, so that the device has something to do.
        claimed: bool,
    },
    /// A user has gone and wishes to be erased: whoever joins a room after this sees their events redacted.
    Erased {
        /// The user.
        user_id: OwnedUserId,
    },
    /// A user's subscription to a thread began, changed or ended.
    ThreadSubscription {
        /// Whose.
        user: UserNum,
    },
    /// A device has other access tokens than before.
    TokensChanged {
        /// The device.
        device: DeviceNum,
    },
    /// The access tokens of devices are valid no more: what they have open must be closed.
    SessionsEnded {
        /// Whose devices.
        user: UserNum,
        /// Which ones.
        devices: Vec<DeviceNum>,
    },
}

/// What is left of a deleted room for one who was something to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The user's last member event, as clients see it; `None` where there is none.
    pub event: Option<String>,
}

/// How many keys a device has left that others can claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// One-time keys by algorithm.
    pub one_time: Vec<(String, i64)>,
    /// The algorithms whose fallback key nobody was given.
    pub unused_fallback: Vec<String>,
}

/// A receipt: who has read how far.
///
/// [Receipts](https://spec.matrix.org/v1.19/client-server-api/#receipts)
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Who has read.
    pub user_id: OwnedUserId,
    /// `m.read` or `m.read.private`.
    pub kind: String,
    /// Empty for an unthreaded receipt, or `main`, or the thread's root.
    pub thread: String,
    /// The event up to which it was read.
    pub event_id: OwnedEventId,
    /// When, in milliseconds since the Unix epoch.
    pub ts: i64,
    /// The journal position of the receipt.
    pub position: i64,
}

/// What a user has read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Everything up to a place, with the markers of threads that have been read further.
    All {
        /// The place.
        marker: ReadMarker,
        /// The markers after it.
        threads: Vec<ThreadMarker>,
    },
    /// A thread, or the main timeline.
    Thread(ThreadMarker),
}

/// Up to which place a user has read all of a room, and what the room's running counters were there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadMarker {
    /// The place in the timeline.
    pub timeline: i64,
    /// The counters of the room.
    pub counters: Counters,
    /// How many of these are in threads.
    pub threaded: Counters,
}

impl ReadMarker {
    /// Returns the counters of the main timeline.
    pub fn main(&self) -> Counters {
        self.counters - self.threaded
    }
}

/// How far a user has read a thread, or the main timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadMarker {
    /// The root of the thread; `None` is the main timeline.
    pub thread: Option<OwnedEventId>,
    /// The place in the timeline.
    pub timeline: i64,
    /// The counters of the thread there.
    pub counters: Counters,
    /// The same at the place up to which everything was read.
    pub base: Counters,
}
