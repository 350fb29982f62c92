//! The body of a request to a push gateway.
//!
//! See the [specification](https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify).

use ruma::events::{StateEventType, TimelineEventType};
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::pusher_queue::{PushTweaks, PusherQueue};
use crate::{error::Result, matrix::TimelineEvent, rooms::Room};

/// An event of which a user is notified.
pub(super) struct Notification<'a> {
    pub(super) room: &'a Room,
    pub(super) event: &'a TimelineEvent,
    pub(super) tweaks: &'a PushTweaks,
}

#[derive(Serialize)]
struct NotifyRequest<'a> {
    notification: NotificationBody<'a>,
}

#[derive(Serialize)]
struct NotificationBody<'a> {
    #[serde(flatten)]
    ids: Option<EventIds<'a>>,
    #[serde(flatten)]
    details: Option<EventDetails<'a>>,
    prio: &'static str,
    counts: Counts,
    devices: [Device<'a>; 1],
}

#[derive(Serialize)]
struct EventIds<'a> {
    event_id: &'a str,
    room_id: &'a str,
}

#[derive(Serialize)]
struct EventDetails<'a> {
    #[serde(rename = "type")]
    kind: String,
    sender: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_alias: Option<String>,
    user_is_target: bool,
    content: &'a RawValue,
}

#[derive(Serialize)]
struct Counts {
    unread: u64,
}

#[derive(Serialize)]
struct Device<'a> {
    app_id: &'a str,
    pushkey: &'a str,
    data: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tweaks: Option<Map<String, Value>>,
}

/// Returns the body that notifies a device of an event, or, without one, of the number of unread events.
pub(super) fn write(
    queue: &PusherQueue,
    unread_total: u64,
    about: Option<&Notification<'_>>,
) -> Result<String> {
    let full = about.filter(|_| !queue.sends_only_ids());
    let body = NotificationBody {
        ids: about.map(|about| EventIds {
            event_id: about.event.pdu.event_id.as_str(),
            room_id: about.room.room_id.as_str(),
        }),
        details: full.map(|about| event_details(queue, about)),
        prio: about.map_or("low", priority),
        counts: Counts {
            unread: unread_total,
        },
        devices: [Device {
            app_id: &queue.app_id,
            pushkey: &queue.pushkey,
            data: device_data(queue),
            tweaks: full.map(|about| write_tweaks(about.tweaks)),
        }],
    };
    Ok(serde_json::to_string(&NotifyRequest {
        notification: body,
    })?)
}

/// Returns the data of the pusher, without the address of the gateway.
fn device_data(queue: &PusherQueue) -> Map<String, Value> {
    let mut data: Map<String, Value> = queue.data.data.clone().into_iter().collect();
    if let Some(format) = &queue.data.format {
        data.insert("format".to_owned(), json!(format.as_str()));
    }
    data
}

fn write_tweaks(tweaks: &PushTweaks) -> Map<String, Value> {
    let mut written = Map::new();
    if let Some(sound) = &tweaks.sound {
        written.insert("sound".to_owned(), json!(&**sound));
    }
    if tweaks.highlight {
        written.insert("highlight".to_owned(), json!(true));
    }
    written
}

/// Returns the priority of a notification: high where the client is to make itself heard, or cannot be judged here.
fn priority(about: &Notification<'_>) -> &'static str {
    let is_urgent = about.tweaks.sound.is_some()
        || about.tweaks.highlight
        || matches!(
            about.event.pdu.kind,
            TimelineEventType::RoomEncrypted | TimelineEventType::CallInvite
        );
    if is_urgent { "high" } else { "low" }
}

fn event_details<'a>(queue: &PusherQueue, about: &Notification<'a>) -> EventDetails<'a> {
    let pdu = &about.event.pdu;
    let state = about.room.view().state.clone();
    let text = |kind: StateEventType, state_key: &str, field: &str| {
        let event = state.get(&kind, state_key)?;
        event.content_str(field).filter(|text| !text.is_empty())
    };
    EventDetails {
        kind: pdu.kind.to_string(),
        sender: pdu.sender.as_str(),
        sender_display_name: text(
            StateEventType::RoomMember,
            pdu.sender.as_str(),
            "displayname",
        ),
        room_name: text(StateEventType::RoomName, "", "name"),
        room_alias: text(StateEventType::RoomCanonicalAlias, "", "alias"),
        user_is_target: pdu
            .member()
            .is_some_and(|member| member.as_str() == queue.user_id),
        content: &pdu.content,
    }
}
