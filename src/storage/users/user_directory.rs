//! Finding users by their user id or display name.

use serde_json::Value;

use crate::{
    error::Result,
    numbers::{Position, PositionRange, UserNum},
    storage::{ReadAccess, WriteTx, number_list, text_list},
};

/// The longest part of a display name that decides on a place in the list.
const MAX_KEY_NAME_BYTES: usize = 256;

/// A search for users.
#[derive(Clone, Debug)]
pub struct UserSearchQuery {
    pub searcher: UserNum,
    /// Words in lower case, all of which must match.
    pub words: Vec<String>,
    /// Whether users who share nothing with the searcher are found.
    pub everybody: bool,
    /// The most users to return.
    pub limit: i64,
}

/// A user who was found.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct FoundUserRow {
    pub user_id: String,
    /// The display name, as JSON.
    pub displayname: Option<String>,
    /// The avatar URL, as JSON.
    pub avatar_url: Option<String>,
}

/// Stores the text in which a user is searched, and the user's place in the list of users.
pub async fn set_search_text(
    tx: &mut WriteTx,
    user: UserNum,
    user_id: &str,
    displayname: Option<&str>,
) -> Result<()> {
    let text = search_text(user_id, displayname);
    tx.query("UPDATE accounts SET search_text = $2, list_key = $3 WHERE user_num = $1")
        .bind(user)
        .bind(text)
        .bind(list_key(user_id, displayname))
        .execute()
        .await?;
    Ok(())
}

fn search_text(user_id: &str, displayname: Option<&str>) -> String {
    // The databases differ in how they convert letters to lower case, so this is done here.
    format!("{user_id}\n{}", displayname.unwrap_or_default()).to_lowercase()
}

/// A membership whose member event has a user's display name and avatar.
#[derive(Debug, sqlx::FromRow)]
pub struct StoredMember {
    /// The user's number.
    pub user_num: UserNum,
    pub user_id: String,
    /// The journal position of the membership.
    pub position: Position,
    /// The JSON of the member event.
    pub json: String,
}

/// Returns the position of the last of at most `limit` memberships after another position.
pub async fn batch_end_position(
    db: &mut impl ReadAccess,
    after: Position,
    limit: i64,
) -> Result<Position> {
    let end = db
        .query(
            "SELECT MAX(l.position)
             FROM (SELECT position FROM memberships
                   WHERE position > $1 ORDER BY position LIMIT $2) l",
        )
        .bind(after)
        .bind(limit)
        .fetch_scalar::<Option<Position>>()
        .await?;
    Ok(end.flatten().unwrap_or(after))
}

/// Returns the users who have joined rooms after one position and up to another.
pub async fn joined_between(
    db: &mut impl ReadAccess,
    range: PositionRange,
) -> Result<Vec<UserNum>> {
    db.query(
        "SELECT DISTINCT user_num FROM memberships
         WHERE position > $1 AND position <= $2 AND membership = 'join'",
    )
    .bind(range.after)
    .bind(range.up_to)
    .fetch_scalars()
    .await
}

/// Returns the member events by which users have joined rooms after one position and up to another, in order.
pub async fn member_events_between(
    db: &mut impl ReadAccess,
    users: &[UserNum],
    range: PositionRange,
) -> Result<Vec<StoredMember>> {
    db.query(
        "SELECT m.user_num, s.text AS user_id, m.position, e.json
         FROM memberships m
         JOIN strings s ON s.num = m.user_num
         JOIN events e ON e.position = m.event
         WHERE m.user_num IN (SELECT CAST(value AS BIGINT) FROM json_each($1))
           AND m.position > $2 AND m.position <= $3 AND m.membership = 'join'
         ORDER BY m.position",
    )
    .bind(number_list(users.iter().copied()))
    .bind(range.after)
    .bind(range.up_to)
    .fetch_all()
    .await
}

/// The display name and avatar of a user of another server.
#[derive(Clone, Debug)]
pub struct RemoteUserProfile<'a> {
    /// The user's number.
    pub user: UserNum,
    pub user_id: &'a str,
    /// The journal position of the membership that they are from.
    pub position: Position,
    pub displayname: Option<&'a str>,
    pub avatar_url: Option<&'a str>,
}

/// Stores the display name and avatar of a user of another server, unless newer ones are stored.
pub async fn set_remote_profile(tx: &mut WriteTx, profile: &RemoteUserProfile<'_>) -> Result<()> {
    let as_json = |text: Option<&str>| text.map(|text| Value::from(text).to_string());
    tx.query(
        "INSERT INTO remote_people (user_num, position, displayname, avatar_url, search_text)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (user_num) DO UPDATE
         SET position = excluded.position, displayname = excluded.displayname,
             avatar_url = excluded.avatar_url, search_text = excluded.search_text
         WHERE excluded.position >= remote_people.position",
    )
    .bind(profile.user)
    .bind(profile.position)
    .bind(as_json(profile.displayname))
    .bind(as_json(profile.avatar_url))
    .bind(search_text(profile.user_id, profile.displayname))
    .execute()
    .await?;
    Ok(())
}

/// Returns the users whom a search finds, first those whose name or id begins with the first word.
///
/// A user is found who shares a room with the searcher, or is in a room that everyone may join or read. The searcher is
/// only found in rooms of the second kind. This server does not know the present members of a room that all its users
/// have left, so users of other servers are not found by such rooms.
pub async fn search(
    db: &mut impl ReadAccess,
    query: &UserSearchQuery,
) -> Result<Vec<FoundUserRow>> {
    let words: Vec<String> = query.words.iter().map(|word| escape_like(word)).collect();
    let first = words.first().map(String::as_str).unwrap_or_default();
    let anywhere: Vec<String> = words.iter().map(|word| format!("%{word}%")).collect();
    let anywhere: Vec<&str> = anywhere.iter().map(String::as_str).collect();
    db.query(
        // The accounts come first, as there may be many more members of other servers.
        "WITH present AS MATERIALIZED (
             SELECT DISTINCT l.room
             FROM accounts a CROSS JOIN memberships l
             WHERE l.user_num = a.user_num AND l.membership = 'join'
         )
         SELECT s.text AS user_id, p.displayname, p.avatar_url
         FROM (
             SELECT a.user_num, a.search_text, n.value AS displayname, v.value AS avatar_url
             FROM accounts a
             LEFT JOIN profiles n ON n.user_num = a.user_num AND n.field = 'displayname'
             LEFT JOIN profiles v ON v.user_num = a.user_num AND v.field = 'avatar_url'
             WHERE NOT a.deactivated AND NOT a.guest
             UNION ALL
             SELECT r.user_num, r.search_text, r.displayname, r.avatar_url
             FROM remote_people r
             WHERE EXISTS (SELECT 1 FROM memberships i
                           WHERE i.user_num = r.user_num AND i.membership = 'join'
                             AND i.room IN (SELECT room FROM present))
         ) p
         JOIN strings s ON s.num = p.user_num
         WHERE NOT EXISTS (
               SELECT 1 FROM json_each($2) w WHERE p.search_text NOT LIKE w.value ESCAPE '\\')
           AND (($3 AND p.user_num <> $1) OR EXISTS (
               SELECT 1 FROM memberships m JOIN rooms r ON r.num = m.room
               WHERE m.user_num = p.user_num AND m.membership = 'join'
                 AND m.room IN (SELECT room FROM present)
                 AND (r.join_rule = 'public' OR r.world_readable
                      OR (p.user_num <> $1 AND EXISTS (
                          SELECT 1 FROM memberships o
                          WHERE o.user_num = $1 AND o.room = m.room
                            AND o.membership = 'join')))))
         ORDER BY CASE WHEN p.search_text LIKE $4 ESCAPE '\\' OR p.search_text LIKE $5 ESCAPE '\\'
                       THEN 0 ELSE 1 END,
                  CASE WHEN p.displayname IS NULL THEN 1 ELSE 0 END, p.user_num
         LIMIT $6",
    )
    .bind(query.searcher)
    .bind(text_list(&anywhere))
    .bind(query.everybody)
    .bind(format!("@{first}%"))
    .bind(format!("%\n{first}%"))
    .bind(query.limit)
    .fetch_all()
    .await
}

/// Returns the sort key of a user: the name in lower case, or the user id where there is none, then the user id.
fn list_key(user_id: &str, displayname: Option<&str>) -> Vec<u8> {
    let name = displayname.map(str::trim).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| user_id.trim_start_matches('@'));
    let mut key = name.to_lowercase().into_bytes();
    // PostgreSQL does not accept long keys in an index.
    key.truncate(MAX_KEY_NAME_BYTES);
    key.push(0);
    key.extend_from_slice(user_id.as_bytes());
    key
}

/// A query for the ordered list of users.
#[derive(Clone, Debug)]
pub struct UserListQuery {
    pub requester: UserNum,
    /// A part of the name or id, in lower case.
    pub term: String,
    /// Whether users who share nothing with the requester are listed.
    pub everybody: bool,
    /// The user who is left out.
    pub except: UserNum,
    /// The place in the list after which to begin.
    pub after: Vec<u8>,
    /// The most users to return.
    pub limit: i64,
}

/// A user in the list of users.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ListedUserRow {
    /// The user's number.
    pub user_num: UserNum,
    pub user_id: String,
    /// The display name, as JSON.
    pub displayname: Option<String>,
    /// The avatar URL, as JSON.
    pub avatar_url: Option<String>,
    /// The time at which the user's devices were last seen; 0 for never.
    pub device_seen_ts: i64,
    /// The same for deleted devices.
    pub last_seen_ts: i64,
    /// The place in the list.
    pub list_key: Vec<u8>,
}

/// Returns the users after a place in the list, in order.
pub async fn list_users(
    db: &mut impl ReadAccess,
    query: &UserListQuery,
) -> Result<Vec<ListedUserRow>> {
    db.query(
        "SELECT a.user_num, s.text AS user_id, n.value AS displayname, v.value AS avatar_url,
                COALESCE((SELECT MAX(d.last_seen_ts) FROM devices d WHERE d.user_num = a.user_num), 0)
                    AS device_seen_ts,
                a.last_seen_ts, a.list_key
         FROM accounts a
         JOIN strings s ON s.num = a.user_num
         LEFT JOIN profiles n ON n.user_num = a.user_num AND n.field = 'displayname'
         LEFT JOIN profiles v ON v.user_num = a.user_num AND v.field = 'avatar_url'
         WHERE NOT a.deactivated AND NOT a.guest AND a.user_num <> $1 AND a.list_key > $2
           AND a.search_text LIKE $3 ESCAPE '\\'
           AND ($4 OR a.user_num = $5 OR EXISTS (
               SELECT 1 FROM memberships m JOIN rooms r ON r.num = m.room
               WHERE m.user_num = a.user_num AND m.membership = 'join'
                 AND (r.join_rule = 'public' OR r.world_readable OR EXISTS (
                     SELECT 1 FROM memberships o
                     WHERE o.user_num = $5 AND o.room = m.room AND o.membership = 'join'))))
         ORDER BY a.list_key
         LIMIT $6",
    )
    .bind(query.except)
    .bind(query.after.clone())
    .bind(format!("%{}%", escape_like(&query.term)))
    .bind(query.everybody)
    .bind(query.requester)
    .bind(query.limit)
    .fetch_all()
    .await
}

/// Returns the total number of users in such a list.
pub async fn count_users(db: &mut impl ReadAccess, query: &UserListQuery) -> Result<i64> {
    let count = db
        .query(
            "SELECT COUNT(*)
             FROM accounts a
             WHERE NOT a.deactivated AND NOT a.guest AND a.user_num <> $1
               AND a.search_text LIKE $2 ESCAPE '\\'
               AND ($3 OR a.user_num = $4 OR EXISTS (
                   SELECT 1 FROM memberships m JOIN rooms r ON r.num = m.room
                   WHERE m.user_num = a.user_num AND m.membership = 'join'
                     AND (r.join_rule = 'public' OR r.world_readable OR EXISTS (
                         SELECT 1 FROM memberships o
                         WHERE o.user_num = $4 AND o.room = m.room AND o.membership = 'join'))))",
        )
        .bind(query.except)
        .bind(format!("%{}%", escape_like(&query.term)))
        .bind(query.everybody)
        .bind(query.requester)
        .fetch_scalar()
        .await?;
    Ok(count.unwrap_or(0))
}

/// A user who has no place in the list yet.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct UnlistedUser {
    pub user_num: UserNum,
    pub user_id: String,
    /// The display name, as JSON.
    pub display_name: Option<String>,
}

/// Returns users who have no place in the list yet.
pub async fn unlisted_users(db: &mut impl ReadAccess, limit: i64) -> Result<Vec<UnlistedUser>> {
    db.query(
        "SELECT a.user_num, s.text AS user_id, n.value AS display_name
         FROM accounts a
         JOIN strings s ON s.num = a.user_num
         LEFT JOIN profiles n ON n.user_num = a.user_num AND n.field = 'displayname'
         WHERE a.list_key IS NULL
         LIMIT $1",
    )
    .bind(limit)
    .fetch_all()
    .await
}

/// Escapes a text so that `LIKE` matches it literally.
fn escape_like(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_")
}
