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
use ruma::api::client::sync::sync_events;

use crate::{
    api::{App, MatrixRequest, endpoint},
    error::Result,
    sync::{StateAfterName, Sync, SyncRequest, write_response},
    users::{Session, SyncFilter, Users},
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
    let filter_text = query_field(&uri, "filter");
    let is_unstable = asks_for_unstable_state_after(&uri) && !request.use_state_after;
    let request = SyncRequest {
        since: request.since.as_deref().map(str::parse).transpose()?,
        filter: filter(&users, &from, filter_text.as_deref()).await?,
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
    let answer = sync.sync(&from, request).await?;
    let state_after = if is_unstable {
        StateAfterName::Unstable
    } else {
        StateAfterName::Stable
    };
    let body = write_response(&answer.response, &answer.profile_updates, state_after)?;
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

/// Returns a field of the query.
fn query_field(uri: &Uri, name: &str) -> Option<String> {
    let query = uri.query().unwrap_or_default();
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    let (_, value) = pairs.find(|(field, _)| field == name)?;
    Some(value.into_owned())
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
    text: Option<&str>,
) -> Result<Arc<SyncFilter>> {
    let filter = match text {
        Some(json) if json.trim_start().starts_with('{') => SyncFilter::parse(json)?,
        Some(id) => users.filters.get(session.user, id).await?,
        None => SyncFilter::default(),
    };
    Ok(Arc::new(filter))
}
