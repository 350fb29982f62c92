//! The content repository: uploads, downloads and thumbnails.
//!
//! Files are streamed in both directions. `legacy_endpoints` has the deprecated paths, and `file_response` makes
//! the response for a file.

mod downloads;
mod file_response;
mod legacy_endpoints;
mod thumbnails;
mod upload;

use axum::{Json, Router, extract::State, http::HeaderMap, response::Response};
use ruma::api::client::{
    authenticated_media::{
        get_content, get_content_as_filename, get_content_thumbnail, get_media_config,
        get_media_preview,
    },
    media::{create_content, create_content_async, create_mxc_uri},
};

use serde_json::{Value, json};

pub(in crate::api) use self::file_response::{disposition_of_file, disposition_of_thumbnail};

use self::{
    downloads::DownloadParameters,
    file_response::FileAudience,
    thumbnails::ThumbnailParameters,
    upload::{IncomingUpload, max_upload_size},
};
use crate::{
    api::{App, MatrixRequest, MatrixResponse, endpoint},
    clock::timestamp,
    error::Result,
    media::{self, Media, RemoteMediaPolicy},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<create_content::v3::Request, _>(create_content))
        .merge(endpoint::<create_mxc_uri::v1::Request, _>(create_mxc_uri))
        .merge(endpoint::<create_content_async::v3::Request, _>(
            create_content_async,
        ))
        .merge(endpoint::<get_content::v1::Request, _>(get_content))
        .merge(endpoint::<get_content_as_filename::v1::Request, _>(
            get_content_as_filename,
        ))
        .merge(endpoint::<get_content_thumbnail::v1::Request, _>(
            get_content_thumbnail,
        ))
        .merge(endpoint::<get_media_config::v1::Request, _>(
            get_media_config,
        ))
        .merge(endpoint::<get_media_preview::v1::Request, _>(
            get_media_preview,
        ))
        .merge(legacy_endpoints::routes())
}

/// `POST /_matrix/media/*/upload`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload).
async fn create_content(
    State(media): State<Media>,
    arriving: IncomingUpload<create_content::v3::Request>,
) -> Result<MatrixResponse<create_content::v3::Response>> {
    let upload = media::UploadMetadata {
        uploader: arriving.from.user,
        content_type: arriving.request.content_type.as_deref(),
        file_name: arriving.request.filename.as_deref(),
        announced_size: arriving.announced_size,
    };
    let address = media.upload(upload, arriving.file_stream).await?;
    Ok(MatrixResponse(create_content::v3::Response::new(address)))
}

/// `POST /_matrix/media/v1/create`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav1create).
async fn create_mxc_uri(
    State(media): State<Media>,
    MatrixRequest { from, .. }: MatrixRequest<create_mxc_uri::v1::Request>,
) -> Result<MatrixResponse<create_mxc_uri::v1::Response>> {
    let (address, expires_ts) = media.reserve_media_id(from.user).await?;
    let mut response = create_mxc_uri::v1::Response::new(address);
    response.unused_expires_at = Some(timestamp(expires_ts));
    Ok(MatrixResponse(response))
}

/// `PUT /_matrix/media/*/upload/{serverName}/{mediaId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#put_matrixmediav3uploadservernamemediaid).
async fn create_content_async(
    State(media): State<Media>,
    arriving: IncomingUpload<create_content_async::v3::Request>,
) -> Result<Json<Value>> {
    let request = &arriving.request;
    let upload = media::UploadMetadata {
        uploader: arriving.from.user,
        content_type: request.content_type.as_deref(),
        file_name: request.filename.as_deref(),
        announced_size: arriving.announced_size,
    };
    let address = media::MediaAddress {
        server: &request.server_name,
        media_id: &request.media_id,
    };
    media
        .upload_reserved(address, upload, arriving.file_stream)
        .await?;
    Ok(Json(json!({})))
}

/// `GET /_matrix/client/*/media/download/{serverName}/{mediaId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid).
async fn get_content(
    State(media): State<Media>,
    headers: HeaderMap,
    MatrixRequest { request, .. }: MatrixRequest<get_content::v1::Request>,
) -> Result<Response> {
    let download = DownloadParameters {
        server_name: request.server_name,
        media_id: request.media_id,
        file_name: None,
        timeout: request.timeout_ms,
        remote: RemoteMediaPolicy::Fetch,
    };
    download
        .respond(&media, FileAudience::Private, &headers)
        .await
}

/// `GET /_matrix/client/*/media/download/{serverName}/{mediaId}/{fileName}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaidfilename).
async fn get_content_as_filename(
    State(media): State<Media>,
    headers: HeaderMap,
    MatrixRequest { request, .. }: MatrixRequest<get_content_as_filename::v1::Request>,
) -> Result<Response> {
    let download = DownloadParameters {
        server_name: request.server_name,
        media_id: request.media_id,
        file_name: Some(request.filename),
        timeout: request.timeout_ms,
        remote: RemoteMediaPolicy::Fetch,
    };
    download
        .respond(&media, FileAudience::Private, &headers)
        .await
}

/// `GET /_matrix/client/*/media/thumbnail/{serverName}/{mediaId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid).
async fn get_content_thumbnail(
    State(media): State<Media>,
    headers: HeaderMap,
    MatrixRequest { request, .. }: MatrixRequest<get_content_thumbnail::v1::Request>,
) -> Result<Response> {
    let thumbnail = ThumbnailParameters {
        server_name: request.server_name,
        media_id: request.media_id,
        width: request.width,
        height: request.height,
        method: request.method,
        animated: request.animated,
        timeout: request.timeout_ms,
        remote: RemoteMediaPolicy::Fetch,
    };
    thumbnail
        .respond(&media, FileAudience::Private, &headers)
        .await
}

/// `GET /_matrix/client/*/media/config`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediaconfig).
async fn get_media_config(
    State(media): State<Media>,
    _: MatrixRequest<get_media_config::v1::Request>,
) -> MatrixResponse<get_media_config::v1::Response> {
    MatrixResponse(get_media_config::v1::Response::new(max_upload_size(&media)))
}

/// `GET /_matrix/client/*/media/preview_url`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url).
async fn get_media_preview(
    State(media): State<Media>,
    MatrixRequest { request, .. }: MatrixRequest<get_media_preview::v1::Request>,
) -> Result<Json<Value>> {
    Ok(Json(media.preview(&request.url).await?.into()))
}
