//! Deleting a room: everybody is taken out of it by ordinary events, then all that is stored of it goes.
//!
//! A room that is being deleted is unknown to whoever asks for it by its id, and takes no events but those of its
//! deletion. Each user who was something to it keeps a row that says how it ended, which `sync` tells to clients that do
//! not know yet. The work is done by one task, in pieces, from what the database says is left to do: a deletion that
//! has begun is finished, whatever crashes.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};

use super::{RoomDeletion, expiring_invites::leave, send::Occasion};
use crate::{
    error::{Error, Result},
    matrix::{self, Pdu, StateMap, Unsigned},
    rooms::memory::room::Room,
    storage::{
        Change, Removed, RoomNum, UserNum, WriteTx,
        rooms::{
            aliases, invite_links,
            room_deletion::{self, Deletion, Member},
            room_table,
        },
    },
};

/// What the members are told where nobody says why.
const REASON: &str = "The room was deleted";
/// The longest reason, in bytes.
const REASON_BYTES: usize = 1_024;
/// Members who are being removed at a time: their events come into one commit.
const AT_A_TIME: usize = 32;
/// Members who are told in one write.
const TOLD: i64 = 200;
/// Users whose own things go in one write.
const USERS: usize = 200;
/// How often it is looked whether other servers have been told, and how long between: those that answer take seconds.
const LOOKS: usize = 300;
const BETWEEN: Duration = Duration::from_millis(100);
/// How often the members are gathered: none can come, but one who refuses to go shall not hold it up for ever.
const ROUNDS: usize = 3;

/// Says whether other servers were told all that happened in a room.
pub(super) type IsSent = Box<dyn Fn(RoomNum) -> bool + Send + Sync>;

impl RoomDeletion {
    /// Deletes a room, as its creator or an administrator asks; returns when nothing is left of it.
    ///
    /// What has begun is finished, also when the one who asks does not wait for it.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for anyone else, and for an unknown room; an administrator is told [`Error::NotFound`].
    pub async fn delete_room(
        &self,
        room_id: &RoomId,
        (asker, is_admin): (&UserId, bool),
        reason: Option<String>,
    ) -> Result<()> {
        let reason = reason.filter(|reason| !reason.trim().is_empty());
        let reason = reason.unwrap_or_else(|| REASON.to_owned());
        if reason.len() > REASON_BYTES || reason.contains('\0') {
            return Err(Error::invalid_param(format!(
                "the reason is no text of at most {REASON_BYTES} bytes"
            )));
        }
        let room = if is_admin {
            self.memory.room(room_id).await?
        } else {
            self.memory.room_of_member(room_id).await?
        };
        let creator = creator(&room)?;
        let is_creator =
            creator == asker && room.view().state.membership(asker) == MembershipState::Join;
        if !is_creator && !is_admin {
            return Err(Error::forbidden(
                "only who created the room, and is in it, may delete it",
            ));
        }
        let deletion = Deletion {
            num: room.num,
            room_id: room_id.to_string(),
            remover: creator.to_string(),
            reason,
            stage: Deletion::EMPTYING,
        };
        tracing::info!(%room_id, user_id = %asker, "a room is being deleted");
        drop(room);
        let num = deletion.num;
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.begin_deletion(&deletion).await
            })
            .await?;
        self.wait_until_deleted(num).await
    }

    async fn begin_deletion(&self, deletion: &Deletion) -> Result<()> {
        let mut tx = self.db.write().await?;
        if !room_deletion::begin(&mut tx, deletion).await? {
            return Err(Error::not_found("this server does not know the room"));
        }
        room_table::set_published(&mut tx, deletion.num, false).await?;
        aliases::remove_of_room(&mut tx, deletion.num).await?;
        invite_links::remove_of_room(&mut tx, deletion.num).await?;
        // Before the task can find it: what the task removes shall not come back.
        self.memory.deleted_rooms().record(deletion.num, false);
        if let Err(error) = tx.commit().await {
            self.memory.deleted_rooms().forget(deletion.num);
            return Err(error);
        }
        self.timetable.changed();
        Ok(())
    }

    async fn wait_until_deleted(&self, room: RoomNum) -> Result<()> {
        let mut deletions = self.memory.deleted_rooms().subscribe();
        let done = deletions.wait_for(|rooms| rooms.get(&room) == Some(&true));
        tokio::select! {
            _ = done => Ok(()),
            () = self.tasks.stopping().cancelled() => Err(stopping()),
        }
    }

    /// Begins to finish the deletions that have begun, and those that will.
    ///
    /// `is_sent` says whether other servers were told all that happened in a room: they are to know that its members
    /// have left before nothing is left of it here.
    pub fn finish_deletions(&self, is_sent: impl Fn(RoomNum) -> bool + Send + Sync + 'static) {
        drop(self.is_sent.set(Box::new(is_sent)));
        let service = self.clone();
        self.timetable
            .do_in_time("delete rooms", &self.clock, &self.tasks, move || {
                service.clone().delete_begun()
            });
    }

    async fn delete_begun(self) -> Result<Option<i64>> {
        let begun = {
            let mut conn = self.db.read().await?;
            room_deletion::unfinished(&mut conn).await?
        };
        let mut outcome = Ok(None);
        for deletion in begun {
            match self.delete(&deletion).await {
                // It goes on at the next start.
                Err(_) if self.tasks.stopping().is_cancelled() => return Ok(None),
                // The others shall not wait for it.
                Err(error) => outcome = Err(error),
                Ok(()) => {
                    self.memory.deleted_rooms().record(deletion.num, true);
                    tracing::info!(room_id = deletion.room_id, "a room was deleted");
                }
            }
        }
        outcome
    }

    /// Does what is left to do of a deletion.
    async fn delete(&self, deletion: &Deletion) -> Result<()> {
        if deletion.stage < Deletion::PURGING {
            let room = self.memory.room_by_number(deletion.num).await?;
            for _ in 0..ROUNDS {
                if self.empty(&room, deletion).await? == 0 {
                    break;
                }
            }
            self.wait_until_sent(room.num).await?;
            self.tell_members(&room).await?;
        }
        self.purge(deletion.num).await?;
        let mut tx = self.db.write().await?;
        room_deletion::set_stage(&mut tx, deletion.num, Deletion::DONE).await?;
        tx.commit().await
    }

    /// Waits until the other servers of a room know that its members have left; not for ever, since one of them may be
    /// gone.
    async fn wait_until_sent(&self, room: RoomNum) -> Result<()> {
        let is_sent = || self.is_sent.get().is_none_or(|is_sent| is_sent(room));
        for _ in 0..LOOKS {
            self.check_goes_on()?;
            if is_sent() {
                break;
            }
            tokio::time::sleep(BETWEEN).await;
        }
        Ok(())
    }

    /// Takes everybody out of a room; returns how many there were.
    ///
    /// Others go first, removed by the creator where that is allowed, else of their own accord.
    async fn empty(&self, room: &Room, deletion: &Deletion) -> Result<usize> {
        // Whoever had the tip before it was known that the room goes has let go of it now.
        let state = room.tip.lock().await.state.clone();
        let last = self.last_member(room, &state, &deletion.remover);
        let mut removed = 0;
        let others: Vec<OwnedUserId> = members(&state)
            .filter(|user_id| last.as_ref() != Some(user_id))
            .collect();
        for some in others.chunks(AT_A_TIME) {
            let mut leaving = Vec::with_capacity(some.len());
            for target in some {
                leaving.push(self.remove(room, &state, (last.as_ref(), target), &deletion.reason));
            }
            for is_gone in join_all(leaving).await {
                removed += usize::from(is_gone?);
            }
        }
        if let Some(last) = &last {
            let is_gone = self.remove(room, &state, (None, last), &deletion.reason);
            removed += usize::from(is_gone.await?);
        }
        Ok(removed)
    }

    /// Returns who leaves a room last and removes the others: its creator, or the most powerful member of this server.
    fn last_member(&self, room: &Room, state: &StateMap, creator: &str) -> Option<OwnedUserId> {
        let levels = matrix::power_levels(state, &room.rules);
        let is_in = |user_id: &OwnedUserId| {
            self.memory.is_local(user_id) && state.membership(user_id) == MembershipState::Join
        };
        members(state)
            .filter(is_in)
            .max_by_key(|user_id| (*user_id == creator, levels.for_user(user_id)))
    }

    /// Takes one member out of a room; returns whether there was anything to be done.
    async fn remove(
        &self,
        room: &Room,
        state: &StateMap,
        (remover, target): (Option<&OwnedUserId>, &OwnedUserId),
        reason: &str,
    ) -> Result<bool> {
        self.check_goes_on()?;
        let levels = matrix::power_levels(state, &room.rules);
        let remover = remover.filter(|remover| levels.user_can_kick_user(remover, target));
        let own = self.memory.is_local(target).then_some(target);
        for sender in [remover, own].into_iter().flatten() {
            let event = leave(sender.clone(), target, reason)?;
            match self
                .sender
                .send_on(room.num, event, Occasion::Deletion)
                .await
            {
                Err(
                    error @ (Error::Internal { .. } | Error::StorageFull | Error::Unavailable(_)),
                ) => return Err(error),
                Err(refused) => tracing::debug!(error = %refused, "a member stays"),
                Ok(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Notes for everybody who was something to a room how it ended, in the place of their membership; then there is
    /// no room any more.
    async fn tell_members(&self, room: &Room) -> Result<()> {
        loop {
            self.check_goes_on()?;
            let mut tx = self.db.write().await?;
            let members = room_deletion::members(&mut tx, room.num, TOLD).await?;
            if members.is_empty() {
                room_deletion::remove_room(&mut tx, room.num).await?;
                room_deletion::set_stage(&mut tx, room.num, Deletion::PURGING).await?;
                let position = tx.position();
                tx.publish(position, Change::RoomDeleted { room: room.num });
                return tx.commit().await;
            }
            for member in &members {
                self.tell(&mut tx, room, member).await?;
            }
            let users: Vec<UserNum> = members.iter().map(|member| member.user_num).collect();
            room_deletion::remove_memberships(&mut tx, room.num, &users).await?;
            tx.commit().await?;
        }
    }

    async fn tell(&self, tx: &mut WriteTx, room: &Room, member: &Member) -> Result<()> {
        let user_id = <&UserId>::try_from(member.user_id.as_str());
        if !user_id.is_ok_and(|user_id| self.memory.is_local(user_id)) {
            return Ok(());
        }
        let position = tx.position();
        let is_out = matches!(member.membership.as_str(), "leave" | "ban");
        let (left_at, event) = if is_out {
            (member.position, shown(room, member))
        } else {
            // Nobody could take them out by an event.
            (position, None)
        };
        room_deletion::tell(tx, member.user_num, room.num, (left_at, event.as_deref())).await?;
        let removed = Removed {
            room_id: room.room_id.clone(),
            event,
        };
        let change = Change::Removed {
            user: member.user_num,
            room: room.num,
            left_at,
            removed: Arc::new(removed),
        };
        tx.publish(position, change);
        Ok(())
    }

    /// Removes all that is stored of a room that nobody knows any more.
    async fn purge(&self, room: RoomNum) -> Result<()> {
        // What was on its way while the room was known may have come after the first look.
        while self.purge_once(room).await? > 0 {}
        Ok(())
    }

    async fn purge_once(&self, room: RoomNum) -> Result<u64> {
        let (users, chains) = {
            let mut conn = self.db.read().await?;
            let users = room_deletion::users(&mut conn, room).await?;
            (users, room_deletion::chains(&mut conn, room).await?)
        };
        let mut removed = 0;
        for users in users.chunks(USERS) {
            removed += self.remove_all(room, Part::Users(users)).await?;
        }
        for chain in chains {
            removed += self.remove_all(room, Part::Chain(chain)).await?;
        }
        removed += self.remove_all(room, Part::Shared).await?;
        removed += self.remove_all(room, Part::Events).await?;
        Ok(removed)
    }

    /// Removes a part of what is stored of a room, in pieces that have a turn of their own.
    async fn remove_all(&self, room: RoomNum, part: Part<'_>) -> Result<u64> {
        let mut all = 0;
        loop {
            self.check_goes_on()?;
            let mut tx = self.db.write().await?;
            let removed = match part {
                Part::Users(users) => room_deletion::purge_users(&mut tx, room, users).await?,
                Part::Chain(chain) => room_deletion::purge_chain(&mut tx, chain).await?,
                Part::Shared => room_deletion::purge_shared(&mut tx, room).await?,
                Part::Events => room_deletion::purge_events(&mut tx, room).await?,
            };
            tx.commit().await?;
            if removed == 0 {
                return Ok(all);
            }
            all += removed;
        }
    }

    fn check_goes_on(&self) -> Result<()> {
        if self.tasks.stopping().is_cancelled() {
            return Err(stopping());
        }
        Ok(())
    }
}

/// A part of what is stored of a room.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// What some users have of it of their own.
    Users(&'a [UserNum]),
    /// A chain of its state.
    Chain(i64),
    /// What its members have together.
    Shared,
    /// Its events; after the state, which is found by them.
    Events,
}

fn creator(room: &Room) -> Result<OwnedUserId> {
    let view = room.view();
    let create = view.state.get(&StateEventType::RoomCreate, "");
    create
        .map(|create| create.sender.clone())
        .ok_or_else(|| Error::internal("find who created a room", "it has no create event"))
}

/// Returns everybody who is in a room, or may come in.
fn members(state: &StateMap) -> impl Iterator<Item = OwnedUserId> {
    let is_in = |pdu: &Pdu| {
        matches!(
            pdu.membership(),
            Some(MembershipState::Join | MembershipState::Invite | MembershipState::Knock)
        )
    };
    state
        .of_type(&StateEventType::RoomMember)
        .filter(move |pdu| is_in(pdu))
        .filter_map(|pdu| pdu.member().map(ToOwned::to_owned))
}

/// Returns the event that made a user what they are to a room, as clients see it.
fn shown(room: &Room, member: &Member) -> Option<String> {
    let event_id = OwnedEventId::try_from(member.event_id.as_deref()?).ok()?;
    let pdu = Pdu::parse(event_id, member.json.as_deref()?).ok()?;
    let head = matrix::head(&pdu, &room.rules);
    let event = matrix::sync_event(&head, &Unsigned::default());
    Some(event.get().to_owned())
}

fn stopping() -> Error {
    Error::Unavailable("the server is stopping; the deletion goes on at its next start".to_owned())
}
