//! Requests to redact the events that relate to another.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, StringNum, UserNum},
    storage::{ReadAccess, WriteTx, number_list},
};

/// The event whose related events a user wants to redact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, sqlx::FromRow)]
pub struct RedactionTargetRow {
    pub room: RoomNum,
    /// The event id.
    pub target: String,
    pub sender: UserNum,
}

/// The rest of a request.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RelatedRedactionRow {
    /// The relationship types, as a JSON list.
    pub rel_types: String,
    pub reason: Option<String>,
    /// The time in milliseconds since the Unix epoch.
    pub requested_ts: i64,
}

/// Stores a request in place of an earlier one of the same user for the same event.
pub async fn set(
    tx: &mut WriteTx,
    target: &RedactionTargetRow,
    request: &RelatedRedactionRow,
) -> Result<()> {
    tx.query(
        "INSERT INTO related_redactions (room, target, sender, rel_types, reason, requested_ts)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (room, target, sender) DO UPDATE
         SET rel_types = excluded.rel_types, reason = excluded.reason, requested_ts = excluded.requested_ts",
    )
    .bind(target.room)
    .bind(&target.target)
    .bind(target.sender)
    .bind(&request.rel_types)
    .bind(&request.reason)
    .bind(request.requested_ts)
    .execute()
    .await?;
    Ok(())
}

/// Returns the newest requests.
pub async fn newest(db: &mut impl ReadAccess, limit: i64) -> Result<Vec<RedactionTargetRow>> {
    db.query(
        "SELECT room, target, sender FROM related_redactions ORDER BY requested_ts DESC LIMIT $1",
    )
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns a request.
pub async fn find(
    db: &mut impl ReadAccess,
    target: &RedactionTargetRow,
) -> Result<Option<RelatedRedactionRow>> {
    db.query(
        "SELECT rel_types, reason, requested_ts FROM related_redactions
         WHERE room = $1 AND target = $2 AND sender = $3",
    )
    .bind(target.room)
    .bind(&target.target)
    .bind(target.sender)
    .fetch_optional()
    .await
}

/// Removes the requests from before a time.
pub async fn remove_before(tx: &mut WriteTx, ts: i64) -> Result<()> {
    tx.query("DELETE FROM related_redactions WHERE requested_ts < $1")
        .bind(ts)
        .execute()
        .await?;
    Ok(())
}

/// A query for the events to redact.
#[derive(Debug)]
pub struct RelatedEventsQuery<'a> {
    pub target: &'a RedactionTargetRow,
    /// The numbers of the relationship types; `None` is any.
    pub rel_types: Option<Vec<StringNum>>,
    /// Whether the sender may redact the events of others.
    pub includes_others: bool,
    /// The number of `m.replace`. Only valid replacements are included.
    pub replacement: StringNum,
    /// The place in the timeline after which to read.
    pub after: Position,
    pub limit: i64,
}

/// An event that relates to another.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RelatedEventRow {
    pub event_id: String,
    /// The place in the timeline.
    pub timeline: Position,
}

/// Returns events to redact, the oldest first.
///
/// See the specification on the
/// [validity of replacement events](https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events).
pub async fn related_events(
    db: &mut impl ReadAccess,
    query: &RelatedEventsQuery<'_>,
) -> Result<Vec<RelatedEventRow>> {
    db.query(
        "SELECT e.event_id, r.timeline FROM relations r
         JOIN events e ON e.position = r.child
         LEFT JOIN events p ON p.event_id = r.parent AND p.room = r.room
         WHERE r.room = $1 AND r.parent = $2 AND r.timeline > $3
           AND ($4 OR r.rel_type IN (SELECT CAST(value AS BIGINT) FROM json_each($5)))
           AND ($6 OR r.sender = $7)
           AND (r.rel_type <> $8
                OR (r.is_edit AND r.sender = p.sender AND r.kind = p.kind AND p.state_key IS NULL))
         ORDER BY r.timeline LIMIT $9",
    )
    .bind(query.target.room)
    .bind(&query.target.target)
    .bind(query.after)
    .bind(query.rel_types.is_none())
    .bind(number_list(query.rel_types.clone().unwrap_or_default()))
    .bind(query.includes_others)
    .bind(query.target.sender)
    .bind(query.replacement)
    .bind(query.limit)
    .fetch_all()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::TestDb;

    #[tokio::test]
    async fn a_new_request_replaces_the_one_before() {
        let test = TestDb::new().await;
        let mut tx = test.db.write().await.unwrap();
        let target = RedactionTargetRow {
            room: RoomNum::new(7),
            target: "$a".to_owned(),
            sender: UserNum::new(1),
        };
        let mut request = RelatedRedactionRow {
            rel_types: r#"["m.thread"]"#.to_owned(),
            reason: None,
            requested_ts: 5,
        };
        set(&mut tx, &target, &request).await.unwrap();
        request.reason = Some("spam".to_owned());
        set(&mut tx, &target, &request).await.unwrap();

        let found = find(&mut tx, &target).await.unwrap();
        assert_eq!(found, Some(request));
        remove_before(&mut tx, 5).await.unwrap();
        let all = newest(&mut tx, 10).await.unwrap();
        assert_eq!(all, std::slice::from_ref(&target));
        remove_before(&mut tx, 6).await.unwrap();
        assert_eq!(find(&mut tx, &target).await.unwrap(), None);
    }
}
