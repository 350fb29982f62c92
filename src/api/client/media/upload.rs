//! An upload as it arrives: who sends it is known before its first byte is read.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{BodyDataStream, HttpBody},
    extract::{FromRequest, Request},
    http,
};
use futures_util::StreamExt;
use ruma::api::{IncomingRequest, auth_scheme::AccessToken};

use crate::{
    api::{
        App, Authenticate,
        endpoint::{raw_path_params, try_read},
    },
    error::{Error, Result},
    users::Session,
};

/// How much is read, and thrown away, of an upload that is refused, and for how long: a client that is still
/// writing when the connection closes does not see the answer.
const MAX_DRAINED: usize = 16 * 1024 * 1024;
const MAX_DRAINING: Duration = Duration::from_secs(5);

/// An upload whose bytes have not been read.
pub(super) struct Arriving<R> {
    /// Who sends it.
    pub(super) from: Arc<Session>,
    /// What is said of it; the file itself is in `parts`.
    pub(super) request: R,
    /// How many bytes are announced.
    pub(super) announced_size: Option<u64>,
    /// The bytes.
    pub(super) parts: BodyDataStream,
}

impl<R: IncomingRequest> FromRequest<App> for Arriving<R> {
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (mut parts, body) = request.into_parts();
        let params = raw_path_params(&mut parts).await?;
        let from = AccessToken::authenticate(app, &parts, &[]).await?;
        let announced_size = body.size_hint().exact();
        let without_file = http::Request::from_parts(parts, &[] as &[u8]);
        let params: Vec<(&str, &str)> = params.iter().collect();
        let request = try_read(without_file, &params)?;
        Ok(Self {
            from,
            request,
            announced_size,
            parts: body.into_data_stream(),
        })
    }
}

impl<R> Arriving<R> {
    /// Lets a client that is still writing come to the end.
    pub(super) async fn drain(&mut self) {
        let draining = async {
            let mut drained = 0_usize;
            while let Some(Ok(part)) = self.parts.next().await {
                drained = drained.saturating_add(part.len());
                if drained > MAX_DRAINED {
                    break;
                }
            }
        };
        // Whoever takes longer does without the answer.
        let _ = tokio::time::timeout(MAX_DRAINING, draining).await;
    }
}
