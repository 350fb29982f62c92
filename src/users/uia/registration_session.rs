//! The registration that an authentication session is for.

use ruma::api::client::account::register::v3::Request;

use crate::{
    error::{Error, Result},
    users::RegisteredAccount,
};

/// The registration that a session is for.
#[derive(Default)]
pub(in crate::users) struct RegistrationSession {
    /// The first request that had parameters, without `auth`.
    pub(in crate::users) request: Option<Request>,
    /// The account that it registered.
    pub(in crate::users) account: Option<RegisteredAccount>,
}

impl RegistrationSession {
    /// Returns a request, completed with the parameters of the session's first request that it does not repeat.
    pub(in crate::users) fn complete_request(&self, mut request: Request) -> Request {
        let Some(first) = &self.request else {
            return request;
        };
        if request.username.is_none() && request.password.is_none() {
            request.username.clone_from(&first.username);
            request.password.clone_from(&first.password);
        }
        let first = first.clone();
        request.device_id = request.device_id.or(first.device_id);
        request.initial_device_display_name = request
            .initial_device_display_name
            .or(first.initial_device_display_name);
        request.guest_access_token = request.guest_access_token.or(first.guest_access_token);
        request.inhibit_login |= first.inhibit_login;
        request.refresh_token |= first.refresh_token;
        request
    }

    /// Returns the registered account, if this is the request that the session has completed.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when the session has completed another request.
    pub(in crate::users) fn registered_account(
        &self,
        request: &Request,
    ) -> Result<Option<RegisteredAccount>> {
        let (Some(first), Some(outcome)) = (&self.request, &self.account) else {
            return Ok(None);
        };
        if request.username != first.username || request.password != first.password {
            return Err(request_changed_error());
        }
        Ok(Some(outcome.clone()))
    }
}

/// Returns the error for a session that belongs to another request.
pub(super) fn request_changed_error() -> Error {
    Error::forbidden("the session belongs to another request")
}
