//! The server-server API, one file a chapter of the specification.

mod openid;

use axum::Router;

use super::app::App;

pub(super) fn routes() -> Router<App> {
    openid::routes()
}
