//! Thumbnails of files.

use std::time::Duration;

use axum::{http::HeaderMap, response::Response};
use ruma::{OwnedServerName, UInt, media::Method};

use super::file_response::{FileAudience, FileResponse};
use crate::{
    error::{Error, RefusalCode, Result},
    media::{Media, MediaAddress, RemoteMediaPolicy, ThumbnailRequest},
};

/// The parameters that the two thumbnail endpoints share.
pub(super) struct ThumbnailParameters {
    pub(super) server_name: OwnedServerName,
    pub(super) media_id: String,
    pub(super) width: UInt,
    pub(super) height: UInt,
    pub(super) method: Option<Method>,
    pub(super) animated: Option<bool>,
    pub(super) timeout: Duration,
    pub(super) remote: RemoteMediaPolicy,
}

impl ThumbnailParameters {
    /// Returns the thumbnail.
    pub(super) async fn respond(
        self,
        media: &Media,
        audience: FileAudience,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let (width, height) = (self.width.into(), self.height.into());
        let wanted =
            ThumbnailRequest::new(width, height, self.method.as_ref()).ok_or_else(|| {
                Error::refused(
                    RefusalCode::CannotThumbnail,
                    "there is no thumbnail of this size and method".to_owned(),
                )
            })?;
        let wanted = wanted.with_animation(self.animated);
        let address = MediaAddress {
            server: &self.server_name,
            media_id: &self.media_id,
        };
        let content = media
            .thumbnail(address, wanted, self.timeout, self.remote)
            .await?;
        FileResponse::thumbnail(content, audience)
            .respond_to(headers)
            .await
    }
}
