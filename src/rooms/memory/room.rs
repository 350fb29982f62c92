//! A room in memory: its tip, on which the next event builds, and the view that readers have of it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, UserId,
    events::{StateEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use tokio::sync::Mutex;

use super::{journal_cache::CachedValue, recent_events::RecentRoomEvents};
use crate::{
    matrix::{self, NotificationCounters, Pdu, ResolvedState, RoomFacts, StateMap, TimelineEvent},
    numbers::{AtomicPosition, Position, RoomNum, SnapshotId, StateChainNum, UserNum},
    storage::{JournalChange, Receipt},
};

/// The maximum number of latest events that a room keeps in memory.
pub(crate) const RING_CAPACITY: usize = 96;

/// A room in memory.
#[derive(Debug)]
pub struct Room {
    /// Its number.
    pub num: RoomNum,
    /// Its id.
    pub room_id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The rules of that version.
    pub rules: RoomVersionRules,
    /// Locked while an event is built, until it is in the journal's batch.
    pub(crate) tip: Mutex<RoomTip>,
    view: RwLock<RoomView>,
    /// Locked while this server sends an event that a policy server has to sign, so that such events are
    /// sent one after another.
    pub(crate) policy_check_lock: Arc<Mutex<()>>,
    /// Set when the room must be loaded again, for example after a batch with its events was lost.
    pub(crate) stale: AtomicBool,
    /// The newest position that was passed to the journal.
    pub(crate) submitted_position: AtomicPosition,
}

/// The unchanging properties of a room.
pub(crate) struct RoomIdentity {
    pub(crate) num: RoomNum,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) version: RoomVersionId,
    pub(crate) rules: RoomVersionRules,
}

/// The maximum number of events in the `prev_events` of an event.
pub(crate) const MAX_PREV_EVENTS: usize = 20;

/// The end of a room, on which the next event builds. It is ahead of the view by the events that are
/// not on disk yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct RoomTip {
    pub(crate) state: StateMap,
    pub(crate) snapshot: SnapshotId,
    pub(crate) snapshot_chain: StateChainNum,
    pub(crate) forward_extremities: Vec<OwnedEventId>,
    /// The hashes of the extremities, for room versions whose event ids do not contain them.
    pub(crate) extremity_hashes: Vec<String>,
    /// The greatest depth among the extremities.
    pub(crate) depth: u64,
    pub(crate) notified: i64,
    pub(crate) mentioned: i64,
    /// The part of these counts that belongs to threads.
    pub(crate) threaded: NotificationCounters,
    pub(crate) joined_members: i64,
    /// The latest events, and the state after each.
    pub(crate) recent_events: RecentRoomEvents,
}

/// A server in a room.
#[derive(Clone, Copy, Debug)]
pub struct ServerInRoom {
    /// The number of its users who have joined.
    pub members: i64,
    /// The place of the timeline at which the first of them joined; 0 if that was before the events in
    /// memory.
    pub since: Position,
}

/// The view that readers have of a room: everything that is on disk.
#[derive(Debug, Default)]
pub struct RoomView {
    /// The current state.
    pub state: StateMap,
    /// Its snapshot.
    pub snapshot: SnapshotId,
    /// The latest events, the oldest first.
    pub ring: VecDeque<Arc<TimelineEvent>>,
    /// The place of the timeline after which the ring holds every event.
    pub ring_after: Position,
    /// The position of the newest change that is sent to members.
    pub last_position: Position,
    /// The number of all events so far that notify by the default push rules.
    pub notified: i64,
    /// The number of all events so far that mention the whole room.
    pub mentioned: i64,
    /// The part of these counts that belongs to threads.
    pub threaded: NotificationCounters,
    /// The number of joined members.
    pub joined_members: i64,
    /// The number of invited users.
    pub invited_members: i64,
    /// The users of this server who have joined.
    pub local_members: HashMap<UserNum, OwnedUserId>,
    /// The servers in the room.
    pub servers: BTreeMap<OwnedServerName, ServerInRoom>,
    /// The receipts, by position.
    pub receipts: BTreeMap<Position, Arc<Receipt>>,
}

/// An event that no other event of the room follows yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoomExtremity<'a> {
    pub(crate) event_id: &'a OwnedEventId,
    /// The hash, for room versions whose event ids do not contain it.
    pub(crate) hash: Option<&'a String>,
}

/// The events that a new event follows.
#[derive(Debug)]
pub(crate) struct PrevEvents {
    pub(crate) ids: Vec<OwnedEventId>,
    /// The hashes of the events, for room versions whose event ids do not contain them.
    pub(crate) hashes: Vec<String>,
}

impl RoomTip {
    /// Returns the forward extremities, with their hashes where these are kept.
    pub(crate) fn extremities(&self) -> impl Iterator<Item = RoomExtremity<'_>> {
        let hashes = self
            .extremity_hashes
            .iter()
            .map(Some)
            .chain(std::iter::repeat(None));
        let extremities = self.forward_extremities.iter().zip(hashes);
        extremities.map(|(event_id, hash)| RoomExtremity { event_id, hash })
    }

    /// Returns the events that a new event of this server follows, with their hashes: all extremities,
    /// or the oldest and the newest if they are too many. So lines of events that an attack adds soon
    /// end, and the lines from before the attack are kept.
    pub(crate) fn choose_prev_events(&self) -> PrevEvents {
        let surplus = self
            .forward_extremities
            .len()
            .saturating_sub(MAX_PREV_EVENTS);
        let (from, to) = (MAX_PREV_EVENTS / 2, MAX_PREV_EVENTS / 2 + surplus);
        let named = self.extremities().enumerate();
        let named = named.filter(|(nth, _)| surplus == 0 || *nth < from || *nth >= to);
        let (ids, hashes): (Vec<_>, Vec<_>) = named
            .map(|(_, extremity)| (extremity.event_id.clone(), extremity.hash.cloned()))
            .unzip();
        PrevEvents {
            ids,
            hashes: hashes.into_iter().flatten().collect(),
        }
    }

    /// Replaces the extremities that an event follows with the event.
    pub(crate) fn replace_extremities(&mut self, pdu: &Pdu) {
        let left = self
            .extremities()
            .filter(|extremity| !pdu.prev_events.contains(extremity.event_id))
            .map(|extremity| (extremity.event_id.clone(), extremity.hash.cloned()));
        let own = (pdu.event_id.clone(), pdu.reference_hash.clone());
        let (ids, hashes): (Vec<_>, Vec<_>) = left.chain([own]).unzip();
        self.forward_extremities = ids;
        self.extremity_hashes = hashes.into_iter().flatten().collect();
    }
}

impl Room {
    pub(crate) fn new(identity: RoomIdentity, tip: RoomTip, view: RoomView) -> Self {
        Self {
            num: identity.num,
            room_id: identity.room_id,
            version: identity.version,
            rules: identity.rules,
            tip: Mutex::new(tip),
            view: RwLock::new(view),
            policy_check_lock: Arc::default(),
            stale: AtomicBool::new(false),
            submitted_position: AtomicPosition::default(),
        }
    }

    /// Returns the view that readers have. Hold the lock for moments only.
    pub fn view(&self) -> RwLockReadGuard<'_, RoomView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the facts on which push rules depend.
    pub fn push_facts(&self) -> RoomFacts {
        let (state, members) = {
            let view = self.view();
            (view.state.clone(), view.joined_members)
        };
        RoomFacts {
            room_id: self.room_id.clone(),
            member_count: u64::try_from(members).unwrap_or(0),
            power_levels: Some(matrix::power_levels(&state, &self.rules)),
        }
    }

    /// Returns the display name that a user has in the room, or the localpart of the user id.
    pub fn display_name(&self, user_id: &UserId) -> String {
        let state = self.view().state.clone();
        let member = state.get(&StateEventType::RoomMember, user_id.as_str());
        member
            .and_then(|member| member.content_str("displayname"))
            .unwrap_or_else(|| user_id.localpart().to_owned())
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::SeqCst)
    }
}

impl CachedValue for Room {
    fn apply(&self, position: Position, change: &JournalChange) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            JournalChange::Event { event, .. } => view.push_event(event.clone()),
            JournalChange::Redacted { event, .. } => view.redact(event),
            JournalChange::Membership {
                user,
                user_id,
                membership,
                local: true,
                ..
            } => {
                if *membership == Some(MembershipState::Join) {
                    view.local_members.insert(*user, user_id.clone());
                } else {
                    view.local_members.remove(user);
                }
            }
            JournalChange::Receipt { receipt, .. } => view.add_receipt(receipt.clone()),
            JournalChange::Backfilled { .. } => {
                view.forget_before_ring();
                return;
            }
            _ => return,
        }
        view.last_position = view.last_position.max(position);
    }

    fn is_idle(&self) -> bool {
        let released = self.submitted_position.load();
        self.tip.try_lock().is_ok() && released <= self.view().last_position
    }
}

impl RoomView {
    /// Returns the place of the newest event of the timeline, or 0 if there is no event in memory.
    pub fn newest_place(&self) -> Position {
        self.ring
            .back()
            .map_or(Position::ZERO, |event| event.timeline)
    }

    /// Adds an accepted event, the newest of the timeline.
    pub(crate) fn push_event(&mut self, event: Arc<TimelineEvent>) {
        self.notified = event.notified;
        self.mentioned = event.mentioned;
        self.threaded = event.threaded_counters;
        if let Some(resolved) = &event.resolved {
            self.apply_resolved_state(resolved, event.timeline);
        } else if event.pdu.state_key.is_some() {
            let replaced = self.state.insert(event.pdu.clone());
            self.count_member_change(replaced.as_deref(), Some(&event.pdu), event.timeline);
            self.snapshot = SnapshotId::at(event.timeline);
        }
        self.ring.push_back(event);
        if self.ring.len() > RING_CAPACITY
            && let Some(oldest) = self.ring.pop_front()
        {
            self.ring_after = oldest.timeline;
        }
    }

    /// Applies the state that was resolved from several lines of events.
    fn apply_resolved_state(&mut self, resolved: &ResolvedState, place: Position) {
        let before = std::mem::replace(&mut self.state, resolved.state.clone());
        for (kind, key) in &resolved.changed_keys {
            let after = resolved.state.get(kind, key);
            let before = before.get(kind, key).map(|pdu| &**pdu);
            self.count_member_change(before, after.map(|pdu| &**pdu), place);
        }
        if !resolved.changed_keys.is_empty() {
            self.snapshot = SnapshotId::at(place);
        }
        if resolved.after_gap {
            self.ring.clear();
            self.ring_after = place.previous();
        }
    }

    /// Records that memory no longer knows which events come before those of the ring.
    fn forget_before_ring(&mut self) {
        if let Some(first) = self.ring.front() {
            self.ring_after = self.ring_after.max(first.timeline.previous());
        }
    }

    /// Updates the member counts after a member event has replaced another.
    fn count_member_change(&mut self, before: Option<&Pdu>, after: Option<&Pdu>, place: Position) {
        let Some(user_id) = after.or(before).and_then(Pdu::member) else {
            return;
        };
        let change = joined_count(after) - joined_count(before);
        self.joined_members += change;
        let invited = |pdu: Option<&Pdu>| {
            i64::from(pdu.and_then(Pdu::membership) == Some(MembershipState::Invite))
        };
        self.invited_members += invited(after) - invited(before);
        if change != 0 {
            count_server_member(&mut self.servers, user_id, change, place);
        }
    }

    /// Replaces an event with its redacted form wherever memory holds it.
    fn redact(&mut self, redacted: &Arc<TimelineEvent>) {
        replace_redacted(&mut self.state, &redacted.pdu);
        for entry in &mut self.ring {
            if entry.pdu.event_id == redacted.pdu.event_id {
                let event = Arc::make_mut(entry);
                event.pdu = redacted.pdu.clone();
                event.head.clone_from(&redacted.head);
                event.redacted_by.clone_from(&redacted.redacted_by);
            } else if holds_event(entry.state_before.as_ref(), &redacted.pdu)
                && let Some(state) = &mut Arc::make_mut(entry).state_before
            {
                replace_redacted(state, &redacted.pdu);
            }
        }
    }

    pub(crate) fn add_receipt(&mut self, receipt: Arc<Receipt>) {
        let older = self
            .receipts
            .iter()
            .find(|(_, known)| {
                known.user_id == receipt.user_id
                    && known.kind == receipt.kind
                    && known.thread == receipt.thread
            })
            .map(|(position, _)| *position);
        if let Some(older) = older {
            self.receipts.remove(&older);
        }
        self.receipts.insert(receipt.position, receipt);
    }
}

/// Updates the member count of a user's server after the user joined or left.
pub(crate) fn count_server_member(
    servers: &mut BTreeMap<OwnedServerName, ServerInRoom>,
    user_id: &UserId,
    change: i64,
    place: Position,
) {
    let server = user_id.server_name();
    let entry = servers.entry(server.to_owned()).or_insert(ServerInRoom {
        members: 0,
        since: place,
    });
    entry.members += change;
    if entry.members <= 0 {
        servers.remove(server);
    }
}

/// Returns the difference between the numbers of joined members of two states that differ only under
/// some keys.
pub(crate) fn count_joined_between(
    before: &StateMap,
    after: &StateMap,
    keys: &[(StateEventType, String)],
) -> i64 {
    let members = keys
        .iter()
        .filter(|(kind, _)| *kind == StateEventType::RoomMember);
    members
        .map(|(kind, key)| {
            let joined_in = |state: &StateMap| joined_count(state.get(kind, key).map(|pdu| &**pdu));
            joined_in(after) - joined_in(before)
        })
        .sum()
}

/// Returns 1 for the member event of a user who has joined, and 0 for any other event.
pub(crate) fn joined_count(pdu: Option<&Pdu>) -> i64 {
    i64::from(pdu.and_then(Pdu::membership) == Some(MembershipState::Join))
}

fn holds_event(state: Option<&StateMap>, pdu: &Pdu) -> bool {
    let (Some(state), Some(state_key)) = (state, pdu.state_key.as_deref()) else {
        return false;
    };
    state
        .get(&pdu.state_type(), state_key)
        .is_some_and(|held| held.event_id == pdu.event_id)
}

/// Replaces a state event with its redacted form, if the state holds that event.
pub(crate) fn replace_redacted(state: &mut StateMap, pdu: &Arc<Pdu>) {
    if holds_event(Some(state), pdu) {
        state.insert(pdu.clone());
    }
}
