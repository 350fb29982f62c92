//! What a room is called by those who are in it, where it has no name.

use std::sync::Arc;

use ruma::{
    OwnedUserId, UInt, UserId,
    api::client::sync::sync_events::v3::RoomSummary,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};

use super::moment::Inside;
use crate::matrix::{StateMap, TimelineEvent};

/// Members named in the summary of a room.
const HEROES: usize = 5;

/// Returns whether one of the events changes what the summary of the room says.
pub(super) fn changes_summary(events: &[Arc<TimelineEvent>]) -> bool {
    events.iter().any(|event| {
        let pdu = &event.pdu;
        pdu.member().is_some()
            || pdu.is_state(&TimelineEventType::RoomName, "")
            || pdu.is_state(&TimelineEventType::RoomCanonicalAlias, "")
    })
}

/// [Room summary](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync)
pub(super) fn summary(inside: &Inside, user_id: &UserId) -> RoomSummary {
    let mut summary = RoomSummary::new();
    let count = |number: i64| u64::try_from(number).ok().map(UInt::new_saturating);
    summary.joined_member_count = count(inside.joined_members);
    summary.invited_member_count = count(inside.invited_members);
    let has = |kind: StateEventType, field: &str| {
        inside
            .state
            .get(&kind, "")
            .and_then(|pdu| pdu.content_str(field))
            .is_some_and(|text| !text.is_empty())
    };
    if !has(StateEventType::RoomName, "name") && !has(StateEventType::RoomCanonicalAlias, "alias") {
        summary.heroes = heroes(&inside.state, user_id);
    }
    summary
}

/// Returns the first other members, or where nobody else is left, the first who have left.
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
        .take(HEROES)
        .map(|(_, member)| member)
        .collect()
}
