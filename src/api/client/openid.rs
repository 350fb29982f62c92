//! Tokens with which users identify themselves to other services.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{api::client::account::request_openid_token, authentication::TokenType};

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    config::Config,
    error::Result,
    users::Users,
};

pub(super) fn routes() -> Router<App> {
    endpoint::<request_openid_token::v3::Request, _>(request_openid_token)
}

/// `POST /_matrix/client/*/user/{userId}/openid/request_token`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridopenidrequest_token).
async fn request_openid_token(
    State(users): State<Users>,
    State(config): State<Arc<Config>>,
    MatrixRequest { from, request }: MatrixRequest<request_openid_token::v3::Request>,
) -> Result<MatrixResponse<request_openid_token::v3::Response>> {
    from.must_be_user(&request.user_id)?;
    let issued = users.openid.issue_token(&from).await?;
    Ok(MatrixResponse(request_openid_token::v3::Response::new(
        issued.token,
        TokenType::Bearer,
        config.server.name.clone(),
        issued.lifetime,
    )))
}
