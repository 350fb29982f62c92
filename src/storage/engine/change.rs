//! The changes that a commit announces to the followers of the journal.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, events::room::member::MembershipState,
};

use crate::{
    matrix::{NotificationCounters, TimelineEvent},
    numbers::{DeviceNum, Position, RoomNum, UserNum},
};

/// A change that a commit made.
#[derive(Clone, Debug)]
pub enum JournalChange {
    /// An event was added to a room's timeline.
    Event {
        room: RoomNum,
        /// The number of the sender.
        sender: UserNum,
        /// The event and its place.
        event: Arc<TimelineEvent>,
    },
    /// A sticky event was stored, or a soft-failed one was accepted.
    StickyEvent { event: Arc<StickyEvent> },
    /// A redaction removed the content of an event.
    Redacted {
        room: RoomNum,
        /// The redacted event, with the redaction.
        event: Arc<TimelineEvent>,
    },
    /// A room was replaced by a copy from another server: everything in memory about it is out of date.
    Imported { room: RoomNum },
    /// History was added to a room's timeline, before events that were there already.
    Backfilled { room: RoomNum },
    /// A user's membership of a room changed, or the user forgot the room.
    Membership {
        /// The user's number.
        user: UserNum,
        user_id: OwnedUserId,
        /// Whether the user is of this server.
        local: bool,
        room: RoomNum,
        /// The new membership; `None` after forgetting.
        membership: Option<MembershipState>,
        /// The stripped state of an invite or knock, as a JSON list.
        stripped_state: Option<Arc<str>>,
    },
    /// A user's room was deleted. The user is still sent the end of the membership.
    MembershipRemoved {
        user: UserNum,
        /// The former number of the room.
        room: RoomNum,
        /// The journal position at which the user left.
        left_at: Position,
        /// The last update that the user is sent.
        removed: Arc<RoomRemoval>,
    },
    /// A room was deleted.
    RoomDeleted {
        /// The former number of the room.
        room: RoomNum,
    },
    /// An alias of a room was created or removed.
    AliasesChanged { room: RoomNum },
    /// A user's read receipt moved.
    Receipt {
        room: RoomNum,
        receipt: Arc<Receipt>,
    },
    /// The read position of a user in a room changed, and with it the unread counts.
    ReadPosition {
        user: UserNum,
        room: RoomNum,
        /// The new read position, with the counters there.
        reading: ReadPosition,
    },
    /// A user's account data changed, globally or in a room.
    AccountData {
        user: UserNum,
        /// The room; `None` is global.
        room: Option<RoomNum>,
        /// The type of the account data event.
        kind: Arc<str>,
        /// The new content, as JSON.
        content: Arc<str>,
    },
    /// A to-device message was stored for a device.
    ToDevice { user: UserNum, device: DeviceNum },
    /// A to-device message was stored for users of another server.
    ToServer { server: OwnedServerName },
    /// The device keys, the cross-signing keys or the signatures of a user's keys changed.
    DeviceList {
        user: UserNum,
        /// The only user to notify; `None` is everyone who shares a room with the user.
        watcher: Option<UserNum>,
    },
    /// The one-time or fallback keys of a device changed.
    KeyCounts {
        user: UserNum,
        device: DeviceNum,
        /// The remaining keys.
        counts: Arc<KeyCounts>,
        /// Whether a key was claimed, so that the device may have to upload more.
        claimed: bool,
    },
    /// A field of a user's profile changed.
    Profile { user: UserNum },
    /// A deactivated user asked to be erased: users who join a room after this see that user's events redacted.
    Erased { user_id: OwnedUserId },
    /// A user's subscription to a thread began, changed or ended.
    ThreadSubscription { user: UserNum },
    /// The pushers of a user changed.
    PushersChanged { user: UserNum },
    /// The access tokens of a device changed.
    TokensChanged { device: DeviceNum },
    /// The access tokens of devices are no longer valid: their open connections must be closed.
    SessionsEnded {
        /// The owner of the devices.
        user: UserNum,
        devices: Vec<DeviceNum>,
    },
}

/// An event that is delivered reliably for a while.
///
/// See [MSC4354](https://github.com/matrix-org/matrix-spec-proposals/pull/4354).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyEvent {
    pub event_id: OwnedEventId,
    pub room: RoomNum,
    pub sender: OwnedUserId,
    /// The time at which it is no longer sticky, in milliseconds since the Unix epoch.
    pub expires_ts: i64,
    /// Whether clients are sent it. Soft-failed events are not.
    pub is_shown: bool,
}

/// The last update about a deleted room for one of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRemoval {
    pub room_id: OwnedRoomId,
    /// The user's last member event in the client format; `None` if there is none.
    pub event: Option<String>,
}

/// The number of keys of a device that can be claimed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyCounts {
    /// One-time keys by algorithm.
    pub one_time: Vec<(String, i64)>,
    /// The algorithms whose fallback key is not used yet.
    pub unused_fallback: Vec<String>,
}

/// A read receipt of a user.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#receipts).
#[derive(Clone, Debug)]
pub struct Receipt {
    pub user_id: OwnedUserId,
    /// `m.read` or `m.read.private`.
    pub kind: String,
    /// Empty for an unthreaded receipt, or `main`, or the thread's root.
    pub thread: String,
    /// The event up to which the user has read.
    pub event_id: OwnedEventId,
    /// The time of the receipt, in milliseconds since the Unix epoch.
    pub ts: i64,
    /// The journal position of the receipt.
    pub position: Position,
}

/// The read position of a user in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPosition {
    /// Everything is read up to a place, and some threads beyond it.
    All {
        /// The place up to which everything is read.
        marker: ReadMarker,
        /// The markers of threads that are read beyond that place.
        threads: Vec<ThreadMarker>,
    },
    /// A thread, or the main timeline.
    Thread(ThreadMarker),
}

/// The place up to which a user has read all of a room, with the room's running counters there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadMarker {
    /// The place in the timeline.
    pub timeline: Position,
    /// The counters of the room.
    pub counters: NotificationCounters,
    /// The part of these that is in threads.
    pub threaded: NotificationCounters,
}

impl ReadMarker {
    /// Returns the counters of the main timeline.
    pub fn main_counters(&self) -> NotificationCounters {
        self.counters - self.threaded
    }
}

/// The place up to which a user has read a thread, or the main timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadMarker {
    /// The root of the thread; `None` is the main timeline.
    pub thread: Option<OwnedEventId>,
    /// The place in the timeline.
    pub timeline: Position,
    /// The counters of the thread at that place.
    pub counters: NotificationCounters,
    /// The counters of the thread at the place up to which everything was read.
    pub base: NotificationCounters,
}
