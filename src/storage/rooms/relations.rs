//! The relationships between events.

use crate::{
    error::Result,
    numbers::{Position, RoomNum, StringNum, UserNum},
    storage::{ReadAccess, WriteTx, number_list, text_list},
};

/// A relationship to be stored.
#[derive(Debug)]
pub struct NewRelation<'a> {
    /// The position of the event that relates to another.
    pub child: Position,
    pub room: RoomNum,
    /// The event that it relates to.
    pub parent: &'a str,
    /// The number of the relationship type.
    pub rel_type: StringNum,
    /// The number of the event type of the child.
    pub kind: StringNum,
    /// The number of the child's sender.
    pub sender: UserNum,
    /// The child's place in the timeline.
    pub timeline: Position,
    /// The key of an annotation.
    pub annotation: Option<&'a str>,
    /// Whether it has the form of a valid replacement.
    pub is_edit: bool,
}

/// A query for the events that relate to another.
#[derive(Clone, Copy, Debug)]
pub struct RelationQuery<'a> {
    pub room: RoomNum,
    /// The event that the others relate to.
    pub parent: &'a str,
    /// Includes only this relationship type.
    pub rel_type: Option<StringNum>,
    /// Includes only events of this type.
    pub kind: Option<StringNum>,
    /// The number of steps that an event may be away from the parent.
    pub depth: i64,
    /// The place from which to read: between the event at this place and the next one.
    pub from: Position,
    /// The most events to return.
    pub limit: i64,
}

/// A child in the aggregations of its parent.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct BundledChild {
    pub parent: String,
    /// The child's place in the timeline.
    pub timeline: Position,
    /// The number of the history visibility before the child.
    pub visibility: i64,
    /// The child's id.
    pub event_id: String,
    /// The number of the child's sender.
    pub sender: UserNum,
    /// Whether it is a replacement.
    pub is_edit: bool,
}

/// Stores a relationship. Returns `false` if it was already stored.
pub async fn insert(tx: &mut WriteTx, relation: &NewRelation<'_>) -> Result<bool> {
    let stored = tx
        .query(
            "INSERT INTO relations (child, room, parent, rel_type, kind, sender, timeline, annotation, is_edit)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (child) DO NOTHING",
        )
        .bind(relation.child)
        .bind(relation.room)
        .bind(relation.parent)
        .bind(relation.rel_type)
        .bind(relation.kind)
        .bind(relation.sender)
        .bind(relation.timeline)
        .bind(relation.annotation)
        .bind(relation.is_edit)
        .execute()
        .await?;
    Ok(stored == 1)
}

/// Removes the relationship of a redacted event. Returns whether it had one.
pub async fn remove(tx: &mut WriteTx, child: Position) -> Result<bool> {
    let removed = tx
        .query("DELETE FROM relations WHERE child = $1")
        .bind(child)
        .execute()
        .await?;
    Ok(removed == 1)
}

/// An event that relates to another, directly or through others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct RelatedEvent {
    /// The place in the timeline.
    pub timeline: Position,
    /// The number of relationships between the two.
    pub depth: i64,
}

/// Returns the events that relate to another, the newest first.
pub async fn related_before(
    db: &mut impl ReadAccess,
    query: &RelationQuery<'_>,
) -> Result<Vec<RelatedEvent>> {
    if query.depth == 1 {
        return children_before(db, query).await;
    }
    db.query(
        "WITH RECURSIVE related (child, timeline, depth) AS (
             SELECT child, timeline, CAST(1 AS BIGINT) FROM relations
             WHERE room = $1 AND parent = $2
               AND rel_type = COALESCE($3, rel_type) AND kind = COALESCE($4, kind)
             UNION ALL
             SELECT r.child, r.timeline, p.depth + 1
             FROM related p JOIN events e ON e.position = p.child
             JOIN relations r ON r.room = $1 AND r.parent = e.event_id
             WHERE p.depth < $5
               AND r.rel_type = COALESCE($3, r.rel_type) AND r.kind = COALESCE($4, r.kind)
         )
         SELECT timeline, MIN(depth) AS depth FROM related WHERE timeline <= $6
         GROUP BY timeline ORDER BY timeline DESC LIMIT $7",
    )
    .bind(query.room)
    .bind(query.parent)
    .bind(query.rel_type)
    .bind(query.kind)
    .bind(query.depth)
    .bind(query.from)
    .bind(query.limit)
    .fetch_all()
    .await
}

/// Like [`related_before`], but with the events after a place, the oldest first.
pub async fn related_after(
    db: &mut impl ReadAccess,
    query: &RelationQuery<'_>,
) -> Result<Vec<RelatedEvent>> {
    if query.depth == 1 {
        return children_after(db, query).await;
    }
    db.query(
        "WITH RECURSIVE related (child, timeline, depth) AS (
             SELECT child, timeline, CAST(1 AS BIGINT) FROM relations
             WHERE room = $1 AND parent = $2
               AND rel_type = COALESCE($3, rel_type) AND kind = COALESCE($4, kind)
             UNION ALL
             SELECT r.child, r.timeline, p.depth + 1
             FROM related p JOIN events e ON e.position = p.child
             JOIN relations r ON r.room = $1 AND r.parent = e.event_id
             WHERE p.depth < $5
               AND r.rel_type = COALESCE($3, r.rel_type) AND r.kind = COALESCE($4, r.kind)
         )
         SELECT timeline, MIN(depth) AS depth FROM related WHERE timeline > $6
         GROUP BY timeline ORDER BY timeline LIMIT $7",
    )
    .bind(query.room)
    .bind(query.parent)
    .bind(query.rel_type)
    .bind(query.kind)
    .bind(query.depth)
    .bind(query.from)
    .bind(query.limit)
    .fetch_all()
    .await
}

/// Like [`related_before`] for one step, but it stops as soon as it has enough, no matter how many children there are.
async fn children_before(
    db: &mut impl ReadAccess,
    query: &RelationQuery<'_>,
) -> Result<Vec<RelatedEvent>> {
    db.query(
        "SELECT timeline, CAST(1 AS BIGINT) AS depth FROM relations
         WHERE room = $1 AND parent = $2
           AND rel_type = COALESCE($3, rel_type) AND kind = COALESCE($4, kind) AND timeline <= $5
         ORDER BY timeline DESC LIMIT $6",
    )
    .bind(query.room)
    .bind(query.parent)
    .bind(query.rel_type)
    .bind(query.kind)
    .bind(query.from)
    .bind(query.limit)
    .fetch_all()
    .await
}

/// Like [`children_before`], but with the events after a place, the oldest first.
async fn children_after(
    db: &mut impl ReadAccess,
    query: &RelationQuery<'_>,
) -> Result<Vec<RelatedEvent>> {
    db.query(
        "SELECT timeline, CAST(1 AS BIGINT) AS depth FROM relations
         WHERE room = $1 AND parent = $2
           AND rel_type = COALESCE($3, rel_type) AND kind = COALESCE($4, kind) AND timeline > $5
         ORDER BY timeline LIMIT $6",
    )
    .bind(query.room)
    .bind(query.parent)
    .bind(query.rel_type)
    .bind(query.kind)
    .bind(query.from)
    .bind(query.limit)
    .fetch_all()
    .await
}

/// Returns the latest valid replacements of the parents, and the latest events that refer to them.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#validity-of-replacement-events).
pub async fn bundled_children<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    room: RoomNum,
    parents: impl IntoIterator<Item = S>,
    reference: StringNum,
    limit: i64,
) -> Result<Vec<BundledChild>> {
    db.query(
        "SELECT parent, timeline, visibility, event_id, sender, is_edit FROM (
             SELECT r.parent, r.timeline, e.visibility, e.event_id, r.sender, r.is_edit,
                    ROW_NUMBER() OVER (
                        PARTITION BY r.parent, r.is_edit ORDER BY e.origin_server_ts DESC, e.event_id DESC
                    ) AS nth
             FROM relations r
             JOIN events e ON e.position = r.child
             JOIN events p ON p.event_id = r.parent AND p.room = r.room
             WHERE r.room = $1 AND r.parent IN (SELECT value FROM json_each($2))
               AND (r.rel_type = $3
                    OR (r.is_edit AND r.sender = p.sender AND r.kind = p.kind AND p.state_key IS NULL))
         ) children
         WHERE nth <= $4
         ORDER BY parent, is_edit, nth",
    )
    .bind(room)
    .bind(text_list(parents))
    .bind(reference)
    .bind(limit)
    .fetch_all()
    .await
}

/// Returns the parents to which a user's events relate with a relationship type.
pub async fn parents_related_by<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    room: RoomNum,
    parents: impl IntoIterator<Item = S>,
    rel_type: StringNum,
    sender: UserNum,
) -> Result<Vec<String>> {
    db.query(
        "SELECT DISTINCT parent FROM relations
         WHERE room = $1 AND parent IN (SELECT value FROM json_each($2)) AND rel_type = $3 AND sender = $4",
    )
    .bind(room)
    .bind(text_list(parents))
    .bind(rel_type)
    .bind(sender)
    .fetch_scalars()
    .await
}

/// A filter for the events that relate to others. `None` includes all.
#[derive(Clone, Debug, Default)]
pub struct ChildFilter {
    /// The numbers of the relationship types.
    pub rel_types: Option<Vec<StringNum>>,
    pub senders: Option<Vec<UserNum>>,
}

/// Returns the parents to which an event relates that matches a filter and is before a place.
pub async fn parents_with_children<S: AsRef<str>>(
    db: &mut impl ReadAccess,
    room: RoomNum,
    parents: impl IntoIterator<Item = S>,
    children: ChildFilter,
    before: Position,
) -> Result<Vec<String>> {
    db.query(
        "SELECT DISTINCT parent FROM relations
         WHERE room = $1 AND parent IN (SELECT value FROM json_each($2))
           AND ($3 OR rel_type IN (SELECT CAST(value AS BIGINT) FROM json_each($4)))
           AND ($5 OR sender IN (SELECT CAST(value AS BIGINT) FROM json_each($6)))
           AND timeline < $7",
    )
    .bind(room)
    .bind(text_list(parents))
    .bind(children.rel_types.is_none())
    .bind(number_list(children.rel_types.unwrap_or_default()))
    .bind(children.senders.is_none())
    .bind(number_list(children.senders.unwrap_or_default()))
    .bind(before)
    .fetch_scalars()
    .await
}

/// An annotation of an event, such as a reaction.
#[derive(Clone, Copy, Debug)]
pub struct Annotation<'a> {
    /// The number of the event type.
    pub kind: StringNum,
    pub sender: UserNum,
    pub key: &'a str,
}

/// Returns whether there is already an annotation with the same event, type, sender and key.
pub async fn has_annotation(
    db: &mut impl ReadAccess,
    room: RoomNum,
    parent: &str,
    annotation: Annotation<'_>,
) -> Result<bool> {
    let found: Option<i64> = db
        .query(
            "SELECT child FROM relations
             WHERE room = $1 AND parent = $2 AND sender = $3 AND kind = $4 AND annotation = $5 LIMIT 1",
        )
        .bind(room)
        .bind(parent)
        .bind(annotation.sender)
        .bind(annotation.kind)
        .bind(annotation.key)
        .fetch_scalar()
        .await?;
    Ok(found.is_some())
}

/// The event that another one relates to, and the thread that the other one is in.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct EventParent {
    /// The event that it relates to.
    pub parent: Option<String>,
    /// The root of the thread that it is in.
    pub thread: Option<String>,
}

/// Returns the parent and the thread of an event; `None` if the event is not stored.
pub async fn parent_of(
    db: &mut impl ReadAccess,
    room: RoomNum,
    event_id: &str,
) -> Result<Option<EventParent>> {
    db.query(
        "SELECT r.parent, e.thread FROM events e LEFT JOIN relations r ON r.child = e.position
         WHERE e.event_id = $2 AND e.room = $1",
    )
    .bind(room)
    .bind(event_id)
    .fetch_optional()
    .await
}
