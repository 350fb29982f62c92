//! Events that are sent later, unless somebody cancels them.
//!
//! [MSC4140](https://github.com/matrix-org/matrix-spec-proposals/pull/4140)

use std::time::Duration;

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, TransactionId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::{json, value::RawValue};

use super::{DelayedEvents, send::Occasion};
use crate::{
    error::{Error, Result},
    rooms::{NewEvent, Room, log::new_event::check_txn_id, memory::timetable::Timetable},
    storage::{
        Db, DeviceNum, UserNum,
        rooms::delayed_events::{self, DelayedRow, Ending, NewDelayed},
    },
};

/// The longest delay.
pub const MAX_DELAY: Duration = Duration::from_hours(24 * 31);
/// The most events that a user may have scheduled.
pub const MAX_SCHEDULED: usize = 100;
/// How long it is remembered what became of an event, in milliseconds.
const KEPT_MS: i64 = 7 * 24 * 3_600_000;
/// Of how many events of a user it is remembered.
const KEPT: i64 = 1_000;
/// The largest content, in bytes; the event must fit into its own limit when it is sent.
const CONTENT_BYTES: usize = 65_536;
/// Events sent in one go.
const BATCH: i64 = 64;

/// An event to be sent later.
#[derive(Debug)]
pub struct Delay {
    /// Who sends it.
    pub user: UserNum,
    /// The user's id.
    pub user_id: OwnedUserId,
    /// From which device.
    pub device: DeviceNum,
    /// Under which transaction id.
    pub txn_id: Option<String>,
    /// Its type.
    pub kind: String,
    /// Its state key, for a state event.
    pub state_key: Option<String>,
    /// Its content.
    pub content: Box<RawValue>,
    /// After how many milliseconds.
    pub delay_ms: i64,
}

/// A delayed event, as its sender sees it.
#[derive(Debug)]
pub struct Delayed {
    /// To which room it is, or was, to be sent.
    pub room_id: OwnedRoomId,
    /// Everything else.
    pub row: DelayedRow,
}

/// What shall become of a delayed event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DelayAction {
    /// It is not sent.
    Cancel,
    /// Its time begins anew.
    Restart,
    /// It is sent now.
    Send,
}

/// Returns the timetable of the events that are scheduled: without any, no state event has to look for those that it
/// cancels.
pub(crate) async fn timetable(db: &Db) -> Result<Timetable> {
    let mut conn = db.read().await?;
    let next = delayed_events::next_due(&mut conn).await?;
    Ok(Timetable::new(next.is_some()))
}

impl DelayedEvents {
    /// Returns the secret of the event that was scheduled with the transaction id of another one.
    ///
    /// # Errors
    ///
    /// [`Error::NotJson`] when there is none: a new event has a body. [`Error::Forbidden`] when this server does
    /// not know the room.
    pub async fn delayed_before(&self, room_id: &RoomId, delay: &Delay) -> Result<String> {
        let room = self.memory.room_of_member(room_id).await?;
        let known = self.scheduled_before(&room, delay).await?;
        known.ok_or_else(|| Error::NotJson("the request has no body".to_owned()))
    }

    async fn scheduled_before(&self, room: &Room, delay: &Delay) -> Result<Option<String>> {
        let Some(txn_id) = &delay.txn_id else {
            return Ok(None);
        };
        let mut conn = self.db.read().await?;
        let (device, kind) = (delay.device, &delay.kind);
        delayed_events::by_transaction(&mut conn, device, room.num, kind, txn_id).await
    }

    /// Schedules an event; returns the secret by which it can be cancelled, restarted or sent.
    ///
    /// The same transaction of the same device returns the same one.
    ///
    /// # Errors
    ///
    /// [`Error::MaxDelayExceeded`]; [`Error::LimitExceeded`] for one who has too many events scheduled;
    /// [`Error::Forbidden`] for one who is not in the room. Whether the user may send the event is seen when it is sent.
    pub async fn delay(&self, room_id: &RoomId, delay: Delay) -> Result<String> {
        let room = self.memory.room_of_member(room_id).await?;
        if let Some(known) = self.scheduled_before(&room, &delay).await? {
            return Ok(known);
        }
        if room.view().state.membership(&delay.user_id) != MembershipState::Join {
            return Err(Error::forbidden("you are not in this room"));
        }
        delay.check()?;
        self.timetable.begin_to_use();
        let now = self.clock.now_ms();
        let delay_id = TransactionId::new().to_string();
        let mut tx = self.db.write().await?;
        delayed_events::prune(&mut tx, delay.user, now - KEPT_MS, KEPT).await?;
        let (waiting, next) = delayed_events::waiting(&mut tx, delay.user).await?;
        if usize::try_from(waiting).unwrap_or(usize::MAX) >= MAX_SCHEDULED {
            let left = next.map_or(0, |next| next - now);
            let left = u64::try_from(left).unwrap_or(0).max(1);
            return Err(Error::LimitExceeded {
                retry_after: Duration::from_millis(left),
            });
        }
        let row = NewDelayed {
            delay_id: &delay_id,
            user: delay.user,
            device: delay.device,
            txn_id: delay.txn_id.as_deref(),
            room: room.num,
            kind: &delay.kind,
            state_key: delay.state_key.as_deref(),
            content: delay.content.get(),
            delay_ms: delay.delay_ms,
            running_since: now,
        };
        let is_new = delayed_events::insert(&mut tx, row).await?;
        let txn_id = delay.txn_id.as_deref().unwrap_or_default();
        let known =
            delayed_events::by_transaction(&mut tx, delay.device, room.num, &delay.kind, txn_id)
                .await?;
        tx.commit().await?;
        self.timetable.changed();
        Ok(known.filter(|_| !is_new).unwrap_or(delay_id))
    }

    /// Returns the events that a user has scheduled, in the order in which they are to be sent.
    pub async fn delayed_events(&self, user: UserNum) -> Result<Vec<Delayed>> {
        let rows = {
            let mut conn = self.db.read().await?;
            delayed_events::scheduled(&mut conn, user).await?
        };
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            let room_id = self.memory.room_id(row.room).await?;
            events.push(Delayed { room_id, row });
        }
        Ok(events)
    }

    /// Returns an event that a user delayed, also where it was sent or cancelled already.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for one that is unknown, or of another.
    pub async fn delayed_event(&self, user: UserNum, delay_id: &str) -> Result<Delayed> {
        let row = self.delayed_row(delay_id).await?;
        if row.user_num != user {
            return Err(unknown());
        }
        let room_id = self.memory.room_id(row.room).await?;
        Ok(Delayed { room_id, row })
    }

    async fn delayed_row(&self, delay_id: &str) -> Result<DelayedRow> {
        let mut conn = self.db.read().await?;
        delayed_events::get(&mut conn, delay_id)
            .await?
            .ok_or_else(unknown)
    }

    /// Cancels, restarts or sends a delayed event, for whoever knows its secret.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Finalised`] when something else has become of it; what refuses the event when it
    /// is to be sent now, in which case it stays scheduled.
    pub async fn update_delayed(&self, delay_id: &str, action: DelayAction) -> Result<()> {
        let row = self.delayed_row(delay_id).await?;
        let now = self.clock.now_ms();
        let is_done = match action {
            DelayAction::Send if row.finalised_ts.is_none() => {
                match self.send_delayed(&row).await {
                    // Its time came meanwhile, or somebody was faster.
                    Err(Error::Finalised(_)) => false,
                    other => return other,
                }
            }
            DelayAction::Send => false,
            DelayAction::Restart => {
                let mut tx = self.db.write().await?;
                let is_done = delayed_events::restart(&mut tx, row.num, now).await?;
                tx.commit().await?;
                self.timetable.changed();
                is_done
            }
            DelayAction::Cancel => {
                let ending = Ending {
                    ts: now,
                    ..Ending::default()
                };
                self.finish_delayed(row.num, ending).await?
            }
        };
        if is_done {
            return Ok(());
        }
        // What became of it may be just what is asked for: then the request was only repeated.
        let was_sent = self.delayed_row(delay_id).await?.event_id.is_some();
        match action {
            DelayAction::Send if was_sent => Ok(()),
            DelayAction::Cancel if !was_sent => Ok(()),
            _ if was_sent => Err(Error::Finalised("the event was sent already".to_owned())),
            _ => Err(Error::Finalised(
                "the event was cancelled already".to_owned(),
            )),
        }
    }

    async fn finish_delayed(&self, num: i64, ending: Ending<'_>) -> Result<bool> {
        let mut tx = self.db.write().await?;
        let is_done = delayed_events::finish(&mut tx, num, ending).await?;
        tx.commit().await?;
        Ok(is_done)
    }

    /// Sends a delayed event; in the same write it ceases to be scheduled.
    async fn send_delayed(&self, row: &DelayedRow) -> Result<()> {
        let sender = {
            let mut conn = self.db.read().await?;
            let texts = self.db.strings.texts(&mut conn, &[row.user_num]).await?;
            texts.get(&row.user_num).map(ToString::to_string)
        };
        let sender = OwnedUserId::try_from(sender.unwrap_or_default())
            .map_err(|source| Error::internal("read the sender of a delayed event", source))?;
        let content = RawValue::from_string(row.content.clone())?;
        let event = match &row.state_key {
            Some(key) => NewEvent::state(sender, &StateEventType::from(&*row.kind), key, content),
            None => NewEvent::message(sender, TimelineEventType::from(&*row.kind), content, None),
        };
        let (num, room) = (row.num, row.room);
        let sent = self
            .tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms
                    .sender
                    .send_on(room, event, Occasion::Delayed(num))
                    .await
            });
        let event_id = sent.await?;
        // State that is already as the event wants it makes no new event.
        let ending = Ending {
            ts: self.clock.now_ms(),
            event_id: Some(event_id.as_str()),
            error: None,
        };
        self.finish_delayed(row.num, ending).await?;
        Ok(())
    }

    /// Begins to send delayed events when their time has come.
    pub fn send_delayed_events(&self) {
        let service = self.clone();
        self.timetable
            .do_in_time("send delayed events", &self.clock, &self.tasks, move || {
                service.clone().send_due()
            });
    }

    /// Sends what is due; returns when the next is.
    async fn send_due(self) -> Result<Option<i64>> {
        loop {
            let now = self.clock.now_ms();
            let rows = {
                let mut conn = self.db.read().await?;
                let rows = delayed_events::due(&mut conn, now, BATCH).await?;
                if rows.is_empty() {
                    return delayed_events::next_due(&mut conn).await;
                }
                rows
            };
            for row in rows {
                match self.send_delayed(&row).await {
                    Ok(()) | Err(Error::Finalised(_)) => {}
                    Err(
                        error @ (Error::Internal { .. }
                        | Error::StorageFull
                        | Error::Unavailable(_)),
                    ) => {
                        return Err(error);
                    }
                    Err(refused) => self.give_up(&row, &refused).await?,
                }
            }
        }
    }

    async fn give_up(&self, row: &DelayedRow, refused: &Error) -> Result<()> {
        tracing::debug!(delayed = row.num, error = %refused, "a delayed event is refused");
        let errcode = match refused {
            Error::Forbidden(_) => "M_FORBIDDEN",
            Error::TooLarge(_) => "M_TOO_LARGE",
            Error::BadJson(_) => "M_BAD_JSON",
            _ => "M_UNKNOWN",
        };
        let error = json!({ "errcode": errcode, "error": refused.to_string() }).to_string();
        let ending = Ending {
            ts: self.clock.now_ms(),
            event_id: None,
            error: Some(&error),
        };
        self.finish_delayed(row.num, ending).await?;
        Ok(())
    }
}

impl Delay {
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
                "the delay must be longer than nothing",
            ));
        }
        if self.content.get().len() > CONTENT_BYTES {
            return Err(Error::TooLarge("the content is too large".to_owned()));
        }
        if self.kind == TimelineEventType::RoomCreate.to_string() {
            return Err(Error::invalid_param("a room is created only once"));
        }
        // Guests have to leave when it changes, at the request of whoever changed it.
        if self.kind == TimelineEventType::RoomGuestAccess.to_string() {
            return Err(Error::invalid_param(
                "who may come as a guest cannot be changed later",
            ));
        }
        Ok(())
    }
}

fn unknown() -> Error {
    Error::not_found("there is no such delayed event")
}
