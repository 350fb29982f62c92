//! What a commit tells those who follow the journal.

use std::sync::Arc;

/// The number of a user in the table `strings`.
pub type UserNum = i64;
/// The number of a device in the table `devices`.
pub type DeviceNum = i64;
/// The number of a room in the table `rooms`.
pub type RoomNum = i64;

/// One fact that a commit made true.
#[derive(Clone, Debug)]
pub enum Change {
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
    /// The access tokens of devices are valid no more: what they have open must be closed.
    SessionsEnded {
        /// Whose devices.
        user: UserNum,
        /// Which ones.
        devices: Vec<DeviceNum>,
    },
}
