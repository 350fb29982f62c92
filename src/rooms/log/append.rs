//! Appending an event to a room. No other code stores events of the timeline.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedUserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;

use super::{
    EventLog, invite_expiry, redactions,
    relations::{self, RelatingEvent},
    snapshots::{self, SnapshotBase},
};
use crate::{
    error::{Error, Result},
    matrix::{
        self, CountException, EventVisibility, NotificationCounters, Pdu, ResolvedState, StateMap,
        TimelineEvent,
    },
    rooms::{
        memory::{
            recent_events::RecentRoomEvent,
            room::{Room, RoomTip, joined_count},
        },
        read::listing::{build_listing, is_directory_state},
        unread::{
            push_counts::UnreadIncrement,
            read_markers::{self, RoomReader},
        },
    },
    storage::{
        DeviceNum, JournalChange, UserNum, WriteTx,
        rooms::{
            delayed_events::{self, DelayedEventOutcome},
            events::{self, EventStatus, NewEventRow},
            memberships::{self, NewMembership},
            room_table, state_snapshots, timeline_gaps, unread_counts,
        },
    },
};

/// The places reserved in the timeline where events are missing.
pub(crate) const GAP_PLACES: i64 = 1 << 20;

/// An event that was built and authorized, with the data to store with it.
#[derive(Debug)]
pub(crate) struct AcceptedEvent {
    pub(crate) pdu: Pdu,
    pub(crate) json: String,
    pub(crate) counting: UnreadIncrement,
    pub(crate) transaction: Option<(DeviceNum, String)>,
    /// The number of the delayed event that is sent with this event.
    pub(crate) delayed_event: Option<i64>,
    /// Data that only events of other servers have.
    pub(crate) arrival: Option<RemoteArrival>,
    /// Whether the server sends the event without the sender's action, so that it does not show
    /// what the sender has read.
    pub(crate) unattended: bool,
}

impl AcceptedEvent {
    /// Keeps the read state of the sender: the event is not counted as unread for them, like their
    /// other events.
    pub(crate) fn keep_sender_unread(&mut self) {
        self.unattended = true;
        let counted = (self.counting.notify, self.counting.mention);
        if counted != (false, false) {
            let sender = self.pdu.sender.clone();
            let exception = (sender, -i64::from(counted.0), -i64::from(counted.1));
            self.counting.exceptions.push(exception);
        }
    }
}

/// Data about an event of another server that is not part of the event.
#[derive(Debug, Default)]
pub(crate) struct RemoteArrival {
    /// The position at which it is already stored, without a place in the timeline.
    pub(crate) stored_at: Option<i64>,
    /// Whether this server sends the event to the other servers in the room.
    pub(crate) is_outgoing: bool,
    /// The position of the event in a fork; `None` if it follows the forward extremities.
    pub(crate) fork: Option<EventFork>,
}

/// The states around an event that does not follow all forward extremities of the room.
#[derive(Debug)]
pub(crate) struct EventFork {
    /// The snapshot of the state before the event.
    pub(crate) base: SnapshotBase,
    /// The state before the event.
    pub(crate) before: StateMap,
    /// The resolved state of the room after the event.
    pub(crate) current: StateMap,
    /// The forward extremities after the event, each with its hash if the event id does not contain
    /// it.
    pub(crate) extremities: Vec<(OwnedEventId, Option<String>)>,
    /// The `prev_events` that this server does not have.
    pub(crate) missing: Vec<OwnedEventId>,
    /// The place before which the missing events belong, if it was already reserved.
    pub(crate) gap_at: Option<i64>,
}

/// The position of an event, and the numbers of its interned strings.
pub(crate) struct EventNumbers {
    /// The position in the journal, and the place in the timeline.
    pub(crate) position: i64,
    /// The position at which the event is stored: an earlier one if it was stored
    /// without a place before.
    pub(crate) stored_at: i64,
    pub(crate) kind: i64,
    pub(crate) sender: UserNum,
    pub(crate) state_key: Option<i64>,
}

/// Stores an event as the newest of its room and updates the tip.
///
/// Returns `None`, and changes nothing, if the device has used the transaction id before or the
/// event is already stored.
pub(crate) async fn append(
    log: &EventLog,
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    mut accepted: AcceptedEvent,
) -> Result<Option<Arc<TimelineEvent>>> {
    let arrival = accepted.arrival.take();
    let is_arrival = arrival.is_some();
    let made_here = || RemoteArrival {
        is_outgoing: true,
        ..RemoteArrival::default()
    };
    let arrival = arrival.unwrap_or_else(made_here);
    if arrival.fork.as_ref().is_some_and(needs_gap_places) {
        tx.reserve_positions(GAP_PLACES);
    }
    let numbers = intern_event(tx, &accepted.pdu, arrival.stored_at).await?;
    let stand = EventPlacement::prepare(tx, tip, &numbers, arrival).await?;
    let is_withheld = redactions::is_withheld(tx, room, &stand.before, &accepted.pdu).await?;
    if is_withheld {
        accepted.counting = UnreadIncrement::default();
    }
    let mut event = build_timeline_event(tx, room, (tip, &stand), &numbers, &accepted).await?;
    event.is_withheld = is_withheld;
    if !store_event(tx, room, (&numbers, &stand), &event, &accepted.json).await? {
        return Ok(None);
    }
    store_relation(tx, room, &numbers, &event).await?;
    finish_delayed_events(log, tx, room, (&accepted, numbers.sender)).await?;
    match &stand.fork {
        Some(fork) => advance_past_fork(log, tx, room, tip, (&numbers, &event, fork)).await?,
        None => advance_past_event(log, tx, room, tip, (&numbers, &event)).await?,
    }
    tip.remember_state_after(&event, stand.state_after(tip, &event));
    let extremities = serde_json::to_string(&tip.forward_extremities)?;
    room_table::set_tip(tx, room.num, &extremities, tip.snapshot, event.position).await?;
    if event.pdu.sender.server_name() == log.key.server_name() && event.is_read_by_sender() {
        let reader = RoomReader {
            user: numbers.sender,
            room: room.num,
            position: numbers.position,
        };
        read_markers::mark_read_by_sending(tx, reader, &event).await?;
    }
    unread_counts::insert_exceptions(tx, room.num, &event.exceptions).await?;
    let event = Arc::new(event);
    tx.publish(
        numbers.position,
        JournalChange::Event {
            room: room.num,
            sender: numbers.sender,
            event: event.clone(),
        },
    );
    if is_arrival {
        redactions::apply_redactions_on_arrival(tx, room, tip, (&event.pdu, &stand.before)).await?;
    } else if event.pdu.kind == TimelineEventType::RoomRedaction {
        redactions::apply_redaction(tx, room, tip, (&event.pdu, &stand.before)).await?;
    }
    Ok(Some(event))
}

fn needs_gap_places(fork: &EventFork) -> bool {
    has_gap(fork) && fork.gap_at.is_none()
}

fn has_gap(fork: &EventFork) -> bool {
    !fork.missing.is_empty()
}

/// The states before and after an event that is about to be stored.
struct EventPlacement {
    before: StateMap,
    /// The snapshot before the event.
    snapshot: i64,
    /// The snapshot after the event, unless it follows from the numbers of the event.
    snapshot_after: Option<i64>,
    /// Whether this server sends the event to the other servers in the room.
    is_outgoing: bool,
    fork: Option<EventFork>,
}

impl EventPlacement {
    async fn prepare(
        tx: &mut WriteTx,
        tip: &RoomTip,
        numbers: &EventNumbers,
        arrival: RemoteArrival,
    ) -> Result<Self> {
        let mut stand = Self {
            before: tip.state.clone(),
            snapshot: tip.snapshot,
            snapshot_after: None,
            is_outgoing: arrival.is_outgoing,
            fork: arrival.fork,
        };
        if let Some(fork) = &stand.fork {
            stand.before = fork.before.clone();
            stand.snapshot = snapshots::store_snapshot(tx, &fork.base, tip.snapshot_chain).await?;
            if let Some(state_key) = numbers.state_key {
                let entry = (numbers.kind, state_key, Some(numbers.stored_at));
                let after =
                    snapshots::store_branch(tx, stand.snapshot, &[entry], tip.snapshot_chain)
                        .await?;
                stand.snapshot_after = Some(after);
            }
        } else if numbers.state_key.is_some() && numbers.stored_at != numbers.position {
            stand.snapshot_after = Some(numbers.position);
        }
        Ok(stand)
    }

    /// Returns the state that events see that follow this event.
    fn state_after(&self, tip: &RoomTip, event: &TimelineEvent) -> RecentRoomEvent {
        let (mut snapshot, mut state) = (tip.snapshot, tip.state.clone());
        if self.fork.is_some() {
            snapshot = self.snapshot_after.unwrap_or(self.snapshot);
            state = self.before.clone();
            if event.pdu.state_key.is_some() {
                state.insert(event.pdu.clone());
            }
        }
        RecentRoomEvent {
            status: EventStatus::Accepted,
            snapshot,
            state,
            prev_events: event.pdu.prev_events.clone(),
        }
    }
}

impl RoomTip {
    /// Keeps the state after an event in memory.
    fn remember_state_after(&mut self, event: &TimelineEvent, after: RecentRoomEvent) {
        self.recent_events.push(event.pdu.event_id.clone(), after);
    }
}

/// Updates the tip for an event that follows all forward extremities.
async fn advance_past_event(
    log: &EventLog,
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    (numbers, event): (&EventNumbers, &TimelineEvent),
) -> Result<()> {
    advance_tip(tip, event);
    let Some(state_key) = numbers.state_key else {
        return Ok(());
    };
    store_state(tx, room, tip, (numbers, state_key), event).await?;
    if event.pdu.member().is_some() {
        let member = (UserNum::new(state_key), Some(&event.pdu), numbers.stored_at);
        store_membership(log, tx, room, (numbers.position, member), &tip.state).await?;
    }
    if is_directory_state(&event.pdu.state_type()) {
        let listing = build_listing(&tip.state, tip.joined_members);
        room_table::set_directory_entry(tx, room.num, &listing).await?;
    }
    Ok(())
}

/// Updates the tip for an event in a fork, to the resolved state.
async fn advance_past_fork(
    log: &EventLog,
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    (numbers, event, fork): (&EventNumbers, &TimelineEvent, &EventFork),
) -> Result<()> {
    let gap_at = fork.gap_at.unwrap_or(event.timeline);
    timeline_gaps::insert(tx, room.num, &fork.missing, gap_at).await?;
    let extremities = fork.extremities.iter();
    tip.forward_extremities = extremities.map(|(id, _)| id.clone()).collect();
    let extremities = fork.extremities.iter();
    tip.extremity_hashes = extremities.filter_map(|(_, hash)| hash.clone()).collect();
    tip.depth = tip.depth.max(u64::from(event.pdu.depth));
    tip.set_counters(event);
    let Some(resolved) = &event.resolved else {
        return Ok(());
    };
    snapshots::set_current_state(log, tx, room, tip, (numbers.position, resolved)).await
}

/// Marks a delayed event as sent, and cancels the delayed events of other users for the same piece
/// of state.
async fn finish_delayed_events(
    log: &EventLog,
    tx: &mut WriteTx,
    room: &Room,
    (accepted, sender): (&AcceptedEvent, UserNum),
) -> Result<()> {
    if !log.delayed_events.may_have_work() {
        return Ok(());
    }
    let (pdu, now) = (&accepted.pdu, log.clock.now_ms());
    if let Some(num) = accepted.delayed_event {
        let ending = DelayedEventOutcome {
            ts: now,
            event_id: Some(pdu.event_id.as_str()),
            error: None,
        };
        if !delayed_events::finish(tx, num, ending).await? {
            return Err(Error::Finalised(
                "the delayed event was already sent or cancelled".to_owned(),
            ));
        }
    }
    if let Some(state_key) = &pdu.state_key {
        let kind = pdu.kind.to_string();
        delayed_events::cancel_state_of_others(tx, room.num, (&kind, state_key), sender, now)
            .await?;
    }
    Ok(())
}

pub(crate) async fn intern_event(
    tx: &mut WriteTx,
    pdu: &Pdu,
    stored_at: Option<i64>,
) -> Result<EventNumbers> {
    let position = tx.next_position();
    Ok(EventNumbers {
        position,
        stored_at: stored_at.unwrap_or(position),
        kind: tx.intern(&pdu.kind.to_string()).await?,
        sender: tx.intern_user(pdu.sender.as_str()).await?,
        state_key: match &pdu.state_key {
            Some(state_key) => Some(tx.intern(state_key).await?),
            None => None,
        },
    })
}

/// Returns an event with its place in the timeline.
async fn build_timeline_event(
    tx: &mut WriteTx,
    room: &Room,
    (tip, stand): (&RoomTip, &EventPlacement),
    numbers: &EventNumbers,
    accepted: &AcceptedEvent,
) -> Result<TimelineEvent> {
    let added = NotificationCounters {
        notified: i64::from(accepted.counting.notify),
        mentioned: i64::from(accepted.counting.mention),
    };
    let thread = relations::find_thread(tx, room.num, &accepted.pdu, added).await?;
    let mut exceptions = Vec::with_capacity(accepted.counting.exceptions.len());
    for (user_id, notify, highlight) in &accepted.counting.exceptions {
        exceptions.push(CountException {
            user: tx.intern(user_id.as_str()).await?,
            timeline: numbers.position,
            thread: thread.as_ref().map(|thread| thread.root.clone()),
            notify: *notify,
            highlight: *highlight,
        });
    }
    let resolved = stand.fork.as_ref().map(|fork| {
        Arc::new(ResolvedState {
            state: fork.current.clone(),
            changed_keys: tip.state.differing_keys(&fork.current),
            after_gap: has_gap(fork),
        })
    });
    Ok(TimelineEvent {
        position: numbers.position,
        timeline: numbers.position,
        head: matrix::write_event_head(&accepted.pdu, &room.rules),
        is_withheld: false,
        pdu: Arc::new(accepted.pdu.clone()),
        visibility: event_visibility(&stand.before, &accepted.pdu),
        snapshot: stand.snapshot,
        state_before: Some(match &resolved {
            // Events before a gap are sent as history, not as changes.
            Some(resolved) if resolved.after_gap => stand.before.clone(),
            _ => tip.state.clone(),
        }),
        resolved,
        notified: tip.notified + added.notified,
        mentioned: tip.mentioned + added.mentioned,
        threaded_counters: tip.threaded
            + thread
                .as_ref()
                .map(|thread| thread.added)
                .unwrap_or_default(),
        thread,
        exceptions,
        device: accepted
            .transaction
            .as_ref()
            .map(|(device, _)| device.as_i64()),
        txn_id: accepted
            .transaction
            .as_ref()
            .map(|(_, txn_id)| txn_id.clone()),
        redacted_by: None,
        unattended: accepted.unattended,
    })
}

/// Returns the history visibility of an event, given the state before it.
pub(crate) fn event_visibility(before: &StateMap, pdu: &Pdu) -> EventVisibility {
    let visibility = EventVisibility::of_state(before);
    if pdu.is_state(&TimelineEventType::RoomHistoryVisibility, "") {
        // An event that changes the history visibility is visible to everyone who could see it
        // under the old or the new one.
        return visibility.min(EventVisibility::of_event(pdu));
    }
    visibility
}

async fn store_event(
    tx: &mut WriteTx,
    room: &Room,
    (numbers, stand): (&EventNumbers, &EventPlacement),
    event: &TimelineEvent,
    json: &str,
) -> Result<bool> {
    let row = NewEventRow {
        position: numbers.stored_at,
        room: room.num,
        event_id: event.pdu.event_id.as_str(),
        timeline: Some(event.timeline),
        kind: numbers.kind,
        state_key: numbers.state_key,
        sender: numbers.sender,
        state: Some(event.snapshot),
        state_after: stand.snapshot_after,
        backfilled: false,
        goes_out: stand.is_outgoing,
        withheld: event.is_withheld,
        visibility: event.visibility.number(),
        status: EventStatus::Accepted,
        notified: event.notified,
        mentioned: event.mentioned,
        threaded_counters: event.threaded_counters,
        thread: event
            .thread
            .as_ref()
            .map(|thread| (thread.root.as_str(), thread.counters)),
        origin_server_ts: event.pdu.origin_server_ts.0.into(),
        transaction: event
            .device
            .map(DeviceNum::new)
            .zip(event.txn_id.as_deref()),
        json,
    };
    if numbers.stored_at == numbers.position {
        return events::insert(tx, &row).await;
    }
    events::set_place(tx, &row).await?;
    Ok(true)
}

async fn store_relation(
    tx: &mut WriteTx,
    room: &Room,
    numbers: &EventNumbers,
    event: &TimelineEvent,
) -> Result<()> {
    let stored = RelatingEvent {
        room: room.num,
        position: numbers.stored_at,
        timeline: event.timeline,
        kind: numbers.kind,
        sender: numbers.sender,
    };
    relations::store_relation(tx, stored, &event.pdu, event.thread.as_ref()).await
}

fn advance_tip(tip: &mut RoomTip, event: &TimelineEvent) {
    tip.replace_extremities(&event.pdu);
    tip.depth = tip.depth.max(u64::from(event.pdu.depth));
    tip.set_counters(event);
    if event.pdu.state_key.is_some() {
        let replaced = tip.state.insert(event.pdu.clone());
        if event.pdu.member().is_some() {
            tip.joined_members +=
                joined_count(Some(&event.pdu)) - joined_count(replaced.as_deref());
        }
    }
}

impl RoomTip {
    /// Sets the running counters to those of an event.
    fn set_counters(&mut self, event: &TimelineEvent) {
        self.notified = event.notified;
        self.mentioned = event.mentioned;
        self.threaded = event.threaded_counters;
    }
}

/// Stores the snapshot after a state event: one row in the chain of the room.
async fn store_state(
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    (numbers, state_key): (&EventNumbers, i64),
    event: &TimelineEvent,
) -> Result<()> {
    let snapshot = event.position;
    if tip.snapshot_chain == 0 {
        tracing::debug!(room_id = %room.room_id, "a new chain of state snapshots was started");
        tip.snapshot_chain = snapshot;
        state_snapshots::insert_chain(tx, snapshot, None, 0).await?;
    }
    state_snapshots::insert_snapshot(tx, snapshot, tip.snapshot_chain).await?;
    state_snapshots::insert_entry(
        tx,
        (tip.snapshot_chain, snapshot),
        numbers.kind,
        state_key,
        Some(numbers.stored_at),
    )
    .await?;
    tip.snapshot = snapshot;
    Ok(())
}

/// Stores the membership of a user in a room. `member` holds the user's number, their member event,
/// and the position at which it is stored.
pub(crate) async fn store_membership(
    log: &EventLog,
    tx: &mut WriteTx,
    room: &Room,
    (position, (user, pdu, row)): (i64, (UserNum, Option<&Arc<Pdu>>, i64)),
    state: &StateMap,
) -> Result<()> {
    let Some((pdu, membership)) = pdu.and_then(|pdu| Some((pdu, pdu.membership()?))) else {
        return Ok(());
    };
    let user_id = pdu.state_key.as_deref().unwrap_or_default();
    let user_id = OwnedUserId::try_from(user_id).map_err(|e| Error::BadJson(e.to_string()))?;
    let stripped: Option<Arc<str>> = match membership {
        MembershipState::Invite | MembershipState::Knock => {
            Some(serde_json::to_string(&stripped_state(state, pdu))?.into())
        }
        _ => None,
    };
    let new = NewMembership {
        user,
        room: room.num,
        membership: membership.as_str(),
        position,
        event: Some(row),
        stripped_state: stripped.as_deref(),
    };
    memberships::set(tx, new).await?;
    invite_expiry::store_expiry(log, tx, (room.num, user), pdu).await?;
    let local = user_id.server_name() == log.key.server_name();
    let change = JournalChange::Membership {
        user,
        user_id,
        local,
        room: room.num,
        membership: Some(membership),
        stripped_state: stripped,
    };
    tx.publish(position, change);
    Ok(())
}

/// Returns the state that an invited or knocking user receives, including the invitation or knock
/// itself.
///
/// See the specification on
/// [stripped state](https://spec.matrix.org/v1.19/client-server-api/#stripped-state).
fn stripped_state(state: &StateMap, invitation: &Pdu) -> Vec<Box<RawValue>> {
    const STRIPPED_TYPES: [StateEventType; 7] = [
        StateEventType::RoomCreate,
        StateEventType::RoomName,
        StateEventType::RoomAvatar,
        StateEventType::RoomTopic,
        StateEventType::RoomJoinRules,
        StateEventType::RoomCanonicalAlias,
        StateEventType::RoomEncryption,
    ];
    let shown = STRIPPED_TYPES.iter().filter_map(|kind| state.get(kind, ""));
    let inviter = state.member(&invitation.sender);
    shown
        .chain(inviter)
        .map(|pdu| matrix::stripped_state_event(pdu))
        .chain([matrix::stripped_state_event(invitation)])
        .collect()
}
