//! Storing the memberships of users, with the state that invited users receive.

use std::sync::Arc;

use ruma::{
    OwnedUserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::value::RawValue;

use super::{EventLog, invite_expiry};
use crate::{
    error::{Error, Result},
    matrix::{self, Pdu, StateMap},
    numbers::{Position, RoomNum, UserNum},
    storage::{
        JournalChange, WriteTx,
        rooms::memberships::{self, NewMembership},
    },
};

/// A member event that becomes the current one of its user.
pub(super) struct MemberRecord<'a> {
    pub(super) room: RoomNum,
    pub(super) user: UserNum,
    /// The position from which on the membership is in force.
    pub(super) since: Position,
    /// The position at which the member event is stored.
    pub(super) stored_at: Position,
    pub(super) pdu: &'a Pdu,
}

impl MemberRecord<'_> {
    /// Returns the membership if it needs no more than a row in the table: the user is on another
    /// server, and is neither invited nor knocking.
    pub(super) fn remote_membership(&self, log: &EventLog) -> Option<MembershipState> {
        let (user_id, membership) = (self.pdu.member()?, self.pdu.membership()?);
        let is_remote = user_id.server_name() != log.key.server_name();
        let is_plain = !matches!(membership, MembershipState::Invite | MembershipState::Knock);
        (is_remote && is_plain).then_some(membership)
    }

    /// Adds the membership to the changes of the journal.
    pub(super) fn publish(
        &self,
        log: &EventLog,
        tx: &mut WriteTx,
        membership: MembershipState,
        stripped_state: Option<Arc<str>>,
    ) -> Result<()> {
        let user_id = self.user_id()?;
        let change = JournalChange::Membership {
            user: self.user,
            local: user_id.server_name() == log.key.server_name(),
            user_id,
            room: self.room,
            membership: Some(membership),
            stripped_state,
        };
        tx.publish(self.since, change);
        Ok(())
    }

    fn user_id(&self) -> Result<OwnedUserId> {
        let user_id = self.pdu.state_key.as_deref().unwrap_or_default();
        OwnedUserId::try_from(user_id).map_err(|e| Error::BadJson(e.to_string()))
    }
}

/// Stores the membership of a user in a room with this state.
pub(super) async fn store_membership(
    log: &EventLog,
    tx: &mut WriteTx,
    member: &MemberRecord<'_>,
    state: &StateMap,
) -> Result<()> {
    let Some(membership) = member.pdu.membership() else {
        return Ok(());
    };
    member.user_id()?;
    let stripped: Option<Arc<str>> = match membership {
        MembershipState::Invite | MembershipState::Knock => {
            Some(serde_json::to_string(&stripped_state(state, member.pdu))?.into())
        }
        _ => None,
    };
    let row = NewMembership {
        user: member.user,
        room: member.room,
        membership: membership.as_str(),
        position: member.since,
        event: Some(member.stored_at),
        stripped_state: stripped.as_deref(),
    };
    memberships::set(tx, row).await?;
    invite_expiry::store_expiry(log, tx, member.room, member.user, member.pdu).await?;
    member.publish(log, tx, membership, stripped)
}

/// A user for whom the resolved state of a room has no member event.
pub(super) struct AbsentMember<'a> {
    pub(super) room: RoomNum,
    pub(super) user: UserNum,
    /// The state key of the member event that the state had before.
    pub(super) user_id: &'a str,
    /// The position from which on the user is absent.
    pub(super) since: Position,
}

/// Records that a user has left the room, because the resolved state has no member event for them.
pub(super) async fn store_absence(
    log: &EventLog,
    tx: &mut WriteTx,
    absent: AbsentMember<'_>,
) -> Result<()> {
    // An invalid user id was never a member.
    let Ok(user_id) = OwnedUserId::try_from(absent.user_id) else {
        return Ok(());
    };
    let membership = MembershipState::Leave;
    let row = NewMembership {
        user: absent.user,
        room: absent.room,
        membership: membership.as_str(),
        position: absent.since,
        event: None,
        stripped_state: None,
    };
    memberships::set(tx, row).await?;
    let change = JournalChange::Membership {
        user: absent.user,
        local: user_id.server_name() == log.key.server_name(),
        user_id,
        room: absent.room,
        membership: Some(membership),
        stripped_state: None,
    };
    tx.publish(absent.since, change);
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
    let sent = STRIPPED_TYPES.iter().filter_map(|kind| state.get(kind, ""));
    let inviter = state.member(&invitation.sender);
    sent.chain(inviter)
        .map(|pdu| matrix::stripped_state_event(pdu))
        .chain([matrix::stripped_state_event(invitation)])
        .collect()
}
