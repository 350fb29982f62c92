//! Requests that need user-interactive authentication.
//!
//! Some clients send the parameters once, and later only `auth` with the session; then the first request of the session
//! supplies the parameters. Clients of the first versions of the specification name the user in a field `user` of
//! `auth`, which is now an `identifier`. Some, such as mautrix, still do.

use axum::extract::{FromRequest, Request};
use ruma::api::{IncomingRequest, Metadata, client::uiaa::AuthData};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{
    api::{App, MatrixRequest, RateLimits, RequestAuthenticator, RequestClass, receive_request},
    error::{Error, Result},
    users::{Session, Users},
};

/// A request that needs interactive authentication, and its sender.
pub(super) struct InteractiveRequest<R: Metadata<Authentication: RequestAuthenticator>> {
    /// The authenticated sender.
    pub(super) from: <R::Authentication as RequestAuthenticator>::Identity,
    pub(super) request: R,
    /// The parameters of the request, to be remembered for its session.
    pub(super) parameters: InteractiveParameters,
}

/// An operation for which a user must authenticate again.
pub(super) struct ProtectedOperation<'a, T> {
    pub(super) endpoint: &'static str,
    pub(super) session: &'a Session,
    /// The parameters for which the authentication is valid.
    pub(super) parameters: &'a T,
    pub(super) auth: Option<&'a AuthData>,
}

/// The body of a request without `auth`.
pub(super) struct InteractiveParameters(String);

impl<R> FromRequest<App> for InteractiveRequest<R>
where
    R: IncomingRequest + Metadata<Authentication: RequestAuthenticator> + Send,
{
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let mut received = receive_request::<R::Authentication>(request, app, true).await?;
        let fields = serde_json::from_str(received.body.as_deref().unwrap_or("{}"));
        let mut fields: Map<String, Value> = fields.map_err(|e| Error::BadJson(e.to_string()))?;
        let auth = fields.remove("auth").map(with_identifier);
        if fields.is_empty()
            && let Some(id) = auth.as_ref().and_then(|auth| auth.get("session")?.as_str())
            && let Some(session) = R::Authentication::session(&received.from)
            && let Some(first) = app.users.uia.first_request(id, session)
        {
            fields = serde_json::from_str(&first)?;
        }
        let parameters = InteractiveParameters(serde_json::to_string(&fields)?);
        fields.extend(auth.map(|auth| ("auth".to_owned(), auth)));
        received.body = Some(serde_json::to_string(&fields)?);
        let MatrixRequest { from, request } = received.parse(app)?.incoming;
        Ok(Self {
            from,
            request,
            parameters,
        })
    }
}

impl InteractiveParameters {
    /// Requires the user to authenticate again, and takes the cost of an attempt to do so.
    ///
    /// # Errors
    ///
    /// [`Error::Uia`] until they have; [`Error::Forbidden`] when they authenticate as another user;
    /// [`Error::LimitExceeded`] after too many attempts.
    pub(super) async fn reauthenticate<T: Serialize + Sync>(
        &self,
        users: &Users,
        limits: &RateLimits,
        operation: ProtectedOperation<'_, T>,
    ) -> Result<()> {
        let ProtectedOperation {
            endpoint,
            session,
            parameters,
            auth,
        } = operation;
        check_login_limit(limits, session, auth)?;
        let outcome = users
            .uia
            .reauthenticate(endpoint, session, parameters, auth)
            .await;
        self.store_for_session(users, outcome)
    }

    /// If the response starts a new session, stores the parameters of this request for it.
    pub(super) fn store_for_session<T>(&self, users: &Users, answer: Result<T>) -> Result<T> {
        if let Err(Error::Uia(info)) = &answer
            && let Some(id) = &info.session
        {
            users.uia.store_first_request(id, &self.0);
        }
        answer
    }
}

/// Takes the cost of an attempt to authenticate, if the request is one.
pub(super) fn check_login_limit(
    limits: &RateLimits,
    session: &Session,
    auth: Option<&AuthData>,
) -> Result<()> {
    match auth {
        Some(_) => limits.check(RequestClass::Login, session),
        None => Ok(()),
    }
}

/// Returns `auth` with an `identifier` if it has only a `user`.
fn with_identifier(mut auth: Value) -> Value {
    if let Some(fields) = auth.as_object_mut()
        && !fields.contains_key("identifier")
        && let Some(user) = fields.get("user").and_then(Value::as_str)
    {
        let identifier = json!({ "type": "m.id.user", "user": user });
        fields.insert("identifier".to_owned(), identifier);
    }
    auth
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_added_only_to_a_bare_user() {
        let of = |auth: Value| with_identifier(auth)["identifier"].clone();

        let expected = json!({ "type": "m.id.user", "user": "@a:b" });
        assert_eq!(of(json!({ "user": "@a:b" })), expected);
        assert_eq!(of(json!({ "user": "@a:b", "identifier": {} })), json!({}));
        assert_eq!(of(json!({ "user": 5 })), Value::Null);
        assert_eq!(of(json!({ "session": "s" })), Value::Null);
        assert_eq!(with_identifier(json!([])), json!([]));
    }
}
