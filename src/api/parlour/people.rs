//! The list of the users of this server.

use axum::{Json, Router, extract::State, http::Method};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{QueryParameters, path};
use crate::{
    api::{App, AuthenticatedSession, endpoint_at},
    error::Result,
    users::UserListRequest,
    workflows::{PersonWithPresence, Workflows},
};

pub(super) fn routes() -> Router<App> {
    endpoint_at(Method::GET, &path("users"), list_people)
}

#[derive(Deserialize)]
struct ListPeopleQuery {
    search: Option<String>,
    from: Option<String>,
    limit: Option<u64>,
}

/// `GET /_parlour/client/v1/users`
async fn list_people(
    State(workflows): State<Workflows>,
    AuthenticatedSession(session): AuthenticatedSession,
    QueryParameters(request): QueryParameters<ListPeopleQuery>,
) -> Result<Json<Value>> {
    let request = UserListRequest {
        search: request.search,
        from: request.from,
        limit: request.limit,
    };
    let page = workflows.people.list_people(&session, &request).await?;
    let users: Vec<Value> = page.people.iter().map(person_json).collect();
    let mut answer = json!({ "users": users, "total": page.total });
    if let Some(answer) = answer.as_object_mut() {
        let next = page
            .next_batch
            .map(|next| ("next_batch".to_owned(), json!(next)));
        answer.extend(next);
    }
    Ok(Json(answer))
}

fn person_json(seen: &PersonWithPresence) -> Value {
    let person = &seen.person;
    let mut shown = json!({
        "user_id": person.user_id, "displayname": person.displayname, "avatar_url": person.avatar_url,
        "presence": seen.presence,
    });
    if let Some(shown) = shown.as_object_mut() {
        let optional = [
            ("last_active_ts", seen.last_active_ts.map(|ts| json!(ts))),
            (
                "status_msg",
                seen.status_msg.as_ref().map(|text| json!(text)),
            ),
        ];
        for (name, value) in optional {
            shown.extend(value.map(|value| (name.to_owned(), value)));
        }
    }
    shown
}
