//! Syncing.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use ruma::api::{
    OutgoingResponseExt,
    client::{
        filter::FilterDefinition,
        sync::sync_events::{self, v3::Filter},
    },
};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    api::{App, Incoming, endpoint},
    error::{Error, Result},
    sync::{Sync, SyncRequest},
    users::{Session, Users},
};

pub(super) fn routes() -> Router<App> {
    endpoint::<sync_events::v3::Request, _>(sync_events)
}

/// `GET /_matrix/client/*/sync`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync
async fn sync_events(
    State(users): State<Users>,
    State(sync): State<Sync>,
    Incoming { from, request }: Incoming<sync_events::v3::Request>,
) -> Result<impl IntoResponse> {
    let request = SyncRequest {
        since: request.since.as_deref().map(str::parse).transpose()?,
        filter: filter(&users, &from, request.filter).await?,
        full_state: request.full_state,
        timeout: request.timeout.unwrap_or_default(),
        set_presence: request.set_presence,
        use_state_after: request.use_state_after,
    };
    let body = sync_body(sync.sync(&from, request).await?)?;
    let is_json = [(CONTENT_TYPE, "application/json")];
    Ok((is_json, body))
}

/// Writes what a client gets of a sync, whichever way it asked.
pub(in crate::api) fn sync_body(response: sync_events::v3::Response) -> Result<String> {
    let any_left = !response.rooms.leave.is_empty();
    let response = response
        .try_into_http_response::<Vec<u8>>()
        .map_err(|e| Error::internal("write the response", e))?;
    let body = String::from_utf8(response.into_body())
        .map_err(|e| Error::internal("write the response", e))?;
    if any_left {
        return with_whole_left_rooms(&body);
    }
    Ok(body)
}

/// An object of which only the keys are read.
type Object = BTreeMap<String, Box<RawValue>>;

/// Writes into the rooms that were left the lists that ruma leaves out when they are empty.
///
/// They are optional, but there are clients that fail without them (matrix-nio).
fn with_whole_left_rooms(body: &str) -> Result<String> {
    let mut body: Object = serde_json::from_str(body)?;
    if let Some(rooms) = body.get_mut("rooms") {
        let mut parts: BTreeMap<String, BTreeMap<String, Object>> =
            serde_json::from_str(rooms.get())?;
        for room in parts.entry("leave".to_owned()).or_default().values_mut() {
            let no_events = to_raw_value(&serde_json::json!({ "events": [] }))?;
            if !room.contains_key("state_after") {
                room.entry("state".to_owned())
                    .or_insert_with(|| no_events.clone());
            }
            room.entry("timeline".to_owned()).or_insert(no_events);
        }
        *rooms = to_raw_value(&parts)?;
    }
    Ok(serde_json::to_string(&body)?)
}

/// Returns the filter that a client gives, or names by its id.
pub(in crate::api) async fn filter(
    users: &Users,
    session: &Session,
    filter: Option<Filter>,
) -> Result<Arc<FilterDefinition>> {
    Ok(Arc::new(match filter {
        Some(Filter::FilterId(id)) => users.filter(session.user, &id).await?,
        Some(Filter::FilterDefinition(definition)) => definition,
        _ => FilterDefinition::default(),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_room_that_was_left_has_its_lists_even_if_they_are_empty() {
        let body = json!({
            "next_batch": "t",
            "rooms": {
                "join": { "!a": { "summary": {} } },
                "leave": {
                    "!b": { "timeline": { "events": [1], "prev_batch": "p" } },
                    "!c": { "state_after": { "events": [2] } },
                },
            },
        });

        let whole = with_whole_left_rooms(&body.to_string()).unwrap();

        let whole: Value = serde_json::from_str(&whole).unwrap();
        let mut expected = body;
        expected["rooms"]["leave"]["!b"]["state"] = json!({ "events": [] });
        expected["rooms"]["leave"]["!c"]["timeline"] = json!({ "events": [] });
        assert_eq!(whole, expected);
    }
}
