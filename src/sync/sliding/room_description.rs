//! The description of a room: its name, members, unread counts and latest activity.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use ruma::{
    JsOption,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};

use super::{
    connection_state::SentDescription,
    context::ReadableRoom,
    response::{Hero, SlidingRoom},
};
use crate::{
    matrix::IgnoreSettings,
    numbers::Position,
    sync::{
        snapshot::RoomContents,
        summary::{changes_summary, heroes},
        sync_viewer::SyncViewer,
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
        room: ReadableRoom<'_>,
        before: Option<&SentDescription>,
        slice: &TimelineSlice,
    ) -> Self {
        let ReadableRoom {
            planned,
            user_room,
            contents,
        } = room;
        let name = state_text(contents, &StateEventType::RoomName, "name");
        let avatar = state_text(contents, &StateEventType::RoomAvatar, "url");
        // Finding the heroes requires a search of all members, so it is done only if they may differ.
        let may_differ = before.is_none()
            || slice.is_limited
            || !contents.is_complete
            || changes_summary(&contents.latest_events);
        let heroes = match &name {
            Some(_) => Some(Vec::new()),
            None => may_differ.then(|| named_heroes(viewer, contents)),
        };
        let same_heroes = before.map_or(0, |before| before.heroes);
        let description = SentDescription {
            membership: Some(MembershipState::Join),
            member_since: user_room.position,
            name: hash_value(&name),
            avatar: hash_value(&avatar),
            heroes: heroes.as_ref().map_or(same_heroes, hash_value),
            is_dm: planned.is_dm,
            joined: contents.joined_members,
            invited: contents.invited_members,
            bump_stamp: bump_stamp(viewer, contents, before),
            unread: user_room.unread_counts(contents.counters),
        };
        Self {
            name,
            avatar,
            heroes,
            sent_description: description,
        }
    }

    /// Writes the fields that the client does not have yet, and always the unread counts and the bump stamp.
    pub(super) fn write_changes(self, room: &mut SlidingRoom, before: Option<&SentDescription>) {
        let description = self.sent_description;
        room.notification_count = Some(description.unread.notification_count);
        room.highlight_count = Some(description.unread.highlight_count);
        room.bump_stamp = Some(description.bump_stamp);
        let differs = |is: fn(&SentDescription) -> u64| {
            before.is_none_or(|before| is(before) != is(&description))
        };
        let known = |text: Option<String>| match (text, before) {
            (Some(text), _) => JsOption::Some(text),
            // For a client that receives the room for the first time, a field that is left out is not set.
            (None, None) => JsOption::Undefined,
            (None, Some(_)) => JsOption::Null,
        };
        if differs(|description| description.name) {
            room.name = known(self.name);
        }
        if differs(|description| description.avatar) {
            room.avatar = known(self.avatar);
        }
        if differs(|description| description.heroes) {
            room.heroes = self.heroes.filter(|heroes| !heroes.is_empty());
        }
        if before.map_or(description.is_dm, |before| {
            before.is_dm != description.is_dm
        }) {
            room.is_dm = Some(description.is_dm);
        }
        let has_moved = |before: &SentDescription| {
            (before.joined, before.invited) != (description.joined, description.invited)
        };
        if before.is_none_or(has_moved) {
            room.joined_count = Some(description.joined);
            room.invited_count = Some(description.invited);
        }
    }
}

/// Returns a text from the room's state, unless it is empty.
fn state_text(contents: &RoomContents, kind: &StateEventType, field: &str) -> Option<String> {
    let pdu = contents.state.get(kind, "")?;
    pdu.content_str(field).filter(|text| !text.is_empty())
}

fn named_heroes(viewer: &SyncViewer<'_>, contents: &RoomContents) -> Vec<Hero> {
    let heroes = heroes(&contents.state, &viewer.session.user_id).into_iter();
    let named = heroes.map(|user_id| {
        let member = contents.state.member(&user_id);
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
    contents: &RoomContents,
    before: Option<&SentDescription>,
) -> Position {
    let mut ring = contents.latest_events.iter().rev();
    let last = ring.find(|event| {
        let hides = |settings: &Arc<IgnoreSettings>| settings.hides_event(&event.pdu);
        bumps_room(&event.pdu.kind) && !viewer.ignore_settings.as_ref().is_some_and(hides)
    });
    let oldest = || {
        contents
            .latest_events
            .first()
            .map_or(Position::ZERO.next(), |event| event.position)
    };
    match (last, before) {
        (Some(event), _) => event.position,
        (None, Some(before)) => before.bump_stamp,
        (None, None) => oldest(),
    }
}

/// Returns whether an event of this type moves the room up in a list of rooms.
fn bumps_room(kind: &TimelineEventType) -> bool {
    const BUMP_EVENT_TYPES: [&str; 9] = [
        "m.room.create",
        "m.room.message",
        "m.room.encrypted",
        "m.sticker",
        "m.call.invite",
        "m.poll.start",
        "org.matrix.msc3381.poll.start",
        "m.beacon_info",
        "org.matrix.msc3672.beacon_info",
    ];
    BUMP_EVENT_TYPES.contains(&kind.to_string().as_str())
}

fn hash_value(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
