//! The types of the numbers that identify rows, so that one kind of number cannot be taken for another.
//!
//! A number is bound and read like the `BIGINT` that it is stored as. It can be compared and sorted, but there is no
//! arithmetic on it.

use std::{fmt, num::ParseIntError, str::FromStr};

/// Implements the conversions of a number type.
macro_rules! number_conversions {
    ($($name:ident),+) => {
        $(
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
        )+
    };
}

/// The place of a change in the order of all changes. A sync token is made of such positions.
pub type Position = i64;

/// The positions after one and up to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionRange {
    /// The position before the first one.
    pub after: Position,
    /// The last position.
    pub up_to: Position,
}

/// The number of a user in the table `strings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct UserNum(i64);

/// The number of a device in the table `devices`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct DeviceNum(i64);

/// The number of a room in the table `rooms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, sqlx::Type)]
#[sqlx(transparent)]
pub struct RoomNum(i64);

number_conversions!(UserNum, DeviceNum, RoomNum);

/// A room can be named by its number in a token.
impl FromStr for RoomNum {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}
