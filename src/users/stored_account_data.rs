//! Storing account data entries, for the services that write them.

use ruma::RoomId;

use crate::{
    error::{Error, Result},
    numbers::{RoomNum, UserNum},
    storage::{JournalChange, ReadAccess, WriteTx, rooms::room_table, users::account_data},
};

/// The longest type of account data and the longest tag, in bytes.
pub(super) const MAX_NAME_BYTES: usize = 255;
/// The largest number of a user's account data entries, in all rooms and globally, and their total size.
const MAX_ENTRIES: i64 = 20_000;
const MAX_TOTAL_BYTES: i64 = 10 * 1024 * 1024;
/// The account data type for the push rules.
pub(super) const PUSH_RULES_TYPE: &str = "m.push_rules";
/// The account data type for the tags of a room.
pub(super) const TAG_TYPE: &str = "m.tag";

/// Checks that the account data of a user stays within the limits. Every device reads all of it in its initial sync.
///
/// # Errors
///
/// [`Error::TooLarge`] when it does not.
pub(super) async fn check_size(tx: &mut WriteTx, user: UserNum) -> Result<()> {
    let size = account_data::size(tx, user).await?;
    if size.count > MAX_ENTRIES || size.bytes > MAX_TOTAL_BYTES {
        return Err(Error::TooLarge(format!(
            "a user may have at most {MAX_ENTRIES} account data entries with {MAX_TOTAL_BYTES} bytes of it"
        )));
    }
    Ok(())
}

/// Returns the number of a room.
///
/// # Errors
///
/// [`Error::NotFound`] when this server does not know it.
pub(super) async fn room_number(
    db: &mut impl ReadAccess,
    room_id: Option<&RoomId>,
) -> Result<Option<RoomNum>> {
    let Some(room_id) = room_id else {
        return Ok(None);
    };
    match room_table::find_number(db, room_id.as_str()).await? {
        Some(room) => Ok(Some(room)),
        None => Err(Error::not_found("this server does not know the room")),
    }
}

/// Stores an account data entry of a user and publishes the change.
pub(super) async fn store(
    tx: &mut WriteTx,
    user: UserNum,
    room: Option<RoomNum>,
    kind: &str,
    content: &str,
) -> Result<()> {
    let position = account_data::set(tx, user, room, kind, content).await?;
    let change = JournalChange::AccountData {
        user,
        room,
        kind: kind.into(),
        content: content.into(),
    };
    tx.publish(position, change);
    Ok(())
}
