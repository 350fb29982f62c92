//! Expiry of invitations: `dev.parlour.expires_at` in their content.

use ruma::{OwnedEventId, UserId, events::room::member::MembershipState};
use serde::Deserialize;

use super::EventLog;
use crate::{
    error::{Error, Result},
    matrix::{Pdu, StateMap},
    numbers::{RoomNum, UserNum},
    rooms::{EventToSend, memory::timetable::Timetable},
    storage::{
        Db, WriteTx,
        rooms::expiring_invites::{self, ExpiringInvite},
    },
};

#[derive(Deserialize)]
struct InviteExpiryContent {
    #[serde(rename = "dev.parlour.expires_at")]
    expires_at: i64,
}

/// Returns the time at which an invitation expires; `None` if it does not expire or the event is
/// not an invitation.
pub(crate) fn invite_expires_at(pdu: &Pdu) -> Option<i64> {
    if pdu.membership() != Some(MembershipState::Invite) {
        return None;
    }
    Some(pdu.content_as::<InviteExpiryContent>()?.expires_at)
}

/// Returns the timetable of the invitations that expire. As long as there are none, membership
/// changes skip the look-up.
pub(crate) async fn load_timetable(db: &Db) -> Result<Timetable> {
    let mut conn = db.read().await?;
    let next = expiring_invites::next_expiry(&mut conn).await?;
    Ok(Timetable::new(next.is_some()))
}

/// Stores the expiry of an invitation, in the transaction that changes the membership.
///
/// Only invitations sent by users of this server are stored: the server withdraws them on behalf of
/// the sender.
pub(crate) async fn store_expiry(
    log: &EventLog,
    tx: &mut WriteTx,
    room: RoomNum,
    user: UserNum,
    pdu: &Pdu,
) -> Result<()> {
    let is_own = pdu.sender.server_name() == log.key.server_name();
    match invite_expires_at(pdu).filter(|_| is_own) {
        Some(expires_ts) => {
            log.expiring_invitations.expect_work();
            let invitation = ExpiringInvite {
                room,
                user_num: user,
                event_id: pdu.event_id.to_string(),
                expires_ts,
            };
            expiring_invites::set(tx, &invitation).await
        }
        None if log.expiring_invitations.may_have_work() => {
            expiring_invites::remove(tx, room, user).await
        }
        None => Ok(()),
    }
}

/// Checks that the invitation of a user who joins or knocks has not expired.
///
/// # Errors
///
/// [`Error::Forbidden`] until the expired invitation is withdrawn, which happens soon.
pub(crate) fn check_not_expired(state: &StateMap, event: &EventToSend, now: i64) -> Result<()> {
    let is_entering = matches!(
        event.membership(),
        Some(MembershipState::Join | MembershipState::Knock)
    );
    let is_own = event.state_key.as_deref() == Some(event.sender.as_str());
    if is_entering && is_own && is_expired(state, &event.sender, now) {
        return Err(Error::forbidden(
            "the invitation has expired; ask for a new one",
        ));
    }
    Ok(())
}

/// Returns whether the invitation of a user has expired.
pub(crate) fn is_expired(state: &StateMap, user_id: &UserId, now: i64) -> bool {
    let expires = state.member(user_id).and_then(|pdu| invite_expires_at(pdu));
    expires.is_some_and(|expires| expires <= now)
}

/// Checks that an invitation is still the current member event of the invited user.
pub(crate) fn check_is_current(
    state: &StateMap,
    event: &EventToSend,
    invitation: &OwnedEventId,
) -> Result<()> {
    let user_id = event.state_key.as_deref().unwrap_or_default();
    let member = <&UserId>::try_from(user_id)
        .ok()
        .and_then(|user_id| state.member(user_id));
    match member {
        Some(member) if member.event_id == *invitation => Ok(()),
        _ => Err(invitation_replaced()),
    }
}

pub(crate) fn invitation_replaced() -> Error {
    Error::Finalised("the invitation is no longer pending".to_owned())
}
