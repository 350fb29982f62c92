//! Receives events of other servers: runs the checks that need the room, and finds the place of the
//! event in it.
//!
//! If events are missing that a check needs, the answer names them; the caller fetches them and
//! tries again.
//!
//! [Checks performed on receipt of a PDU](https://spec.matrix.org/v1.19/server-server-api/#checks-performed-on-receipt-of-a-pdu)

mod checks;
mod forks;
mod history;
mod soft_failed;
pub(crate) mod verdict;

use std::sync::Arc;

use ruma::{EventId, OwnedServerName, ServerName};
use tokio::sync::MutexGuard;

use self::{
    history::HistoryEvent,
    verdict::{
        CheckedEvent, EventCheck, EventVerdict, IncomingEvent, LookupDepth, ReceiveHints,
        ReceiveOutcome, SoftFailureCheck,
    },
};
use super::EventReceiver;
use crate::{
    error::{Error, Result},
    matrix::{StateMap, VerifiedEvent},
    numbers::{Position, RoomNum},
    rooms::{
        log::{
            accepted_event::{AcceptedEvent, RemoteArrival},
            append::append,
            release_write,
            sticky_events::{StickyCandidate, StickyVisibility, record_sticky_event},
        },
        memory::room::{Room, RoomTip},
        read::server_acl::check_server_allowed,
        unread::push_counts::UnreadIncrement,
    },
    storage::{
        PendingWrite, WriteIntent, WriteTx,
        rooms::{event_graph, events::EventStatus},
    },
};

/// The number of attempts to store an event. An attempt fails when the room in memory was out of
/// date.
const MAX_RECEIVE_ATTEMPTS: usize = 4;

/// Stores a refused event, or one that belongs in a gap of the timeline. Returns its position, or `None` if it was known.
async fn store_outside_tip(
    tx: &mut WriteTx,
    room: &Room,
    tip: &mut RoomTip,
    event: &VerifiedEvent,
    checked: CheckedEvent,
) -> Result<Option<Position>> {
    match checked.gap {
        Some(gap) if checked.verdict.status() == EventStatus::Accepted => {
            let history = HistoryEvent {
                event,
                checked,
                gap,
            };
            history::store_history_event(tx, room, tip, history).await
        }
        _ => soft_failed::store_refused_event(tx, room, tip, event, checked).await,
    }
}

/// A checked event with the notifications that it causes, ready to be stored.
struct EventToStore<'a> {
    incoming: IncomingEvent<'a>,
    checked: CheckedEvent,
    counting: UnreadIncrement,
}

/// An event whose outcome is decided, but permanent only once it is on disk.
#[must_use = "nothing may be answered before it is durable"]
pub struct PendingOutcome {
    outcome: ReceiveOutcome,
    /// `None` if nothing was stored.
    pending: Option<PendingWrite>,
}

impl PendingOutcome {
    /// Returns the outcome for the event.
    pub fn outcome(&self) -> &ReceiveOutcome {
        &self.outcome
    }

    /// Waits until the event is on disk, and returns its outcome.
    ///
    /// # Errors
    ///
    /// When the event could not be written.
    pub async fn wait_until_durable(self) -> Result<ReceiveOutcome> {
        if let Some(pending) = self.pending {
            pending.wait_until_durable().await?;
        }
        Ok(self.outcome)
    }
}

impl From<ReceiveOutcome> for PendingOutcome {
    /// Wraps an outcome that is on disk already, or that stores nothing.
    fn from(received: ReceiveOutcome) -> Self {
        Self {
            outcome: received,
            pending: None,
        }
    }
}

impl EventReceiver {
    /// Stores an event of another server in its room, if the rules allow it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when this server is not in the room; [`Error::Forbidden`] when the
    /// server ACL of the room denies the server that sends the event.
    pub async fn receive(
        &self,
        origin: &ServerName,
        event: VerifiedEvent,
        hints: ReceiveHints,
    ) -> Result<ReceiveOutcome> {
        self.receive_without_flush(origin, event, hints)
            .await?
            .wait_until_durable()
            .await
    }

    /// Does the same as [`EventReceiver::receive`], but does not wait for the disk: the events that
    /// follow do not need to wait, either.
    ///
    /// # Errors
    ///
    /// The same as for [`EventReceiver::receive`].
    #[tracing::instrument(skip_all, fields(event_id = %event.pdu().event_id), err(level = "debug"))]
    pub async fn receive_without_flush(
        &self,
        origin: &ServerName,
        event: VerifiedEvent,
        hints: ReceiveHints,
    ) -> Result<PendingOutcome> {
        let num = self.memory.room_number(&event.pdu().room_id).await?;
        let origin = origin.to_owned();
        let event = Arc::new(event);
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                let received = rooms.receive_in_room(num, &origin, &event, &hints).await?;
                Ok(received.0)
            })
            .await
    }

    /// Checks that an event which this server already has was accepted.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when it was soft-failed or rejected.
    pub async fn check_accepted(&self, event_id: &EventId) -> Result<()> {
        let mut conn = self.db.read().await?;
        let nodes = event_graph::find_nodes(&mut conn, [event_id.as_str()]).await?;
        if nodes
            .iter()
            .any(|node| node.status() == EventStatus::Accepted)
        {
            return Ok(());
        }
        Err(Error::forbidden("the room has already refused this event"))
    }

    /// Announces that more events follow in a moment, so that they are written to the disk together
    /// with those received before.
    pub fn announce_more_events(&self) -> WriteIntent {
        self.db.journal().register_intent()
    }

    /// Receives an event; returns its outcome, once that is on disk, and the state before it.
    pub(crate) async fn receive_with_state(
        &self,
        num: RoomNum,
        origin: &OwnedServerName,
        event: &VerifiedEvent,
        hints: &ReceiveHints,
    ) -> Result<(ReceiveOutcome, StateMap)> {
        let (outcome, before) = self.receive_in_room(num, origin, event, hints).await?;
        Ok((outcome.wait_until_durable().await?, before))
    }

    async fn receive_in_room(
        &self,
        num: RoomNum,
        origin: &OwnedServerName,
        event: &VerifiedEvent,
        hints: &ReceiveHints,
    ) -> Result<(PendingOutcome, StateMap)> {
        let at_once = |outcome, before| Ok((PendingOutcome::from(outcome), before));
        let incoming = IncomingEvent { event, hints };
        let mut depth = LookupDepth::TipOnly;
        for _ in 0..MAX_RECEIVE_ATTEMPTS {
            let room = self.memory.room_by_number(num).await?;
            // Other events of this room wait for its lock: they must enter one batch with this one.
            let intent = self.db.journal().register_intent();
            let tip = room.tip.lock().await;
            if room.is_stale() {
                continue;
            }
            if room.view().local_members.is_empty() {
                drop(tip);
                self.remote_memberships
                    .retract_membership(&room, event)
                    .await?;
                return at_once(ReceiveOutcome::Accepted, StateMap::default());
            }
            check_server_allowed(&tip.state, origin)?;
            let checked = match self.check_event(&room, &tip, incoming, depth).await? {
                EventCheck::Checked(checked) => *checked,
                EventCheck::Known => {
                    return at_once(ReceiveOutcome::Duplicate, StateMap::default());
                }
                EventCheck::Missing { prev, auth } => {
                    return at_once(ReceiveOutcome::Missing { prev, auth }, StateMap::default());
                }
            };
            drop(intent);
            let (outcome, before) = (checked.outcome(), checked.state_before.clone());
            if checked.is_unchanged {
                return at_once(outcome, before);
            }
            let stored = self
                .store_checked_event(&room, tip, incoming, checked)
                .await?;
            if let pending @ Some(_) = stored {
                return Ok((PendingOutcome { outcome, pending }, before));
            }
            // It was known, or the room had to be loaded again.
            depth = LookupDepth::NamedEvents;
        }
        Err(Error::Unavailable(
            "the event could not be stored, try again later".to_owned(),
        ))
    }

    /// Stores a checked event; returns `None` if it has to be checked once more.
    async fn store_checked_event(
        &self,
        room: &Arc<Room>,
        mut tip: MutexGuard<'_, RoomTip>,
        incoming: IncomingEvent<'_>,
        checked: CheckedEvent,
    ) -> Result<Option<PendingWrite>> {
        let counting = match checked.verdict {
            EventVerdict::Accepted if checked.gap.is_none() => {
                self.unread
                    .count_event(room, &tip, incoming.event.pdu())
                    .await
            }
            _ => UnreadIncrement::default(),
        };
        let to_store = EventToStore {
            incoming,
            checked,
            counting,
        };
        let mut tx = self.db.write().await?;
        if room.is_stale() {
            return Ok(None);
        }
        let mut next = tip.clone();
        let stored = self
            .store_in_transaction(&mut tx, room, &mut next, to_store)
            .await?;
        let Some(position) = stored else {
            return Ok(None);
        };
        let pending = release_write(tx, room, position)?;
        *tip = next;
        Ok(Some(pending))
    }

    /// Stores an event in a write transaction; returns its position, or `None` if it was known.
    async fn store_in_transaction(
        &self,
        tx: &mut WriteTx,
        room: &Room,
        tip: &mut RoomTip,
        to_store: EventToStore<'_>,
    ) -> Result<Option<Position>> {
        let EventToStore {
            incoming: IncomingEvent { event, hints },
            checked,
            counting,
        } = to_store;
        let status = checked.verdict.status();
        let visibility = match status {
            EventStatus::Accepted => Some(StickyVisibility::Shown),
            // "Policy servers […] still apply to these events, in which case the stickiness of the event is prevented."
            EventStatus::SoftFailed if hints.soft_failure != SoftFailureCheck::NotRecommended => {
                Some(StickyVisibility::Hidden)
            }
            EventStatus::SoftFailed | EventStatus::Rejected => None,
        };
        if status != EventStatus::Accepted || checked.gap.is_some() {
            let stored = store_outside_tip(tx, room, tip, event, checked).await?;
            if let (Some(position), Some(visibility)) = (stored, visibility) {
                let candidate = StickyCandidate {
                    room: room.num,
                    pdu: event.pdu(),
                    position,
                    visibility,
                };
                record_sticky_event(&self.log, tx, candidate).await?;
            }
            return Ok(stored);
        }
        let accepted = AcceptedEvent {
            pdu: event.pdu().clone(),
            json: event.json().to_owned(),
            counting,
            transaction: None,
            delayed_event: None,
            unattended: false,
            arrival: Some(RemoteArrival {
                stored_at: checked.stored_at,
                is_outgoing: hints.is_passed_on,
                fork: checked.fork,
            }),
        };
        let stored = append(&self.log, tx, room, tip, accepted).await?;
        Ok(stored.map(|event| event.position))
    }
}
