//! Tokens with which users identify themselves to other services.

use std::sync::Arc;

use axum::{Router, extract::State};
use ruma::{api::client::account::request_openid_token, authentication::TokenType};

use crate::{
    api::{App, Class, Incoming, Limits, Outgoing, endpoint},
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
    State(limits): State<Limits>,
    State(config): State<Arc<Config>>,
    Incoming { from, request }: Incoming<request_openid_token::v3::Request>,
) -> Result<Outgoing<request_openid_token::v3::Response>> {
    limits.check(Class::Send, &*from.user_id)?;
    from.must_be(&request.user_id)?;
    let (token, lifetime) = users.openid_token(&from).await?;
    Ok(Outgoing(request_openid_token::v3::Response::new(
        token,
        TokenType::Bearer,
        config.server.name.clone(),
        lifetime,
    )))
}
