//! The events of which a user was notified, or would have been.
//!
//! Most of them are not stored for the user: `feed` finds the events that may have notified the user, and here they are
//! matched with the current push rules.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#listing-notifications).

mod feed;

use ruma::{
    api::client::push::get_notifications::v3::{Notification, Response},
    events::{TimelineEventType, room::member::MembershipState},
    push::{Action, Ruleset},
    serde::Raw,
};

use self::feed::{FoundEvent, NotificationFeed};
use super::{SyncEnvironment, event_format::EventFormatter, timeline_token};
use crate::{
    clock::Clock,
    error::Result,
    matrix::{self, UnsignedFields},
    numbers::Position,
    rooms::{AggregationsByEvent, EventSources, Rooms, UserRooms},
    users::{Session, Users},
};

/// The number of notifications when the client sets no limit, and the largest limit.
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
/// The number of events that one request examines. The token in its response continues after them.
const MAX_EXAMINED_EVENTS: usize = 1_000;

/// Reads the notifications of users. Cheap to clone.
#[derive(Clone)]
pub(super) struct NotificationReader {
    clock: Clock,
    users: Users,
    rooms: Rooms,
}

/// The selection of notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationSelection {
    Everything,
    /// Only those with a highlight.
    Highlights,
}

/// The user whose notifications are read, with the user's current settings.
struct NotificationRecipient<'a> {
    session: &'a Session,
    user_rooms: &'a UserRooms,
    rules: &'a Ruleset,
    only: NotificationSelection,
}

impl NotificationReader {
    pub(super) fn new(environment: &SyncEnvironment) -> Self {
        Self {
            clock: environment.clock.clone(),
            users: environment.users.clone(),
            rooms: environment.rooms.clone(),
        }
    }

    /// Returns the events of which a user was notified, the newest first, up to a point in the journal.
    pub(super) async fn notifications(
        &self,
        session: &Session,
        from: Option<Position>,
        limit: Option<u64>,
        only: NotificationSelection,
    ) -> Result<Response> {
        let limit = limit.map_or(DEFAULT_LIMIT, |limit| {
            usize::try_from(limit)
                .unwrap_or(MAX_LIMIT)
                .clamp(1, MAX_LIMIT)
        });
        let user_rooms = self.rooms.memory.rooms_of_user(session.user).await?;
        let push_rules = &self.users.push_rules;
        let rules = push_rules.all(session.user, &session.user_id).await?;
        let recipient = NotificationRecipient {
            session,
            user_rooms: &user_rooms,
            rules: &rules,
            only,
        };
        let from = from.unwrap_or(Position::MAX);
        let mut feed = NotificationFeed::open(&self.rooms, &recipient, from).await?;
        let mut response = Response::new(Vec::new());
        while feed.next_place().is_some() {
            if let Some(event) = feed.next_event().await?
                && let Some(found) = self.notification(&recipient, &event).await
            {
                response.notifications.push(found);
            }
            let is_over = response.notifications.len() >= limit
                || feed.examined_events() >= MAX_EXAMINED_EVENTS;
            if is_over && let Some(next) = feed.next_place() {
                response.next_token = Some(timeline_token(next));
                break;
            }
        }
        Ok(response)
    }

    /// Returns the notification for an event, if the push rules ask for one.
    async fn notification(
        &self,
        recipient: &NotificationRecipient<'_>,
        found: &FoundEvent,
    ) -> Option<Notification> {
        let FoundEvent {
            room: examined,
            event,
        } = found;
        let session = recipient.session;
        let membership = examined.access.membership_at(event.timeline);
        let own_key = session.user_id.as_str();
        let is_own_membership = event.pdu.is_state(&TimelineEventType::RoomMember, own_key);
        let was_member = membership == MembershipState::Join || is_own_membership;
        // Nothing is left to see of a redacted event.
        if !was_member || event.redacted_by.is_some() {
            return None;
        }
        let room_id = &examined.room.room_id;
        let json = matrix::client_event(&event.head, room_id.as_str(), &UnsignedFields::default());
        let actions = matrix::push_actions(
            recipient.rules,
            &session.user_id,
            &examined.display_name,
            &json,
            &examined.facts,
        )
        .await;
        let is_highlight = actions.iter().any(Action::is_highlight);
        if !actions.iter().any(Action::should_notify)
            || (recipient.only == NotificationSelection::Highlights && !is_highlight)
        {
            return None;
        }
        let formatter = EventFormatter {
            session,
            access: Some(&examined.access),
            // A list of notifications does not need the later edits and reactions.
            bundles: &AggregationsByEvent::default(),
            now_ms: self.clock.now_ms(),
            room_id: None,
            sources: &EventSources::default(),
        };
        let shown = formatter.format_event(event);
        let user_room = recipient.user_rooms.get(examined.room.num)?;
        Some(Notification::new(
            actions.to_vec(),
            Raw::from_json(shown),
            user_room.has_read(event),
            room_id.clone(),
            event.pdu.origin_server_ts,
        ))
    }
}
