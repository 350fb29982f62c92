//! Finding people by their user id or display name.

use super::{Read, UserNum, WriteTx, list};
use crate::error::Result;

/// How much of a name decides on a place in the list.
const KEY_NAME_BYTES: usize = 256;

/// A search for people.
#[derive(Clone, Debug)]
pub struct PeopleQuery {
    /// Who searches.
    pub searcher: UserNum,
    /// Words in lower case that all have to be found.
    pub words: Vec<String>,
    /// Whether people are found with whom the searcher has nothing in common.
    pub everybody: bool,
    /// How many at most.
    pub limit: i64,
}

/// Somebody who was found.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Person {
    /// The user id.
    pub user_id: String,
    /// The display name, as JSON.
    pub displayname: Option<String>,
    /// The address of the avatar, as JSON.
    pub avatar_url: Option<String>,
}

/// Stores what a search for a user looks at, and the user's place in the list of people.
pub async fn set_search_text(
    tx: &mut WriteTx,
    user: UserNum,
    user_id: &str,
    displayname: Option<&str>,
) -> Result<()> {
    // The databases lower letters each in their own way; so it is done here.
    let text = format!("{user_id}\n{}", displayname.unwrap_or_default()).to_lowercase();
    tx.query("UPDATE accounts SET search_text = $2, list_key = $3 WHERE user_num = $1")
        .bind(user)
        .bind(text)
        .bind(list_key(user_id, displayname))
        .execute()
        .await?;
    Ok(())
}

/// Returns the people whom a search finds, those whose name or id begins with the first word first.
///
/// Those whom one may find share a room with the searcher, or are in a room that everyone may join or read.
pub async fn search(db: &mut impl Read, query: &PeopleQuery) -> Result<Vec<Person>> {
    let words: Vec<String> = query.words.iter().map(|word| escape(word)).collect();
    let first = words.first().map(String::as_str).unwrap_or_default();
    let anywhere: Vec<String> = words.iter().map(|word| format!("%{word}%")).collect();
    let anywhere: Vec<&str> = anywhere.iter().map(String::as_str).collect();
    db.query(
        "SELECT s.text AS user_id, n.value AS displayname, v.value AS avatar_url
         FROM accounts a
         JOIN strings s ON s.num = a.user_num
         LEFT JOIN profiles n ON n.user_num = a.user_num AND n.field = 'displayname'
         LEFT JOIN profiles v ON v.user_num = a.user_num AND v.field = 'avatar_url'
         WHERE NOT a.deactivated AND NOT a.guest AND a.user_num <> $1
           AND NOT EXISTS (
               SELECT 1 FROM json_each($2) w WHERE a.search_text NOT LIKE w.value ESCAPE '\\')
           AND ($3 OR EXISTS (
               SELECT 1 FROM memberships m JOIN rooms r ON r.num = m.room
               WHERE m.user_num = a.user_num AND m.membership = 'join'
                 AND (r.join_rule = 'public' OR r.world_readable OR EXISTS (
                     SELECT 1 FROM memberships o
                     WHERE o.user_num = $1 AND o.room = m.room AND o.membership = 'join'))))
         ORDER BY CASE WHEN a.search_text LIKE $4 ESCAPE '\\' OR a.search_text LIKE $5 ESCAPE '\\'
                       THEN 0 ELSE 1 END,
                  CASE WHEN n.value IS NULL THEN 1 ELSE 0 END, a.user_num
         LIMIT $6",
    )
    .bind(query.searcher)
    .bind(list(&anywhere))
    .bind(query.everybody)
    .bind(format!("@{first}%"))
    .bind(format!("%\n{first}%"))
    .bind(query.limit)
    .fetch_all()
    .await
}

/// Returns how a user is sorted: by the name in lower case, or the user id where there is none, then by the user id.
fn list_key(user_id: &str, displayname: Option<&str>) -> Vec<u8> {
    let name = displayname.map(str::trim).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| user_id.trim_start_matches('@'));
    let mut key = name.to_lowercase().into_bytes();
    // PostgreSQL takes no long keys into an index.
    key.truncate(KEY_NAME_BYTES);
    key.push(0);
    key.extend_from_slice(user_id.as_bytes());
    key
}

/// A request for people in their order.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Who asks.
    pub asker: UserNum,
    /// A part of the name or id, in lower case.
    pub term: String,
    /// Whether people are listed with whom the asker has nothing in common.
    pub everybody: bool,
    /// Whoever is not listed.
    pub except: UserNum,
    /// Those after this place.
    pub after: Vec<u8>,
    /// How many at most.
    pub limit: i64,
}

/// Somebody in the list of people.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Listed {
    /// The user's number.
    pub user_num: UserNum,
    /// The user id.
    pub user_id: String,
    /// The display name, as JSON.
    pub displayname: Option<String>,
    /// The address of the avatar, as JSON.
    pub avatar_url: Option<String>,
    /// When the user's devices were last seen; 0 for never.
    pub device_seen_ts: i64,
    /// The same of those that are gone.
    pub last_seen_ts: i64,
    /// The place in the list.
    pub list_key: Vec<u8>,
}

/// Returns the people after a place, in their order.
pub async fn list_people(db: &mut impl Read, query: &ListQuery) -> Result<Vec<Listed>> {
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
    .bind(format!("%{}%", escape(&query.term)))
    .bind(query.everybody)
    .bind(query.asker)
    .bind(query.limit)
    .fetch_all()
    .await
}

/// Returns how many people such a list has in all.
pub async fn count_people(db: &mut impl Read, query: &ListQuery) -> Result<i64> {
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
        .bind(format!("%{}%", escape(&query.term)))
        .bind(query.everybody)
        .bind(query.asker)
        .fetch_scalar()
        .await?;
    Ok(count.unwrap_or(0))
}

/// Returns users who have no place in the list yet, with their ids and display names as JSON.
pub async fn unlisted(
    db: &mut impl Read,
    limit: i64,
) -> Result<Vec<(UserNum, String, Option<String>)>> {
    db.query(
        "SELECT a.user_num, s.text, n.value
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

/// Writes a text so that `LIKE` finds it as it stands.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_")
}
