//! The description of a room: its name, members, unread counts and latest activity.

use std::hash::{DefaultHasher, Hash, Hasher};

use ruma::{
    JsOption,
    events::{StateEventType, room::member::MembershipState},
};

use super::{
    connection_state::SentDescription,
    response::{Hero, SlidingRoom},
    room::bumps_room,
};
use crate::{
    storage::Position,
    sync::{
        room_view::SyncViewer,
        snapshot::{RoomContents, RoomSnapshot},
        summary::{changes_summary, heroes},
        timeline_slice::TimelineSlice,
    },
};

/// The description of a room for a member.
#[derive(Debug)]
pub(super) struct JoinedRoomDescription {
    name: Option<String>,
    avatar: Option<String>,
    /// The members that can represent a missing name; `None` if they have not changed.
    heroes: Option<Vec<Hero>>,
    pub(super) sent_description: SentDescription,
}

impl JoinedRoomDescription {
    /// Returns the description of a room; `before` is the record of what the client has received.
    pub(super) fn from_contents(
        viewer: &SyncViewer<'_>,
        (moment, inside): (&RoomSnapshot, &RoomContents),
        is_dm: bool,
        before: Option<&SentDescription>,
        span: &TimelineSlice,
    ) -> Self {
        let name = state_text(inside, &StateEventType::RoomName, "name");
        let avatar = state_text(inside, &StateEventType::RoomAvatar, "url");
        // Finding the heroes requires a search of all members, so it is done only if they may differ.
        let may_differ = before.is_none()
            || span.is_limited
            || !inside.is_complete
            || changes_summary(&inside.latest_events);
        let heroes = match &name {
            Some(_) => Some(Vec::new()),
            None => may_differ.then(|| named_heroes(viewer, inside)),
        };
        let same_heroes = before.map_or(0, |before| before.heroes);
        let digest = SentDescription {
            membership: Some(MembershipState::Join),
            member_since: moment.mine.position,
            name: hash_value(&name),
            avatar: hash_value(&avatar),
            heroes: heroes.as_ref().map_or(same_heroes, hash_value),
            is_dm,
            joined: inside.joined_members,
            invited: inside.invited_members,
            bump_stamp: bump_stamp(viewer, inside, before),
            unread: moment.mine.unread_counts(inside.counters),
        };
        Self {
            name,
            avatar,
            heroes,
            sent_description: digest,
        }
    }

    /// Writes the fields that the client does not have yet, and always the unread counts and the bump stamp.
    pub(super) fn write_changes(self, room: &mut SlidingRoom, before: Option<&SentDescription>) {
        let digest = self.sent_description;
        let (notifications, highlights) = digest.unread;
        room.notification_count = Some(notifications);
        room.highlight_count = Some(highlights);
        room.bump_stamp = Some(digest.bump_stamp);
        let differs =
            |is: fn(&SentDescription) -> u64| before.is_none_or(|before| is(before) != is(&digest));
        let known = |text: Option<String>| match (text, before) {
            (Some(text), _) => JsOption::Some(text),
            // For a client that receives the room for the first time, a field that is left out is not set.
            (None, None) => JsOption::Undefined,
            (None, Some(_)) => JsOption::Null,
        };
        if differs(|digest| digest.name) {
            room.name = known(self.name);
        }
        if differs(|digest| digest.avatar) {
            room.avatar = known(self.avatar);
        }
        if differs(|digest| digest.heroes) {
            room.heroes = self.heroes.filter(|heroes| !heroes.is_empty());
        }
        if before.map_or(digest.is_dm, |before| before.is_dm != digest.is_dm) {
            room.is_dm = Some(digest.is_dm);
        }
        let has_moved = |before: &SentDescription| {
            (before.joined, before.invited) != (digest.joined, digest.invited)
        };
        if before.is_none_or(has_moved) {
            room.joined_count = Some(digest.joined);
            room.invited_count = Some(digest.invited);
        }
    }
}

/// Returns a text from the room's state, unless it is empty.
fn state_text(inside: &RoomContents, kind: &StateEventType, field: &str) -> Option<String> {
    let pdu = inside.state.get(kind, "")?;
    pdu.content_str(field).filter(|text| !text.is_empty())
}

fn named_heroes(viewer: &SyncViewer<'_>, inside: &RoomContents) -> Vec<Hero> {
    let heroes = heroes(&inside.state, &viewer.session.user_id).into_iter();
    let named = heroes.map(|user_id| {
        let member = inside.state.member(&user_id);
        let field = |name| member.and_then(|pdu| pdu.content_str(name));
        Hero {
            displayname: field("displayname"),
            avatar_url: field("avatar_url"),
            user_id,
        }
    });
    named.collect()
}

/// Returns the position of the latest event that bumps the room, as far as memory reaches back.
fn bump_stamp(
    viewer: &SyncViewer<'_>,
    inside: &RoomContents,
    before: Option<&SentDescription>,
) -> Position {
    let mut ring = inside.latest_events.iter().rev();
    let last = ring.find(|event| {
        let hides =
            |shield: &std::sync::Arc<crate::matrix::IgnoreSettings>| shield.hides_event(&event.pdu);
        bumps_room(&event.pdu.kind) && !viewer.ignore_settings.as_ref().is_some_and(hides)
    });
    let oldest = || {
        inside
            .latest_events
            .first()
            .map_or(1, |event| event.position)
    };
    match (last, before) {
        (Some(event), _) => event.position,
        (None, Some(before)) => before.bump_stamp,
        (None, None) => oldest(),
    }
}

fn hash_value(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
