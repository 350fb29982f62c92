//! The types of the numbers that identify something, so that one kind of number cannot be taken for another.
//!
//! A number is bound and read like the `BIGINT` that it is stored as. It can be compared and sorted, but there is no
//! arithmetic on it; only a [`Position`] has neighbours.

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
    /// Events have their place in the timeline of their room by the same numbers: a new event has the position at which
    /// it was stored, and an event that arrives later than those around it has a free position between theirs.
    #[derive(Default, serde::Serialize)]
    Position;

    /// The number of a user in the table `strings`.
    UserNum;

    /// The number of a device in the table `devices`.
    DeviceNum;

    /// The number of a room in the table `rooms`.
    RoomNum;

    /// The number of an event type, a state key, a server name or another text in the table `strings`.
    StringNum;

    /// The number of a snapshot of a room's state: the position of the event after which the room had this state.
    #[derive(Default)]
    SnapshotId;

    /// The number of a chain of snapshots, which has the changes from one to the next.
    #[derive(Default)]
    StateChainNum;

    /// The `stream_id` of a device list, which the server of its user chose.
    StreamId;

    /// The number of a delayed event in the table `delayed_events`.
    DelayedEventNum;

    /// The number of an invite link in the table `invite_links`.
    InviteLinkNum;

    /// The number of a file in the table `media`.
    MediaNum;

    /// The id of a filter among those of its user.
    FilterId;

    /// The version of a key backup among those of its user.
    BackupVersionNum;
}

impl Position {
    /// Before every position, also those of old events that arrive late.
    pub const MIN: Self = Self(i64::MIN);
    /// Before the first change.
    pub const ZERO: Self = Self(0);
    /// After every position.
    pub const MAX: Self = Self(i64::MAX);

    /// Returns the position a number of positions after this one.
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

    /// Replaces the position if another is later, and returns the position before that.
    pub fn fetch_max(&self, position: Position) -> Position {
        Position(self.0.fetch_max(position.0, Ordering::SeqCst))
    }
}

impl StringNum {
    /// The number of no text: nothing that is stored has it.
    pub const NONE: Self = Self(0);
}

impl UserNum {
    /// Returns the number of the user whose id is this text.
    pub const fn of_string(text: StringNum) -> Self {
        Self(text.0)
    }

    /// Returns the number of the user id.
    pub const fn string(self) -> StringNum {
        StringNum(self.0)
    }
}

impl SnapshotId {
    /// The snapshot of the empty state, before the first event.
    pub const EMPTY: Self = Self(0);

    /// Returns the snapshot of the state after the event at a position.
    pub const fn at(position: Position) -> Self {
        Self(position.0)
    }

    /// Returns the position from which on the room has this state.
    pub const fn position(self) -> Position {
        Position(self.0)
    }
}

impl StateChainNum {
    /// The chain of a room that has no state yet.
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
