//! Imports a room that a user of this server joins through another server: its state and the auth
//! chain of that state.
//!
//! [Joining rooms](https://spec.matrix.org/v1.19/server-server-api/#joining-rooms)

use std::sync::{Arc, atomic::Ordering};

use ruma::{
    OwnedEventId, OwnedServerName, RoomVersionId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_version_rules::RoomVersionRules,
};
use serde::Deserialize;
use tokio::sync::MutexGuard;

use super::{
    RoomImporter,
    outliers::{self, CheckedOutlier, CheckedOutliers},
};
use crate::{
    error::{Error, Result},
    matrix::{self, ResolvedState, StateMap, VerifiedEvent},
    numbers::{RoomNum, SnapshotId},
    rooms::{
        ReceiveHints, ReceiveOutcome,
        log::{
            accepted_event::{AcceptedEvent, EventFork, GAP_PLACES, RemoteArrival},
            append::append,
            room_write::RoomWrite,
            snapshots::{self, SnapshotBase},
        },
        memory::room::{Room, RoomTip},
        unread::push_counts::UnreadIncrement,
    },
    storage::{
        JournalChange,
        rooms::{event_graph, room_table},
    },
};

/// The number of attempts to import a room. An attempt fails when the room in memory was out of
/// date.
const MAX_IMPORT_ATTEMPTS: usize = 3;
/// The largest number of state events of a room, together with the events of their auth chain.
const MAX_IMPORT_EVENTS: usize = 500_000;

/// The answer of a server that lets a user into a room.
#[derive(Debug)]
pub struct RoomImport {
    pub origin: OwnedServerName,
    /// The version that the server claims for the room.
    pub version: RoomVersionId,
    /// The join event, as that server signed it.
    pub join: VerifiedEvent,
    /// The state before the join.
    pub state: Vec<VerifiedEvent>,
    /// The auth chain of that state and of the join.
    pub auth_chain: Vec<VerifiedEvent>,
}

/// The way in which a join came into its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// The room was imported.
    NewRoom,
    /// This server was already in the room, or has returned meanwhile: the join is stored like any
    /// other event.
    KnownRoom,
}

#[derive(Deserialize)]
struct ImportedCreateContent {
    #[serde(default = "default_room_version")]
    room_version: RoomVersionId,
}

fn default_room_version() -> RoomVersionId {
    RoomVersionId::V1
}

/// A join and the checked state before it.
struct CheckedJoin {
    join: VerifiedEvent,
    state: StateMap,
}

impl RoomImporter {
    /// Imports a room, or returns to one after a time in which no user of this server was in it.
    ///
    /// Leaves out state events that their own auth events do not allow.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the state in the answer does not allow the join, or belongs to
    /// another room; [`Error::UnsupportedRoomVersion`]; [`Error::TooLarge`].
    #[tracing::instrument(skip_all, fields(room_id = %import.join.pdu().room_id), err(level = "debug"))]
    pub async fn import(&self, import: RoomImport) -> Result<ImportOutcome> {
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms.import_now(import).await
            })
            .await
    }

    async fn import_now(&self, import: RoomImport) -> Result<ImportOutcome> {
        if import.state.len() + import.auth_chain.len() > MAX_IMPORT_EVENTS {
            return Err(Error::TooLarge(
                "the room has too many state events".to_owned(),
            ));
        }
        let rules = matrix::room_version_rules(&import.version).ok_or_else(|| {
            Error::UnsupportedRoomVersion(format!("version {} is not supported", import.version))
        })?;
        self.check_join(&import)?;
        let (origin, version) = (import.origin.clone(), import.version.clone());
        let join = import.join.clone();
        let num = self
            .remote_memberships
            .ensure_room_number(&join.pdu().room_id, &version)
            .await?;
        let (mut import, mut checked) = (Some(import), None);
        for _ in 0..MAX_IMPORT_ATTEMPTS {
            let room = self.memory.room_by_number(num).await?;
            let tip = room.tip.lock().await;
            if room.is_stale() {
                continue;
            }
            if room.version != version && tip.snapshot != SnapshotId::EMPTY {
                return Err(Error::forbidden(
                    "this server knows the room with another version",
                ));
            }
            if !room.view().local_members.is_empty() {
                drop(tip);
                return self.join_known_room(num, &origin, &join).await;
            }
            if let Some(import) = import.take() {
                checked = Some(self.check_state(num, &rules, import).await?);
            }
            if room.version != version {
                self.correct_room_version(&room, &version).await?;
                continue;
            }
            let Some((state, events)) = checked.take() else {
                break;
            };
            self.receiver
                .store_checked_outliers(num, &events.events)
                .await?;
            drop(events);
            self.take_over_room(&room, tip, CheckedJoin { join, state })
                .await?;
            return Ok(ImportOutcome::NewRoom);
        }
        Err(Error::Unavailable(
            "the room cannot be joined now, try again later".to_owned(),
        ))
    }

    /// Stores the version of a room that this server was never in. The version stored before came
    /// with an invitation or a failed join, and may have been wrong.
    async fn correct_room_version(&self, room: &Room, version: &RoomVersionId) -> Result<()> {
        let mut tx = self.db.write().await?;
        room_table::set_version(&mut tx, room.num, version.as_str()).await?;
        let position = tx.next_position();
        tx.publish(position, JournalChange::Imported { room: room.num });
        tx.commit().await
    }

    /// Checks that the joining user belongs to this server.
    fn check_join(&self, import: &RoomImport) -> Result<()> {
        let pdu = import.join.pdu();
        let is_join = pdu.member() == Some(&*pdu.sender)
            && pdu.membership() == Some(MembershipState::Join)
            && self.memory.is_local(&pdu.sender);
        if is_join {
            return Ok(());
        }
        Err(Error::forbidden(
            "the event is not a join of a user of this server",
        ))
    }

    async fn join_known_room(
        &self,
        num: RoomNum,
        origin: &OwnedServerName,
        join: &VerifiedEvent,
    ) -> Result<ImportOutcome> {
        let (received, _) = self
            .receiver
            .receive_with_state(num, origin, join, &ReceiveHints::default())
            .await?;
        match received {
            ReceiveOutcome::Accepted => Ok(ImportOutcome::KnownRoom),
            ReceiveOutcome::Duplicate => {
                self.receiver.check_accepted(&join.pdu().event_id).await?;
                Ok(ImportOutcome::KnownRoom)
            }
            ReceiveOutcome::SoftFailed(reason) | ReceiveOutcome::Rejected(reason) => {
                Err(Error::Forbidden(reason))
            }
            ReceiveOutcome::Missing { .. } => Err(Error::Unavailable(
                "events of the room are missing, try again later".to_owned(),
            )),
        }
    }

    /// Checks each state event of a room by its auth events, and the join by the whole state.
    async fn check_state(
        &self,
        num: RoomNum,
        rules: &RoomVersionRules,
        import: RoomImport,
    ) -> Result<(StateMap, CheckedOutliers)> {
        let room_id = &import.join.pdu().room_id;
        let is_of_room = |event: &VerifiedEvent| event.pdu().room_id == *room_id;
        let ids: Vec<OwnedEventId> = import
            .state
            .iter()
            .filter(|event| is_of_room(event))
            .map(|event| event.pdu().event_id.clone())
            .collect();
        let events = import.auth_chain.into_iter().chain(import.state);
        let events: Vec<VerifiedEvent> = events
            .filter(|event| event.pdu().room_id == import.join.pdu().room_id)
            .collect();
        let join = std::iter::once(&import.join);
        let known = self
            .receiver
            .load_known_auth_events(num, events.iter().chain(join))
            .await?;
        let checked = outliers::check_outliers(rules, events, known.clone()).await?;
        let mut all = known;
        for CheckedOutlier { event, status } in &checked.events {
            let mut pdu = event.pdu().clone();
            pdu.rejected = *status == crate::storage::rooms::events::EventStatus::Rejected;
            all.insert(pdu.event_id.clone(), Arc::new(pdu));
        }
        let mut state = StateMap::default();
        for id in ids {
            let pdu = all.get(&id).filter(|pdu| !pdu.rejected);
            match pdu {
                Some(pdu)
                    if state
                        .insert(pdu.clone())
                        .is_some_and(|held| held.event_id != id) =>
                {
                    return Err(Error::forbidden(
                        "the state has two events with the same type and state key",
                    ));
                }
                Some(_) => {}
                None => tracing::debug!(event_id = %id, "left out an unusable state event"),
            }
        }
        check_create(&state, &import.version)?;
        let pdu = import.join.pdu();
        let mut auth_events: Vec<_> = pdu
            .auth_events
            .iter()
            .filter_map(|id| all.get(id).cloned())
            .collect();
        auth_events.extend(state.get(&StateEventType::RoomCreate, "").cloned());
        matrix::authorize_by_auth_events(pdu, rules, &auth_events)?;
        matrix::authorize(pdu, rules, &state)?;
        Ok((state, checked))
    }

    /// Makes a state the current state of the room, and the join its newest event.
    async fn take_over_room(
        &self,
        room: &Arc<Room>,
        tip: MutexGuard<'_, RoomTip>,
        checked_join: CheckedJoin,
    ) -> Result<()> {
        let mut next = tip.clone();
        let mut tx = self.db.write().await?;
        let mut missing = checked_join.join.pdu().prev_events.clone();
        let nodes = event_graph::find_nodes(&mut tx, missing.iter().map(|id| id.as_str())).await?;
        missing.retain(|id| {
            let mut placed = nodes.iter().filter(|node| node.state.is_some());
            !placed.any(|node| node.event_id == *id)
        });
        // Backfill may later add events from before the join.
        tx.reserve_positions(GAP_PLACES);
        let snapshot = tx.next_position();
        tx.publish(snapshot, JournalChange::Imported { room: room.num });
        let resolved = ResolvedState {
            changed_keys: next.state.differing_keys(&checked_join.state),
            state: checked_join.state.clone(),
            after_gap: true,
        };
        let mut write = RoomWrite {
            log: &self.log,
            tx: &mut tx,
            room,
            tip: &mut next,
        };
        write
            .set_current_state(snapshot, &Arc::new(resolved))
            .await?;
        let pdu = checked_join.join.pdu().clone();
        let mut current = checked_join.state.clone();
        current.insert(Arc::new(pdu.clone()));
        let fork = EventFork {
            base: SnapshotBase::Stored(next.snapshot),
            before: checked_join.state,
            current,
            extremities: vec![(pdu.event_id.clone(), pdu.reference_hash.clone())],
            missing,
            gap_at: Some(snapshot),
        };
        let stored_at = snapshots::find_positions(&mut tx, &[&pdu.event_id]).await?;
        let accepted = AcceptedEvent {
            json: checked_join.join.json().to_owned(),
            counting: UnreadIncrement::default(),
            transaction: None,
            delayed_event: None,
            unattended: false,
            arrival: Some(RemoteArrival {
                stored_at: stored_at.into_values().next(),
                is_outgoing: false,
                fork: Some(fork),
            }),
            pdu,
        };
        append(&self.log, &mut tx, room, &mut next, accepted).await?;
        let pending = tx.release()?;
        // Everyone who waits for the lock must load the room again, which is possible once it is on
        // disk.
        let durable = pending.wait_until_durable().await;
        room.stale.store(true, Ordering::SeqCst);
        drop(tip);
        durable
    }
}

/// Checks that a state has a create event with the expected room version.
fn check_create(state: &StateMap, version: &RoomVersionId) -> Result<()> {
    let create = state.get(&StateEventType::RoomCreate, "");
    let create = create.filter(|create| create.kind == TimelineEventType::RoomCreate);
    let create = create.ok_or_else(|| Error::forbidden("the state has no create event"))?;
    let content: Option<ImportedCreateContent> = create.content_as();
    if content.is_some_and(|content| content.room_version == *version) {
        return Ok(());
    }
    Err(Error::forbidden(
        "the create event has another room version than announced",
    ))
}
