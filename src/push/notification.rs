//! The content of notifications.
//!
//! See the [specification](https://spec.matrix.org/v1.19/push-gateway-api/#post_matrixpushv1notify).

use ruma::events::{StateEventType, TimelineEventType};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    endpoints::PushPriority,
    pusher_queue::{PushTweaks, PusherQueue},
};
use crate::{
    error::Result,
    matrix::TimelineEvent,
    rooms::{RemoteInvitation, Room},
};

/// An event of which a user is notified.
pub(super) struct Notification {
    ids: EventIds,
    details: EventDetails,
    /// The time at which it was sent, in milliseconds.
    pub(super) sent_ts: i64,
    tweaks: PushTweaks,
}

#[derive(Serialize)]
struct NotifyRequest<'a> {
    notification: NotificationBody<'a>,
}

#[derive(Serialize)]
struct NotificationBody<'a> {
    #[serde(flatten)]
    ids: Option<&'a EventIds>,
    #[serde(flatten)]
    details: Option<&'a EventDetails>,
    prio: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
    devices: [Device<'a>; 1],
}

/// A notification of an event in one object.
#[derive(Serialize)]
struct FlatNotification<'a> {
    #[serde(flatten)]
    ids: &'a EventIds,
    #[serde(flatten)]
    details: Option<&'a EventDetails>,
    prio: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tweaks: Option<Map<String, Value>>,
}

#[derive(Serialize)]
struct EventIds {
    event_id: String,
    room_id: String,
}

#[derive(Serialize)]
struct EventDetails {
    #[serde(rename = "type")]
    kind: String,
    sender: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender_display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_alias: Option<String>,
    user_is_target: bool,
    content: Box<RawValue>,
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

/// Returns the body of a request to a push gateway that notifies a device of an event, or, without one, of the number
/// of unread events. Without this number, the client counts for itself.
pub(super) fn write(
    queue: &PusherQueue,
    unread_total: Option<u64>,
    about: Option<&Notification>,
) -> Result<String> {
    let full = about.filter(|_| !queue.sends_only_ids());
    let body = NotificationBody {
        ids: about.map(|about| &about.ids),
        details: full.map(|about| &about.details),
        prio: about.map_or(PushPriority::Low, priority).as_str(),
        counts: unread_total.map(|unread| Counts { unread }),
        devices: [Device {
            app_id: &queue.app_id,
            pushkey: &queue.pushkey,
            data: device_data(queue),
            tweaks: full.map(|about| write_tweaks(&about.tweaks)),
        }],
    };
    Ok(serde_json::to_string(&NotifyRequest {
        notification: body,
    })?)
}

/// Returns the fields of a notification of an event for a client that gets them without a push gateway, together with
/// the fields that the client has set for itself.
pub(super) fn flat_fields(
    queue: &PusherQueue,
    unread_total: Option<u64>,
    about: &Notification,
) -> Result<Map<String, Value>> {
    let full = Some(about).filter(|_| !queue.sends_only_ids());
    let mut fields = match queue.data.data.get("default_payload") {
        Some(Value::Object(payload)) => payload.clone(),
        _ => Map::new(),
    };
    let notification = FlatNotification {
        ids: &about.ids,
        details: full.map(|about| &about.details),
        prio: priority(about).as_str(),
        counts: unread_total.map(|unread| Counts { unread }),
        tweaks: full.map(|about| write_tweaks(&about.tweaks)),
    };
    let Value::Object(of_event) = serde_json::to_value(&notification)? else {
        return Ok(fields);
    };
    fields.extend(of_event);
    Ok(fields)
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
pub(super) fn priority(about: &Notification) -> PushPriority {
    let is_urgent = about.tweaks.sound.is_some()
        || about.tweaks.highlight
        || matches!(
            TimelineEventType::from(about.details.kind.as_str()),
            TimelineEventType::RoomEncrypted | TimelineEventType::CallInvite
        );
    if is_urgent {
        PushPriority::High
    } else {
        PushPriority::Low
    }
}

impl Notification {
    /// Returns the notification of a user about an event in a room of this server.
    pub(super) fn of_event(
        user_id: &str,
        room: &Room,
        event: &TimelineEvent,
        tweaks: PushTweaks,
    ) -> Self {
        let pdu = &event.pdu;
        let state = room.view().state.clone();
        let text = |kind: StateEventType, state_key: &str, field: &str| {
            let event = state.get(&kind, state_key)?;
            event.content_str(field).filter(|text| !text.is_empty())
        };
        let details = EventDetails {
            kind: pdu.kind.to_string(),
            sender: pdu.sender.to_string(),
            sender_display_name: text(
                StateEventType::RoomMember,
                pdu.sender.as_str(),
                "displayname",
            ),
            room_name: text(StateEventType::RoomName, "", "name"),
            room_alias: text(StateEventType::RoomCanonicalAlias, "", "alias"),
            user_is_target: pdu
                .member()
                .is_some_and(|member| member.as_str() == user_id),
            content: pdu.content.clone(),
        };
        Self {
            ids: EventIds {
                event_id: pdu.event_id.to_string(),
                room_id: room.room_id.to_string(),
            },
            details,
            sent_ts: pdu.origin_server_ts.0.into(),
            tweaks,
        }
    }

    /// Returns the notification of a user about an invitation to a room that this server is not in.
    pub(super) fn of_remote_invitation(
        invitation: &RemoteInvitation,
        tweaks: PushTweaks,
    ) -> Result<Self> {
        let event: InvitationEvent = serde_json::from_str(invitation.event.get())?;
        let text = |kind: &str, state_key: &str, field: &str| {
            let mut state = event.unsigned.invite_room_state.iter();
            let found = state
                .find(|event| (event.kind.as_str(), event.state_key.as_str()) == (kind, state_key));
            let text = found?.content.get(field)?.as_str()?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        let details = EventDetails {
            kind: TimelineEventType::RoomMember.to_string(),
            sender: invitation.sender.to_string(),
            sender_display_name: text("m.room.member", invitation.sender.as_str(), "displayname"),
            room_name: text("m.room.name", "", "name"),
            room_alias: text("m.room.canonical_alias", "", "alias"),
            user_is_target: true,
            content: event.content,
        };
        Ok(Self {
            ids: EventIds {
                event_id: event.event_id,
                room_id: event.room_id,
            },
            details,
            sent_ts: event.origin_server_ts,
            tweaks,
        })
    }
}

/// The parts of an invitation in the client format that a notification needs.
#[derive(Deserialize)]
struct InvitationEvent {
    event_id: String,
    room_id: String,
    origin_server_ts: i64,
    content: Box<RawValue>,
    unsigned: InvitationUnsigned,
}

#[derive(Deserialize)]
struct InvitationUnsigned {
    #[serde(default)]
    invite_room_state: Vec<StrippedEvent>,
}

/// A state event of the room to which a user is invited.
#[derive(Deserialize)]
struct StrippedEvent {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    state_key: String,
    content: Map<String, Value>,
}
