//! The client-server API, one file a chapter of the specification.

mod discovery;

use axum::Router;

use super::app::App;

pub(super) fn routes() -> Router<App> {
    Router::new().merge(discovery::routes())
}
