//! The `/sync` endpoint.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{
        Uri,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    },
    response::IntoResponse,
};
use futures_util::{StreamExt, stream};
use ruma::api::client::{
    filter::FilterDefinition,
    sync::sync_events::{self, v3::Filter},
};

use crate::{
    api::{App, MatrixRequest, endpoint},
    error::{Error, Result},
    matrix::is_known_format,
    sync::{StateAfterName, Sync, SyncRequest, write_response},
    users::{Session, Users},
};

pub(super) fn routes() -> Router<App> {
    endpoint::<sync_events::v3::Request, _>(sync_events)
}

/// `GET /_matrix/client/*/sync`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync).
async fn sync_events(
    State(users): State<Users>,
    State(sync): State<Sync>,
    uri: Uri,
    MatrixRequest { from, request }: MatrixRequest<sync_events::v3::Request>,
) -> Result<impl IntoResponse> {
    let is_unstable = asks_for_unstable_state_after(&uri) && !request.use_state_after;
    let request = SyncRequest {
        since: request.since.as_deref().map(str::parse).transpose()?,
        filter: filter(&users, &from, request.filter).await?,
        full_state: request.full_state,
        timeout: request.timeout.unwrap_or_default(),
        set_presence: request.set_presence,
        use_state_after: request.use_state_after || is_unstable,
    };
    let permit = if request.since.is_none() || request.full_state {
        Some(sync.wait_for_initial_sync(&from).await?)
    } else {
        None
    };
    let response = sync.sync(&from, request).await?;
    let state_after = if is_unstable {
        StateAfterName::Unstable
    } else {
        StateAfterName::Stable
    };
    let body = write_response(&response, state_after)?;
    let headers = [
        (CONTENT_TYPE, "application/json".to_owned()),
        (CONTENT_LENGTH, body.len().to_string()),
    ];
    // The permit is released when the client has read the response, or its connection is closed.
    let body = stream::iter([Ok::<_, Infallible>(body)]).map(move |part| {
        let _held = &permit;
        part
    });
    Ok((headers, Body::from_stream(body)))
}

/// Returns whether the client uses the unstable name of
/// [MSC4222](https://github.com/matrix-org/matrix-spec-proposals/pull/4222).
fn asks_for_unstable_state_after(uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    query
        .split('&')
        .any(|field| field == "org.matrix.msc4222.use_state_after=true")
}

/// Returns the filter of a request, which contains it or its id.
pub(in crate::api) async fn filter(
    users: &Users,
    session: &Session,
    filter: Option<Filter>,
) -> Result<Arc<FilterDefinition>> {
    Ok(Arc::new(match filter {
        // A definition that cannot be parsed looks like an id.
        Some(Filter::FilterId(id)) if id.trim_start().starts_with('{') => {
            return Err(Error::invalid_param("the filter is not valid"));
        }
        Some(Filter::FilterId(id)) => users.filters.get(session.user, &id).await?,
        Some(Filter::FilterDefinition(definition))
            if !is_known_format(&definition.event_format) =>
        {
            return Err(Error::invalid_param(
                "event_format must be client or federation",
            ));
        }
        Some(Filter::FilterDefinition(definition)) => definition,
        _ => FilterDefinition::default(),
    }))
}
