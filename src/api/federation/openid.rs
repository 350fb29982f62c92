//! Identifies the user of an `OpenID` token for another service.

use axum::{Router, extract::State};
use ruma::api::federation::openid::get_openid_userinfo;

use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    error::{Error, RefusalCode, Result},
    users::Users,
};

pub(super) fn routes() -> Router<App> {
    endpoint::<get_openid_userinfo::v1::Request, _>(get_openid_userinfo)
}

/// `GET /_matrix/federation/v1/openid/userinfo`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1openiduserinfo).
async fn get_openid_userinfo(
    State(users): State<Users>,
    incoming: Result<MatrixRequest<get_openid_userinfo::v1::Request>>,
) -> Result<MatrixResponse<get_openid_userinfo::v1::Response>> {
    let MatrixRequest { request, .. } = incoming.map_err(|error| match error {
        // "The token was missing or expired": 401
        Error::Refused {
            code: RefusalCode::MissingParam,
            ..
        } => Error::MissingToken,
        other => other,
    })?;
    let user_id = users.openid.user_of(&request.access_token).await?;
    Ok(MatrixResponse(get_openid_userinfo::v1::Response::new(
        user_id,
    )))
}
