//! The summary of a room: its member counts, and the heroes that name a room without a name.

use std::sync::Arc;

use ruma::{
    OwnedUserId, UInt, UserId,
    api::client::sync::sync_events::v3::RoomSummary,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};

use super::snapshot::RoomContents;
use crate::matrix::{StateMap, TimelineEvent};

/// The largest number of members that the summary names.
const MAX_HEROES: usize = 5;

/// Returns whether one of the events changes the summary of the room.
pub(super) fn changes_summary(events: &[Arc<TimelineEvent>]) -> bool {
    events.iter().any(|event| {
        let pdu = &event.pdu;
        pdu.member().is_some()
            || pdu.is_state(&TimelineEventType::RoomName, "")
            || pdu.is_state(&TimelineEventType::RoomCanonicalAlias, "")
    })
}

/// Returns the summary of a room. See the
/// [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync).
pub(super) fn summary(contents: &RoomContents, user_id: &UserId) -> RoomSummary {
    let mut summary = RoomSummary::new();
    let count = |number: i64| u64::try_from(number).ok().map(UInt::new_saturating);
    summary.joined_member_count = count(contents.joined_members);
    summary.invited_member_count = count(contents.invited_members);
    let has = |kind: StateEventType, field: &str| {
        contents
            .state
            .get(&kind, "")
            .and_then(|pdu| pdu.content_str(field))
            .is_some_and(|text| !text.is_empty())
    };
    if !has(StateEventType::RoomName, "name") && !has(StateEventType::RoomCanonicalAlias, "alias") {
        summary.heroes = heroes(&contents.state, user_id);
    }
    summary
}

/// Returns the first other members or, if all others have left, the first of those.
pub(super) fn heroes(state: &StateMap, user_id: &UserId) -> Vec<OwnedUserId> {
    let mut present = Vec::new();
    let mut gone = Vec::new();
    for pdu in state.of_type(&StateEventType::RoomMember) {
        let Some(member) = pdu.member().filter(|member| *member != user_id) else {
            continue;
        };
        match pdu.membership() {
            Some(MembershipState::Join | MembershipState::Invite) => {
                present.push((pdu.origin_server_ts, member.to_owned()));
            }
            Some(_) => gone.push((pdu.origin_server_ts, member.to_owned())),
            None => {}
        }
    }
    let mut heroes = if present.is_empty() { gone } else { present };
    heroes.sort();
    heroes
        .into_iter()
        .take(MAX_HEROES)
        .map(|(_, member)| member)
        .collect()
}
