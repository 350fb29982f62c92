//! Loading a room into memory.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, ServerName,
    events::{StateEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};

use super::{
    recent_events::RecentRoomEvents,
    room::{RING_CAPACITY, Room, RoomIdentity, RoomTip, RoomView, count_server_member},
    stored_events::{
        event_from_row, parse_event_id, parse_state_event, pdu_by_id, state_map, state_map_at,
    },
};
use crate::{
    error::{Error, Result},
    matrix::{self, NotificationCounters, Pdu, ResolvedState, StateMap, TimelineEvent},
    numbers::{Position, PositionRange, RoomNum, SnapshotId, StateChainNum, StringNum, UserNum},
    storage::{
        self, Db, ReadAccess, Receipt,
        interned_strings::InternedStrings,
        rooms::{
            events::{self, EventRow},
            receipts,
            room_table::{self, RoomRow},
            state_snapshots, timeline_gaps,
        },
    },
};

/// Loads a room, and returns it with the position up to which it contains the changes of the journal.
pub(crate) async fn load_room(
    db: &Db,
    server_name: &ServerName,
    num: RoomNum,
) -> Result<(Room, Position)> {
    let mut tx = db.snapshot().await?;
    let loaded_up_to = storage::last_position(&mut tx).await?;
    let row = room_table::get(&mut tx, num).await?;
    let row = row.ok_or_else(|| Error::not_found(format!("there is no room with number {num}")))?;
    let version = RoomVersionId::try_from(row.version.as_str())
        .map_err(|source| Error::internal("read the version of a room", source))?;
    let rules = matrix::room_version_rules(&version).ok_or_else(|| {
        Error::UnsupportedRoomVersion(format!("version {version} is not supported"))
    })?;
    let room_id = OwnedRoomId::try_from(row.room_id.as_str())
        .map_err(|source| Error::internal("read the id of a room", source))?;
    let view = load_view(&mut tx, &db.strings, &row, &rules, server_name).await?;
    let tip = load_tip(&mut tx, &row, &view).await?;
    let identity = RoomIdentity {
        num,
        room_id,
        version,
        rules,
    };
    Ok((Room::new(identity, tip, view), loaded_up_to))
}

async fn load_tip(db: &mut impl ReadAccess, row: &RoomRow, view: &RoomView) -> Result<RoomTip> {
    let forward_extremities: Vec<OwnedEventId> = serde_json::from_str(&row.forward_extremities)?;
    let mut depth = 0;
    let mut hashes = HashMap::new();
    for row in events::by_ids(db, &forward_extremities).await? {
        let pdu = Pdu::parse(parse_event_id(&row.event_id)?, &row.json)?;
        depth = depth.max(u64::from(pdu.depth));
        hashes.extend(pdu.reference_hash.map(|hash| (pdu.event_id, hash)));
    }
    let extremities = forward_extremities.iter();
    Ok(RoomTip {
        extremity_hashes: extremities.filter_map(|id| hashes.remove(id)).collect(),
        state: view.state.clone(),
        snapshot: row.state,
        snapshot_chain: state_snapshots::chain_of(db, row.state)
            .await?
            .unwrap_or(StateChainNum::NONE),
        forward_extremities,
        depth,
        notified: view.notified,
        mentioned: view.mentioned,
        threaded: view.threaded,
        joined_members: view.joined_members,
        recent_events: RecentRoomEvents::default(),
    })
}

async fn load_view(
    db: &mut impl ReadAccess,
    strings: &InternedStrings,
    row: &RoomRow,
    rules: &RoomVersionRules,
    server_name: &ServerName,
) -> Result<RoomView> {
    let LoadedEvents {
        ring,
        complete_after,
        state,
    } = load_ring(db, row, strings, rules).await?;
    let mut view = RoomView {
        state,
        snapshot: row.state,
        ring_after: complete_after,
        last_position: row.last_position,
        notified: ring.back().map_or(0, |event| event.notified),
        mentioned: ring.back().map_or(0, |event| event.mentioned),
        threaded: ring
            .back()
            .map_or(NotificationCounters::default(), |event| {
                event.threaded_counters
            }),
        ring,
        ..RoomView::default()
    };
    let members: Vec<Arc<Pdu>> = view
        .state
        .of_type(&StateEventType::RoomMember)
        .cloned()
        .collect();
    let with = |wanted: &MembershipState| {
        i64::try_from(
            members
                .iter()
                .filter(|pdu| pdu.membership().as_ref() == Some(wanted))
                .count(),
        )
        .unwrap_or(i64::MAX)
    };
    view.joined_members = with(&MembershipState::Join);
    view.invited_members = with(&MembershipState::Invite);
    for pdu in &members {
        let is_joined = pdu.membership() == Some(MembershipState::Join);
        let Some(user_id) = pdu.member().filter(|_| is_joined) else {
            continue;
        };
        count_server_member(&mut view.servers, user_id, 1, Position::ZERO);
        if user_id.server_name() == server_name
            && let Some(user) = strings.find_user(db, user_id.as_str()).await?
        {
            view.local_members.insert(user, user_id.to_owned());
        }
    }
    load_receipts(db, strings, row.num, &mut view).await?;
    Ok(view)
}

async fn load_receipts(
    db: &mut impl ReadAccess,
    strings: &InternedStrings,
    room: RoomNum,
    view: &mut RoomView,
) -> Result<()> {
    let rows = receipts::of_room(db, room).await?;
    let users: Vec<UserNum> = rows.iter().map(|row| row.user_num).collect();
    let users = strings.find_user_ids(db, &users).await?;
    for row in rows {
        let user_id = users
            .get(&row.user_num)
            .and_then(|text| OwnedUserId::try_from(&**text).ok());
        if let (Some(user_id), Ok(event_id)) = (user_id, OwnedEventId::try_from(row.event_id)) {
            view.last_position = view.last_position.max(row.position);
            view.add_receipt(Arc::new(Receipt {
                user_id,
                kind: row.kind,
                thread: row.thread,
                event_id,
                ts: row.ts,
                position: row.position,
            }));
        }
    }
    Ok(())
}

/// The latest events of a room, and its state after them.
struct LoadedEvents {
    /// The events, each with the state before it, the oldest first.
    ring: VecDeque<Arc<TimelineEvent>>,
    /// The place after which the events are complete.
    complete_after: Position,
    /// The current state.
    state: StateMap,
}

/// Returns the latest events and the current state of a room.
///
/// The state is read once, as it was before the first of these events. The later changes are then
/// applied to it one after another.
async fn load_ring(
    db: &mut impl ReadAccess,
    room: &RoomRow,
    strings: &InternedStrings,
    rules: &RoomVersionRules,
) -> Result<LoadedEvents> {
    let LatestRows {
        rows,
        complete_after,
        mut threaded,
    } = latest_rows(db, room.num).await?;
    let Some(first) = rows.first() else {
        return Ok(LoadedEvents {
            ring: VecDeque::new(),
            complete_after,
            state: state_map(db, room.state).await?,
        });
    };
    let before = first.timeline.previous();
    let mut state = state_map_at(db, room.state, before).await?;
    let mut changes = state_changes_since(db, strings, room.state, before)
        .await?
        .into_iter()
        .peekable();
    let mut ring = VecDeque::with_capacity(RING_CAPACITY);
    for row in rows {
        while let Some(change) = changes.next_if(|change| change.place < row.timeline) {
            change.apply_to(&mut state);
        }
        let mut event = event_with_state(db, row, state.clone(), rules).await?;
        if let Some(thread) = &mut event.thread {
            thread.added = event.threaded_counters - threaded;
        }
        threaded = event.threaded_counters;
        let mut keys = Vec::new();
        while let Some(change) = changes.next_if(|change| change.place == event.timeline) {
            change.apply_to(&mut state);
            keys.push((change.kind, change.state_key));
        }
        if !is_only_change(&keys, &event.pdu) {
            event.resolved = Some(Arc::new(ResolvedState {
                state: state.clone(),
                changed_keys: keys,
                after_gap: false,
            }));
        }
        ring.push_back(Arc::new(event));
    }
    for change in changes {
        change.apply_to(&mut state);
    }
    Ok(LoadedEvents {
        ring,
        complete_after,
        state,
    })
}

/// Returns whether the event itself is the only change of the room's state at its place, as for most
/// events.
fn is_only_change(keys: &[(StateEventType, String)], pdu: &Pdu) -> bool {
    match (keys, &pdu.state_key) {
        ([], None) => true,
        ([(kind, key)], Some(state_key)) => *kind == pdu.state_type() && key == state_key,
        _ => false,
    }
}

/// The rows of a room's latest events.
struct LatestRows {
    /// The rows without a gap between them, the oldest first.
    rows: Vec<EventRow>,
    /// The place after which they are complete.
    complete_after: Position,
    /// The counters of threads at that place.
    threaded: NotificationCounters,
}

async fn latest_rows(db: &mut impl ReadAccess, room: RoomNum) -> Result<LatestRows> {
    let limit = i64::try_from(RING_CAPACITY).unwrap_or(i64::MAX);
    let mut rows: Vec<EventRow> = events::before_place(db, room, Position::MAX, limit + 1).await?;
    let gap = timeline_gaps::newest_gap(db, room)
        .await?
        .unwrap_or(Position::MIN);
    let is_apart = |row: &EventRow| row.backfilled || row.timeline < gap;
    let older = match rows.iter().position(is_apart) {
        Some(apart) => Some(rows.split_off(apart).swap_remove(0)),
        None if rows.len() > RING_CAPACITY => rows.pop(),
        None => None,
    };
    rows.reverse();
    let threaded = older
        .as_ref()
        .map(EventRow::threaded_counters)
        .unwrap_or_default();
    let complete_after = match (&older, rows.first()) {
        (Some(older), Some(first)) if is_apart(older) => first.timeline.previous(),
        (Some(older), _) => older.timeline,
        (None, Some(first)) if gap != Position::MIN => first.timeline.previous(),
        (None, _) => Position::ZERO,
    };
    Ok(LatestRows {
        rows,
        complete_after,
        threaded,
    })
}

/// A change of a room's state.
struct StateChange {
    /// The place in the timeline at which it took effect.
    place: Position,
    kind: StateEventType,
    state_key: String,
    event: Option<Arc<Pdu>>,
}

impl StateChange {
    fn apply_to(&self, state: &mut StateMap) {
        state.set_or_remove(&self.kind, &self.state_key, self.event.as_ref());
    }
}

async fn state_changes_since(
    db: &mut impl ReadAccess,
    strings: &InternedStrings,
    snapshot: SnapshotId,
    after: Position,
) -> Result<Vec<StateChange>> {
    let rows = {
        let range = PositionRange {
            after,
            up_to: Position::MAX,
        };
        state_snapshots::state_changes(db, snapshot, range).await?
    };
    let numbers: Vec<StringNum> = rows
        .iter()
        .flat_map(|row| [row.kind, row.state_key])
        .collect();
    let texts = strings.find_texts(db, &numbers).await?;
    let mut changes = Vec::with_capacity(rows.len());
    for row in rows {
        let (Some(kind), Some(key)) = (texts.get(&row.kind), texts.get(&row.state_key)) else {
            continue;
        };
        changes.push(StateChange {
            place: row.snapshot.position(),
            kind: StateEventType::from(&**kind),
            state_key: key.to_string(),
            event: parse_state_event(row.event_id, row.json)?,
        });
    }
    Ok(changes)
}

async fn event_with_state(
    db: &mut impl ReadAccess,
    row: EventRow,
    state: StateMap,
    rules: &RoomVersionRules,
) -> Result<TimelineEvent> {
    let pdu = Arc::new(Pdu::parse(parse_event_id(&row.event_id)?, &row.json)?);
    let redaction = row.redacted_by.clone();
    let mut event = event_from_row(row, pdu, rules);
    event.state_before = Some(state);
    if let Some(redaction) = redaction {
        event.redacted_by = pdu_by_id(db, &redaction).await?.map(Arc::new);
    }
    Ok(event)
}
