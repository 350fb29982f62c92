//! The user directory.

use axum::{Router, extract::State};
use ruma::api::client::user_directory::search_users::{self, v3::User};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    error::Result,
    users::{DirectoryUser, Users},
};

pub(super) fn routes() -> Router<App> {
    endpoint::<search_users::v3::Request, _>(search_users)
}

/// `POST /_matrix/client/*/user_directory/search`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3user_directorysearch).
async fn search_users(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<search_users::v3::Request>,
) -> Result<MatrixResponse<search_users::v3::Response>> {
    let limit = u64::from(request.limit);
    let found = users
        .directory
        .search(&from, &request.search_term, limit)
        .await?;
    let is_limited = found.is_limited;
    let found = found.users.into_iter().map(directory_user).collect();
    Ok(MatrixResponse(search_users::v3::Response::new(
        found, is_limited,
    )))
}

fn directory_user(found: DirectoryUser) -> User {
    let mut user = User::new(found.user_id);
    user.display_name = found.displayname;
    user.avatar_url = found.avatar_url;
    user
}
