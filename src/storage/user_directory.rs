//! Finding people by their user id or display name.

use super::{Read, UserNum, WriteTx, list};
use crate::error::Result;

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

/// Stores what a search for a user looks at.
pub async fn set_search_text(
    tx: &mut WriteTx,
    user: UserNum,
    user_id: &str,
    displayname: Option<&str>,
) -> Result<()> {
    // The databases lower letters each in their own way; so it is done here.
    let text = format!("{user_id}\n{}", displayname.unwrap_or_default()).to_lowercase();
    tx.query("UPDATE accounts SET search_text = $2 WHERE user_num = $1")
        .bind(user)
        .bind(text)
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

/// Writes a text so that `LIKE` finds it as it stands.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('%', "\\%")
        .replace('_', "\\_")
}
