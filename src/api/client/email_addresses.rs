//! The e-mail addresses of accounts, and the messages with which users show that an address is theirs.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#adding-account-administrative-contact-information).

use axum::{Router, extract::State};
use ruma::{
    ClientSecret, OwnedSessionId, UInt,
    api::client::account::{
        add_3pid, delete_3pid, get_3pids, request_3pid_management_token_via_email,
        request_password_change_token_via_email, request_registration_token_via_email,
    },
    thirdparty::Medium,
};

use super::interactive_auth::{InteractiveRequest, check_login_limit};
use crate::{
    api::{
        App, CompleteResponse, MatrixRequest, MatrixResponse, RateLimitKey, RateLimits,
        RequestClass, endpoint,
    },
    error::Result,
    federation::ThirdPartyAddress,
    mail::EmailAddress,
    users::{TokenRequest, Users, ValidationPurpose},
    workflows::Workflows,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_3pids::v3::Request, _>(get_3pids))
        .merge(endpoint::<add_3pid::v3::Request, _>(add_3pid))
        .merge(endpoint::<delete_3pid::v3::Request, _>(delete_3pid))
        .merge(endpoint::<
            request_registration_token_via_email::v3::Request,
            _,
        >(request_registration_token))
        .merge(endpoint::<
            request_password_change_token_via_email::v3::Request,
            _,
        >(request_password_change_token))
        .merge(endpoint::<
            request_3pid_management_token_via_email::v3::Request,
            _,
        >(request_3pid_management_token))
}

/// `GET /_matrix/client/*/account/3pid`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3account3pid).
async fn get_3pids(
    State(users): State<Users>,
    MatrixRequest { from, .. }: MatrixRequest<get_3pids::v3::Request>,
) -> Result<CompleteResponse<get_3pids::v3::Response>> {
    let identifiers = users.email_addresses.list(&from).await?;
    Ok(CompleteResponse(get_3pids::v3::Response::new(identifiers)))
}

/// `POST /_matrix/client/*/account/3pid/add`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidadd).
async fn add_3pid(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    InteractiveRequest {
        from,
        request,
        parameters,
    }: InteractiveRequest<add_3pid::v3::Request>,
) -> Result<MatrixResponse<add_3pid::v3::Response>> {
    check_login_limit(&limits, &from, request.auth.as_ref())?;
    let added = users.email_addresses.add(&from, request).await;
    parameters.store_for_session(&users, added)?;
    Ok(MatrixResponse(add_3pid::v3::Response::new()))
}

/// `POST /_matrix/client/*/account/3pid/delete`
///
/// Removing an identifier that does not exist succeeds. Identity servers that know it from here are made to forget it.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3piddelete).
async fn delete_3pid(
    State(users): State<Users>,
    State(workflows): State<Workflows>,
    MatrixRequest { from, request }: MatrixRequest<delete_3pid::v3::Request>,
) -> Result<MatrixResponse<delete_3pid::v3::Response>> {
    if request.medium == Medium::Email {
        users
            .email_addresses
            .remove(&from, &request.address)
            .await?;
    }
    let address = ThirdPartyAddress {
        medium: request.medium,
        address: request.address,
    };
    let status = workflows
        .identity_bindings
        .unbind(&from, request.id_server.as_deref(), address)
        .await?;
    Ok(MatrixResponse(delete_3pid::v3::Response::new(status)))
}

/// `POST /_matrix/client/*/register/email/requestToken`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3registeremailrequesttoken).
async fn request_registration_token(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    MatrixRequest { request, .. }: MatrixRequest<request_registration_token_via_email::v3::Request>,
) -> Result<MatrixResponse<request_registration_token_via_email::v3::Response>> {
    let token = EmailTokenRequest {
        purpose: ValidationPurpose::Register,
        client_secret: &request.client_secret,
        email: &request.email,
        send_attempt: request.send_attempt,
        next_link: request.next_link.as_deref(),
    };
    let sid = token.send(&users, &limits).await?;
    let response = request_registration_token_via_email::v3::Response::new(sid);
    Ok(MatrixResponse(response))
}

/// `POST /_matrix/client/*/account/password/email/requestToken`
///
/// "The server may instead send an email to the given address": the response does not reveal whether an account has the
/// address.
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3accountpasswordemailrequesttoken).
async fn request_password_change_token(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    MatrixRequest { request, .. }: MatrixRequest<
        request_password_change_token_via_email::v3::Request,
    >,
) -> Result<MatrixResponse<request_password_change_token_via_email::v3::Response>> {
    let token = EmailTokenRequest {
        purpose: ValidationPurpose::Password,
        client_secret: &request.client_secret,
        email: &request.email,
        send_attempt: request.send_attempt,
        next_link: request.next_link.as_deref(),
    };
    let sid = token.send(&users, &limits).await?;
    let response = request_password_change_token_via_email::v3::Response::new(sid);
    Ok(MatrixResponse(response))
}

/// `POST /_matrix/client/*/account/3pid/email/requestToken`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3account3pidemailrequesttoken).
async fn request_3pid_management_token(
    State(users): State<Users>,
    State(limits): State<RateLimits>,
    MatrixRequest { request, .. }: MatrixRequest<
        request_3pid_management_token_via_email::v3::Request,
    >,
) -> Result<MatrixResponse<request_3pid_management_token_via_email::v3::Response>> {
    let token = EmailTokenRequest {
        purpose: ValidationPurpose::Add,
        client_secret: &request.client_secret,
        email: &request.email,
        send_attempt: request.send_attempt,
        next_link: request.next_link.as_deref(),
    };
    let sid = token.send(&users, &limits).await?;
    let response = request_3pid_management_token_via_email::v3::Response::new(sid);
    Ok(MatrixResponse(response))
}

/// The parameters that the requests for a token have in common.
pub(in crate::api) struct EmailTokenRequest<'a> {
    pub(in crate::api) purpose: ValidationPurpose,
    pub(in crate::api) client_secret: &'a ClientSecret,
    pub(in crate::api) email: &'a str,
    pub(in crate::api) send_attempt: UInt,
    pub(in crate::api) next_link: Option<&'a str>,
}

impl EmailTokenRequest<'_> {
    /// Sends the token, unless the address has received too many messages.
    pub(in crate::api) async fn send(
        self,
        users: &Users,
        limits: &RateLimits,
    ) -> Result<OwnedSessionId> {
        let address = EmailAddress::parse(self.email)?;
        let mailbox = RateLimitKey::Email(address.clone());
        limits.check(RequestClass::EmailToAddress, mailbox)?;
        let request = TokenRequest {
            purpose: self.purpose,
            client_secret: self.client_secret,
            address: &address,
            send_attempt: self.send_attempt,
            next_link: self.next_link,
        };
        users.email_validations.send_token(request).await
    }
}
