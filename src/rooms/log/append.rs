//! Appending an event to a room as its newest. `remote::receive::history` stores events from before a gap.

use std::sync::Arc;

use ruma::events::{TimelineEventType, room::member::MembershipState};

use super::{
    EventLog,
    accepted_event::{AcceptedEvent, EventFork, GAP_PLACES, RemoteArrival},
    event_placement::{EventNumbers, EventPlacement, event_visibility, intern_event},
    redactions,
    relations::{self, RelatingEvent},
    room_write::RoomWrite,
    sticky_events::{StickyCandidate, StickyVisibility, record_sticky_event},
};
use crate::{
    error::{Error, Result},
    matrix::{self, CountException, NotificationCounters, ResolvedState, TimelineEvent},
    rooms::{
        memory::room::{Room, RoomTip, joined_count},
        unread::{
            push_counts::{NotifiedUser, UnreadIncrement},
            read_markers::{self, RoomReader},
        },
    },
    storage::{
        JournalChange, WriteTx,
        rooms::{
            delayed_events::{self, DelayedEventOutcome, StateKeyText},
            events::{self, EventStatus, NewEventRow},
            personal_notifications::{self, NotifiedUserRow},
            room_table, timeline_gaps, unread_counts,
        },
    },
};

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
    let arrival = arrival.unwrap_or_else(RemoteArrival::of_own_event);
    if arrival
        .fork
        .as_ref()
        .is_some_and(EventFork::needs_gap_places)
    {
        tx.reserve_positions(GAP_PLACES);
    }
    let numbers = intern_event(tx, &accepted.pdu, arrival.stored_at).await?;
    let mut append = EventAppend {
        placement: EventPlacement::prepare(tx, tip, &numbers, arrival).await?,
        write: RoomWrite { log, tx, room, tip },
        numbers,
        accepted,
    };
    let event = append.build_event().await?;
    if !append.store_event(&event).await? {
        return Ok(None);
    }
    append.store_relation(&event).await?;
    append.finish_delayed_events().await?;
    append.record_sticky_event().await?;
    append.advance_tip(&event).await?;
    append.mark_as_read(&event).await?;
    let event = append.publish(event);
    append.apply_redactions(&event, is_arrival).await?;
    Ok(Some(event))
}

/// An event that is being appended to a room.
struct EventAppend<'a> {
    write: RoomWrite<'a>,
    accepted: AcceptedEvent,
    numbers: EventNumbers,
    placement: EventPlacement,
}

impl EventAppend<'_> {
    /// Returns the event with its place in the timeline.
    async fn build_event(&mut self) -> Result<TimelineEvent> {
        let RoomWrite { tx, room, .. } = &mut self.write;
        let before = &self.placement.before;
        let is_withheld = redactions::is_withheld(tx, room, before, &self.accepted.pdu).await?;
        if is_withheld {
            self.accepted.counting = UnreadIncrement::default();
        }
        let pdu = &self.accepted.pdu;
        let added = NotificationCounters {
            notified: i64::from(self.accepted.counting.notify),
            mentioned: i64::from(self.accepted.counting.mention),
        };
        let thread = relations::find_thread(&mut **tx, room.num, pdu, added).await?;
        let (pdu, head) = (
            Arc::new(pdu.clone()),
            matrix::write_event_head(pdu, &room.rules),
        );
        let tip = &self.write.tip;
        let added_to_threads = thread.as_ref().map(|thread| thread.added);
        let resolved = self.resolved_state();
        let transaction = self.accepted.transaction.clone();
        let mut event = TimelineEvent {
            position: self.numbers.position,
            timeline: self.numbers.position,
            head,
            is_withheld,
            visibility: event_visibility(before, &pdu),
            pdu,
            snapshot: self.placement.snapshot,
            state_before: Some(match &resolved {
                // Events before a gap are sent as history, not as changes.
                Some(resolved) if resolved.after_gap => before.clone(),
                _ => tip.state.clone(),
            }),
            resolved,
            notified: tip.notified + added.notified,
            mentioned: tip.mentioned + added.mentioned,
            threaded_counters: tip.threaded + added_to_threads.unwrap_or_default(),
            thread,
            exceptions: Vec::new(),
            device: transaction.as_ref().map(|transaction| transaction.device),
            txn_id: transaction.map(|transaction| transaction.txn_id),
            redacted_by: None,
            unattended: self.accepted.unattended,
        };
        event.exceptions = self.intern_exceptions(&event).await?;
        Ok(event)
    }

    /// Returns the resolved state after an event in a fork.
    fn resolved_state(&self) -> Option<Arc<ResolvedState>> {
        let fork = self.placement.fork.as_ref()?;
        Some(Arc::new(ResolvedState {
            state: fork.current.clone(),
            changed_keys: self.write.tip.state.differing_keys(&fork.current),
            after_gap: fork.has_gap(),
        }))
    }

    /// Returns the users for whom the event counts differently, by their numbers.
    async fn intern_exceptions(&mut self, event: &TimelineEvent) -> Result<Vec<CountException>> {
        let increments = &self.accepted.counting.exceptions;
        let mut exceptions = Vec::with_capacity(increments.len());
        for increment in increments {
            exceptions.push(CountException {
                user: self
                    .write
                    .tx
                    .intern_user(increment.user_id.as_str())
                    .await?,
                timeline: event.timeline,
                thread: event.thread.as_ref().map(|thread| thread.root.clone()),
                notify: increment.notify,
                highlight: increment.highlight,
            });
        }
        Ok(exceptions)
    }

    /// Stores the row of the event. Returns `false` if the event or its transaction is already stored.
    async fn store_event(&mut self, event: &TimelineEvent) -> Result<bool> {
        let (numbers, tx) = (&self.numbers, &mut *self.write.tx);
        let row = NewEventRow {
            position: numbers.stored_at,
            room: self.write.room.num,
            event_id: event.pdu.event_id.as_str(),
            timeline: Some(event.timeline),
            kind: numbers.kind,
            state_key: numbers.state_key,
            sender: numbers.sender,
            state: Some(event.snapshot),
            state_after: self.placement.snapshot_after,
            backfilled: false,
            goes_out: self.placement.is_outgoing,
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
            transaction: event.device.zip(event.txn_id.as_deref()),
            json: &self.accepted.json,
        };
        if numbers.stored_at == numbers.position {
            return events::insert(tx, &row).await;
        }
        events::update_placement(tx, &row).await?;
        Ok(true)
    }

    async fn store_relation(&mut self, event: &TimelineEvent) -> Result<()> {
        let stored = RelatingEvent {
            room: self.write.room.num,
            position: self.numbers.stored_at,
            timeline: event.timeline,
            kind: self.numbers.kind,
            sender: self.numbers.sender,
        };
        relations::store_relation(self.write.tx, stored, &event.pdu, event.thread.as_ref()).await
    }

    /// Marks a delayed event as sent, and cancels the delayed events of other users for the same
    /// piece of state.
    async fn finish_delayed_events(&mut self) -> Result<()> {
        let RoomWrite { log, tx, room, .. } = &mut self.write;
        if !log.delayed_events.may_have_work() {
            return Ok(());
        }
        let (pdu, now) = (&self.accepted.pdu, log.clock.now_ms());
        if let Some(num) = self.accepted.delayed_event {
            let outcome = DelayedEventOutcome {
                ts: now,
                event_id: Some(pdu.event_id.as_str()),
                error: None,
            };
            if !delayed_events::finish(tx, num, outcome).await? {
                return Err(Error::Finalised(
                    "the delayed event was already sent or cancelled".to_owned(),
                ));
            }
        }
        if let Some(state_key) = &pdu.state_key {
            let key = StateKeyText {
                kind: &pdu.kind.to_string(),
                state_key,
            };
            let sender = self.numbers.sender;
            delayed_events::cancel_state_of_others(tx, room.num, key, sender, now).await?;
        }
        Ok(())
    }

    async fn record_sticky_event(&mut self) -> Result<()> {
        let RoomWrite { log, tx, room, .. } = &mut self.write;
        let candidate = StickyCandidate {
            room: room.num,
            pdu: &self.accepted.pdu,
            position: self.numbers.position,
            visibility: StickyVisibility::Shown,
        };
        record_sticky_event(log, tx, candidate).await
    }

    /// Moves the tip of the room past the event, and stores the tip.
    async fn advance_tip(&mut self, event: &TimelineEvent) -> Result<()> {
        if self.placement.fork.is_some() {
            self.advance_past_fork(event).await?;
        } else {
            self.advance_past_event(event).await?;
        }
        let RoomWrite { tx, room, tip, .. } = &mut self.write;
        let after = self.placement.state_after(tip, event);
        tip.recent_events.push(event.pdu.event_id.clone(), after);
        let extremities = serde_json::to_string(&tip.forward_extremities)?;
        room_table::set_tip(tx, room.num, &extremities, tip.snapshot, event.position).await
    }

    /// Updates the tip for an event that follows all forward extremities.
    async fn advance_past_event(&mut self, event: &TimelineEvent) -> Result<()> {
        let tip = &mut *self.write.tip;
        tip.replace_extremities(&event.pdu);
        tip.depth = tip.depth.max(u64::from(event.pdu.depth));
        set_counters(tip, event);
        let Some(state_key) = self.numbers.state_key else {
            return Ok(());
        };
        let replaced = tip.state.insert(event.pdu.clone());
        if event.pdu.member().is_some() {
            tip.joined_members +=
                joined_count(Some(&event.pdu)) - joined_count(replaced.as_deref());
        }
        self.write
            .store_state_event(&self.numbers, state_key, event)
            .await
    }

    /// Updates the tip for an event in a fork, to the resolved state.
    async fn advance_past_fork(&mut self, event: &TimelineEvent) -> Result<()> {
        let Some(fork) = &self.placement.fork else {
            return Ok(());
        };
        let RoomWrite { tx, room, tip, .. } = &mut self.write;
        let gap_at = fork.gap_at.unwrap_or(event.timeline);
        timeline_gaps::insert(tx, room.num, &fork.missing, gap_at).await?;
        let extremities = fork.extremities.iter();
        tip.forward_extremities = extremities.map(|(id, _)| id.clone()).collect();
        let extremities = fork.extremities.iter();
        tip.extremity_hashes = extremities.filter_map(|(_, hash)| hash.clone()).collect();
        tip.depth = tip.depth.max(u64::from(event.pdu.depth));
        set_counters(tip, event);
        let Some(resolved) = &event.resolved else {
            return Ok(());
        };
        self.write
            .set_current_state(self.numbers.position, resolved)
            .await
    }

    /// Records that a sender of this server has read the room up to the event, and stores the users
    /// for whom the event counts differently.
    async fn mark_as_read(&mut self, event: &TimelineEvent) -> Result<()> {
        let RoomWrite { log, tx, room, .. } = &mut self.write;
        let is_own = event.pdu.sender.server_name() == log.key.server_name();
        if is_own && event.is_read_by_sender() {
            let reader = RoomReader {
                user: self.numbers.sender,
                room: room.num,
                position: self.numbers.position,
            };
            read_markers::mark_read_by_sending(tx, reader, event).await?;
        }
        unread_counts::insert_exceptions(tx, room.num, &event.exceptions).await?;
        self.store_notified_users(event).await
    }

    /// Stores the users whom the event notifies in person: those by whose own rules it does, and an invited user.
    async fn store_notified_users(&mut self, event: &TimelineEvent) -> Result<()> {
        let RoomWrite { log, tx, room, .. } = &mut self.write;
        let notified = &self.accepted.counting.notified_users;
        let mut users = Vec::with_capacity(notified.len());
        for NotifiedUser { user_id, highlight } in notified {
            users.push(NotifiedUserRow {
                user: tx.intern_user(user_id.as_str()).await?,
                highlight: *highlight,
            });
        }
        let invited = event
            .pdu
            .member()
            .filter(|_| event.pdu.membership() == Some(MembershipState::Invite));
        if let Some(invited) = invited
            && invited.server_name() == log.key.server_name()
        {
            users.push(NotifiedUserRow {
                user: tx.intern_user(invited.as_str()).await?,
                highlight: false,
            });
        }
        personal_notifications::insert(tx, room.num, event.timeline, &users).await
    }

    /// Adds the event to the changes of the journal.
    fn publish(&mut self, event: TimelineEvent) -> Arc<TimelineEvent> {
        let event = Arc::new(event);
        let change = JournalChange::Event {
            room: self.write.room.num,
            sender: self.numbers.sender,
            event: event.clone(),
        };
        self.write.tx.publish(self.numbers.position, change);
        event
    }

    /// Applies the event if it is a redaction, and the redactions that waited for it if it arrived
    /// from another server.
    async fn apply_redactions(&mut self, event: &TimelineEvent, is_arrival: bool) -> Result<()> {
        let RoomWrite { tx, room, tip, .. } = &mut self.write;
        let (pdu, before) = (&event.pdu, &self.placement.before);
        if is_arrival {
            redactions::apply_redactions_on_arrival(tx, room, tip, pdu, before).await?;
        } else if pdu.kind == TimelineEventType::RoomRedaction {
            redactions::apply_redaction(tx, room, tip, pdu, before).await?;
        }
        Ok(())
    }
}

/// Sets the running counters of a tip to those of an event.
fn set_counters(tip: &mut RoomTip, event: &TimelineEvent) {
    tip.notified = event.notified;
    tip.mentioned = event.mentioned;
    tip.threaded = event.threaded_counters;
}
