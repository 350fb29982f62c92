//! An upload whose body is read later: the sender is authenticated before the first byte is read.

use std::sync::Arc;

use axum::{
    body::{BodyDataStream, HttpBody},
    extract::{FromRequest, Request},
    http,
};
use ruma::{
    UInt,
    api::{IncomingRequest, auth_scheme::AccessToken},
};

use crate::{
    api::{
        App, RequestAuthenticator,
        endpoint::{parse_request, raw_path_params},
        endpoint_policies::AdmissionCheck,
    },
    error::{Error, Result},
    media::Media,
    users::Session,
};

/// An upload whose body has not been read.
pub(super) struct IncomingUpload<R> {
    /// The authenticated sender.
    pub(super) from: Arc<Session>,
    /// The request without the file, which is in `file_stream`.
    pub(super) request: R,
    /// The `Content-Length`.
    pub(super) announced_size: Option<u64>,
    pub(super) file_stream: BodyDataStream,
}

impl<R: IncomingRequest> FromRequest<App> for IncomingUpload<R> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (mut parts, body) = request.into_parts();
        let params = raw_path_params(&mut parts).await?;
        let from = AccessToken::authenticate(app, &parts, &[]).await?;
        let admission = AdmissionCheck::of_request(app, &parts, Some(&from)).await;
        let announced_size = body.size_hint().exact();
        let without_file = http::Request::from_parts(parts, &[] as &[u8]);
        let params: Vec<(&str, &str)> = params.iter().collect();
        let request = parse_request(without_file, &params)?;
        admission.admit(app, Some(&from))?;
        Ok(Self {
            from,
            request,
            announced_size,
            file_stream: body.into_data_stream(),
        })
    }
}

/// Returns the size of the largest file that may be uploaded.
pub(super) fn max_upload_size(media: &Media) -> UInt {
    UInt::try_from(media.max_upload_bytes()).unwrap_or(UInt::MAX)
}
