//! What a user may see of a room: by the history visibility, by whom they ignore, and by who was erased.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};

use super::RoomAccess;
use crate::{
    error::{Error, Result},
    matrix::{Membership, Pdu, Shield, TimelineEvent, Visibility, head, may_see},
    rooms::memory::{ErasedUsers, room::Room},
    storage::{
        RoomNum, UserNum,
        rooms::{memberships, state_snapshots},
    },
};

/// What a user may see of a room.
#[derive(Clone, Debug)]
pub struct Access {
    /// The user's memberships, in order.
    history: Vec<Membership>,
    /// Whose events the user may see only redacted, unless the user was in the room already.
    erased: Arc<ErasedUsers>,
    /// What the user does not want to see.
    shield: Option<Arc<Shield>>,
}

impl Access {
    /// Returns whether the user does not want to see an event, which they may see.
    pub fn hides(&self, pdu: &Pdu) -> bool {
        self.shield.as_ref().is_some_and(|shield| shield.hides(pdu))
    }

    /// Returns whether the user may see an event.
    pub fn may_see(&self, event: &TimelineEvent) -> bool {
        !event.is_withheld && may_see(event.visibility, event.timeline, &self.history)
    }

    /// Returns an event as the user may see it: redacted, if its sender was erased before the user came.
    ///
    /// [Deactivation](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate)
    pub fn seen(&self, event: Arc<TimelineEvent>, rules: &RoomVersionRules) -> Arc<TimelineEvent> {
        let Some(erased) = self.erased.get(&event.pdu.sender) else {
            return event;
        };
        let was_there =
            |entry: &Membership| entry.membership == MembershipState::Join && entry.from <= *erased;
        if self.history.iter().any(was_there) {
            return event;
        }
        redacted(&event, rules)
    }

    /// As [`Access::seen`], and redacted also where the user does not want to see the event.
    pub fn seen_or_redacted(
        &self,
        event: Arc<TimelineEvent>,
        rules: &RoomVersionRules,
    ) -> Arc<TimelineEvent> {
        if self.hides(&event.pdu) {
            return redacted(&event, rules);
        }
        self.seen(event, rules)
    }

    /// Returns whether the user may see what has this history visibility at a place of the timeline.
    pub fn may_see_at(&self, visibility: i64, timeline: i64) -> bool {
        may_see(Visibility::from_number(visibility), timeline, &self.history)
    }

    /// Returns whether the user is in the room, and was at a place and ever since: there is nothing hidden after it.
    pub fn was_there_since(&self, timeline: i64) -> bool {
        // Whoever changes their name joins once more: the first join of the unbroken run at the end counts.
        let stay = self
            .history
            .iter()
            .rev()
            .take_while(|entry| entry.membership == MembershipState::Join);
        stay.last().is_some_and(|entry| entry.from <= timeline)
    }

    /// Returns what the user was at a place of the timeline.
    pub fn membership_at(&self, timeline: i64) -> MembershipState {
        let entry = self
            .history
            .iter()
            .rev()
            .find(|entry| entry.from <= timeline);
        entry.map_or(MembershipState::Leave, |entry| entry.membership.clone())
    }

    /// Returns whether the user was ever in the room, and what for: to read what others may not.
    pub fn ever_joined(&self) -> bool {
        self.history
            .iter()
            .any(|entry| entry.membership == MembershipState::Join)
    }

    /// Returns how often the user came into the room.
    pub fn stays(&self) -> usize {
        let mut stays = 0;
        let mut was_in = false;
        for entry in &self.history {
            let is_in = entry.membership == MembershipState::Join;
            stays += usize::from(is_in && !was_in);
            was_in = is_in;
        }
        stays
    }

    /// Returns the place at which the user left for the last time; `None` for one who is in the room.
    pub fn left_at(&self) -> Option<i64> {
        let last_joined = self
            .history
            .iter()
            .rposition(|entry| entry.membership == MembershipState::Join)?;
        self.history.get(last_joined + 1).map(|entry| entry.from)
    }
}

impl RoomAccess {
    /// Returns a room and what a user may see of it.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for one who was never in it, unless everyone may read it; and for one who forgot it.
    pub async fn enter(
        &self,
        room_id: &RoomId,
        user: UserNum,
        user_id: &UserId,
    ) -> Result<(Arc<Room>, Access)> {
        let room = self.memory.room_of_member(room_id).await?;
        let access = self.access(&room, user, user_id).await?;
        let is_forgotten = self.memory.has_forgotten(user, &room).await?;
        let is_open = Visibility::of_state(&room.view().state) == Visibility::WorldReadable;
        if is_open || (access.ever_joined() && !is_forgotten) {
            return Ok((room, access));
        }
        Err(Error::forbidden("you are not in this room"))
    }

    /// Returns what a user may see of a room.
    pub async fn access(&self, room: &Room, user: UserNum, user_id: &UserId) -> Result<Access> {
        let erased = self.memory.erased_users();
        let shield = self.shield(user);
        let mut tx = self.db.read().await?;
        let snapshot = room.view().snapshot;
        let kind = self
            .db
            .strings
            .find(&mut tx, &TimelineEventType::RoomMember.to_string())
            .await?;
        let Some(kind) = kind else {
            return Ok(Access {
                history: Vec::new(),
                erased,
                shield,
            });
        };
        let rows = state_snapshots::history(&mut tx, snapshot, kind, user).await?;
        let mut history = Vec::with_capacity(rows.len());
        for (from, json) in rows {
            let pdu = Pdu::parse(placeholder(), &json)?;
            if let Some(membership) = pdu.membership() {
                history.push(Membership { from, membership });
            }
        }
        tracing::trace!(room_id = %room.room_id, %user_id, count = history.len(), "membership history read");
        Ok(Access {
            history,
            erased,
            shield,
        })
    }
}

impl RoomAccess {
    /// Returns who has invited a user of this server to a room, if anybody has.
    pub async fn inviter(&self, room_id: &RoomId, user_id: &UserId) -> Result<Option<OwnedUserId>> {
        let num = match self.memory.number(room_id).await {
            Err(Error::NotFound(_)) => return Ok(None),
            num => num?,
        };
        let Some(user) = self.memory.user_number(user_id).await? else {
            return Ok(None);
        };
        match self.memory.of_user(user).await?.membership(num) {
            MembershipState::Invite => {
                let invitation = self.membership_event(num, user).await?;
                Ok(invitation.map(|invitation| invitation.sender))
            }
            _ => Ok(None),
        }
    }

    /// Returns the event that made a user what they are to a room.
    pub(crate) async fn membership_event(
        &self,
        room: RoomNum,
        user: UserNum,
    ) -> Result<Option<Pdu>> {
        let mut conn = self.db.read().await?;
        let event = memberships::event_of(&mut conn, user, room).await?;
        Ok(event.and_then(|(event_id, json)| {
            let event_id = ruma::OwnedEventId::try_from(event_id).ok()?;
            Pdu::parse(event_id, &json).ok()
        }))
    }

    /// Returns whether a user was not in a room at some moment after a place of the timeline.
    pub async fn was_out_since(&self, room: &Room, user_id: &UserId, place: i64) -> Result<bool> {
        let Some(user) = self.memory.user_number(user_id).await? else {
            return Ok(true);
        };
        let access = self.access(room, user, user_id).await?;
        let mut since = access.history.iter().filter(|entry| entry.from > place);
        Ok(since.any(|entry| entry.membership != MembershipState::Join))
    }
}

/// Returns an event as it were if it had been redacted.
fn redacted(event: &TimelineEvent, rules: &RoomVersionRules) -> Arc<TimelineEvent> {
    let mut redacted = event.clone();
    redacted.pdu = Arc::new(event.pdu.redacted(rules));
    redacted.head = head(&redacted.pdu, rules);
    Arc::new(redacted)
}

/// An event id for an event whose id does not matter.
fn placeholder() -> OwnedEventId {
    ruma::event_id!("$unnamed").to_owned()
}
