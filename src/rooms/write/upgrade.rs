//! Upgrades a room to another version: one write stores the new room and the tombstone, and moves the aliases.
//!
//! [Room upgrades](https://spec.matrix.org/v1.19/client-server-api/#room-upgrades)

mod plan;

use std::sync::Arc;

use ruma::{
    OwnedEventId, OwnedRoomId, UInt,
    events::{
        StateEventType,
        room::{member::MembershipState, tombstone::RoomTombstoneEventContent},
    },
};
use serde_json::{Map, Value, json, value::to_raw_value};
use tokio::sync::MutexGuard;

pub use self::plan::RoomUpgrade;
use super::{
    RoomCreation,
    create::{MAX_ROOM_ID_ATTEMPTS, advance_scratch_tip},
    policy_server::EventVetting,
    send::is_on_disk,
    send_occasion::SendOccasion,
};
use crate::{
    clock::timestamp,
    error::{Error, Result},
    matrix::{self, Pdu, StateMap},
    numbers::{Position, RoomNum},
    rooms::{
        EventToSend,
        log::{accepted_event::AcceptedEvent, append::append, release_write},
        memory::room::{Room, RoomTip},
    },
    storage::rooms::{aliases, room_table},
};

/// The power level that a user needs to send messages and to invite in a room that was replaced.
const MIN_SPEAKING_LEVEL: i64 = 50;
/// The time in which an equal request of the same user counts as the same request, in milliseconds. Equal
/// requests come from clients that send one twice at once or did not get the answer.
const REPEATED_UPGRADE_MS: i64 = 60_000;
/// The text of the tombstone, for users who open the old room.
const TOMBSTONE_BODY: &str = "This room has been replaced";

/// A new room and the last events of the old room, built but not stored yet.
struct RoomReplacement {
    new: Room,
    events: Vec<AcceptedEvent>,
    /// The last events of the old room.
    last_events: Vec<AcceptedEvent>,
    /// The events that precede the first of these.
    prev_events: Vec<OwnedEventId>,
    /// Whether the last events have the signature of the old room's policy server, or need none.
    is_vetted: bool,
}

impl RoomCreation {
    /// Upgrades a room. Returns the id of the new room.
    ///
    /// # Errors
    ///
    /// Returns [`Error::UnsupportedRoomVersion`], and [`Error::Forbidden`] if the user may not send the tombstone.
    pub async fn upgrade_room(
        &self,
        room_id: &ruma::RoomId,
        upgrade: RoomUpgrade,
    ) -> Result<OwnedRoomId> {
        if matrix::room_version_rules(&upgrade.version).is_none() {
            let text = format!("room version {} is not supported", upgrade.version);
            return Err(Error::UnsupportedRoomVersion(text));
        }
        let room = self.memory.room_of_member(room_id).await?;
        let (num, tombstone) = (room.num, current_tombstone(&room.view().state).cloned());
        self.tasks
            .run_to_completion(self, async move |rooms: Self| {
                rooms
                    .upgrade_room_now(num, &upgrade, tombstone.as_deref())
                    .await
            })
            .await
    }

    /// Replaces a room, unless another request replaced it since `known`, the tombstone at the start of this request.
    async fn upgrade_room_now(
        &self,
        num: RoomNum,
        upgrade: &RoomUpgrade,
        known: Option<&Pdu>,
    ) -> Result<OwnedRoomId> {
        let mut vetting = EventVetting::default();
        let mut vetted: Option<RoomReplacement> = None;
        for attempt in 0..MAX_ROOM_ID_ATTEMPTS {
            let old = self.memory.room_by_number(num).await?;
            vetting.wait_for_turn(&old).await;
            let tip = old.tip.lock().await;
            if old.is_stale() {
                continue;
            }
            self.memory.check_not_deleted(num)?;
            let tombstone = current_tombstone(&tip.state).cloned();
            if tombstone.as_ref().is_some_and(|it| !is_on_disk(&old, it)) {
                drop(tip);
                self.wait_for_tombstone(&old).await;
                continue;
            }
            if let Some(tombstone) = &tombstone
                && let Some(new) = self.replacement_since(known, tombstone, upgrade).await?
            {
                return Ok(new);
            }
            check_may_replace(&old, &tip, upgrade)?;
            let follows = tip.choose_prev_events().ids;
            let replacement = match vetted.take().filter(|vetted| vetted.prev_events == follows) {
                Some(vetted) => vetted,
                None => self.build_replacement(&old, &tip, upgrade, attempt).await?,
            };
            if !replacement.is_vetted {
                drop(tip);
                vetted = Some(self.vet_last_events(&old, replacement).await?);
                continue;
            }
            if let Some(new) = self.store_replacement(&old, tip, replacement).await? {
                return Ok(new);
            }
        }
        Err(Error::Unavailable(
            "the room cannot be upgraded now; try again later".to_owned(),
        ))
    }

    /// Stores a replacement in one write. Returns `None` if the old room has to be loaded again, or if the id of the
    /// new room is taken.
    async fn store_replacement(
        &self,
        old: &Room,
        mut tip: MutexGuard<'_, RoomTip>,
        replacement: RoomReplacement,
    ) -> Result<Option<OwnedRoomId>> {
        let RoomReplacement {
            mut new,
            events,
            last_events,
            ..
        } = replacement;
        let mut tx = self.db.write().await?;
        if old.is_stale() || !self.log.insert_room(&mut tx, &mut new, events).await? {
            return Ok(None);
        }
        aliases::move_all(&mut tx, old.num, new.num).await?;
        if room_table::is_published(&mut tx, old.num).await? {
            room_table::set_published(&mut tx, new.num, true).await?;
            room_table::set_published(&mut tx, old.num, false).await?;
        }
        let mut next = tip.clone();
        let mut newest = Position::ZERO;
        for accepted in last_events {
            let stored = append(&self.log, &mut tx, old, &mut next, accepted).await?;
            newest = stored.map_or(newest, |event| event.position);
        }
        let pending = release_write(tx, old, newest)?;
        *tip = next;
        drop(tip);
        pending.wait_until_durable().await?;
        Ok(Some(new.room_id))
    }

    /// Waits until the tombstone of another request is on disk or lost.
    async fn wait_for_tombstone(&self, old: &Room) {
        if let Err(error) = self.memory.wait_until_stored(old).await {
            tracing::debug!(%error, room_id = %old.room_id, "could not store the tombstone of an upgrade");
        }
    }

    /// Returns the room that an equal request has created.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] if another request upgraded the room after `known`, the tombstone at the start of this one.
    async fn replacement_since(
        &self,
        known: Option<&Pdu>,
        tombstone: &Pdu,
        upgrade: &RoomUpgrade,
    ) -> Result<Option<OwnedRoomId>> {
        let equal = self.find_equal_replacement(tombstone, upgrade).await?;
        if equal.is_none() && known.is_none_or(|known| known.event_id != tombstone.event_id) {
            return Err(Error::forbidden(
                "another request has just upgraded the room",
            ));
        }
        Ok(equal)
    }

    /// Returns the room that an equal request of the same user has just created.
    async fn find_equal_replacement(
        &self,
        tombstone: &Pdu,
        upgrade: &RoomUpgrade,
    ) -> Result<Option<OwnedRoomId>> {
        let age_ms = self.clock.now_ms() - i64::from(tombstone.origin_server_ts.0);
        if tombstone.sender != upgrade.user_id || age_ms > REPEATED_UPGRADE_MS {
            return Ok(None);
        }
        let replacement = tombstone.content_str("replacement_room");
        let Some(new) = replacement.and_then(|id| OwnedRoomId::try_from(id).ok()) else {
            return Ok(None);
        };
        let version = self.memory.room(&new).await?.version.clone();
        Ok((version == upgrade.version).then_some(new))
    }

    /// Builds the new room and the last events of the old room.
    async fn build_replacement(
        &self,
        old: &Room,
        tip: &RoomTip,
        upgrade: &RoomUpgrade,
        attempt: i64,
    ) -> Result<RoomReplacement> {
        let planned = plan::first_events(old, tip, upgrade)?;
        let now = timestamp(self.clock.now_ms() + attempt);
        let (new, events) = self.build_room(&upgrade.version, planned, now).await?;
        let last_events = self
            .build_last_events(old, tip, upgrade, &new.room_id)
            .await?;
        Ok(RoomReplacement {
            new,
            events,
            last_events,
            prev_events: tip.choose_prev_events().ids,
            is_vetted: !self.sender.needs_vetting(old, &SendOccasion::Request),
        })
    }

    /// Asks the policy server of a room to sign the room's last events.
    async fn vet_last_events(
        &self,
        old: &Room,
        mut replacement: RoomReplacement,
    ) -> Result<RoomReplacement> {
        let mut signed = Vec::with_capacity(replacement.last_events.len());
        for accepted in replacement.last_events {
            signed.push(self.sender.vet_event(old, accepted).await?);
        }
        replacement.last_events = signed;
        replacement.is_vetted = true;
        Ok(replacement)
    }

    /// Builds the last events of a room: the tombstone, then the power levels that stop new messages and the aliases
    /// that remain, if the user may send these.
    async fn build_last_events(
        &self,
        old: &Room,
        tip: &RoomTip,
        upgrade: &RoomUpgrade,
        new: &OwnedRoomId,
    ) -> Result<Vec<AcceptedEvent>> {
        let user_id = &upgrade.user_id;
        let tombstone = RoomTombstoneEventContent::new(TOMBSTONE_BODY.to_owned(), new.clone());
        let tombstone = EventToSend::state(
            user_id.clone(),
            &StateEventType::RoomTombstone,
            "",
            to_raw_value(&tombstone)?,
        );
        let mut scratch = tip.clone();
        let accepted = self.log.build_event(old, &scratch, tombstone).await?;
        advance_scratch_tip(&mut scratch, &accepted.pdu);
        let mut last_events = vec![accepted];
        let kinds = [
            (
                StateEventType::RoomPowerLevels,
                restricted_power_levels(tip),
            ),
            (
                StateEventType::RoomCanonicalAlias,
                plan::aliases_of_others(tip, self.memory.server_name()),
            ),
        ];
        for (kind, content) in kinds {
            let Some(content) = content else { continue };
            let event = EventToSend::state(user_id.clone(), &kind, "", to_raw_value(&content)?);
            match self.log.build_event(old, &scratch, event).await {
                Ok(accepted) => {
                    advance_scratch_tip(&mut scratch, &accepted.pdu);
                    last_events.push(accepted);
                }
                // The specification says "if possible": a user who may upgrade the room may lack the power for this.
                Err(Error::Forbidden(reason)) => {
                    tracing::debug!(room_id = %old.room_id, reason, "could not restrict an upgraded room");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(last_events)
    }
}

fn current_tombstone(state: &StateMap) -> Option<&Arc<Pdu>> {
    state.get(&StateEventType::RoomTombstone, "")
}

fn check_may_replace(old: &Room, tip: &RoomTip, upgrade: &RoomUpgrade) -> Result<()> {
    let levels = matrix::power_levels(&tip.state, &old.rules);
    let is_member = tip.state.membership(&upgrade.user_id) == MembershipState::Join;
    if is_member && levels.user_can_send_state(&upgrade.user_id, StateEventType::RoomTombstone) {
        return Ok(());
    }
    Err(Error::forbidden("you may not upgrade this room"))
}

/// Returns power levels with which only moderators may send messages and invite, or `None` if they are so already.
fn restricted_power_levels(tip: &RoomTip) -> Option<Map<String, Value>> {
    let kind = StateEventType::RoomPowerLevels;
    let mut content: Map<String, Value> = tip.state.content(&kind)?;
    let level = |content: &Map<String, Value>, field: &str| {
        content.get(field).and_then(Value::as_i64).unwrap_or(0)
    };
    let speaking_level = MIN_SPEAKING_LEVEL.max(level(&content, "users_default").saturating_add(1));
    let speaking_level = speaking_level.min(i64::from(UInt::MAX));
    let mut is_changed = false;
    for field in ["events_default", "invite"] {
        if level(&content, field) < speaking_level {
            content.insert(field.to_owned(), json!(speaking_level));
            is_changed = true;
        }
    }
    is_changed.then_some(content)
}
