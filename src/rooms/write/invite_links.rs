//! Links that let people into a room in the name of the member who made them.

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
    rooms::memory::{room::Room, timetable::Timetable},
    storage::{
        Db, UserNum,
        rooms::invite_links::{self, LinkRow, Use},
    },
};

/// How long a link serves where its creator does not say, in milliseconds.
const DEFAULT_LIFETIME_MS: i64 = 7 * 24 * 3_600_000;
/// The links that a user may have into one room, and all its members together.
const OF_CREATOR: usize = 50;
const OF_ROOM: usize = 500;
/// The most uses that can be counted out.
const MOST_USES: i64 = 1_000_000;
/// The longest label, in bytes.
const LABEL_BYTES: usize = 255;
/// The longest token that can be one.
const TOKEN_BYTES: usize = 64;

/// A link to be made.
#[derive(Clone, Debug, Default)]
pub struct NewLink {
    /// Until when it serves.
    pub expires_at: Option<i64>,
    /// How many people may use it; `None` for any number.
    pub max_uses: Option<i64>,
    /// What its creator calls it.
    pub label: Option<String>,
}

/// A link into a room.
#[derive(Clone, Debug)]
pub struct InviteLink {
    /// The room.
    pub room_id: OwnedRoomId,
    /// Who made it.
    pub creator: OwnedUserId,
    /// Everything else.
    pub row: LinkRow,
}

/// Returns the timetable of the links that expire.
pub(crate) async fn timetable(db: &Db) -> Result<Timetable> {
    let mut conn = db.read().await?;
    let next = invite_links::next_due(&mut conn).await?;
    Ok(Timetable::new(next.is_some()))
}

impl InviteLinks {
    /// Makes a link into a room.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidParam`] for limits that make no sense; [`Error::Forbidden`] for one who may not invite to the
    /// room; [`Error::LimitExceeded`] where there are too many already.
    pub async fn create_link(
        &self,
        room_id: &RoomId,
        (creator, creator_id): (UserNum, &UserId),
        link: NewLink,
    ) -> Result<InviteLink> {
        let now = self.clock.now_ms();
        let expires_ts = link.expires_at.unwrap_or(now + DEFAULT_LIFETIME_MS);
        self.invitations.check_lifetime(expires_ts)?;
        link.check()?;
        let room = self.memory.room_of_member(room_id).await?;
        check_may_invite(&room, creator_id)?;
        let row = LinkRow {
            num: 0,
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
        if own.count() >= OF_CREATOR || known.len() >= OF_ROOM {
            let next = known.iter().map(|link| link.expires_ts).min();
            let left = u64::try_from(next.unwrap_or(now) - now).unwrap_or(0);
            return Err(Error::LimitExceeded {
                retry_after: Duration::from_millis(left),
            });
        }
        invite_links::insert(&mut tx, &row).await?;
        tx.commit().await?;
        self.timetable.changed();
        Ok(InviteLink {
            room_id: room.room_id.clone(),
            creator: creator_id.to_owned(),
            row,
        })
    }

    /// Returns the links into a room, the newest first: for moderators those of all, for other members their own.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for one who is not in the room.
    pub async fn links(
        &self,
        room_id: &RoomId,
        (user, user_id): (UserNum, &UserId),
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
        let creators = self.db.strings.texts(&mut conn, &creators).await?;
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

    /// Revokes a link: its creator may, and moderators of the room.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such link; [`Error::Forbidden`] for anyone else.
    pub async fn revoke_link(
        &self,
        room_id: &RoomId,
        token: &str,
        (user, user_id): (UserNum, &UserId),
    ) -> Result<()> {
        let room = self.memory.room_of_member(room_id).await?;
        let link = self.link(token).await?;
        if link.row.room != room.num {
            return Err(unknown());
        }
        if link.row.creator != user && !is_moderator(&room, user_id) {
            return Err(Error::forbidden("you may not revoke this link"));
        }
        let mut tx = self.db.write().await?;
        invite_links::remove(&mut tx, room.num, token).await?;
        tx.commit().await
    }

    /// Returns a link that has not expired, whether or not it can still be used.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such link.
    pub async fn link(&self, token: &str) -> Result<InviteLink> {
        if token.len() > TOKEN_BYTES || token.contains('\0') {
            return Err(unknown());
        }
        let now = self.clock.now_ms();
        let mut conn = self.db.read().await?;
        let row = invite_links::find(&mut conn, token, now).await?;
        let row = row.ok_or_else(unknown)?;
        let creator = self.db.strings.get(&mut conn, row.creator).await?;
        drop(conn);
        let creator = OwnedUserId::try_from(&*creator)
            .map_err(|source| Error::internal("read the creator of a link", source))?;
        Ok(InviteLink {
            room_id: self.memory.room_id(row.room).await?,
            creator,
            row,
        })
    }

    /// Returns the room of a link, if its creator may still invite to it.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] where the creator may not; [`Error::NotFound`] for a room that is gone.
    pub async fn room_of_link(&self, link: &InviteLink) -> Result<std::sync::Arc<Room>> {
        let room = self.memory.room(&link.room_id).await?;
        check_may_invite(&room, &link.creator)
            .map_err(|_| Error::forbidden("the creator of this link may no longer invite"))?;
        Ok(room)
    }

    /// Lets a user use a link; returns whether that took one of its uses.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when there is no such link any more, or all its uses are taken.
    pub async fn take_link(&self, link: &InviteLink, user: UserNum) -> Result<bool> {
        let now = self.clock.now_ms();
        let mut tx = self.db.write().await?;
        match invite_links::take(&mut tx, &link.row.token, user, now).await? {
            Use::Refused => Err(unknown()),
            Use::Held => Ok(false),
            Use::Taken => {
                tx.commit().await?;
                Ok(true)
            }
        }
    }

    /// Takes back that a user has used a link, since it did not let them in.
    pub async fn give_link_back(&self, link: &InviteLink, user: UserNum) -> Result<()> {
        let mut tx = self.db.write().await?;
        invite_links::give_back(&mut tx, link.row.num, user).await?;
        tx.commit().await
    }

    /// Begins to remove links when they have expired.
    pub fn remove_expired_links(&self) {
        let service = self.clone();
        self.timetable
            .do_in_time("remove links", &self.clock, &self.tasks, move || {
                service.clone().remove_links_due()
            });
    }

    async fn remove_links_due(self) -> Result<Option<i64>> {
        let now = self.clock.now_ms();
        let next = {
            let mut conn = self.db.read().await?;
            invite_links::next_due(&mut conn).await?
        };
        if next.is_none_or(|next| next > now) {
            return Ok(next);
        }
        let mut tx = self.db.write().await?;
        invite_links::remove_expired(&mut tx, now).await?;
        let next = invite_links::next_due(&mut tx).await?;
        tx.commit().await?;
        Ok(next)
    }
}

impl InviteLink {
    /// Returns whether all uses are taken.
    pub fn is_used_up(&self) -> bool {
        !self.row.has_uses_left()
    }
}

impl NewLink {
    fn check(&self) -> Result<()> {
        if self
            .max_uses
            .is_some_and(|most| !(1..=MOST_USES).contains(&most))
        {
            return Err(Error::invalid_param(format!(
                "max_uses is not between 1 and {MOST_USES}"
            )));
        }
        let label = self.label.as_deref().unwrap_or_default();
        if label.len() > LABEL_BYTES || label.contains('\0') {
            return Err(Error::invalid_param(format!(
                "label is no text of at most {LABEL_BYTES} bytes"
            )));
        }
        Ok(())
    }
}

impl Room {
    /// Returns whether everyone may join the room.
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

/// Returns whether a member may send others away.
fn is_moderator(room: &Room, user_id: &UserId) -> bool {
    let state = room.view().state.clone();
    let levels = matrix::power_levels(&state, &room.rules);
    state.membership(user_id) == MembershipState::Join
        && (levels.user_can_kick(user_id) || levels.user_can_ban(user_id))
}

fn unknown() -> Error {
    Error::not_found("the link does not exist or is no longer valid")
}
