//! Invitations that expire.
//!
//! The field `dev.parlour.expires_at` in the content of an invitation says when it expires. `log::invite_expiry` keeps a
//! row for it as long as the invitation is the user's current membership. When it expires, the server withdraws it with
//! an ordinary event. Until that event is stored, the server already refuses the invitation.

use ruma::{
    OwnedEventId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::Value;

use super::{
    ExpiringInvitations,
    member_change::{MemberChange, leave_event},
    removal::find_remover,
    send_occasion::SendOccasion,
};
use crate::{
    error::{Error, Result},
    rooms::{
        EventToSend,
        log::invite_expiry::{invitation_replaced, is_expired},
        memory::{room::Room, stored_events::parse_event_id},
    },
    storage::rooms::expiring_invites::{self, ExpiringInvite},
};

/// The field of an invitation that says when it expires, in milliseconds since the Unix epoch.
const EXPIRES_AT_FIELD: &str = "dev.parlour.expires_at";
/// The reason in the event that withdraws an expired invitation.
const EXPIRY_REASON: &str = "The invitation has expired";
/// The longest lifetime of an invitation, in milliseconds.
const MAX_LIFETIME_MS: i64 = 366 * 24 * 3_600_000;
/// The number of expired invitations that are loaded from the database at a time.
const WITHDRAWAL_BATCH_SIZE: i64 = 64;

impl ExpiringInvitations {
    /// Sends an invitation that expires at a time. Returns the event id of the invitation.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidParam`] for a time that has passed or is more than a year away, and
    /// [`Error::Forbidden`] with the rule that refuses the invitation.
    pub async fn invite_until(
        &self,
        room_id: &RoomId,
        invitation: MemberChange,
        expires_at: i64,
    ) -> Result<OwnedEventId> {
        let event = self.expiring_invitation_event(invitation, expires_at)?;
        let room = self.memory.room_of_member(room_id).await?;
        if room.view().state.membership(&event.sender) != MembershipState::Join {
            return Err(Error::forbidden("you are not in this room"));
        }
        let num = room.num;
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.sender.send_now(num, event).await
            })
            .await
    }

    /// Returns an invitation that expires at a time.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidParam`] for a time that has passed or is more than a year away.
    pub fn expiring_invitation_event(
        &self,
        mut invitation: MemberChange,
        expires_at: i64,
    ) -> Result<EventToSend> {
        self.check_lifetime(expires_at)?;
        let until = Value::from(expires_at);
        invitation.extra.insert(EXPIRES_AT_FIELD.to_owned(), until);
        invitation.into_event()
    }

    /// Checks the time at which an invitation or a link expires.
    pub(crate) fn check_lifetime(&self, expires_at: i64) -> Result<()> {
        let now = self.clock.now_ms();
        if expires_at <= now {
            return Err(Error::invalid_param("expires_at must be in the future"));
        }
        if expires_at - now > MAX_LIFETIME_MS {
            return Err(Error::invalid_param(
                "expires_at must be at most a year away",
            ));
        }
        Ok(())
    }

    /// Starts the task that withdraws invitations when they expire.
    pub fn start_withdrawal_task(&self) {
        let service = self.clone();
        self.timetable.run_when_due(
            "withdraw invitations",
            &self.clock,
            &self.tasks,
            move || service.clone().withdraw_due_invitations(),
        );
    }

    /// Withdraws all expired invitations. Returns the time when the next one expires.
    async fn withdraw_due_invitations(self) -> Result<Option<i64>> {
        loop {
            let now = self.clock.now_ms();
            let mut conn = self.db.read().await?;
            let expired =
                expiring_invites::expired_invites(&mut conn, now, WITHDRAWAL_BATCH_SIZE).await?;
            if expired.is_empty() {
                return expiring_invites::next_expiry(&mut conn).await;
            }
            drop(conn);
            for invitation in expired {
                self.withdraw_invitation(&invitation).await?;
            }
        }
    }

    /// Withdraws the invitation of a user to a room, if it has expired.
    ///
    /// A join or a knock of the user is then checked as if the invitation did not exist.
    pub async fn withdraw_if_expired(&self, room: &Room, user_id: &UserId) -> Result<()> {
        let now = self.clock.now_ms();
        if !is_expired(&room.view().state, user_id, now) {
            return Ok(());
        }
        let Some(user) = self.memory.user_number(user_id).await? else {
            return Ok(());
        };
        let known = {
            let mut conn = self.db.read().await?;
            expiring_invites::get(&mut conn, room.num, user).await?
        };
        match known {
            Some(invitation) => self.withdraw_invitation(&invitation).await,
            None => Ok(()),
        }
    }

    /// Withdraws an invitation, if it is still the user's current membership.
    async fn withdraw_invitation(&self, invitation: &ExpiringInvite) -> Result<()> {
        match self.send_withdrawal(invitation).await {
            Ok(()) | Err(Error::Finalised(_) | Error::NotFound(_)) => {}
            Err(error @ (Error::Internal { .. } | Error::StorageFull | Error::Unavailable(_))) => {
                return Err(error);
            }
            Err(refused) => {
                tracing::debug!(
                    room_num = %invitation.room,
                    error = %refused,
                    "the withdrawal of an expired invitation was refused"
                );
            }
        }
        // The event has removed the row already. If no event was sent, nothing is left to do for this row.
        let mut tx = self.db.write().await?;
        expiring_invites::remove_unless_replaced(&mut tx, invitation).await?;
        tx.commit().await
    }

    async fn send_withdrawal(&self, invitation: &ExpiringInvite) -> Result<()> {
        let room = self.memory.room_by_number(invitation.room).await?;
        // The state that readers see may be older than the row for a moment, so this reads the tip.
        let state = room.tip.lock().await.state.clone();
        let event_id = parse_event_id(&invitation.event_id)?;
        let (inviter, target) = {
            let mut members = state.of_type(&StateEventType::RoomMember);
            let found = members.find(|pdu| pdu.event_id == event_id);
            let found = found.and_then(|pdu| Some((pdu.sender.clone(), pdu.member()?.to_owned())));
            found.ok_or_else(invitation_replaced)?
        };
        let sender = find_remover(&room, &state, &target, Some(&inviter));
        let sender = sender
            .or_else(|| self.memory.is_local(&target).then(|| target.clone()))
            .ok_or_else(|| {
                Error::forbidden("no user of this server may withdraw the invitation")
            })?;
        let event = leave_event(sender, &target, EXPIRY_REASON)?;
        let occasion = SendOccasion::InvitationExpiry(event_id);
        self.sender
            .send_to_completion(room.num, event, occasion)
            .await
            .map(drop)
    }
}
