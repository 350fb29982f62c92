//! Syncing.

use std::sync::Arc;

use axum::{Router, extract::State, http::header::CONTENT_TYPE, response::IntoResponse};
use ruma::api::client::{
    filter::FilterDefinition,
    sync::sync_events::{self, v3::Filter},
};

use crate::{
    api::{App, Incoming, endpoint},
    error::{Error, Result},
    sync::{Sync, SyncRequest, write},
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
    let response = sync.sync(&from, request).await?;
    Ok(([(CONTENT_TYPE, "application/json")], write(&response)?))
}

/// Returns the filter that a client gives, or names by its id.
pub(in crate::api) async fn filter(
    users: &Users,
    session: &Session,
    filter: Option<Filter>,
) -> Result<Arc<FilterDefinition>> {
    Ok(Arc::new(match filter {
        // A definition that cannot be read looks like an id.
        Some(Filter::FilterId(id)) if id.trim_start().starts_with('{') => {
            return Err(Error::invalid_param("the filter is malformed"));
        }
        Some(Filter::FilterId(id)) => users.filter(session.user, &id).await?,
        Some(Filter::FilterDefinition(definition)) => definition,
        _ => FilterDefinition::default(),
    }))
}
