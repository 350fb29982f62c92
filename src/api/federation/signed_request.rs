//! Signed requests for which ruma has no type, or whose type omits fields.

use axum::extract::{FromRequest, Request};
use ruma::{OwnedServerName, api::federation::authentication::ServerSignatures};
use serde_json::value::RawValue;

use crate::{
    api::{
        App, RequestAuthenticator,
        endpoint::{object_text, raw_path_params, read_body},
    },
    error::{Error, RefusalCode, Result},
    matrix::MAX_SERVER_JSON_DEPTH,
};

/// The body of a signed request.
pub(super) trait SignedBody: Sized + Send {
    /// Parses the body of a signed request.
    ///
    /// # Errors
    ///
    /// `RefusalCode::NotJson` or [`Error::BadJson`] when the endpoint does not accept it.
    fn read(body: &[u8]) -> Result<Self>;
}

/// An object that the handler parses.
impl SignedBody for Box<RawValue> {
    fn read(body: &[u8]) -> Result<Self> {
        let text = object_text(body, MAX_SERVER_JSON_DEPTH)?;
        RawValue::from_string(text)
            .map_err(|error| Error::refused(RefusalCode::NotJson, error.to_string()))
    }
}

/// A request that another server has signed.
pub(super) struct SignedRequest<T> {
    /// The server that sent the request.
    pub(super) from: OwnedServerName,
    /// The path parameters, in order.
    params: std::vec::IntoIter<String>,
    pub(super) body: T,
}

impl<T> SignedRequest<T> {
    /// Returns the next path parameter.
    pub(super) fn next_param<P>(&mut self) -> Result<P>
    where
        P: TryFrom<String, Error: std::fmt::Display>,
    {
        let missing = || {
            Error::refused(
                RefusalCode::MissingParam,
                "a path parameter is missing".to_owned(),
            )
        };
        let param = self.params.next().ok_or_else(missing)?;
        P::try_from(param).map_err(|error| Error::invalid_param(error.to_string()))
    }
}

impl<T: SignedBody> FromRequest<App> for SignedRequest<T> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (mut parts, body) = request.into_parts();
        let params = raw_path_params(&mut parts).await?;
        let params: Vec<String> = params.iter().map(|(_, value)| value.to_owned()).collect();
        ServerSignatures::check_head(app, &parts)?;
        let whole = read_body(body, ServerSignatures::max_body_bytes(app, &parts)).await?;
        let from = ServerSignatures::authenticate(app, &parts, &whole).await?;
        Ok(Self {
            from,
            params: params.into_iter(),
            body: T::read(&whole)?,
        })
    }
}
