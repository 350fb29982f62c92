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
    timeline::event_of_row,
    warm::{RING, Room, Tip, View},
};
use crate::{
    error::{Error, Result},
    matrix::{self, Counters, Pdu, StateMap, TimelineEvent},
    storage::{
        self, Db, Position, Read, Receipt, RoomNum,
        events::{self, EventRow},
        receipts,
        rooms::{self, RoomRow},
        state,
        strings::Strings,
    },
};

/// Loads a room; returns it with the position up to which it knows the journal.
pub(super) async fn room(
    db: &Db,
    server_name: &ServerName,
    num: RoomNum,
) -> Result<(Room, Position)> {
    let mut tx = db.snapshot().await?;
    let known = storage::position(&mut tx).await?;
    let row = rooms::get(&mut tx, num).await?;
    let row = row.ok_or_else(|| Error::not_found(format!("there is no room with number {num}")))?;
    let version = RoomVersionId::try_from(row.version.as_str())
        .map_err(|source| Error::internal("read the version of a room", source))?;
    let rules = matrix::rules(&version).ok_or_else(|| {
        Error::UnsupportedRoomVersion(format!("version {version} is not supported"))
    })?;
    let room_id = OwnedRoomId::try_from(row.room_id.as_str())
        .map_err(|source| Error::internal("read the id of a room", source))?;
    let view = view(&mut tx, &db.strings, &row, &rules, server_name).await?;
    let tip = tip(&mut tx, &row, &view).await?;
    Ok((Room::new(num, room_id, version, rules, (tip, view)), known))
}

async fn tip(db: &mut impl Read, row: &RoomRow, view: &View) -> Result<Tip> {
    let forward_extremities: Vec<OwnedEventId> = serde_json::from_str(&row.forward_extremities)?;
    let mut depth = 0;
    let mut hashes = HashMap::new();
    for (event_id, _, json) in events::by_ids(db, &forward_extremities).await? {
        let event_id = OwnedEventId::try_from(event_id)
            .map_err(|source| Error::internal("read an event id", source))?;
        let pdu = Pdu::parse(event_id, &json)?;
        depth = depth.max(u64::from(pdu.depth));
        hashes.extend(pdu.reference_hash.map(|hash| (pdu.event_id, hash)));
    }
    let extremities = forward_extremities.iter();
    Ok(Tip {
        hashes: extremities.filter_map(|id| hashes.remove(id)).collect(),
        state: view.state.clone(),
        snapshot: row.state,
        chain: state::chain_of(db, row.state).await?.unwrap_or(0),
        forward_extremities,
        depth,
        notified: view.notified,
        mentioned: view.mentioned,
        threaded: view.threaded,
        joined_members: view.joined_members,
    })
}

async fn view(
    db: &mut impl Read,
    strings: &Strings,
    row: &RoomRow,
    rules: &RoomVersionRules,
    server_name: &ServerName,
) -> Result<View> {
    let (ring, ring_after) = ring(db, row.num, rules).await?;
    let mut view = View {
        state: state_map(db, row.state).await?,
        ring_after,
        last_position: row.last_position,
        notified: ring.back().map_or(0, |event| event.notified),
        mentioned: ring.back().map_or(0, |event| event.mentioned),
        threaded: ring
            .back()
            .map_or(Counters::default(), |event| event.threaded),
        ring,
        ..View::default()
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
        if let Some(user_id) = pdu.member()
            && user_id.server_name() == server_name
            && pdu.membership() == Some(MembershipState::Join)
            && let Some(user) = strings.find(db, user_id.as_str()).await?
        {
            view.local_members.insert(user, user_id.to_owned());
        }
    }
    load_receipts(db, strings, row.num, &mut view).await?;
    Ok(view)
}

async fn load_receipts(
    db: &mut impl Read,
    strings: &Strings,
    room: RoomNum,
    view: &mut View,
) -> Result<()> {
    let rows = receipts::of_room(db, room).await?;
    let users: Vec<i64> = rows.iter().map(|row| row.user_num).collect();
    let users = strings.texts(db, &users).await?;
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

/// Returns the latest events with the state before each, and the place after which they are complete.
async fn ring(
    db: &mut impl Read,
    room: RoomNum,
    rules: &RoomVersionRules,
) -> Result<(VecDeque<Arc<TimelineEvent>>, i64)> {
    let limit = i64::try_from(RING).unwrap_or(i64::MAX);
    let mut rows: Vec<EventRow> = events::before(db, room, i64::MAX, limit + 1).await?;
    rows.reverse();
    let (complete_after, mut threaded) = if rows.len() > RING {
        let row = rows.remove(0);
        (row.timeline, row.threaded())
    } else {
        (0, Counters::default())
    };
    let mut ring = VecDeque::with_capacity(RING);
    // Along a line of events the state is carried forward; only where it forks is it read again.
    let mut carried: Option<(i64, StateMap)> = None;
    for row in rows {
        let state = match carried.take() {
            Some((snapshot, state)) if snapshot == row.state => state,
            _ => state_map(db, row.state).await?,
        };
        let mut event = event_with_state(db, row, state.clone(), rules).await?;
        if let Some(thread) = &mut event.thread {
            thread.added = event.threaded - threaded;
        }
        threaded = event.threaded;
        carried = Some(match event.pdu.state_key {
            Some(_) => {
                let mut after = state;
                after.insert(event.pdu.clone());
                (event.position, after)
            }
            None => (event.snapshot, state),
        });
        ring.push_back(Arc::new(event));
    }
    Ok((ring, complete_after))
}

async fn event_with_state(
    db: &mut impl Read,
    row: EventRow,
    state: StateMap,
    rules: &RoomVersionRules,
) -> Result<TimelineEvent> {
    let event_id = OwnedEventId::try_from(row.event_id.as_str())
        .map_err(|e| Error::internal("read an event id", e))?;
    let pdu = Arc::new(Pdu::parse(event_id, &row.json)?);
    let redaction = row.redacted_by.clone();
    let mut event = event_of_row(row, pdu, rules);
    event.state_before = Some(state);
    if let Some(redaction) = redaction {
        event.redacted_by = pdu_by_id(db, &redaction).await?.map(Arc::new);
    }
    Ok(event)
}

/// Returns a stored event by its id.
pub(super) async fn pdu_by_id(db: &mut impl Read, event_id: &str) -> Result<Option<Pdu>> {
    let Some((event_id, _, json)) = events::by_ids(db, [event_id]).await?.into_iter().next() else {
        return Ok(None);
    };
    let event_id =
        OwnedEventId::try_from(event_id).map_err(|e| Error::internal("read an event id", e))?;
    Pdu::parse(event_id, &json).map(Some)
}

/// Returns the state of a snapshot.
pub(super) async fn state_map(db: &mut impl Read, snapshot: i64) -> Result<StateMap> {
    let mut map = StateMap::default();
    let mut held: HashMap<(i64, i64), (String, String)> = HashMap::new();
    for row in state::all(db, snapshot).await? {
        match row.event_id.zip(row.json) {
            Some(event) => drop(held.insert((row.kind, row.state_key), event)),
            None => drop(held.remove(&(row.kind, row.state_key))),
        }
    }
    for (event_id, json) in held.into_values() {
        let event_id =
            OwnedEventId::try_from(event_id).map_err(|e| Error::internal("read an event id", e))?;
        map.insert(Arc::new(Pdu::parse(event_id, &json)?));
    }
    Ok(map)
}
