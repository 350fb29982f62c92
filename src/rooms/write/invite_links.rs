//! Invite links: anyone who uses one gets into a room on behalf of the member who created the link.

use std::time::Duration;

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
    room::JoinRule,
    serde::{Base64, base64::UrlSafe},
};

use super::InviteLinks;
use crate::{
    error::{Error, Result},
    matrix,
    numbers::{InviteLinkNum, UserNum},
    rooms::memory::{room::Room, timetable::Timetable},
    storage::{
        Db,
        rooms::invite_links::{self, InviteLinkRow, LinkUse},
    },
};

/// The lifetime of a link if its creator sets none, in milliseconds.
const DEFAULT_LIFETIME_MS: i64 = 7 * 24 * 3_600_000;
/// The most links that one user may have for a room.
const MAX_LINKS_PER_CREATOR: usize = 50;
/// The most links that all members together may have for a room.
const MAX_LINKS_PER_ROOM: usize = 500;
/// The largest limit of uses that a link can have.
const MAX_LINK_USES: i64 = 1_000_000;
/// The longest label, in bytes.
const MAX_LABEL_BYTES: usize = 255;
/// The longest token that is looked up, in bytes.
const MAX_TOKEN_BYTES: usize = 64;

/// A request to create an invite link.
#[derive(Clone, Debug, Default)]
pub struct NewInviteLink {
    /// The time when the link expires.
    pub expires_at: Option<i64>,
    /// The number of users who may use the link; `None` for any number.
    pub max_uses: Option<i64>,
    /// A label that the creator gives to the link.
    pub label: Option<String>,
}

/// An invite link of a room.
#[derive(Clone, Debug)]
pub struct InviteLink {
    /// The room of the link.
    pub room_id: OwnedRoomId,
    /// The user who created the link.
    pub creator: OwnedUserId,
    /// The stored row with all other data.
    pub row: InviteLinkRow,
}

/// Loads the timetable of the links that expire.
pub(crate) async fn load_timetable(db: &Db) -> Result<Timetable> {
    let mut conn = db.read().await?;
    let next = invite_links::next_expiry(&mut conn).await?;
    Ok(Timetable::new(next.is_some()))
}

impl InviteLinks {
    /// Creates a link for a room.
    ///
    /// # Errors
    ///
    /// Returns [`Error::InvalidParam`] for invalid limits, [`Error::Forbidden`] if the user may not invite to the room,
    /// and [`Error::LimitExceeded`] if the user or the room has too many links already.
    pub async fn create_link(
        &self,
        room_id: &RoomId,
        creator: UserNum,
        creator_id: &UserId,
        link: NewInviteLink,
    ) -> Result<InviteLink> {
        let now = self.clock.now_ms();
        let expires_ts = link.expires_at.unwrap_or(now + DEFAULT_LIFETIME_MS);
        self.invitations.check_lifetime(expires_ts)?;
        link.check()?;
        let room = self.memory.room_of_member(room_id).await?;
        check_may_invite(&room, creator_id)?;
        let row = InviteLinkRow {
            num: InviteLinkNum::new(0),
            token: Base64::<UrlSafe, _>::new(rand::random::<[u8; 24]>()).encode(),
            room: room.num,
            creator,
            created_ts: now,
            expires_ts,
            max_uses: link.max_uses,
            uses: 0,
            label: link.label,
        };
        let mut tx = self.db.write().await?;
        let known = invite_links::of_room(&mut tx, room.num, now).await?;
        let own = known.iter().filter(|link| link.creator == creator);
        if own.count() >= MAX_LINKS_PER_CREATOR || known.len() >= MAX_LINKS_PER_ROOM {
            let next = known.iter().map(|link| link.expires_ts).min();
            let left = u64::try_from(next.unwrap_or(now) - now).unwrap_or(0);
            return Err(Error::LimitExceeded {
                retry_after: Duration::from_millis(left),
            });
        }
        invite_links::insert(&mut tx, &row).await?;
        tx.commit().await?;
        self.timetable.wake();
        Ok(InviteLink {
            room_id: room.room_id.clone(),
            creator: creator_id.to_owned(),
            row,
        })
    }

    /// Returns the links of a room, the newest first: moderators get all links, other members get their own.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Forbidden`] if the user is not in the room.
    pub async fn list_links(
        &self,
        room_id: &RoomId,
        user: UserNum,
        user_id: &UserId,
    ) -> Result<Vec<InviteLink>> {
        let room = self.memory.room_of_member(room_id).await?;
        if room.view().state.membership(user_id) != MembershipState::Join {
            return Err(Error::forbidden("you are not in this room"));
        }
        let sees_all = is_moderator(&room, user_id);
        let now = self.clock.now_ms();
        let mut conn = self.db.read().await?;
        let mut rows = invite_links::of_room(&mut conn, room.num, now).await?;
        rows.retain(|link| sees_all || link.creator == user);
        let creators: Vec<UserNum> = rows.iter().map(|link| link.creator).collect();
        let creators = self.db.strings.find_user_ids(&mut conn, &creators).await?;
        let links = rows.into_iter().filter_map(|row| {
            let creator = creators.get(&row.creator)?;
            Some(InviteLink {
                room_id: room.room_id.clone(),
                creator: OwnedUserId::try_from(&**creator).ok()?,
                row,
            })
        });
        Ok(links.collect())
    }

    /// Revokes a link. Its creator and the moderators of the room may do that.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if there is no such link, and [`Error::Forbidden`] for anyone else.
    pub async fn revoke_link(
        &self,
        room_id: &RoomId,
        token: &str,
        user: UserNum,
        user_id: &UserId,
    ) -> Result<()> {
        let room = self.memory.room_of_member(room_id).await?;
        let link = self.find_link(token).await?;
        if link.row.room != room.num {
            return Err(unknown_link());
        }
        if link.row.creator != user && !is_moderator(&room, user_id) {
            return Err(Error::forbidden("you may not revoke this link"));
        }
        let mut tx = self.db.write().await?;
        invite_links::remove(&mut tx, room.num, token).await?;
        tx.commit().await
    }

    /// Returns a link that has not expired, even if it has no uses left.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if there is no such link.
    pub async fn find_link(&self, token: &str) -> Result<InviteLink> {
        if token.len() > MAX_TOKEN_BYTES || token.contains('\0') {
            return Err(unknown_link());
        }
        let now = self.clock.now_ms();
        let mut conn = self.db.read().await?;
        let row = invite_links::find(&mut conn, token, now).await?;
        let row = row.ok_or_else(unknown_link)?;
        let creator = self.db.strings.user_id(&mut conn, row.creator).await?;
        drop(conn);
        Ok(InviteLink {
            room_id: self.memory.room_id(row.room).await?,
            creator,
            row,
        })
    }

    /// Returns the room of a link, if the creator of the link may still invite to it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Forbidden`] if the creator may not, and [`Error::NotFound`] if the room no longer exists.
    pub async fn room_of_link(&self, link: &InviteLink) -> Result<std::sync::Arc<Room>> {
        let room = self.memory.room(&link.room_id).await?;
        check_may_invite(&room, &link.creator)
            .map_err(|_| Error::forbidden("the creator of this link may no longer invite"))?;
        Ok(room)
    }

    /// Records that a user uses a link. Returns `false` if the user had used it before, which counts no new use.
    ///
    /// # Errors
    ///
    /// Returns [`Error::NotFound`] if the link no longer exists or has no uses left.
    pub async fn use_link(&self, link: &InviteLink, user: UserNum) -> Result<bool> {
        let now = self.clock.now_ms();
        let mut tx = self.db.write().await?;
        match invite_links::use_link(&mut tx, &link.row.token, user, now).await? {
            LinkUse::Refused => Err(unknown_link()),
            LinkUse::RepeatedUse => Ok(false),
            LinkUse::FirstUse => {
                tx.commit().await?;
                Ok(true)
            }
        }
    }

    /// Undoes a user's use of a link, because the user did not get into the room with it.
    pub async fn return_link_use(&self, link: &InviteLink, user: UserNum) -> Result<()> {
        let mut tx = self.db.write().await?;
        invite_links::undo_use(&mut tx, link.row.num, user).await?;
        tx.commit().await
    }

    /// Starts the task that removes links when they have expired.
    pub fn start_removal_task(&self) {
        let service = self.clone();
        self.timetable
            .run_when_due("remove links", &self.clock, &self.tasks, move || {
                service.clone().remove_due_links()
            });
    }

    async fn remove_due_links(self) -> Result<Option<i64>> {
        let now = self.clock.now_ms();
        let next = {
            let mut conn = self.db.read().await?;
            invite_links::next_expiry(&mut conn).await?
        };
        if next.is_none_or(|next| next > now) {
            return Ok(next);
        }
        let mut tx = self.db.write().await?;
        invite_links::remove_expired(&mut tx, now).await?;
        let next = invite_links::next_expiry(&mut tx).await?;
        tx.commit().await?;
        Ok(next)
    }
}

impl InviteLink {
    /// Returns whether the link has no uses left.
    pub fn is_used_up(&self) -> bool {
        !self.row.has_uses_left()
    }
}

impl NewInviteLink {
    fn check(&self) -> Result<()> {
        if self
            .max_uses
            .is_some_and(|most| !(1..=MAX_LINK_USES).contains(&most))
        {
            return Err(Error::invalid_param(format!(
                "max_uses must be between 1 and {MAX_LINK_USES}"
            )));
        }
        let label = self.label.as_deref().unwrap_or_default();
        if label.len() > MAX_LABEL_BYTES || label.contains('\0') {
            return Err(Error::invalid_param(format!(
                "label must be a text of at most {MAX_LABEL_BYTES} bytes without U+0000"
            )));
        }
        Ok(())
    }
}

impl Room {
    /// Returns whether anyone may join the room.
    pub fn is_public(&self) -> bool {
        let rule: Option<JoinRule> = self.view().state.content(&StateEventType::RoomJoinRules);
        matches!(rule, Some(JoinRule::Public))
    }
}

fn check_may_invite(room: &Room, user_id: &UserId) -> Result<()> {
    let state = room.view().state.clone();
    if state.membership(user_id) != MembershipState::Join {
        return Err(Error::forbidden("you are not in this room"));
    }
    if !matrix::power_levels(&state, &room.rules).user_can_invite(user_id) {
        return Err(Error::forbidden("you may not invite to this room"));
    }
    Ok(())
}

/// Returns whether a user is in the room and may kick or ban others.
fn is_moderator(room: &Room, user_id: &UserId) -> bool {
    let state = room.view().state.clone();
    let levels = matrix::power_levels(&state, &room.rules);
    state.membership(user_id) == MembershipState::Join
        && (levels.user_can_kick(user_id) || levels.user_can_ban(user_id))
}

fn unknown_link() -> Error {
    Error::not_found("the link does not exist or is no longer valid")
}
