//! History visibility: the events of a room that a user may see.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#room-history-visibility).

use ruma::events::{
    StateEventType,
    room::{
        history_visibility::{HistoryVisibility, RoomHistoryVisibilityEventContent},
        member::MembershipState,
    },
};

use super::{Pdu, StateMap};
use crate::numbers::Position;

/// `m.room.history_visibility`, as it is stored with each event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventVisibility {
    /// Anyone may see the event.
    WorldReadable,
    /// Users who joined at any time after it may see the event.
    #[default]
    Shared,
    /// Users who were invited or joined at the time may see the event.
    Invited,
    /// Users who were joined at the time may see the event.
    Joined,
}

impl EventVisibility {
    /// Returns the visibility in a state.
    pub fn of_state(state: &StateMap) -> Self {
        state
            .get(&StateEventType::RoomHistoryVisibility, "")
            .map(|pdu| Self::of_event(pdu))
            .unwrap_or_default()
    }

    /// Returns the visibility that an `m.room.history_visibility` event sets.
    pub fn of_event(pdu: &Pdu) -> Self {
        match pdu
            .content_as::<RoomHistoryVisibilityEventContent>()
            .map(|content| content.history_visibility)
        {
            Some(HistoryVisibility::WorldReadable) => Self::WorldReadable,
            Some(HistoryVisibility::Invited) => Self::Invited,
            Some(HistoryVisibility::Joined) => Self::Joined,
            _ => Self::Shared,
        }
    }

    /// Returns the number under which it is stored.
    pub fn number(self) -> i64 {
        match self {
            Self::WorldReadable => 0,
            Self::Shared => 1,
            Self::Invited => 2,
            Self::Joined => 3,
        }
    }

    /// Returns the visibility that is stored under a number.
    pub fn from_number(number: i64) -> Self {
        match number {
            0 => Self::WorldReadable,
            2 => Self::Invited,
            3 => Self::Joined,
            _ => Self::Shared,
        }
    }
}

/// A user's membership from one place in the timeline on.
#[derive(Clone, Debug)]
pub struct MembershipPeriod {
    /// The place of the member event.
    pub from: Position,
    pub membership: MembershipState,
}

/// Returns whether a user may see an event.
///
/// `history` holds the user's memberships in order. `visibility` is the one before the event; for an
/// `m.room.history_visibility` event it is the laxer of the one before and the one that it sets.
pub fn may_see_event(
    visibility: EventVisibility,
    timeline: Position,
    history: &[MembershipPeriod],
) -> bool {
    // A user may always see their own member events, including an invite and its rejection.
    if history.iter().any(|entry| entry.from == timeline) {
        return true;
    }
    let at = history
        .iter()
        .rev()
        .find(|entry| entry.from < timeline)
        .map(|entry| &entry.membership);
    let was = |state: MembershipState| at == Some(&state);
    match visibility {
        // 1. If the history_visibility was set to world_readable, allow.
        EventVisibility::WorldReadable => true,
        // 2. If the user's membership was join, allow.
        _ if was(MembershipState::Join) => true,
        // 3. If history_visibility was set to shared, and the user joined the room at any point after the event
        //    was sent, allow.
        EventVisibility::Shared => history
            .iter()
            .any(|entry| entry.from > timeline && entry.membership == MembershipState::Join),
        // 4. If the user's membership was invite, and the history_visibility was set to invited, allow.
        EventVisibility::Invited => was(MembershipState::Invite),
        // 5. Otherwise, deny.
        EventVisibility::Joined => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(i64, MembershipState)]) -> Vec<MembershipPeriod> {
        entries
            .iter()
            .map(|(from, membership)| MembershipPeriod {
                from: Position::new(*from),
                membership: membership.clone(),
            })
            .collect()
    }

    fn visible(visibility: EventVisibility, history: &[MembershipPeriod]) -> Vec<i64> {
        (1..=9)
            .filter(|place| may_see_event(visibility, Position::new(*place), history))
            .collect()
    }

    /// Returns the history of a user who was invited at 3, joined at 5 and left at 7.
    fn visitor() -> Vec<MembershipPeriod> {
        history(&[
            (3, MembershipState::Invite),
            (5, MembershipState::Join),
            (7, MembershipState::Leave),
        ])
    }

    #[test]
    fn world_readable_history_is_visible_to_anyone() {
        assert_eq!(
            visible(EventVisibility::WorldReadable, &[]),
            (1..=9).collect::<Vec<_>>()
        );
    }

    #[test]
    fn shared_history_is_visible_until_a_joined_user_leaves() {
        assert_eq!(
            visible(EventVisibility::Shared, &visitor()),
            (1..=7).collect::<Vec<_>>()
        );
    }

    #[test]
    fn invited_history_is_visible_from_the_invite_on() {
        assert_eq!(
            visible(EventVisibility::Invited, &visitor()),
            (3..=7).collect::<Vec<_>>()
        );
    }

    #[test]
    fn joined_history_is_visible_from_the_join_on() {
        assert_eq!(visible(EventVisibility::Joined, &visitor()), [3, 5, 6, 7]);
    }

    #[test]
    fn an_invited_user_sees_only_their_invite_in_shared_history() {
        let invited = history(&[(3, MembershipState::Invite), (6, MembershipState::Leave)]);

        assert_eq!(visible(EventVisibility::Shared, &invited), [3, 6]);
        assert_eq!(
            visible(EventVisibility::Invited, &invited),
            (3..=6).collect::<Vec<_>>()
        );
    }
}
