//! Push rules.

use axum::{Json, Router, extract::State, routing::get};
use ruma::api::client::push::{
    delete_pushrule, get_pushrule, get_pushrule_actions, get_pushrule_enabled, get_pushrules_all,
    get_pushrules_global_scope, set_pushrule, set_pushrule_actions, set_pushrule_enabled,
};

use serde_json::{Value, json};

use super::optional_fields::WithDefaults;
use crate::{
    api::{
        App, AuthenticatedSession, MatrixRequest, MatrixResponse, endpoint, endpoint::PathParams,
    },
    error::{Error, Result},
    users::{Users, write_push_rules},
};

pub(super) fn routes() -> Router<App> {
    let mut router = Router::new();
    for version in ["v3", "r0"] {
        for slash in ["", "/"] {
            let path = format!("/_matrix/client/{version}/pushrules/global/{{kind}}{slash}");
            router = router.route(&path, get(get_pushrules_of_kind));
        }
    }
    router
        .merge(endpoint::<get_pushrules_all::v3::Request, _>(
            get_pushrules_all,
        ))
        .merge(endpoint::<get_pushrules_global_scope::v3::Request, _>(
            get_pushrules_global_scope,
        ))
        .merge(endpoint::<get_pushrule::v3::Request, _>(get_pushrule))
        .merge(endpoint::<WithDefaults<set_pushrule::v3::Request>, _>(
            set_pushrule,
        ))
        .merge(endpoint::<delete_pushrule::v3::Request, _>(delete_pushrule))
        .merge(endpoint::<get_pushrule_enabled::v3::Request, _>(
            get_pushrule_enabled,
        ))
        .merge(endpoint::<set_pushrule_enabled::v3::Request, _>(
            set_pushrule_enabled,
        ))
        .merge(endpoint::<get_pushrule_actions::v3::Request, _>(
            get_pushrule_actions,
        ))
        .merge(endpoint::<set_pushrule_actions::v3::Request, _>(
            set_pushrule_actions,
        ))
}

/// `GET /_matrix/client/*/pushrules/`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrules).
async fn get_pushrules_all(
    State(users): State<Users>,
    MatrixRequest { from, .. }: MatrixRequest<get_pushrules_all::v3::Request>,
) -> Result<Json<Value>> {
    let rules = users.push_rules.all(from.user, &from.user_id).await?;
    Ok(Json(json!({ "global": write_push_rules(&rules)? })))
}

/// `GET /_matrix/client/*/pushrules/global/`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobal).
async fn get_pushrules_global_scope(
    State(users): State<Users>,
    MatrixRequest { from, .. }: MatrixRequest<get_pushrules_global_scope::v3::Request>,
) -> Result<Json<Value>> {
    let rules = users.push_rules.all(from.user, &from.user_id).await?;
    Ok(Json(write_push_rules(&rules)?))
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/`
///
/// The first versions of the specification had this endpoint, and clients still use it.
async fn get_pushrules_of_kind(
    State(users): State<Users>,
    AuthenticatedSession(from): AuthenticatedSession,
    PathParams(kind): PathParams<String>,
) -> Result<Json<Value>> {
    let rules = users.push_rules.all(from.user, &from.user_id).await?;
    let mut rules = write_push_rules(&rules)?;
    match rules.get_mut(&kind) {
        Some(of_kind) => Ok(Json(of_kind.take())),
        None => Err(Error::invalid_param(format!(
            "there are no push rules of kind {kind:?}"
        ))),
    }
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/{ruleId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleid).
async fn get_pushrule(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<get_pushrule::v3::Request>,
) -> Result<MatrixResponse<get_pushrule::v3::Response>> {
    let rule = users
        .push_rules
        .rule(&from, request.kind, &request.rule_id)
        .await?;
    Ok(MatrixResponse(get_pushrule::v3::Response::new(rule.into())))
}

/// `PUT /_matrix/client/*/pushrules/global/{kind}/{ruleId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleid).
async fn set_pushrule(
    State(users): State<Users>,
    MatrixRequest {
        from,
        request: WithDefaults(request),
    }: MatrixRequest<WithDefaults<set_pushrule::v3::Request>>,
) -> Result<MatrixResponse<set_pushrule::v3::Response>> {
    users.push_rules.set(&from, request).await?;
    Ok(MatrixResponse(set_pushrule::v3::Response::new()))
}

/// `DELETE /_matrix/client/*/pushrules/global/{kind}/{ruleId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#delete_matrixclientv3pushrulesglobalkindruleid).
async fn delete_pushrule(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<delete_pushrule::v3::Request>,
) -> Result<MatrixResponse<delete_pushrule::v3::Response>> {
    users
        .push_rules
        .remove(&from, request.kind, &request.rule_id)
        .await?;
    Ok(MatrixResponse(delete_pushrule::v3::Response::new()))
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/{ruleId}/enabled`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidenabled).
async fn get_pushrule_enabled(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<get_pushrule_enabled::v3::Request>,
) -> Result<MatrixResponse<get_pushrule_enabled::v3::Response>> {
    let rule = users
        .push_rules
        .rule(&from, request.kind, &request.rule_id)
        .await?;
    let response = get_pushrule_enabled::v3::Response::new(rule.enabled());
    Ok(MatrixResponse(response))
}

/// `PUT /_matrix/client/*/pushrules/global/{kind}/{ruleId}/enabled`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidenabled).
async fn set_pushrule_enabled(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<set_pushrule_enabled::v3::Request>,
) -> Result<MatrixResponse<set_pushrule_enabled::v3::Response>> {
    users
        .push_rules
        .enable(&from, request.kind, &request.rule_id, request.enabled)
        .await?;
    Ok(MatrixResponse(set_pushrule_enabled::v3::Response::new()))
}

/// `GET /_matrix/client/*/pushrules/global/{kind}/{ruleId}/actions`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3pushrulesglobalkindruleidactions).
async fn get_pushrule_actions(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<get_pushrule_actions::v3::Request>,
) -> Result<MatrixResponse<get_pushrule_actions::v3::Response>> {
    let rule = users
        .push_rules
        .rule(&from, request.kind, &request.rule_id)
        .await?;
    let response = get_pushrule_actions::v3::Response::new(rule.actions().to_vec());
    Ok(MatrixResponse(response))
}

/// `PUT /_matrix/client/*/pushrules/global/{kind}/{ruleId}/actions`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3pushrulesglobalkindruleidactions).
async fn set_pushrule_actions(
    State(users): State<Users>,
    MatrixRequest { from, request }: MatrixRequest<set_pushrule_actions::v3::Request>,
) -> Result<MatrixResponse<set_pushrule_actions::v3::Response>> {
    users
        .push_rules
        .set_actions(&from, request.kind, &request.rule_id, request.actions)
        .await?;
    Ok(MatrixResponse(set_pushrule_actions::v3::Response::new()))
}
