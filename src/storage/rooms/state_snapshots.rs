//! State snapshots, stored as chains of changes.
//!
//! A snapshot is a point of a chain. The event of a key at a snapshot is that of the chain's newest entry for the key
//! that is not newer than the snapshot. Where the chain has no such entry, it is the event in the chain's parent.

use std::collections::HashMap;

use sqlx::AssertSqlSafe;

use crate::{
    error::{Error, Result},
    numbers::{Position, PositionRange, SnapshotId, StateChainNum, StringNum},
    storage::{ReadAccess, WriteTx, values_clause},
};

/// The most chains that may be under one; a deeper fork is written as a complete state.
pub const MAX_CHAIN_DEPTH: i64 = 16;

/// The number of entries that one statement stores.
const ENTRIES_PER_STATEMENT: usize = 100;

/// A state event of a snapshot.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct StateRow {
    /// The number of the event type.
    pub kind: StringNum,
    /// The number of the state key.
    pub state_key: StringNum,
    /// The event id; `None` where the key has no event.
    pub event_id: Option<String>,
    /// The canonical JSON.
    pub json: Option<String>,
}

/// Stores a new chain under an id that the caller chose.
pub async fn insert_chain(
    tx: &mut WriteTx,
    id: StateChainNum,
    parent: Option<SnapshotId>,
    depth: i64,
) -> Result<()> {
    tx.query("INSERT INTO state_chains (id, parent, depth) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(parent)
        .bind(depth)
        .execute()
        .await?;
    Ok(())
}

/// Stores a snapshot of a chain.
pub async fn insert_snapshot(tx: &mut WriteTx, id: SnapshotId, chain: StateChainNum) -> Result<()> {
    tx.query("INSERT INTO state_snapshots (id, chain) VALUES ($1, $2)")
        .bind(id)
        .bind(chain)
        .execute()
        .await?;
    Ok(())
}

/// A state snapshot and the chain that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotPlace {
    pub chain: StateChainNum,
    pub snapshot: SnapshotId,
}

/// Stores the event of a key from a snapshot on.
pub async fn insert_entry(tx: &mut WriteTx, place: SnapshotPlace, entry: StateEntry) -> Result<()> {
    tx.query(
        "INSERT INTO state_entries (chain, kind, state_key, snapshot, event) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(place.chain)
    .bind(entry.kind)
    .bind(entry.state_key)
    .bind(place.snapshot)
    .bind(entry.event)
    .execute()
    .await?;
    Ok(())
}

/// Returns the chain of a snapshot. Snapshot 0, the empty state, has none.
pub async fn chain_of(
    db: &mut impl ReadAccess,
    snapshot: SnapshotId,
) -> Result<Option<StateChainNum>> {
    db.query("SELECT chain FROM state_snapshots WHERE id = $1")
        .bind(snapshot)
        .fetch_scalar()
        .await
}

/// A part of a snapshot: the entries of one chain, up to a snapshot of that chain.
#[derive(Clone, Copy, Debug)]
struct SnapshotLayer {
    chain: StateChainNum,
    at: SnapshotId,
}

/// Returns the layers that make up a snapshot, the lowest chain first.
async fn layers(db: &mut impl ReadAccess, snapshot: SnapshotId) -> Result<Vec<SnapshotLayer>> {
    let mut layers = Vec::new();
    let mut next = Some(snapshot).filter(|id| *id != SnapshotId::EMPTY);
    while let Some(id) = next {
        if i64::try_from(layers.len()).unwrap_or(i64::MAX) > MAX_CHAIN_DEPTH {
            return Err(Error::internal(
                "read the state",
                format!("there are too many state chains under snapshot {snapshot}"),
            ));
        }
        let row: Option<(StateChainNum, Option<SnapshotId>)> = db
            .query(
                "SELECT c.id, c.parent FROM state_snapshots s JOIN state_chains c ON c.id = s.chain
                 WHERE s.id = $1",
            )
            .bind(id)
            .fetch_optional()
            .await?;
        let (chain, parent) = row.ok_or_else(|| {
            Error::internal("read the state", format!("there is no snapshot {id}"))
        })?;
        layers.push(SnapshotLayer { chain, at: id });
        next = parent;
    }
    layers.reverse();
    Ok(layers)
}

/// Returns the whole state of a snapshot. Where a key is listed twice, the later row counts.
pub async fn whole_state(db: &mut impl ReadAccess, snapshot: SnapshotId) -> Result<Vec<StateRow>> {
    let mut rows: Vec<StateRow> = Vec::new();
    for SnapshotLayer { chain, at } in layers(db, snapshot).await? {
        rows.extend(
            db.query(
                "SELECT s.kind, s.state_key, e.event_id, e.json
                 FROM state_entries s LEFT JOIN events e ON e.position = s.event
                 WHERE s.chain = $1 AND s.snapshot = (
                     SELECT MAX(t.snapshot) FROM state_entries t
                     WHERE t.chain = s.chain AND t.kind = s.kind AND t.state_key = s.state_key
                       AND t.snapshot <= $2)",
            )
            .bind(chain)
            .bind(at)
            .fetch_all::<StateRow>()
            .await?,
        );
    }
    Ok(rows)
}

/// Returns the whole state of a snapshot in numbers, for [`insert_entries`].
pub async fn whole_state_entries(
    db: &mut impl ReadAccess,
    snapshot: SnapshotId,
) -> Result<Vec<StateEntry>> {
    let mut entries: HashMap<(StringNum, StringNum), StateEntry> = HashMap::new();
    for SnapshotLayer { chain, at } in layers(db, snapshot).await? {
        let rows: Vec<StateEntry> = db
            .query(
                "SELECT s.kind, s.state_key, s.event
                 FROM state_entries s
                 WHERE s.chain = $1 AND s.snapshot = (
                     SELECT MAX(t.snapshot) FROM state_entries t
                     WHERE t.chain = s.chain AND t.kind = s.kind AND t.state_key = s.state_key
                       AND t.snapshot <= $2)",
            )
            .bind(chain)
            .bind(at)
            .fetch_all()
            .await?;
        entries.extend(rows.into_iter().map(|entry| (entry.key(), entry)));
    }
    let entries = entries.into_values();
    Ok(entries.filter(|entry| entry.event.is_some()).collect())
}

/// Returns the event of a key at a snapshot.
pub async fn state_event(
    db: &mut impl ReadAccess,
    snapshot: SnapshotId,
    kind: StringNum,
    state_key: StringNum,
) -> Result<Option<StateRow>> {
    for SnapshotLayer { chain, at } in layers(db, snapshot).await?.into_iter().rev() {
        let row: Option<StateRow> = db
            .query(
                "SELECT s.kind, s.state_key, e.event_id, e.json
                 FROM state_entries s LEFT JOIN events e ON e.position = s.event
                 WHERE s.chain = $1 AND s.kind = $2 AND s.state_key = $3 AND s.snapshot <= $4
                 ORDER BY s.snapshot DESC LIMIT 1",
            )
            .bind(chain)
            .bind(kind)
            .bind(state_key)
            .bind(at)
            .fetch_optional()
            .await?;
        if let Some(row) = row {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

/// A state event that a key has or had.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct FormerStateRow {
    /// The place in the timeline.
    pub timeline: Position,
    /// The canonical JSON.
    pub json: String,
}

/// Returns all events that a key has had up to a snapshot, the oldest first.
pub async fn history_of_key(
    db: &mut impl ReadAccess,
    snapshot: SnapshotId,
    kind: StringNum,
    state_key: StringNum,
) -> Result<Vec<FormerStateRow>> {
    let mut rows = Vec::new();
    for SnapshotLayer { chain, at } in layers(db, snapshot).await? {
        rows.extend(
            db.query(
                "SELECT COALESCE(e.timeline, s.snapshot) AS timeline, e.json
                 FROM state_entries s JOIN events e ON e.position = s.event
                 WHERE s.chain = $1 AND s.kind = $2 AND s.state_key = $3 AND s.snapshot <= $4
                 ORDER BY s.snapshot",
            )
            .bind(chain)
            .bind(kind)
            .bind(state_key)
            .bind(at)
            .fetch_all::<FormerStateRow>()
            .await?,
        );
    }
    Ok(rows)
}

/// Returns the state at an earlier point of the chain that a snapshot belongs to.
///
/// The chain must be complete in itself, as that of a room's own state is.
pub async fn earlier_state(
    db: &mut impl ReadAccess,
    snapshot: SnapshotId,
    at: Position,
) -> Result<Vec<StateRow>> {
    db.query(
        "SELECT s.kind, s.state_key, e.event_id, e.json
         FROM state_entries s LEFT JOIN events e ON e.position = s.event
         WHERE s.chain = (SELECT chain FROM state_snapshots WHERE id = $1) AND s.snapshot = (
             SELECT MAX(t.snapshot) FROM state_entries t
             WHERE t.chain = s.chain AND t.kind = s.kind AND t.state_key = s.state_key AND t.snapshot <= $2)",
    )
    .bind(snapshot)
    .bind(at)
    .fetch_all()
    .await
}

/// A change of a chain.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct StateChangeRow {
    /// The snapshot from which on the change is in effect.
    pub snapshot: SnapshotId,
    /// The number of the event type.
    pub kind: StringNum,
    /// The number of the state key.
    pub state_key: StringNum,
    /// The event id; `None` where the key no longer has an event.
    pub event_id: Option<String>,
    /// The canonical JSON.
    pub json: Option<String>,
}

/// Returns the changes in the chain that a snapshot belongs to, after one point and up to another, in order.
pub async fn state_changes(
    db: &mut impl ReadAccess,
    snapshot: SnapshotId,
    range: PositionRange,
) -> Result<Vec<StateChangeRow>> {
    db.query(
        "SELECT s.snapshot, s.kind, s.state_key, e.event_id, e.json
         FROM state_entries s LEFT JOIN events e ON e.position = s.event
         WHERE s.chain = (SELECT chain FROM state_snapshots WHERE id = $1) AND s.snapshot > $2 AND s.snapshot <= $3
         ORDER BY s.snapshot",
    )
    .bind(snapshot)
    .bind(range.after)
    .bind(range.up_to)
    .fetch_all()
    .await
}

/// A key of the state, as the numbers of its strings.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct StateKeyRow {
    /// The number of the event type.
    pub kind: StringNum,
    /// The number of the state key.
    pub state_key: StringNum,
}

/// Returns the keys that changed in the chain that a snapshot belongs to, after one point and up to another.
pub async fn keys_changed(
    db: &mut impl ReadAccess,
    snapshot: SnapshotId,
    range: PositionRange,
) -> Result<Vec<StateKeyRow>> {
    db.query(
        "SELECT DISTINCT kind, state_key
         FROM state_entries
         WHERE chain = (SELECT chain FROM state_snapshots WHERE id = $1) AND snapshot > $2 AND snapshot <= $3",
    )
    .bind(snapshot)
    .bind(range.after)
    .bind(range.up_to)
    .fetch_all()
    .await
}

/// A chain of state snapshots.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct StateChainRow {
    pub id: StateChainNum,
    /// The number of chains under it.
    pub depth: i64,
    /// Its newest snapshot.
    pub newest: SnapshotId,
}

/// Returns the chain of a snapshot, with the newest snapshot in it.
pub async fn chain_with_newest(
    db: &mut impl ReadAccess,
    snapshot: SnapshotId,
) -> Result<Option<StateChainRow>> {
    db.query(
        "SELECT c.id, c.depth, (SELECT MAX(t.id) FROM state_snapshots t WHERE t.chain = c.id) AS newest
         FROM state_snapshots s JOIN state_chains c ON c.id = s.chain
         WHERE s.id = $1",
    )
    .bind(snapshot)
    .fetch_optional()
    .await
}

/// The event of a key of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct StateEntry {
    /// The number of the event type.
    pub kind: StringNum,
    /// The number of the state key.
    pub state_key: StringNum,
    /// The position of the event; `None` if the key no longer has one.
    pub event: Option<Position>,
}

impl StateEntry {
    /// Returns the numbers of the event type and the state key.
    pub fn key(&self) -> (StringNum, StringNum) {
        (self.kind, self.state_key)
    }
}

/// Stores the events of many keys from a snapshot on.
pub async fn insert_entries(
    tx: &mut WriteTx,
    place: SnapshotPlace,
    entries: &[StateEntry],
) -> Result<()> {
    for chunk in entries.chunks(ENTRIES_PER_STATEMENT) {
        let sql = format!(
            "INSERT INTO state_entries (chain, kind, state_key, snapshot, event) {}",
            values_clause(chunk.len(), 5)
        );
        let mut query = tx.query(AssertSqlSafe(sql));
        for entry in chunk {
            query = query
                .bind(place.chain)
                .bind(entry.kind)
                .bind(entry.state_key)
                .bind(place.snapshot)
                .bind(entry.event);
        }
        query.execute().await?;
    }
    Ok(())
}
