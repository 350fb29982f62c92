//! Types for the numbers that identify something, so that one kind of number cannot be mistaken for another.
//!
//! A number is bound to a statement and read from a row like the `BIGINT` as which it is stored. Numbers can be
//! compared and sorted, but there is no arithmetic on them, except that some have a next number.

use std::{
    fmt,
    num::ParseIntError,
    str::FromStr,
    sync::atomic::{AtomicI64, Ordering},
};

use ruma::UInt;

/// Defines types of numbers, with the conversions that all of them have.
macro_rules! number_types {
    ($($(#[$attribute:meta])* $name:ident;)+) => {
        $(
            $(#[$attribute])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
            #[sqlx(transparent)]
            pub struct $name(i64);

            impl $name {
                /// Returns the number that the database stores as this integer.
                pub const fn new(number: i64) -> Self {
                    Self(number)
                }

                /// Returns the integer that the database stores.
                pub const fn as_i64(self) -> i64 {
                    self.0
                }
            }

            impl From<$name> for i64 {
                fn from(number: $name) -> Self {
                    number.0
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                    self.0.fmt(formatter)
                }
            }

            impl FromStr for $name {
                type Err = ParseIntError;

                fn from_str(text: &str) -> Result<Self, Self::Err> {
                    text.parse().map(Self)
                }
            }
        )+
    };
}

number_types! {
    /// The place of a change in the order of all changes. A sync token is made of such positions.
    ///
    /// The place of an event in the timeline of its room is such a number, too: for a new event it is the position at
    /// which the event was stored, and for an event that arrives later than those around it, a free number between
    /// theirs.
    #[derive(Default, serde::Serialize)]
    Position;

    /// The number of a user in the table `strings`.
    UserNum;

    /// The number of a device in the table `devices`.
    DeviceNum;

    /// The number of a sign-in with an identity provider in the table `oauth_upstream_sessions`.
    UpstreamSessionNum;

    /// The number of a room in the table `rooms`.
    RoomNum;

    /// The number of an event type, a state key, a server name or another text in the table `strings`.
    StringNum;

    /// The number of a snapshot of a room's state: a journal position. For the room's own state it is the place in the
    /// timeline from which on the room had this state.
    #[derive(Default)]
    SnapshotId;

    /// The number of a chain of state snapshots, which is the number of the first snapshot in it.
    #[derive(Default)]
    StateChainNum;

    /// The `stream_id` of the device list of a remote user, which that user's server chose.
    StreamId;

    /// The number of a delayed event in the table `delayed_events`.
    DelayedEventNum;

    /// The number of an invite link in the table `invite_links`.
    InviteLinkNum;

    /// The number of a file in the table `media`.
    MediaNum;

    /// The number of a transaction for an application service, unique among those for this service.
    ServiceTransactionNum;

    /// The id of a filter, unique among the filters of its user.
    FilterId;

    /// The version of a key backup, unique among the backups of its user.
    BackupVersionNum;
}

impl ServiceTransactionNum {
    /// Returns the number of the next transaction.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl DeviceNum {
    /// Returns a number that no device has, for the requests that an application service makes as a user without
    /// naming a device. Transaction ids and sync connections belong to a device number.
    pub const fn of_no_device(user: UserNum) -> Self {
        Self(-user.0)
    }
}

impl Position {
    /// A position before every other, including the places of old events that arrive late.
    pub const MIN: Self = Self(i64::MIN);
    /// The position before the first change.
    pub const ZERO: Self = Self(0);
    /// A position after every other.
    pub const MAX: Self = Self(i64::MAX);

    /// Returns the position that is `count` positions after this one.
    #[must_use]
    pub const fn plus(self, count: i64) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// Returns the position directly after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// Returns the position directly before this one.
    #[must_use]
    pub const fn previous(self) -> Self {
        self.plus(-1)
    }
}

/// The positions after one and up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionRange {
    /// The position before the first one.
    pub after: Position,
    /// The last position.
    pub up_to: Position,
}

/// A position that several threads read and change.
#[derive(Debug, Default)]
pub struct AtomicPosition(AtomicI64);

impl AtomicPosition {
    pub const fn new(position: Position) -> Self {
        Self(AtomicI64::new(position.0))
    }

    pub fn load(&self) -> Position {
        Position(self.0.load(Ordering::SeqCst))
    }

    pub fn store(&self, position: Position) {
        self.0.store(position.0, Ordering::SeqCst);
    }

    /// Replaces the position by the given one if that is later. Returns the position that was stored before.
    pub fn fetch_max(&self, position: Position) -> Position {
        Position(self.0.fetch_max(position.0, Ordering::SeqCst))
    }
}

impl StringNum {
    /// A number that no text has.
    pub const NONE: Self = Self(0);
}

impl UserNum {
    /// Returns the number of the user whose id is this text.
    pub const fn of_string(text: StringNum) -> Self {
        Self(text.0)
    }

    /// Returns the number of the user id, as that of a text.
    pub const fn string(self) -> StringNum {
        StringNum(self.0)
    }
}

impl SnapshotId {
    /// The snapshot of the empty state, before the first event.
    pub const EMPTY: Self = Self(0);

    /// Returns the number of the snapshot that was taken at a position.
    pub const fn at(position: Position) -> Self {
        Self(position.0)
    }

    /// Returns the position at which the snapshot was taken.
    pub const fn position(self) -> Position {
        Position(self.0)
    }
}

impl StateChainNum {
    /// The value for a room that has no state yet, and therefore no chain.
    pub const NONE: Self = Self(0);

    /// Returns the chain that begins with a snapshot.
    pub const fn from_first(snapshot: SnapshotId) -> Self {
        Self(snapshot.0)
    }
}

impl FilterId {
    /// The id of a user's first filter.
    pub const FIRST: Self = Self(1);

    /// Returns the id after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl BackupVersionNum {
    /// The version of a user's first key backup.
    pub const FIRST: Self = Self(1);

    /// Returns the version after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl From<UInt> for StreamId {
    fn from(number: UInt) -> Self {
        Self(number.into())
    }
}
