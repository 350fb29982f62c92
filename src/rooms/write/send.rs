//! Sending: from what a user wants to say to an event on disk.

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

/// How often an event is built anew because a lost batch took the room's tip with it, or the room went on while its
/// policy server thought about the event.
const ATTEMPTS: usize = 8;
/// Why the server sends an event.
#[derive(Clone, Debug)]
pub(crate) enum Occasion {
    /// Somebody asks for it.
    Request,
    /// Somebody asks for this to be done to a membership.
    Membership(Action),
    /// The server does it for somebody who is not looking.
    Background,
    /// The time of the delayed event with this number has come.
    Delayed(i64),
    /// The time of this invitation is over.
    Expiry(OwnedEventId),
    /// The room is being deleted.
    Deletion,
}

/// What came of an attempt to send an event.
enum Attempt {
    Sent(OwnedEventId),
    /// The room is loaded anew.
    Again,
    /// The policy server of the room has to sign it first.
    Unvetted(Box<Accepted>),
}

impl Occasion {
    /// Checks, at the tip of the room, that there is still reason for the event.
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

    /// Returns the member event that is already what the wish for a membership asks for.
    fn fulfilled<'a>(&self, tip: &'a Tip, event: &NewEvent) -> Option<&'a Arc<Pdu>> {
        let Self::Membership(action) = self else {
            return None;
        };
        let member = tip
            .state
            .get(&StateEventType::RoomMember, event.state_key.as_deref()?)?;
        matches!(is_void(member.membership().as_ref(), *action), Ok(true)).then_some(member)
    }

    /// Returns whether the sender is not looking when the event is sent.
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
    /// Sends an event to a room; returns its id when it is on disk.
    ///
    /// The same transaction of the same device returns the same event id, also after a restart.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for an unknown room, [`Error::Forbidden`] with the rule that refuses the event.
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

    /// Returns the event that was sent with the transaction id of another one.
    ///
    /// # Errors
    ///
    /// [`Error::NotJson`] when there is none: a new event has a body. [`Error::Forbidden`] when this server is not in the
    /// room.
    pub async fn sent_before(&self, room_id: &RoomId, event: &NewEvent) -> Result<OwnedEventId> {
        let room = self.memory.room_of_member(room_id).await?;
        let no_body = Error::NotJson("the request has no body".to_owned());
        self.already_sent(&room, event, no_body).await
    }

    pub(crate) async fn send_now(&self, num: i64, event: NewEvent) -> Result<OwnedEventId> {
        self.send_on(num, event, Occasion::Request).await
    }

    /// As [`Rooms::send_now`], on an occasion that decides on whether the event is still wanted.
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
            "the room does not accept the event".to_owned(),
        ))
    }

    /// Sends an event, if the room is as it seems, and its policy server agrees.
    async fn attempt(
        &self,
        room: &Arc<Room>,
        event: &NewEvent,
        occasion: &Occasion,
        vetting: &mut Vetting,
    ) -> Result<Attempt> {
        // Others of this room wait for its lock: their events shall come into one batch with this one.
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

    /// Answers with a state event that says already what a new one would.
    ///
    /// One that is not on disk yet may still be lost: it is waited for, and then looked at again.
    async fn known_state(&self, room: &Room, known: &Pdu) -> Result<Attempt> {
        if is_on_disk(room, known) {
            return Ok(Attempt::Sent(known.event_id.clone()));
        }
        if let Err(error) = self.memory.settle(room).await {
            tracing::debug!(%error, room_id = %room.room_id, "an equal state event may be lost");
        }
        Ok(Attempt::Again)
    }

    /// Builds, authorizes and signs an event, and checks what the rules of rooms leave to the server of the sender.
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
                "redacts: a redaction names the event that it redacts".to_owned(),
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

/// Returns the state event that says already what a new one would, by the same sender.
fn same_state<'a>(tip: &'a Tip, pdu: &Pdu) -> Option<&'a Arc<Pdu>> {
    let known = tip
        .state
        .get(&pdu.state_type(), pdu.state_key.as_deref()?)?;
    let is_same = known.sender == pdu.sender && known.content.get() == pdu.content.get();
    is_same.then_some(known)
}

/// Returns whether readers see a state event as the room's current one.
pub(crate) fn is_on_disk(room: &Room, pdu: &Pdu) -> bool {
    let state_key = pdu.state_key.as_deref().unwrap_or_default();
    let view = room.view();
    let seen = view.state.get(&pdu.state_type(), state_key);
    seen.is_some_and(|seen| seen.event_id == pdu.event_id)
}

/// Answers an event that was refused, unless it is one that was sent before.
async fn answer_refused(
    tx: WriteTx,
    room: &Room,
    event: &NewEvent,
    refused: Error,
) -> Result<Attempt> {
    if event.transaction.is_none() {
        return Err(refused);
    }
    // The first time may be in the same batch, which no reader sees yet.
    let first = first_answer(tx, room, event).await;
    first.map(Attempt::Sent).map_err(|_| refused)
}

/// Answers a transaction that was sent before: with the event of the first time, once it is on disk.
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
    /// One may redact one's own events; those of others only with the power for it.
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
            // It may be on its way from another server.
            None if may_redact_all => Ok(()),
            Some(pdu) if may_redact_all || pdu.sender == *sender => Ok(()),
            Some(_) => Err(Error::forbidden(
                "you may not redact the events of others here",
            )),
            None => Err(Error::not_found("there is no such event")),
        }
    }

    /// A transaction that was sent before is answered as before, even where it would be refused now.
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

/// Leaves a write in the journal's batch, and notes that the room has something on its way to the disk.
pub(crate) fn release(tx: WriteTx, room: &Room, newest: i64) -> Result<Pending> {
    let pending = tx.release()?;
    room.released.store(newest, Ordering::SeqCst);
    Ok(pending)
}
