//! Sends events: builds, checks, signs and stores an event that a user of this server sends.

use std::sync::Arc;

use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, events::TimelineEventType};
use tokio::sync::MutexGuard;

use super::{EventSender, policy_server::EventVetting, send_occasion::SendOccasion};
use crate::{
    error::{Error, RefusalCode, Result},
    matrix::{self, Pdu},
    numbers::{RoomNum, StringNum},
    rooms::{
        log::{
            accepted_event::AcceptedEvent,
            append::append,
            invite_expiry,
            new_event::{ClientTransaction, EventToSend, check_txn_id},
            relations, release_write,
        },
        memory::{
            not_in_room,
            room::{Room, RoomTip},
            stored_events::{parse_event_id, pdu_by_id},
        },
    },
    storage::{ReadAccess, WriteIntent, WriteTx, rooms::events},
};

/// The number of attempts to build an event. A new attempt is needed if a lost batch invalidated the room's tip, or if
/// the room got other events while its policy server checked this one.
const MAX_SEND_ATTEMPTS: usize = 8;

/// The turn of a sender: no other event is added to the room meanwhile.
struct SendTurn<'a> {
    tip: MutexGuard<'a, RoomTip>,
    /// Makes the batch wait for the event.
    intent: WriteIntent,
}

/// The outcome of an attempt to send an event.
enum SendAttempt {
    Sent(OwnedEventId),
    /// The room has to be loaded again, then another attempt follows.
    Retry,
    /// The policy server of the room has to sign the event first.
    Unvetted(Box<AcceptedEvent>),
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
    pub async fn send(&self, room_id: &RoomId, event: EventToSend) -> Result<OwnedEventId> {
        if let Some(transaction) = &event.transaction {
            check_txn_id(&transaction.txn_id)?;
        }
        let num = self
            .memory
            .room_number(room_id)
            .await
            .map_err(|error| not_in_room(error, room_id))?;
        self.send_to_completion(num, event, SendOccasion::Request)
            .await
    }

    /// Returns the id of the event that was already sent with the transaction id of a request.
    ///
    /// This answers a repeated request without a body.
    ///
    /// # Errors
    ///
    /// Returns `RefusalCode::NotJson` if no event was sent with it, because the request for a new event needs a body,
    /// and [`Error::Forbidden`] if this server does not know the room.
    pub async fn event_id_of_transaction(
        &self,
        room_id: &RoomId,
        event: &EventToSend,
    ) -> Result<OwnedEventId> {
        let room = self.memory.room_of_member(room_id).await?;
        let no_body = Error::refused(RefusalCode::NotJson, "the request has no body".to_owned());
        self.answer_repeat_or_refuse(&room, event, no_body).await
    }

    pub(crate) async fn send_now(&self, num: RoomNum, event: EventToSend) -> Result<OwnedEventId> {
        self.send_with_occasion(num, event, SendOccasion::Request)
            .await
    }

    /// Sends an event as [`EventSender::send_with_occasion`] does, even if the caller is cancelled meanwhile.
    pub(super) async fn send_to_completion(
        &self,
        num: RoomNum,
        event: EventToSend,
        occasion: SendOccasion,
    ) -> Result<OwnedEventId> {
        self.tasks
            .run_to_completion(self, async move |sender: Self| {
                sender.send_with_occasion(num, event, occasion).await
            })
            .await
    }

    /// Sends an event like [`EventSender::send_now`], for a reason that decides whether the event is still needed.
    pub(crate) async fn send_with_occasion(
        &self,
        num: RoomNum,
        event: EventToSend,
        occasion: SendOccasion,
    ) -> Result<OwnedEventId> {
        let mut vetting = EventVetting::default();
        for _ in 0..MAX_SEND_ATTEMPTS {
            let room = self.memory.room_by_number(num).await?;
            vetting.wait_for_turn(&room).await;
            let attempt = self
                .attempt_send(&room, &event, &occasion, &mut vetting)
                .await?;
            match attempt {
                SendAttempt::Sent(event_id) => return Ok(event_id),
                SendAttempt::Retry => {}
                SendAttempt::Unvetted(accepted) => match self.vet_event(&room, *accepted).await {
                    Ok(accepted) => vetting.store_vetted(accepted),
                    Err(refused) => {
                        return self.answer_repeat_or_refuse(&room, &event, refused).await;
                    }
                },
            }
        }
        Err(Error::Unavailable(
            "the room cannot accept the event now; try again later".to_owned(),
        ))
    }

    /// Sends an event, if the room in memory is up to date and its policy server has signed the event.
    async fn attempt_send(
        &self,
        room: &Arc<Room>,
        event: &EventToSend,
        occasion: &SendOccasion,
        vetting: &mut EventVetting,
    ) -> Result<SendAttempt> {
        // Other senders wait for the lock of this room. The intent makes the batch wait for their events too.
        let intent = self.db.journal().register_intent();
        let tip = room.tip.lock().await;
        if room.is_stale() {
            return Ok(SendAttempt::Retry);
        }
        if !matches!(occasion, SendOccasion::Deletion) {
            let not_deleted = self.memory.check_not_deleted(room.num);
            not_deleted.map_err(|error| not_in_room(error, &room.room_id))?;
        }
        occasion.check_still_valid(&tip, event)?;
        if let Some(member) = occasion.existing_member_event(&tip, event).cloned() {
            drop((intent, tip));
            return self.answer_known_state(room, &member).await;
        }
        let vetted = vetting.take_vetted(&tip);
        let is_vetted = vetted.is_some() || !self.needs_vetting(room, occasion);
        let accepted = match vetted {
            Some(vetted) => Ok(vetted),
            None => self.build_event(room, &tip, event).await,
        };
        let mut accepted = match accepted {
            Ok(accepted) => accepted,
            Err(refused) => {
                let first = self.answer_repeat_or_refuse(room, event, refused).await;
                return first.map(SendAttempt::Sent);
            }
        };
        if let Some(same) = equal_state_event(&tip, &accepted.pdu).cloned() {
            drop((intent, tip));
            return self.answer_known_state(room, &same).await;
        }
        if !is_vetted {
            return Ok(SendAttempt::Unvetted(accepted.into()));
        }
        accepted.delayed_event = occasion.delayed_event_num();
        if occasion.is_unattended() {
            accepted.keep_sender_unread();
        }
        let turn = SendTurn { tip, intent };
        self.store_event(room, event, accepted, turn).await
    }

    /// Stores an event that was built at the tip of the room.
    async fn store_event(
        &self,
        room: &Room,
        event: &EventToSend,
        accepted: AcceptedEvent,
        turn: SendTurn<'_>,
    ) -> Result<SendAttempt> {
        let SendTurn { mut tip, intent } = turn;
        let event_id = accepted.pdu.event_id.clone();
        let mut tx = self.db.write().await?;
        if room.is_stale() {
            return Ok(SendAttempt::Retry);
        }
        if let Err(refused) = relations::check_relation(&mut tx, room.num, event).await {
            // The first event of the transaction may be in the same batch, which readers do not see yet.
            return match find_first_event_in_batch(tx, room, event).await {
                Ok(Some(first)) => Ok(SendAttempt::Sent(first)),
                Ok(None) | Err(_) => Err(refused),
            };
        }
        let mut next = tip.clone();
        let Some(stored) = append(&self.log, &mut tx, room, &mut next, accepted).await? else {
            let first = find_first_event_in_batch(tx, room, event).await?;
            let missing = || Error::internal("store an event", "it is already stored");
            return first.map(SendAttempt::Sent).ok_or_else(missing);
        };
        drop(intent);
        let pending = release_write(tx, room, stored.position)?;
        *tip = next;
        drop(tip);
        pending.wait_until_durable().await?;
        Ok(SendAttempt::Sent(event_id))
    }

    /// Answers with a current state event that is equal to the new one.
    ///
    /// If that event is not on disk yet, it may still be lost. Then this waits for the write, and the next attempt
    /// reads the state again.
    async fn answer_known_state(&self, room: &Room, known: &Pdu) -> Result<SendAttempt> {
        if is_on_disk(room, known) {
            return Ok(SendAttempt::Sent(known.event_id.clone()));
        }
        if let Err(error) = self.memory.wait_until_stored(room).await {
            tracing::debug!(%error, room_id = %room.room_id, "could not store an equal state event");
        }
        Ok(SendAttempt::Retry)
    }

    /// Builds, authorises and signs an event. It also makes the checks that the authorisation rules leave to the
    /// server of the sender.
    async fn build_event(
        &self,
        room: &Arc<Room>,
        tip: &RoomTip,
        event: &EventToSend,
    ) -> Result<AcceptedEvent> {
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
            self.log.check_invite_permission(&event).await?;
            invite_expiry::check_not_expired(&tip.state, &event, self.clock.now_ms())?;
            self.join_rules
                .authorise_join(room, &tip.state, &mut event)
                .await?;
        }
        self.log.build_event(room, tip, event).await
    }
}

/// Returns the current state event, if it has the same sender and content as the new one.
fn equal_state_event<'a>(tip: &'a RoomTip, pdu: &Pdu) -> Option<&'a Arc<Pdu>> {
    let known = tip
        .state
        .get(&pdu.state_type(), pdu.state_key.as_deref()?)?;
    let is_same = known.sender == pdu.sender && known.content.get() == pdu.content.get();
    // A sticky event is sent again so that it stays sticky.
    (is_same && pdu.sticky.is_none()).then_some(known)
}

/// Returns whether readers already see a state event as current, which means that it is on disk.
pub(crate) fn is_on_disk(room: &Room, pdu: &Pdu) -> bool {
    let state_key = pdu.state_key.as_deref().unwrap_or_default();
    let view = room.view();
    let seen = view.state.get(&pdu.state_type(), state_key);
    seen.is_some_and(|seen| seen.event_id == pdu.event_id)
}

/// Returns the event that the transaction of an event sent first, once that event is on disk. It may be in the batch
/// of `tx`.
async fn find_first_event_in_batch(
    mut tx: WriteTx,
    room: &Room,
    event: &EventToSend,
) -> Result<Option<OwnedEventId>> {
    let Some(transaction) = &event.transaction else {
        return Ok(None);
    };
    let kind = tx.intern(&event.kind.to_string()).await?;
    let first = find_first_event(&mut tx, room, transaction, kind).await?;
    tx.commit().await?;
    Ok(first)
}

/// Returns the event that a transaction sent first. `kind` is the number of its type.
async fn find_first_event(
    db: &mut impl ReadAccess,
    room: &Room,
    transaction: &ClientTransaction,
    kind: StringNum,
) -> Result<Option<OwnedEventId>> {
    let (device, txn_id) = (transaction.device, &transaction.txn_id);
    let first = events::find_by_transaction(db, device, room.num, kind, txn_id).await?;
    first.as_deref().map(parse_event_id).transpose()
}

impl EventSender {
    /// Checks that a user may redact an event: users may redact their own events, but those of others only with enough
    /// power.
    async fn check_redaction(
        &self,
        room: &Arc<Room>,
        tip: &RoomTip,
        sender: &OwnedUserId,
        target: &EventId,
    ) -> Result<()> {
        let levels = matrix::power_levels(&tip.state, &room.rules);
        let may_redact_all = levels.user_can_redact_event_of_other(sender);
        let mut conn = self.db.read().await?;
        match pdu_by_id(&mut conn, target.as_str()).await? {
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
    async fn answer_repeat_or_refuse(
        &self,
        room: &Room,
        event: &EventToSend,
        refused: Error,
    ) -> Result<OwnedEventId> {
        let Some(transaction) = &event.transaction else {
            return Err(refused);
        };
        let mut conn = self.db.read().await?;
        let (strings, kind) = (&self.db.strings, event.kind.to_string());
        let Some(kind) = strings.find_number(&mut conn, &kind).await? else {
            return Err(refused);
        };
        find_first_event(&mut conn, room, transaction, kind)
            .await?
            .ok_or(refused)
    }
}
