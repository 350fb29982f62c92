//! Sends events: builds, checks, signs and stores an event that a user of this server sends.

use std::sync::{Arc, atomic::Ordering};

use ruma::{
    EventId, OwnedEventId, OwnedUserId, RoomId,
    events::{StateEventType, TimelineEventType},
};

use super::{EventSender, membership::is_void, policy_server::Vetting};
use crate::{
    error::{Error, Result},
    matrix::{self, Pdu},
    rooms::{
        Action,
        log::{
            append::{Accepted, append},
            invite_expiry,
            new_event::{NewEvent, check_txn_id},
            relations,
        },
        memory::{
            load, not_in_room,
            room::{Room, Tip},
        },
    },
    storage::{Pending, WriteTx, rooms::events},
};

/// The number of attempts to build an event. A new attempt is needed if a lost batch invalidated the room's tip, or if
/// the room got other events while its policy server checked this one.
const ATTEMPTS: usize = 8;
/// The reason for which the server sends an event.
#[derive(Clone, Debug)]
pub(crate) enum Occasion {
    /// A user requests it.
    Request,
    /// A user requests this change of a membership.
    Membership(Action),
    /// The server sends it for a user who did not request it just now.
    Background,
    /// The delayed event with this number is due.
    Delayed(i64),
    /// This invitation has expired.
    Expiry(OwnedEventId),
    /// The room is being deleted.
    Deletion,
}

/// The outcome of an attempt to send an event.
enum Attempt {
    Sent(OwnedEventId),
    /// The room has to be loaded again, then another attempt follows.
    Again,
    /// The policy server of the room has to sign the event first.
    Unvetted(Box<Accepted>),
}

impl Occasion {
    /// Checks at the tip of the room that the reason for the event still exists.
    fn check(&self, tip: &Tip, event: &NewEvent) -> Result<()> {
        match self {
            Self::Expiry(invitation) => invite_expiry::check_stands(&tip.state, event, invitation),
            Self::Request
            | Self::Membership(_)
            | Self::Background
            | Self::Delayed(_)
            | Self::Deletion => Ok(()),
        }
    }

    /// Returns the current member event, if it already is what a membership change requests.
    fn fulfilled<'a>(&self, tip: &'a Tip, event: &NewEvent) -> Option<&'a Arc<Pdu>> {
        let Self::Membership(action) = self else {
            return None;
        };
        let member = tip
            .state
            .get(&StateEventType::RoomMember, event.state_key.as_deref()?)?;
        matches!(is_void(member.membership().as_ref(), *action), Ok(true)).then_some(member)
    }

    /// Returns whether the event is sent without a request of its sender, so that it marks nothing as read.
    fn is_unattended(&self) -> bool {
        match self {
            Self::Background | Self::Delayed(_) | Self::Expiry(_) | Self::Deletion => true,
            Self::Request | Self::Membership(_) => false,
        }
    }

    fn delayed(&self) -> Option<i64> {
        match self {
            Self::Delayed(num) => Some(*num),
            _ => None,
        }
    }
}

impl EventSender {
    /// Sends an event to a room. Returns its event id when the event is on disk.
    ///
    /// The same transaction id of the same device returns the same event id, even after a restart.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] for an unknown room, and [`Error::Forbidden`] with the rule that refuses the event.
    #[tracing::instrument(skip_all, fields(room_id = %room_id), err(level = "debug"))]
    pub async fn send(&self, room_id: &RoomId, event: NewEvent) -> Result<OwnedEventId> {
        if let Some(transaction) = &event.transaction {
            check_txn_id(&transaction.txn_id)?;
        }
        let num = self
            .memory
            .number(room_id)
            .await
            .map_err(|error| not_in_room(error, room_id))?;
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.send_now(num, event).await
            })
            .await
    }

    /// Returns the id of the event that was already sent with the transaction id of a request.
    ///
    /// This answers a repeated request without a body.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotJson`] if no event was sent with it, because the request for a new event needs a body, and
    /// [`Error::Forbidden`] if this server is not in the room.
    pub async fn sent_before(&self, room_id: &RoomId, event: &NewEvent) -> Result<OwnedEventId> {
        let room = self.memory.room_of_member(room_id).await?;
        let no_body = Error::NotJson("the request has no body".to_owned());
        self.already_sent(&room, event, no_body).await
    }

    pub(crate) async fn send_now(&self, num: i64, event: NewEvent) -> Result<OwnedEventId> {
        self.send_on(num, event, Occasion::Request).await
    }

    /// Sends an event like [`Rooms::send_now`], for a reason that decides whether the event is still needed.
    pub(crate) async fn send_on(
        &self,
        num: i64,
        event: NewEvent,
        occasion: Occasion,
    ) -> Result<OwnedEventId> {
        let mut vetting = Vetting::default();
        for _ in 0..ATTEMPTS {
            let room = self.memory.room_by_number(num).await?;
            vetting.wait_for_turn(&room).await;
            let attempt = self.attempt(&room, &event, &occasion, &mut vetting).await?;
            match attempt {
                Attempt::Sent(event_id) => return Ok(event_id),
                Attempt::Again => {}
                Attempt::Unvetted(accepted) => match self.vet(&room, *accepted).await {
                    Ok(accepted) => vetting.put(accepted),
                    Err(refused) => return self.already_sent(&room, &event, refused).await,
                },
            }
        }
        Err(Error::Unavailable(
            "the room cannot accept the event now; try again later".to_owned(),
        ))
    }

    /// Sends an event, if the room in memory is up to date and its policy server has signed the event.
    async fn attempt(
        &self,
        room: &Arc<Room>,
        event: &NewEvent,
        occasion: &Occasion,
        vetting: &mut Vetting,
    ) -> Result<Attempt> {
        // Other senders wait for the lock of this room. The intent makes the batch wait for their events too.
        let intent = self.db.journal().intent();
        let mut tip = room.tip.lock().await;
        if room.is_stale() {
            return Ok(Attempt::Again);
        }
        if !matches!(occasion, Occasion::Deletion) {
            let stays = self.memory.check_stays(room.num);
            stays.map_err(|error| not_in_room(error, &room.room_id))?;
        }
        occasion.check(&tip, event)?;
        if let Some(member) = occasion.fulfilled(&tip, event).cloned() {
            drop((intent, tip));
            return self.known_state(room, &member).await;
        }
        let vetted = vetting.take(&tip);
        let is_vetted = vetted.is_some() || !self.is_to_be_vetted(room, occasion);
        let accepted = match vetted {
            Some(vetted) => Ok(vetted),
            None => self.accept_allowed(room, &tip, event).await,
        };
        let mut accepted = match accepted {
            Ok(accepted) => accepted,
            Err(refused) => {
                let first = self.already_sent(room, event, refused).await;
                return first.map(Attempt::Sent);
            }
        };
        if let Some(same) = same_state(&tip, &accepted.pdu).cloned() {
            drop((intent, tip));
            return self.known_state(room, &same).await;
        }
        if !is_vetted {
            return Ok(Attempt::Unvetted(accepted.into()));
        }
        accepted.delayed = occasion.delayed();
        if occasion.is_unattended() {
            accepted.leave_unread();
        }
        let event_id = accepted.pdu.event_id.clone();
        let mut tx = self.db.write().await?;
        if room.is_stale() {
            return Ok(Attempt::Again);
        }
        if let Err(refused) = relations::check(&mut tx, room.num, event).await {
            return answer_refused(tx, room, event, refused).await;
        }
        let mut next = tip.clone();
        let Some(stored) = append(&self.log, &mut tx, room, &mut next, accepted).await? else {
            return first_answer(tx, room, event).await.map(Attempt::Sent);
        };
        drop(intent);
        let pending = release(tx, room, stored.position)?;
        *tip = next;
        drop(tip);
        pending.durable().await?;
        Ok(Attempt::Sent(event_id))
    }

    /// Answers with a current state event that is equal to the new one.
    ///
    /// If that event is not on disk yet, it may still be lost. Then this waits for the write, and the next attempt
    /// reads the state again.
    async fn known_state(&self, room: &Room, known: &Pdu) -> Result<Attempt> {
        if is_on_disk(room, known) {
            return Ok(Attempt::Sent(known.event_id.clone()));
        }
        if let Err(error) = self.memory.settle(room).await {
            tracing::debug!(%error, room_id = %room.room_id, "could not store an equal state event");
        }
        Ok(Attempt::Again)
    }

    /// Builds, authorises and signs an event. It also makes the checks that the authorisation rules leave to the
    /// server of the sender.
    async fn accept_allowed(
        &self,
        room: &Arc<Room>,
        tip: &Tip,
        event: &NewEvent,
    ) -> Result<Accepted> {
        if let Some(target) = &event.redacts {
            self.check_redaction(room, tip, &event.sender, target)
                .await?;
        } else if event.kind == TimelineEventType::RoomRedaction && event.state_key.is_none() {
            return Err(Error::BadJson(
                "redacts: a redaction must name the event that it redacts".to_owned(),
            ));
        }
        let mut event = event.clone();
        if event.kind == TimelineEventType::RoomMember {
            self.log.check_invitation(&event).await?;
            invite_expiry::check_not_expired(&tip.state, &event, self.clock.now_ms())?;
            self.join_rules
                .authorise_join(room, &tip.state, &mut event)
                .await?;
        }
        self.log.accept(room, tip, event).await
    }
}

/// Returns the current state event, if it has the same sender and content as the new one.
fn same_state<'a>(tip: &'a Tip, pdu: &Pdu) -> Option<&'a Arc<Pdu>> {
    let known = tip
        .state
        .get(&pdu.state_type(), pdu.state_key.as_deref()?)?;
    let is_same = known.sender == pdu.sender && known.content.get() == pdu.content.get();
    is_same.then_some(known)
}

/// Returns whether readers already see a state event as current, which means that it is on disk.
pub(crate) fn is_on_disk(room: &Room, pdu: &Pdu) -> bool {
    let state_key = pdu.state_key.as_deref().unwrap_or_default();
    let view = room.view();
    let seen = view.state.get(&pdu.state_type(), state_key);
    seen.is_some_and(|seen| seen.event_id == pdu.event_id)
}

/// Returns the refusal of an event, or the event id if the same transaction already sent it.
async fn answer_refused(
    tx: WriteTx,
    room: &Room,
    event: &NewEvent,
    refused: Error,
) -> Result<Attempt> {
    if event.transaction.is_none() {
        return Err(refused);
    }
    // The first event of the transaction may be in the same batch, which readers do not see yet.
    let first = first_answer(tx, room, event).await;
    first.map(Attempt::Sent).map_err(|_| refused)
}

/// Answers a repeated transaction with the event that it sent the first time, once that event is on disk.
async fn first_answer(mut tx: WriteTx, room: &Room, event: &NewEvent) -> Result<OwnedEventId> {
    let Some(transaction) = &event.transaction else {
        return Err(Error::internal(
            "store an event",
            "it was refused without a transaction",
        ));
    };
    let kind = tx.intern(&event.kind.to_string()).await?;
    let known = events::by_transaction(
        &mut tx,
        transaction.device,
        room.num,
        kind,
        &transaction.txn_id,
    )
    .await?;
    tx.commit().await?;
    let known =
        known.ok_or_else(|| Error::internal("find an event by its transaction", "it is gone"))?;
    OwnedEventId::try_from(known).map_err(|source| Error::internal("read an event id", source))
}

impl EventSender {
    /// Checks that a user may redact an event: users may redact their own events, but those of others only with enough
    /// power.
    async fn check_redaction(
        &self,
        room: &Arc<Room>,
        tip: &Tip,
        sender: &OwnedUserId,
        target: &EventId,
    ) -> Result<()> {
        let levels = matrix::power_levels(&tip.state, &room.rules);
        let may_redact_all = levels.user_can_redact_event_of_other(sender);
        let mut conn = self.db.read().await?;
        match load::pdu_by_id(&mut conn, target.as_str()).await? {
            Some(pdu) if pdu.room_id != room.room_id => Err(Error::invalid_param(
                "the event to redact is in another room",
            )),
            // Another server may still send this event.
            None if may_redact_all => Ok(()),
            Some(pdu) if may_redact_all || pdu.sender == *sender => Ok(()),
            Some(_) => Err(Error::forbidden(
                "you may not redact the events of others here",
            )),
            None => Err(Error::not_found("there is no such event")),
        }
    }

    /// Answers a repeated transaction with its first event, even if the event would be refused now. Otherwise returns
    /// the refusal.
    async fn already_sent(
        &self,
        room: &Room,
        event: &NewEvent,
        refused: Error,
    ) -> Result<OwnedEventId> {
        let Some(transaction) = &event.transaction else {
            return Err(refused);
        };
        let mut conn = self.db.read().await?;
        let Some(kind) = self
            .db
            .strings
            .find(&mut conn, &event.kind.to_string())
            .await?
        else {
            return Err(refused);
        };
        let known = events::by_transaction(
            &mut conn,
            transaction.device,
            room.num,
            kind,
            &transaction.txn_id,
        )
        .await?;
        known
            .and_then(|event_id| OwnedEventId::try_from(event_id).ok())
            .ok_or(refused)
    }
}

/// Leaves a write to the journal's batch, and records in the room that the write is not on disk yet.
pub(crate) fn release(tx: WriteTx, room: &Room, newest: i64) -> Result<Pending> {
    let pending = tx.release()?;
    room.released.store(newest, Ordering::SeqCst);
    Ok(pending)
}
