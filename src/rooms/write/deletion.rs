//! Deletes a room: ordinary events remove all members, then everything that is stored about the room is removed.
//!
//! While a room is being deleted, a request for its room id finds no room, and the room accepts no events except those
//! of its deletion. Each user who had a membership in the room keeps a row that says how it ended; `sync` sends it to
//! clients that do not have it yet. One task does the work in pieces and reads from the database what is left to do, so
//! a deletion that has begun is finished even after a crash.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};

use super::{RoomDeletion, member_change::leave_event, send_occasion::SendOccasion};
use crate::{
    error::{Error, Result},
    matrix::{self, Pdu, StateMap, UnsignedFields},
    numbers::{RoomNum, StateChainNum, UserNum},
    rooms::memory::room::Room,
    storage::{
        JournalChange, RoomRemoval, WriteTx,
        rooms::{
            aliases, invite_links,
            room_deletion::{self, RoomDeletionRow, RoomMemberRow},
            room_table,
        },
    },
};

/// The reason in the events that remove the members, if the request gives none.
const DEFAULT_DELETION_REASON: &str = "The room was deleted";
/// The longest reason for a deletion, in bytes.
const MAX_REASON_BYTES: usize = 1_024;
/// The number of members who are removed at a time, so that one commit stores their events.
const REMOVAL_BATCH_SIZE: usize = 32;
/// The number of memberships that one write replaces by a row that says how the room ended.
const MEMBER_BATCH_SIZE: i64 = 200;
/// The number of users whose own data one write removes.
const USER_BATCH_SIZE: usize = 200;
/// The number of checks whether other servers have got all events of the room. Servers that respond have them within
/// seconds.
const MAX_DELIVERY_CHECKS: usize = 300;
/// The time between two such checks.
const DELIVERY_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The number of attempts to remove all members. Nobody can join any more, but a member who cannot be removed must not
/// delay the deletion forever.
const MAX_REMOVAL_ROUNDS: usize = 3;

/// A function that returns whether all events of a room have been sent to the other servers.
pub(super) type DeliveryCheck = Box<dyn Fn(RoomNum) -> bool + Send + Sync>;

/// The removal of one member.
#[derive(Clone, Copy)]
struct MemberRemoval<'a> {
    target: &'a OwnedUserId,
    /// The user who may remove others from the room.
    remover: Option<&'a OwnedUserId>,
    reason: &'a str,
}

/// The user who wants to delete a room.
#[derive(Clone, Copy, Debug)]
pub struct DeletionRequester<'a> {
    pub user_id: &'a UserId,
    /// Whether the user is an administrator of the server.
    pub is_admin: bool,
}

impl RoomDeletion {
    /// Deletes a room at the request of its creator or of an administrator. Returns when nothing is left of the room.
    ///
    /// A deletion that has begun is finished even if the client does not wait for it.
    ///
    /// # Errors
    ///
    /// Returns [`Error::Forbidden`] for anyone else, and for an unknown room; an administrator gets
    /// [`Error::NotFound`] for that.
    pub async fn delete_room(
        &self,
        room_id: &RoomId,
        requester: DeletionRequester<'_>,
        reason: Option<String>,
    ) -> Result<()> {
        let reason = reason.filter(|reason| !reason.trim().is_empty());
        let reason = reason.unwrap_or_else(|| DEFAULT_DELETION_REASON.to_owned());
        if reason.len() > MAX_REASON_BYTES || reason.contains('\0') {
            return Err(Error::invalid_param(format!(
                "the reason must be a text of at most {MAX_REASON_BYTES} bytes without U+0000"
            )));
        }
        let DeletionRequester { user_id, is_admin } = requester;
        let room = if is_admin {
            self.memory.room(room_id).await?
        } else {
            self.memory.room_of_member(room_id).await?
        };
        let creator = room_creator(&room)?;
        let is_creator =
            creator == user_id && room.view().state.membership(user_id) == MembershipState::Join;
        if !is_creator && !is_admin {
            return Err(Error::forbidden(
                "only the creator may delete the room, and only while joined to it",
            ));
        }
        let deletion = RoomDeletionRow {
            num: room.num,
            room_id: room_id.to_string(),
            remover: creator.to_string(),
            reason,
            stage: RoomDeletionRow::EMPTYING_STAGE,
        };
        tracing::info!(%room_id, %user_id, "a room is being deleted");
        drop(room);
        let num = deletion.num;
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.begin_deletion(&deletion).await
            })
            .await?;
        self.wait_until_deleted(num).await
    }

    async fn begin_deletion(&self, deletion: &RoomDeletionRow) -> Result<()> {
        let mut tx = self.db.write().await?;
        if !room_deletion::begin(&mut tx, deletion).await? {
            return Err(Error::not_found("this server does not know the room"));
        }
        room_table::set_published(&mut tx, deletion.num, false).await?;
        aliases::remove_of_room(&mut tx, deletion.num).await?;
        invite_links::remove_of_room(&mut tx, deletion.num).await?;
        // The room is marked before the task can find the deletion, so that nothing can restore what the task removes.
        self.memory.deleted_rooms().record(deletion.num, false);
        if let Err(error) = tx.commit().await {
            self.memory.deleted_rooms().forget(deletion.num);
            return Err(error);
        }
        self.timetable.wake();
        Ok(())
    }

    async fn wait_until_deleted(&self, room: RoomNum) -> Result<()> {
        let mut deletions = self.memory.deleted_rooms().subscribe();
        let done = deletions.wait_for(|rooms| rooms.get(&room) == Some(&true));
        tokio::select! {
            _ = done => Ok(()),
            () = self.tasks.stopping().cancelled() => Err(stopping_error()),
        }
    }

    /// Starts the task that finishes all deletions, those that have begun before and all later ones.
    ///
    /// `is_sent` returns whether all events of a room have been sent to the other servers: they have to learn that its
    /// members have left before this server removes the room.
    pub fn start_deletion_task(&self, is_sent: impl Fn(RoomNum) -> bool + Send + Sync + 'static) {
        drop(self.is_sent.set(Box::new(is_sent)));
        let service = self.clone();
        self.timetable
            .run_when_due("delete rooms", &self.clock, &self.tasks, move || {
                service.clone().finish_begun_deletions()
            });
    }

    async fn finish_begun_deletions(self) -> Result<Option<i64>> {
        let unfinished = {
            let mut conn = self.db.read().await?;
            room_deletion::unfinished_deletions(&mut conn).await?
        };
        let mut outcome = Ok(None);
        for deletion in unfinished {
            match self.finish_deletion(&deletion).await {
                // The deletion continues at the next start of the server.
                Err(_) if self.tasks.stopping().is_cancelled() => return Ok(None),
                // The other deletions must not wait for this one.
                Err(error) => outcome = Err(error),
                Ok(()) => {
                    self.memory.deleted_rooms().record(deletion.num, true);
                    tracing::info!(room_id = deletion.room_id, "a room was deleted");
                }
            }
        }
        outcome
    }

    /// Does everything that is left to do for a deletion.
    async fn finish_deletion(&self, deletion: &RoomDeletionRow) -> Result<()> {
        if deletion.stage < RoomDeletionRow::PURGING_STAGE {
            let room = self.memory.room_by_number(deletion.num).await?;
            self.remove_all_members(&room, deletion).await?;
            self.wait_until_sent(room.num).await?;
            self.notify_members(&room).await?;
        }
        self.purge_room(deletion.num).await?;
        let mut tx = self.db.write().await?;
        room_deletion::set_stage(&mut tx, deletion.num, RoomDeletionRow::DONE_STAGE).await?;
        tx.commit().await
    }

    /// Waits until the other servers of a room have got the events with which its members left. The wait has a limit,
    /// since one of these servers may no longer exist.
    async fn wait_until_sent(&self, room: RoomNum) -> Result<()> {
        let is_sent = || self.is_sent.get().is_none_or(|is_sent| is_sent(room));
        for _ in 0..MAX_DELIVERY_CHECKS {
            self.check_not_stopping()?;
            if is_sent() {
                break;
            }
            tokio::time::sleep(DELIVERY_CHECK_INTERVAL).await;
        }
        Ok(())
    }

    /// Removes all members from a room, in several attempts.
    async fn remove_all_members(&self, room: &Room, deletion: &RoomDeletionRow) -> Result<()> {
        for _ in 0..MAX_REMOVAL_ROUNDS {
            if self.remove_members(room, deletion).await? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Removes all members from a room. Returns how many were removed.
    ///
    /// The creator leaves last. The creator removes the others where the rules allow that; else each user of this
    /// server leaves by an event of their own.
    async fn remove_members(&self, room: &Room, deletion: &RoomDeletionRow) -> Result<usize> {
        // Once the lock is acquired, no earlier sender that does not know of the deletion holds the tip any more.
        let state = room.tip.lock().await.state.clone();
        let last = self.last_member(room, &state, &deletion.remover);
        let mut removed = 0;
        let others: Vec<OwnedUserId> = members_to_remove(&state)
            .filter(|user_id| last.as_ref() != Some(user_id))
            .collect();
        for some in others.chunks(REMOVAL_BATCH_SIZE) {
            let leaving = some.iter().map(|target| {
                let removal = MemberRemoval {
                    target,
                    remover: last.as_ref(),
                    reason: &deletion.reason,
                };
                self.remove_member(room, &state, removal)
            });
            for is_gone in join_all(leaving).await {
                removed += usize::from(is_gone?);
            }
        }
        if let Some(last) = &last {
            let removal = MemberRemoval {
                target: last,
                remover: None,
                reason: &deletion.reason,
            };
            removed += usize::from(self.remove_member(room, &state, removal).await?);
        }
        Ok(removed)
    }

    /// Returns the user who removes the others and leaves last: the creator of the room, or else the most powerful
    /// member of this server.
    fn last_member(&self, room: &Room, state: &StateMap, creator: &str) -> Option<OwnedUserId> {
        let levels = matrix::power_levels(state, &room.rules);
        let is_in = |user_id: &OwnedUserId| {
            self.memory.is_local(user_id) && state.membership(user_id) == MembershipState::Join
        };
        members_to_remove(state)
            .filter(is_in)
            .max_by_key(|user_id| (*user_id == creator, levels.for_user(user_id)))
    }

    /// Removes one member from a room. Returns whether an event did that.
    async fn remove_member(
        &self,
        room: &Room,
        state: &StateMap,
        removal: MemberRemoval<'_>,
    ) -> Result<bool> {
        let MemberRemoval {
            target,
            remover,
            reason,
        } = removal;
        self.check_not_stopping()?;
        let levels = matrix::power_levels(state, &room.rules);
        let remover = remover.filter(|remover| levels.user_can_kick_user(remover, target));
        let own = self.memory.is_local(target).then_some(target);
        for sender in [remover, own].into_iter().flatten() {
            let event = leave_event(sender.clone(), target, reason)?;
            match self
                .sender
                .send_with_occasion(room.num, event, SendOccasion::Deletion)
                .await
            {
                Err(
                    error @ (Error::Internal { .. } | Error::StorageFull | Error::Unavailable(_)),
                ) => return Err(error),
                Err(refused) => {
                    tracing::debug!(error = %refused, "the removal of a member was refused");
                }
                Ok(_) => return Ok(true),
            }
        }
        Ok(false)
    }

    /// Replaces each membership in a room by a row that says how the room ended for the user, then removes the room
    /// itself.
    async fn notify_members(&self, room: &Room) -> Result<()> {
        loop {
            self.check_not_stopping()?;
            let mut tx = self.db.write().await?;
            let members = room_deletion::members(&mut tx, room.num, MEMBER_BATCH_SIZE).await?;
            if members.is_empty() {
                room_deletion::remove_room(&mut tx, room.num).await?;
                room_deletion::set_stage(&mut tx, room.num, RoomDeletionRow::PURGING_STAGE).await?;
                let position = tx.next_position();
                tx.publish(position, JournalChange::RoomDeleted { room: room.num });
                return tx.commit().await;
            }
            for member in &members {
                self.notify_member(&mut tx, room, member).await?;
            }
            let users: Vec<UserNum> = members.iter().map(|member| member.user_num).collect();
            room_deletion::remove_memberships(&mut tx, room.num, &users).await?;
            tx.commit().await?;
        }
    }

    async fn notify_member(
        &self,
        tx: &mut WriteTx,
        room: &Room,
        member: &RoomMemberRow,
    ) -> Result<()> {
        let user_id = <&UserId>::try_from(member.user_id.as_str());
        if !user_id.is_ok_and(|user_id| self.memory.is_local(user_id)) {
            return Ok(());
        }
        let position = tx.next_position();
        let is_out = matches!(member.membership.as_str(), "leave" | "ban");
        let (left_at, event) = if is_out {
            (member.position, membership_event(room, member))
        } else {
            // No event could remove this member.
            (position, None)
        };
        room_deletion::insert_removal(tx, member.user_num, room.num, left_at, event.as_deref())
            .await?;
        let removed = RoomRemoval {
            room_id: room.room_id.clone(),
            event,
        };
        let change = JournalChange::MembershipRemoved {
            user: member.user_num,
            room: room.num,
            left_at,
            removed: Arc::new(removed),
        };
        tx.publish(position, change);
        Ok(())
    }

    /// Removes everything that is stored about a room, after the room itself was removed.
    async fn purge_room(&self, room: RoomNum) -> Result<()> {
        // Writes that began while the room still existed may be stored only after the first pass.
        while self.purge_once(room).await? > 0 {}
        Ok(())
    }

    async fn purge_once(&self, room: RoomNum) -> Result<u64> {
        let (users, chains) = {
            let mut conn = self.db.read().await?;
            let users = room_deletion::users_with_data(&mut conn, room).await?;
            (users, room_deletion::state_chains(&mut conn, room).await?)
        };
        let mut removed = 0;
        for users in users.chunks(USER_BATCH_SIZE) {
            removed += self.purge_part(room, RoomDataPart::Users(users)).await?;
        }
        for chain in chains {
            removed += self.purge_part(room, RoomDataPart::Chain(chain)).await?;
        }
        removed += self.purge_part(room, RoomDataPart::Shared).await?;
        removed += self.purge_part(room, RoomDataPart::Events).await?;
        Ok(removed)
    }

    /// Removes a part of the stored data of a room in small writes, so that other writes can run between them.
    async fn purge_part(&self, room: RoomNum, part: RoomDataPart<'_>) -> Result<u64> {
        let mut all = 0;
        loop {
            self.check_not_stopping()?;
            let mut tx = self.db.write().await?;
            let removed = match part {
                RoomDataPart::Users(users) => {
                    room_deletion::purge_user_data(&mut tx, room, users).await?
                }
                RoomDataPart::Chain(chain) => room_deletion::purge_chain(&mut tx, chain).await?,
                RoomDataPart::Shared => room_deletion::purge_shared_data(&mut tx, room).await?,
                RoomDataPart::Events => room_deletion::purge_events(&mut tx, room).await?,
            };
            tx.commit().await?;
            if removed == 0 {
                return Ok(all);
            }
            all += removed;
        }
    }

    fn check_not_stopping(&self) -> Result<()> {
        if self.tasks.stopping().is_cancelled() {
            return Err(stopping_error());
        }
        Ok(())
    }
}

/// A part of the stored data of a room.
#[derive(Clone, Copy)]
enum RoomDataPart<'a> {
    /// The data that belongs to some users.
    Users(&'a [UserNum]),
    /// One chain of the room's state.
    Chain(StateChainNum),
    /// The data that all members share.
    Shared,
    /// The events. They are removed after the state, because the state is found through them.
    Events,
}

fn room_creator(room: &Room) -> Result<OwnedUserId> {
    let view = room.view();
    let create = view.state.get(&StateEventType::RoomCreate, "");
    create
        .map(|create| create.sender.clone())
        .ok_or_else(|| Error::internal("find who created a room", "it has no create event"))
}

/// Returns all users who are in a room, are invited or knock.
fn members_to_remove(state: &StateMap) -> impl Iterator<Item = OwnedUserId> {
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

/// Returns the event that set a user's membership, in the format for clients.
fn membership_event(room: &Room, member: &RoomMemberRow) -> Option<String> {
    let event_id = OwnedEventId::try_from(member.event_id.as_deref()?).ok()?;
    let pdu = Pdu::parse(event_id, member.json.as_deref()?).ok()?;
    let head = matrix::write_event_head(&pdu, &room.rules);
    let event = matrix::sync_event(&head, &UnsignedFields::default());
    Some(event.get().to_owned())
}

fn stopping_error() -> Error {
    Error::Unavailable(
        "the server is stopping; it continues the deletion when it starts again".to_owned(),
    )
}
