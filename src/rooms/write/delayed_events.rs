//! Delayed events: events that the server sends later, unless they are cancelled.
//!
//! [MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140)

use std::time::Duration;

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, TransactionId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::{json, value::RawValue};

use super::{DelayedEvents, send_occasion::SendOccasion};
use crate::{
    error::{Error, RefusalCode, Result},
    matrix::StickyDuration,
    numbers::{DelayedEventNum, DeviceNum, UserNum},
    rooms::{EventToSend, Room, log::new_event::check_txn_id, memory::timetable::Timetable},
    storage::{
        Db,
        rooms::delayed_events::{self, DelayedEventOutcome, DelayedEventRow, NewDelayedEvent},
    },
};

/// The longest delay of an event.
pub const MAX_DELAY: Duration = Duration::from_hours(24 * 31);
/// The most events that a user may have scheduled at a time.
pub const MAX_SCHEDULED_EVENTS: usize = 100;
/// The time for which the outcome of an event (sent, cancelled or refused) is kept, in milliseconds.
const OUTCOME_TTL_MS: i64 = 7 * 24 * 3_600_000;
/// The most events of a user whose outcome is kept.
const MAX_KEPT_OUTCOMES: i64 = 1_000;
/// The largest content, in bytes. When the event is sent, the limit for a whole event applies too.
const MAX_CONTENT_BYTES: usize = 65_536;
/// The number of due events that are loaded from the database at a time.
const SEND_BATCH_SIZE: i64 = 64;

/// A request to send an event later.
#[derive(Debug)]
pub struct DelayRequest {
    /// The number of the sender.
    pub user: UserNum,
    /// The user id of the sender.
    pub user_id: OwnedUserId,
    /// The device that makes the request.
    pub device: DeviceNum,
    /// The transaction id of the request.
    pub txn_id: Option<String>,
    /// The type of the event.
    pub kind: String,
    /// The state key, if it is a state event.
    pub state_key: Option<String>,
    /// The content of the event.
    pub content: Box<RawValue>,
    /// The time for which the event is sticky once it is sent.
    pub sticky: Option<StickyDuration>,
    /// The delay in milliseconds.
    pub delay_ms: i64,
}

/// A delayed event as its sender sees it.
#[derive(Debug)]
pub struct DelayedEvent {
    /// The room of the event.
    pub room_id: OwnedRoomId,
    /// The stored row with all other data.
    pub row: DelayedEventRow,
}

/// An action on a delayed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayAction {
    /// The event is not sent.
    Cancel,
    /// The delay begins again.
    Restart,
    /// The event is sent now.
    Send,
}

/// Loads the timetable of the scheduled events.
///
/// If no event is scheduled, new state events need not look for delayed events that they cancel.
pub(crate) async fn load_timetable(db: &Db) -> Result<Timetable> {
    let mut conn = db.read().await?;
    let next = delayed_events::next_due(&mut conn).await?;
    Ok(Timetable::new(next.is_some()))
}

impl DelayedEvents {
    /// Returns the delay id of the event that was already scheduled with the transaction id of a request.
    ///
    /// This answers a repeated request without a body.
    ///
    /// # Errors
    ///
    /// Returns `RefusalCode::NotJson` if no event was scheduled with it, because the request for a new event needs
    /// a body, and [`Error::Forbidden`] if this server does not know the room.
    pub async fn delay_id_of_transaction(
        &self,
        room_id: &RoomId,
        delay: &DelayRequest,
    ) -> Result<String> {
        let room = self.memory.room_of_member(room_id).await?;
        let known = self.find_by_transaction(&room, delay).await?;
        known.ok_or_else(|| {
            Error::refused(RefusalCode::NotJson, "the request has no body".to_owned())
        })
    }

    async fn find_by_transaction(
        &self,
        room: &Room,
        delay: &DelayRequest,
    ) -> Result<Option<String>> {
        let Some(txn_id) = &delay.txn_id else {
            return Ok(None);
        };
        let mut conn = self.db.read().await?;
        let (device, kind) = (delay.device, &delay.kind);
        delayed_events::find_by_transaction(&mut conn, device, room.num, kind, txn_id).await
    }

    /// Schedules an event. Returns the delay id, the secret with which it can be cancelled, restarted or sent.
    ///
    /// The same transaction id of the same device returns the same delay id. The server checks only when it sends the
    /// event whether the user may send it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::MaxDelayExceeded`], [`Error::LimitExceeded`] if the user has too many events scheduled, and
    /// [`Error::Forbidden`] if the user is not in the room.
    pub async fn schedule_event(&self, room_id: &RoomId, delay: DelayRequest) -> Result<String> {
        let room = self.memory.room_of_member(room_id).await?;
        if let Some(known) = self.find_by_transaction(&room, &delay).await? {
            return Ok(known);
        }
        if room.view().state.membership(&delay.user_id) != MembershipState::Join {
            return Err(Error::forbidden("you are not in this room"));
        }
        delay.check()?;
        self.timetable.expect_work();
        let now = self.clock.now_ms();
        let delay_id = TransactionId::new().to_string();
        let mut tx = self.db.write().await?;
        delayed_events::delete_old_outcomes(
            &mut tx,
            delay.user,
            now - OUTCOME_TTL_MS,
            MAX_KEPT_OUTCOMES,
        )
        .await?;
        let scheduled = delayed_events::count_scheduled(&mut tx, delay.user).await?;
        if usize::try_from(scheduled.count).unwrap_or(usize::MAX) >= MAX_SCHEDULED_EVENTS {
            let left = scheduled.next_due_ts.map_or(0, |next| next - now);
            let left = u64::try_from(left).unwrap_or(0).max(1);
            return Err(Error::LimitExceeded {
                retry_after: Duration::from_millis(left),
            });
        }
        let row = NewDelayedEvent {
            delay_id: &delay_id,
            user: delay.user,
            device: delay.device,
            txn_id: delay.txn_id.as_deref(),
            room: room.num,
            kind: &delay.kind,
            state_key: delay.state_key.as_deref(),
            content: delay.content.get(),
            sticky_ms: delay.sticky.map(StickyDuration::as_ms),
            delay_ms: delay.delay_ms,
            running_since: now,
        };
        let is_new = delayed_events::insert(&mut tx, row).await?;
        let txn_id = delay.txn_id.as_deref().unwrap_or_default();
        let known = delayed_events::find_by_transaction(
            &mut tx,
            delay.device,
            room.num,
            &delay.kind,
            txn_id,
        )
        .await?;
        tx.commit().await?;
        self.timetable.wake();
        Ok(known.filter(|_| !is_new).unwrap_or(delay_id))
    }

    /// Returns the events that a user has scheduled, in the order in which they will be sent.
    pub async fn list_scheduled(&self, user: UserNum) -> Result<Vec<DelayedEvent>> {
        let rows = {
            let mut conn = self.db.read().await?;
            delayed_events::scheduled(&mut conn, user).await?
        };
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let room_id = self.memory.room_id(row.room).await?;
            events.push(DelayedEvent { room_id, row });
        }
        Ok(events)
    }

    /// Returns a delayed event of a user, even if it was sent or cancelled already.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if the event is unknown or belongs to another user.
    pub async fn find_delayed_event(&self, user: UserNum, delay_id: &str) -> Result<DelayedEvent> {
        let row = self.load_row(delay_id).await?;
        if row.user_num != user {
            return Err(unknown_delayed_event());
        }
        let room_id = self.memory.room_id(row.room).await?;
        Ok(DelayedEvent { room_id, row })
    }

    /// Returns the user who scheduled a delayed event, for anyone who knows its delay id. Returns `None` if the id is
    /// unknown.
    pub async fn find_owner(&self, delay_id: &str) -> Result<Option<OwnedUserId>> {
        let row = {
            let mut conn = self.db.read().await?;
            delayed_events::get(&mut conn, delay_id).await?
        };
        match row {
            Some(row) => self.load_sender(&row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn load_sender(&self, row: &DelayedEventRow) -> Result<OwnedUserId> {
        let mut conn = self.db.read().await?;
        self.db.strings.user_id(&mut conn, row.user_num).await
    }

    async fn load_row(&self, delay_id: &str) -> Result<DelayedEventRow> {
        let mut conn = self.db.read().await?;
        delayed_events::get(&mut conn, delay_id)
            .await?
            .ok_or_else(unknown_delayed_event)
    }

    /// Cancels, restarts or sends a delayed event, for anyone who knows its delay id.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`], and [`Error::Finalised`] if the event has another outcome already. If the event
    /// cannot be sent now, it returns the error that refuses it, and the event remains scheduled.
    pub async fn update_delayed_event(&self, delay_id: &str, action: DelayAction) -> Result<()> {
        let row = self.load_row(delay_id).await?;
        let now = self.clock.now_ms();
        let is_done = match action {
            DelayAction::Send if row.finalised_ts.is_none() => {
                match self.send_delayed_event(&row).await {
                    // The event became due meanwhile, or another request was faster.
                    Err(Error::Finalised(_)) => false,
                    other => return other,
                }
            }
            DelayAction::Send => false,
            DelayAction::Restart => {
                let mut tx = self.db.write().await?;
                let is_done = delayed_events::restart(&mut tx, row.num, now).await?;
                tx.commit().await?;
                self.timetable.wake();
                is_done
            }
            DelayAction::Cancel => {
                let outcome = DelayedEventOutcome {
                    ts: now,
                    ..DelayedEventOutcome::default()
                };
                self.finalise_delayed_event(row.num, outcome).await?
            }
        };
        if is_done {
            return Ok(());
        }
        // If the event already has the requested outcome, the request was only repeated.
        let was_sent = self.load_row(delay_id).await?.event_id.is_some();
        match action {
            DelayAction::Send if was_sent => Ok(()),
            DelayAction::Cancel if !was_sent => Ok(()),
            _ if was_sent => Err(Error::Finalised("the event was sent already".to_owned())),
            _ => Err(Error::Finalised(
                "the event was cancelled already".to_owned(),
            )),
        }
    }

    async fn finalise_delayed_event(
        &self,
        num: DelayedEventNum,
        outcome: DelayedEventOutcome<'_>,
    ) -> Result<bool> {
        let mut tx = self.db.write().await?;
        let is_done = delayed_events::finish(&mut tx, num, outcome).await?;
        tx.commit().await?;
        Ok(is_done)
    }

    /// Sends a delayed event. The same write marks it as no longer scheduled.
    async fn send_delayed_event(&self, row: &DelayedEventRow) -> Result<()> {
        let sender = self.load_sender(row).await?;
        let content = RawValue::from_string(row.content.clone())?;
        let event = match &row.state_key {
            Some(key) => {
                EventToSend::state(sender, &StateEventType::from(&*row.kind), key, content)
            }
            None => {
                EventToSend::message(sender, TimelineEventType::from(&*row.kind), content, None)
            }
        };
        let event = event.sticky_for(row.sticky_ms.and_then(StickyDuration::from_ms));
        let event_id = self
            .sender
            .send_to_completion(row.room, event, SendOccasion::Delayed(row.num))
            .await?;
        // A state event that repeats the current state is not sent again, so it has to be finished here.
        let outcome = DelayedEventOutcome {
            ts: self.clock.now_ms(),
            event_id: Some(event_id.as_str()),
            error: None,
        };
        self.finalise_delayed_event(row.num, outcome).await?;
        Ok(())
    }

    /// Starts the task that sends delayed events when they are due.
    pub fn start_sending_task(&self) {
        let service = self.clone();
        self.timetable
            .run_when_due("send delayed events", &self.clock, &self.tasks, move || {
                service.clone().send_due_events()
            });
    }

    /// Sends all events that are due. Returns the time when the next event is due.
    async fn send_due_events(self) -> Result<Option<i64>> {
        loop {
            let now = self.clock.now_ms();
            let mut conn = self.db.read().await?;
            let rows = delayed_events::due_events(&mut conn, now, SEND_BATCH_SIZE).await?;
            if rows.is_empty() {
                return delayed_events::next_due(&mut conn).await;
            }
            drop(conn);
            for row in rows {
                self.send_or_finalise(&row).await?;
            }
        }
    }

    /// Sends an event. One that is refused is finalised.
    async fn send_or_finalise(&self, row: &DelayedEventRow) -> Result<()> {
        match self.send_delayed_event(row).await {
            Ok(()) | Err(Error::Finalised(_)) => Ok(()),
            Err(error @ (Error::Internal { .. } | Error::StorageFull | Error::Unavailable(_))) => {
                Err(error)
            }
            Err(refused) => self.finalise_refused_event(row, &refused).await,
        }
    }

    async fn finalise_refused_event(&self, row: &DelayedEventRow, refused: &Error) -> Result<()> {
        tracing::debug!(delayed = %row.num, error = %refused, "a delayed event was refused");
        let errcode = match refused {
            Error::Forbidden(_) => "M_FORBIDDEN",
            Error::TooLarge(_) => "M_TOO_LARGE",
            Error::BadJson(_) => "M_BAD_JSON",
            _ => "M_UNKNOWN",
        };
        let error = json!({ "errcode": errcode, "error": refused.to_string() }).to_string();
        let outcome = DelayedEventOutcome {
            ts: self.clock.now_ms(),
            event_id: None,
            error: Some(&error),
        };
        self.finalise_delayed_event(row.num, outcome).await?;
        Ok(())
    }
}

impl DelayRequest {
    fn check(&self) -> Result<()> {
        if let Some(txn_id) = &self.txn_id {
            check_txn_id(txn_id)?;
        }
        let state_key = self.state_key.as_deref().unwrap_or_default();
        if self.kind.contains('\0') || state_key.contains('\0') {
            return Err(Error::BadJson(
                "the type or the state key contains U+0000".to_owned(),
            ));
        }
        let longest = i64::try_from(MAX_DELAY.as_millis()).unwrap_or(i64::MAX);
        if self.delay_ms > longest {
            return Err(Error::MaxDelayExceeded(MAX_DELAY));
        }
        if self.delay_ms < 1 {
            return Err(Error::invalid_param(
                "the delay must be at least one millisecond",
            ));
        }
        if self.content.get().len() > MAX_CONTENT_BYTES {
            return Err(Error::TooLarge("the content is too large".to_owned()));
        }
        if self.kind == TimelineEventType::RoomCreate.to_string() {
            return Err(Error::invalid_param(
                "an m.room.create event cannot be delayed",
            ));
        }
        Ok(())
    }
}

fn unknown_delayed_event() -> Error {
    Error::not_found("there is no such delayed event")
}
