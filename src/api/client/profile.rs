//! Profiles.

use axum::{Router, extract::State};
use ruma::{
    api::client::profile::{
        delete_profile_field, get_profile, get_profile_field, set_profile_field,
    },
    profile::ProfileFieldName,
};

use crate::{
    api::{
        App, MatrixRequest, MatrixResponse, RateLimitCharge, RateLimits, RequestClass, endpoint,
    },
    error::Result,
    rooms::Rooms,
    users::{Session, Users},
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_profile::v3::Request, _>(get_profile))
        .merge(endpoint::<get_profile_field::v3::Request, _>(
            get_profile_field,
        ))
        .merge(endpoint::<set_profile_field::v3::Request, _>(
            set_profile_field,
        ))
        .merge(endpoint::<delete_profile_field::v3::Request, _>(
            delete_profile_field,
        ))
}

/// `GET /_matrix/client/*/profile/{userId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3profileuserid).
async fn get_profile(
    State(workflows): State<Workflows>,
    MatrixRequest { request, .. }: MatrixRequest<get_profile::v3::Request>,
) -> Result<MatrixResponse<get_profile::v3::Response>> {
    let profile = workflows.profiles.profile(&request.user_id).await?;
    Ok(MatrixResponse(profile.into()))
}

/// `GET /_matrix/client/*/profile/{userId}/{keyName}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3profileuseridkeyname).
async fn get_profile_field(
    State(workflows): State<Workflows>,
    MatrixRequest { request, .. }: MatrixRequest<get_profile_field::v3::Request>,
) -> Result<MatrixResponse<get_profile_field::v3::Response>> {
    let value = workflows
        .profiles
        .profile_field(&request.user_id, &request.field)
        .await?;
    Ok(MatrixResponse(get_profile_field::v3::Response::new(value)))
}

/// `PUT /_matrix/client/*/profile/{userId}/{keyName}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3profileuseridkeyname).
async fn set_profile_field(
    State(users): State<Users>,
    State(workflows): State<Workflows>,
    State(rooms): State<Rooms>,
    State(limits): State<RateLimits>,
    MatrixRequest { from, request }: MatrixRequest<set_profile_field::v3::Request>,
) -> Result<MatrixResponse<set_profile_field::v3::Response>> {
    let field = request.value.field_name();
    must_be_allowed_to_change(&from, &field)?;
    let cost = charge_profile_change(&rooms, &limits, &from, &field).await?;
    let change = users
        .profiles
        .set_field(&from, &request.user_id, &request.value)
        .await?;
    if change.is_some() {
        cost.keep();
    }
    workflows.profiles.publish_profile(&from, change).await?;
    Ok(MatrixResponse(set_profile_field::v3::Response::new()))
}

/// `DELETE /_matrix/client/*/profile/{userId}/{keyName}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3profileuseridkeyname).
async fn delete_profile_field(
    State(users): State<Users>,
    State(workflows): State<Workflows>,
    State(rooms): State<Rooms>,
    State(limits): State<RateLimits>,
    MatrixRequest { from, request }: MatrixRequest<delete_profile_field::v3::Request>,
) -> Result<MatrixResponse<delete_profile_field::v3::Response>> {
    must_be_allowed_to_change(&from, &request.field)?;
    let cost = charge_profile_change(&rooms, &limits, &from, &request.field).await?;
    let change = users
        .profiles
        .remove_field(&from, &request.user_id, request.field)
        .await?;
    if change.is_some() {
        cost.keep();
    }
    workflows.profiles.publish_profile(&from, change).await?;
    Ok(MatrixResponse(delete_profile_field::v3::Response::new()))
}

/// Counts the change of a profile field against the rate limit: as one event in each room of the user, if rooms show
/// the field.
pub(in crate::api) async fn charge_profile_change(
    rooms: &Rooms,
    limits: &RateLimits,
    session: &Session,
    field: &ProfileFieldName,
) -> Result<RateLimitCharge> {
    let (class, events) = match field {
        ProfileFieldName::DisplayName => (
            RequestClass::DisplayNameChange,
            rooms.memberships.count_joined_rooms(session.user).await?,
        ),
        ProfileFieldName::AvatarUrl => (
            RequestClass::AvatarChange,
            rooms.memberships.count_joined_rooms(session.user).await?,
        ),
        _ => (RequestClass::DisplayNameChange, 0),
    };
    limits.charge_times(class, session, events)
}

/// "Guest users may only modify their display name; other profile fields may not be changed."
fn must_be_allowed_to_change(session: &Session, field: &ProfileFieldName) -> Result<()> {
    match field {
        ProfileFieldName::DisplayName => Ok(()),
        _ => session.must_not_be_guest(),
    }
}
