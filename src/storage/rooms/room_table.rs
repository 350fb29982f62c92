//! Rooms: their versions, tips, and entries in the public directory.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, SnapshotId},
    storage::{ReadAccess, TextList, WriteTx, number_list},
};

/// A room in the table.
#[derive(Debug, sqlx::FromRow)]
pub struct RoomRow {
    pub num: RoomNum,
    pub room_id: String,
    pub version: String,
    /// The forward extremities, as a JSON list.
    pub forward_extremities: String,
    /// The snapshot of the current state.
    pub state: SnapshotId,
    /// The position of the newest event.
    pub last_position: Position,
}

/// The directory entry of a room, stored with it so that a search reads one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct DirectoryEntry {
    /// `m.room.name`.
    pub name: Option<String>,
    /// `m.room.topic`.
    pub topic: Option<String>,
    /// `m.room.canonical_alias`.
    pub canonical_alias: Option<String>,
    /// `m.room.avatar`.
    pub avatar_url: Option<String>,
    /// `m.room.join_rules`.
    pub join_rule: String,
    /// `type` of `m.room.create`.
    pub room_type: Option<String>,
    /// Whether history is world readable.
    pub world_readable: bool,
    /// Whether guests can join.
    pub guest_can_join: bool,
    /// The number of joined members.
    pub joined_members: i64,
}

/// A place in the order of the directory: after all rooms with more members, and after the rooms with as many members
/// whose number is at most `num`.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryPlace {
    pub joined_members: i64,
    pub num: RoomNum,
}

/// A query for a page of the directory.
#[derive(Clone, Debug, Default)]
pub struct DirectoryQuery {
    /// A part of the name, topic or alias, in lower case; empty for all.
    pub term: String,
    /// Includes only rooms of these types, where `""` means rooms without a type. `None` includes all.
    pub room_types: Option<TextList>,
    /// The networks whose rooms are included.
    pub network: ListedNetwork,
    /// The place at which the page begins, or at which it ends when going back.
    pub from: Option<DirectoryPlace>,
    /// The most rooms to return.
    pub limit: i64,
}

/// The networks whose rooms the directory has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListedNetwork {
    /// Rooms that users of this server have published.
    #[default]
    Matrix,
    /// Rooms that an application service lists in a network, which is named with or without the id of the service.
    ThirdParty(String),
    All,
}

impl ListedNetwork {
    /// Returns the name of the network for statements that have it as a parameter: empty for all, and `None` for the
    /// statements about published rooms only.
    fn name(&self) -> Option<&str> {
        match self {
            Self::Matrix => None,
            Self::ThirdParty(name) => Some(name),
            Self::All => Some(""),
        }
    }
}

/// Lists a room in a network of an application service, or stops to list it.
pub async fn set_listed_in_network(
    tx: &mut WriteTx,
    room: RoomNum,
    service_id: &str,
    network: &str,
    is_listed: bool,
) -> Result<()> {
    let sql = if is_listed {
        "INSERT INTO application_service_rooms (service, network, room)
         VALUES ($1, $2, $3)
         ON CONFLICT (service, network, room) DO NOTHING"
    } else {
        "DELETE FROM application_service_rooms WHERE service = $1 AND network = $2 AND room = $3"
    };
    tx.query(sql)
        .bind(service_id)
        .bind(network)
        .bind(room)
        .execute()
        .await?;
    Ok(())
}

/// A room in the directory.
#[derive(Debug, sqlx::FromRow)]
pub struct ListedRoom {
    pub num: RoomNum,
    pub room_id: String,
    #[sqlx(flatten)]
    pub entry: DirectoryEntry,
}

/// Stores a new room and returns its number; `None` if the room id is already stored.
pub async fn insert(tx: &mut WriteTx, room_id: &str, version: &str) -> Result<Option<RoomNum>> {
    tx.query(
        "INSERT INTO rooms (room_id, version, forward_extremities, state, last_position, published,
                            join_rule, world_readable, guest_can_join, joined_members)
         VALUES ($1, $2, '[]', 0, 0, FALSE, 'invite', FALSE, FALSE, 0)
         ON CONFLICT (room_id) DO NOTHING
         RETURNING num",
    )
    .bind(room_id)
    .bind(version)
    .fetch_scalar()
    .await
}

/// Corrects the version of a room of which nothing else is stored.
pub async fn set_version(tx: &mut WriteTx, room: RoomNum, version: &str) -> Result<()> {
    tx.query("UPDATE rooms SET version = $2 WHERE num = $1")
        .bind(room)
        .bind(version)
        .execute()
        .await?;
    Ok(())
}

/// Stores the tip of a room.
pub async fn set_tip(
    tx: &mut WriteTx,
    room: RoomNum,
    forward_extremities: &str,
    state: SnapshotId,
    last_position: Position,
) -> Result<()> {
    tx.query(
        "UPDATE rooms SET forward_extremities = $2, state = $3, last_position = $4
         WHERE num = $1",
    )
    .bind(room)
    .bind(forward_extremities)
    .bind(state)
    .bind(last_position)
    .execute()
    .await?;
    Ok(())
}

/// Stores the directory entry of a room.
pub async fn set_directory_entry(
    tx: &mut WriteTx,
    room: RoomNum,
    listing: &DirectoryEntry,
) -> Result<()> {
    tx.query(
        "UPDATE rooms SET name = $2, topic = $3, canonical_alias = $4, avatar_url = $5, join_rule = $6,
                          room_type = $7, world_readable = $8, guest_can_join = $9, joined_members = $10,
                          search_text = $11
         WHERE num = $1",
    )
    .bind(room)
    .bind(&listing.name)
    .bind(&listing.topic)
    .bind(&listing.canonical_alias)
    .bind(&listing.avatar_url)
    .bind(&listing.join_rule)
    .bind(&listing.room_type)
    .bind(listing.world_readable)
    .bind(listing.guest_can_join)
    .bind(listing.joined_members)
    .bind(search_text(listing))
    .execute()
    .await?;
    Ok(())
}

/// Returns the number of a room.
pub async fn find_number(db: &mut impl ReadAccess, room_id: &str) -> Result<Option<RoomNum>> {
    db.query("SELECT num FROM rooms WHERE room_id = $1")
        .bind(room_id)
        .fetch_scalar()
        .await
}

/// Returns a room.
pub async fn get(db: &mut impl ReadAccess, room: RoomNum) -> Result<Option<RoomRow>> {
    db.query(
        "SELECT num, room_id, version, forward_extremities, state, last_position FROM rooms
         WHERE num = $1",
    )
    .bind(room)
    .fetch_optional()
    .await
}

/// The position of the newest event of a room.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct LastRoomPosition {
    pub num: RoomNum,
    pub last_position: Position,
}

/// Returns the positions of the newest events of rooms.
pub async fn last_positions(
    db: &mut impl ReadAccess,
    rooms: &[RoomNum],
) -> Result<Vec<LastRoomPosition>> {
    db.query(
        "SELECT num, last_position
         FROM rooms
         WHERE num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))",
    )
    .bind(number_list(rooms.iter().copied()))
    .fetch_all()
    .await
}

/// Adds a room to the public directory, or removes it.
pub async fn set_published(tx: &mut WriteTx, room: RoomNum, published: bool) -> Result<()> {
    tx.query("UPDATE rooms SET published = $2 WHERE num = $1")
        .bind(room)
        .bind(published)
        .execute()
        .await?;
    Ok(())
}

/// Returns whether a room is in the public directory.
pub async fn is_published(db: &mut impl ReadAccess, room: RoomNum) -> Result<bool> {
    let published = db
        .query("SELECT published FROM rooms WHERE num = $1")
        .bind(room)
        .fetch_scalar()
        .await?;
    Ok(published.unwrap_or(false))
}

/// Returns a page of the directory, the rooms with most members first, and none without members.
pub async fn directory_page(
    db: &mut impl ReadAccess,
    query: &DirectoryQuery,
) -> Result<Vec<ListedRoom>> {
    let from = query.from.unwrap_or(DirectoryPlace {
        joined_members: i64::MAX,
        num: RoomNum::new(0),
    });
    let sql = if query.network == ListedNetwork::Matrix {
        "SELECT num, room_id, name, topic, canonical_alias, avatar_url, join_rule, room_type,
                world_readable, guest_can_join, joined_members
         FROM rooms
         WHERE published AND joined_members > 0
           AND (joined_members < $1 OR (joined_members = $1 AND num > $2))
           AND ($3 = '' OR search_text LIKE $4 ESCAPE '\\')
           AND ($5 OR COALESCE(room_type, '') IN (SELECT value FROM json_each($6)))
         ORDER BY joined_members DESC, num LIMIT $7"
    } else {
        "SELECT num, room_id, name, topic, canonical_alias, avatar_url, join_rule, room_type,
                world_readable, guest_can_join, joined_members
         FROM rooms
         WHERE (($8 = '' AND published) OR num IN (
               SELECT l.room FROM application_service_rooms l
               WHERE $8 = '' OR l.network = $8 OR l.service || '|' || l.network = $8)) AND joined_members > 0
           AND (joined_members < $1 OR (joined_members = $1 AND num > $2))
           AND ($3 = '' OR search_text LIKE $4 ESCAPE '\\')
           AND ($5 OR COALESCE(room_type, '') IN (SELECT value FROM json_each($6)))
         ORDER BY joined_members DESC, num LIMIT $7"
    };
    let listed = db
        .query(sql)
        .bind(from.joined_members)
        .bind(from.num)
        .bind(&query.term)
        .bind(like_pattern(&query.term))
        .bind(query.room_types.is_none())
        .bind(query.room_types.clone().unwrap_or_default())
        .bind(query.limit);
    match query.network.name() {
        Some(name) => listed.bind(name),
        None => listed,
    }
    .fetch_all()
    .await
}

/// Returns the rooms of the directory before a place, in reverse order.
pub async fn directory_before(
    db: &mut impl ReadAccess,
    query: &DirectoryQuery,
) -> Result<Vec<ListedRoom>> {
    let from = query.from.unwrap_or(DirectoryPlace {
        joined_members: 0,
        num: RoomNum::new(0),
    });
    let sql = if query.network == ListedNetwork::Matrix {
        "SELECT num, room_id, name, topic, canonical_alias, avatar_url, join_rule, room_type,
                world_readable, guest_can_join, joined_members
         FROM rooms
         WHERE published AND joined_members > 0
           AND (joined_members > $1 OR (joined_members = $1 AND num <= $2))
           AND ($3 = '' OR search_text LIKE $4 ESCAPE '\\')
           AND ($5 OR COALESCE(room_type, '') IN (SELECT value FROM json_each($6)))
         ORDER BY joined_members, num DESC LIMIT $7"
    } else {
        "SELECT num, room_id, name, topic, canonical_alias, avatar_url, join_rule, room_type,
                world_readable, guest_can_join, joined_members
         FROM rooms
         WHERE (($8 = '' AND published) OR num IN (
               SELECT l.room FROM application_service_rooms l
               WHERE $8 = '' OR l.network = $8 OR l.service || '|' || l.network = $8)) AND joined_members > 0
           AND (joined_members > $1 OR (joined_members = $1 AND num <= $2))
           AND ($3 = '' OR search_text LIKE $4 ESCAPE '\\')
           AND ($5 OR COALESCE(room_type, '') IN (SELECT value FROM json_each($6)))
         ORDER BY joined_members, num DESC LIMIT $7"
    };
    let listed = db
        .query(sql)
        .bind(from.joined_members)
        .bind(from.num)
        .bind(&query.term)
        .bind(like_pattern(&query.term))
        .bind(query.room_types.is_none())
        .bind(query.room_types.clone().unwrap_or_default())
        .bind(query.limit);
    match query.network.name() {
        Some(name) => listed.bind(name),
        None => listed,
    }
    .fetch_all()
    .await
}

/// Returns the number of rooms in the directory.
pub async fn count_listed(db: &mut impl ReadAccess, network: &ListedNetwork) -> Result<i64> {
    let query = match network.name() {
        None => db.query("SELECT COUNT(*) FROM rooms WHERE published AND joined_members > 0"),
        Some(name) => db
            .query(
                "SELECT COUNT(*) FROM rooms
                 WHERE joined_members > 0 AND (($1 = '' AND published) OR num IN (
                     SELECT l.room FROM application_service_rooms l
                     WHERE $1 = '' OR l.network = $1 OR l.service || '|' || l.network = $1))",
            )
            .bind(name),
    };
    Ok(query.fetch_scalar().await?.unwrap_or(0))
}

/// Returns the searched text in lower case. The databases differ in how they convert letters to lower case, so this is
/// done here.
fn search_text(listing: &DirectoryEntry) -> String {
    let texts = [&listing.name, &listing.topic, &listing.canonical_alias];
    texts
        .map(|text| text.as_deref().unwrap_or_default().to_lowercase())
        .join("\n")
}

fn like_pattern(term: &str) -> String {
    let escaped = term
        .replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_");
    format!("%{escaped}%")
}
