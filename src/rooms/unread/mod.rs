//! Unread counts, read markers and receipts.

pub(crate) mod notified_places;
pub(crate) mod push_counts;
pub(crate) mod read_markers;
pub(crate) mod receipt_content;
pub(crate) mod receipts;

use std::sync::Arc;

use ruma::ServerName;

use self::push_counts::{CustomRules, MemberSettings, UnreadIncrement};
use super::{
    RoomEnvironment,
    memory::{
        RoomMemory,
        room::{Room, RoomTip},
    },
    read::{Timeline, ignored_users::IgnoreSettingsByUser},
};
use crate::{
    clock::Clock,
    matrix::{Pdu, SigningKey},
    storage::Db,
};

/// Unread counts, read markers and receipts.
#[derive(Clone)]
pub struct UnreadCounts {
    db: Db,
    clock: Clock,
    key: Arc<SigningKey>,
    memory: RoomMemory,
    timeline: Timeline,
    push_rules: Arc<CustomRules>,
    ignored_users: Arc<IgnoreSettingsByUser>,
}

impl UnreadCounts {
    pub(super) fn new(environment: &RoomEnvironment, timeline: &Timeline) -> Self {
        Self {
            db: environment.db.clone(),
            clock: environment.clock.clone(),
            key: environment.key.clone(),
            memory: environment.memory.clone(),
            timeline: timeline.clone(),
            push_rules: environment.push_rules.clone(),
            ignored_users: environment.ignored_users.clone(),
        }
    }

    /// Returns the increments that an event adds to the unread counts of the members of a room.
    pub(crate) async fn count_event(
        &self,
        room: &Room,
        tip: &RoomTip,
        pdu: &Pdu,
    ) -> UnreadIncrement {
        let server_name: &ServerName = self.key.server_name();
        let settings = MemberSettings {
            push_rules: &self.push_rules,
            ignored_users: &self.ignored_users,
        };
        push_counts::count_for_members(settings, room, tip, pdu, server_name).await
    }
}
