//! The events of a room that a user may see: by history visibility, ignored users and erased users.

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};

use super::RoomAccess;
use crate::{
    error::{Error, Result},
    matrix::{
        EventVisibility, IgnoreSettings, MembershipPeriod, Pdu, TimelineEvent, may_see_event,
        write_event_head,
    },
    numbers::{Position, RoomNum, UserNum},
    rooms::memory::{ErasedUsers, room::Room},
    storage::rooms::{memberships, state_snapshots},
};

/// The access of a user to the events of one room.
#[derive(Clone, Debug)]
pub struct UserAccess {
    /// The user's memberships, oldest first.
    history: Vec<MembershipPeriod>,
    /// Erased users. The user sees their events redacted, unless the user was in the room before
    /// the erasure.
    erased_users: Arc<ErasedUsers>,
    /// The ignored users and invite permissions of the user.
    ignore_settings: Option<Arc<IgnoreSettings>>,
}

impl UserAccess {
    /// Returns whether an event is hidden because the user ignores its sender. The history
    /// visibility is not checked.
    pub fn hides_event(&self, pdu: &Pdu) -> bool {
        self.ignore_settings
            .as_ref()
            .is_some_and(|settings| settings.hides_event(pdu))
    }

    /// Returns whether the user may see an event.
    pub fn may_see(&self, event: &TimelineEvent) -> bool {
        !event.is_withheld && may_see_event(event.visibility, event.timeline, &self.history)
    }

    /// Returns an event in the form that the user may see. It is redacted if the sender was erased
    /// before the user joined the room.
    ///
    /// See the specification on
    /// [account deactivation](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountdeactivate).
    pub fn redact_if_erased(
        &self,
        event: Arc<TimelineEvent>,
        rules: &RoomVersionRules,
    ) -> Arc<TimelineEvent> {
        if self.sees_as_erased(&event.pdu.sender) {
            return redacted_copy(&event, rules);
        }
        event
    }

    /// Returns whether the user sees the events of a sender redacted, because the sender was erased.
    pub fn sees_as_erased(&self, sender: &UserId) -> bool {
        let Some(erased) = self.erased_users.get(sender) else {
            return false;
        };
        let was_there = |entry: &MembershipPeriod| {
            entry.membership == MembershipState::Join && entry.from <= *erased
        };
        !self.history.iter().any(was_there)
    }

    /// Like [`UserAccess::redact_if_erased`], but the event is also redacted if the user ignores its sender.
    pub fn redact_if_hidden(
        &self,
        event: Arc<TimelineEvent>,
        rules: &RoomVersionRules,
    ) -> Arc<TimelineEvent> {
        if self.hides_event(&event.pdu) {
            return redacted_copy(&event, rules);
        }
        self.redact_if_erased(event, rules)
    }

    /// Returns whether the user may see an event with this history visibility at a place in the
    /// timeline.
    pub fn may_see_at(&self, visibility: i64, timeline: Position) -> bool {
        may_see_event(
            EventVisibility::from_number(visibility),
            timeline,
            &self.history,
        )
    }

    /// Returns whether the user is in the room and has been since a place in the timeline or
    /// longer. If so, no event after that place is hidden by its history visibility.
    pub fn is_joined_since(&self, timeline: Position) -> bool {
        // A user who changes their display name joins again, so the first join of the unbroken run
        // at the end counts.
        let stay = self
            .history
            .iter()
            .rev()
            .take_while(|entry| entry.membership == MembershipState::Join);
        stay.last().is_some_and(|entry| entry.from <= timeline)
    }

    /// Returns the membership of the user at a place in the timeline.
    pub fn membership_at(&self, timeline: Position) -> MembershipState {
        let entry = self
            .history
            .iter()
            .rev()
            .find(|entry| entry.from <= timeline);
        entry.map_or(MembershipState::Leave, |entry| entry.membership.clone())
    }

    /// Returns the place in the timeline at which the user first joined.
    pub fn first_joined_at(&self) -> Option<Position> {
        let mut joins = self
            .history
            .iter()
            .filter(|entry| entry.membership == MembershipState::Join);
        joins.next().map(|entry| entry.from)
    }

    /// Returns whether the user was ever in the room.
    pub fn has_ever_joined(&self) -> bool {
        self.history
            .iter()
            .any(|entry| entry.membership == MembershipState::Join)
    }

    /// Returns how often the user has joined the room after not being in it.
    pub fn count_join_periods(&self) -> usize {
        let mut stays = 0;
        let mut was_in = false;
        for entry in &self.history {
            let is_in = entry.membership == MembershipState::Join;
            stays += usize::from(is_in && !was_in);
            was_in = is_in;
        }
        stays
    }

    /// Returns the place in the timeline at which the user last left; `None` if the user is in the
    /// room or never was.
    pub fn left_at(&self) -> Option<Position> {
        let last_joined = self
            .history
            .iter()
            .rposition(|entry| entry.membership == MembershipState::Join)?;
        self.history.get(last_joined + 1).map(|entry| entry.from)
    }
}

impl RoomAccess {
    /// Returns a room that a user may read, and the user's access to it.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the user was never in the room or has forgotten it, unless the
    /// history is world readable.
    pub async fn load_readable_room(
        &self,
        room_id: &RoomId,
        user: UserNum,
        user_id: &UserId,
    ) -> Result<(Arc<Room>, UserAccess)> {
        let room = self.memory.room_of_member(room_id).await?;
        let access = self.load_access(&room, user, user_id).await?;
        let is_forgotten = self.memory.has_forgotten(user, &room).await?;
        let is_open =
            EventVisibility::of_state(&room.view().state) == EventVisibility::WorldReadable;
        if is_open || (access.has_ever_joined() && !is_forgotten) {
            return Ok((room, access));
        }
        Err(Error::forbidden("you are not in this room"))
    }

    /// Returns the access of a user to a room.
    pub async fn load_access(
        &self,
        room: &Room,
        user: UserNum,
        user_id: &UserId,
    ) -> Result<UserAccess> {
        let erased = self.memory.erased_users();
        let settings = self.find_ignore_settings(user);
        let mut tx = self.db.read().await?;
        let snapshot = room.view().snapshot;
        let kind = self
            .db
            .strings
            .find_number(&mut tx, &TimelineEventType::RoomMember.to_string())
            .await?;
        let Some(kind) = kind else {
            return Ok(UserAccess {
                history: Vec::new(),
                erased_users: erased,
                ignore_settings: settings,
            });
        };
        let rows = state_snapshots::history_of_key(&mut tx, snapshot, kind, user.string()).await?;
        let mut history = Vec::with_capacity(rows.len());
        for row in rows {
            let pdu = Pdu::parse(placeholder_event_id(), &row.json)?;
            if let Some(membership) = pdu.membership() {
                history.push(MembershipPeriod {
                    from: row.timeline,
                    membership,
                });
            }
        }
        tracing::trace!(room_id = %room.room_id, %user_id, count = history.len(), "the membership history was read");
        Ok(UserAccess {
            history,
            erased_users: erased,
            ignore_settings: settings,
        })
    }
}

impl RoomAccess {
    /// Returns the user who invited a user of this server to a room, if there is an invitation.
    pub async fn find_inviter(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<OwnedUserId>> {
        let num = match self.memory.room_number(room_id).await {
            Err(Error::NotFound(_)) => return Ok(None),
            num => num?,
        };
        let Some(user) = self.memory.user_number(user_id).await? else {
            return Ok(None);
        };
        match self.memory.rooms_of_user(user).await?.membership(num) {
            MembershipState::Invite => {
                let invitation = self.find_membership_event(num, user).await?;
                Ok(invitation.map(|invitation| invitation.sender))
            }
            _ => Ok(None),
        }
    }

    /// Returns the current member event of a user in a room.
    pub(crate) async fn find_membership_event(
        &self,
        room: RoomNum,
        user: UserNum,
    ) -> Result<Option<Pdu>> {
        let mut conn = self.db.read().await?;
        let event = memberships::member_event(&mut conn, user, room).await?;
        Ok(event.and_then(|event| {
            let event_id = ruma::OwnedEventId::try_from(event.event_id).ok()?;
            Pdu::parse(event_id, &event.json).ok()
        }))
    }

    /// Returns whether a user was not in a room at some moment after a place in the timeline.
    pub async fn was_absent_since(
        &self,
        room: &Room,
        user_id: &UserId,
        place: Position,
    ) -> Result<bool> {
        let Some(user) = self.memory.user_number(user_id).await? else {
            return Ok(true);
        };
        let access = self.load_access(room, user, user_id).await?;
        let mut since = access.history.iter().filter(|entry| entry.from > place);
        Ok(since.any(|entry| entry.membership != MembershipState::Join))
    }
}

/// Returns a redacted copy of an event.
fn redacted_copy(event: &TimelineEvent, rules: &RoomVersionRules) -> Arc<TimelineEvent> {
    let mut redacted = event.clone();
    redacted.pdu = Arc::new(event.pdu.redacted(rules));
    redacted.head = write_event_head(&redacted.pdu, rules);
    Arc::new(redacted)
}

/// Returns an event id for events whose id does not matter.
fn placeholder_event_id() -> OwnedEventId {
    ruma::event_id!("$unnamed").to_owned()
}
