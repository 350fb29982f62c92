//! Downloads of files.

use std::time::Duration;

use axum::{http::HeaderMap, response::Response};
use ruma::OwnedServerName;

use super::file_response::{FileAudience, FileResponse};
use crate::{
    error::Result,
    media::{Media, RemoteMediaPolicy},
};

/// The parameters that the download endpoints share.
pub(super) struct DownloadParameters {
    pub(super) server_name: OwnedServerName,
    pub(super) media_id: String,
    /// A name that replaces the one from the upload.
    pub(super) file_name: Option<String>,
    pub(super) timeout: Duration,
    pub(super) remote: RemoteMediaPolicy,
}

impl DownloadParameters {
    /// Returns the file.
    pub(super) async fn respond(
        self,
        media: &Media,
        audience: FileAudience,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let content = media
            .content(&self.server_name, &self.media_id, self.timeout, self.remote)
            .await?;
        FileResponse::file(content, self.file_name, audience)
            .respond_to(headers)
            .await
    }
}
