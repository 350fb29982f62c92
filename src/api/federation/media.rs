//! Serves this server's media to other servers.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, header::CONTENT_LENGTH, header::CONTENT_TYPE},
    response::Response,
};
use futures_util::{StreamExt, stream};
use ruma::{
    api::federation::authenticated_media::{get_content, get_content_thumbnail},
    http_headers::ContentDisposition,
};
use tokio_util::io::ReaderStream;

use crate::{
    api::{
        App, MatrixRequest,
        client::{disposition_of_file, disposition_of_thumbnail},
        endpoint,
    },
    error::{Error, RefusalCode, Result},
    media::{Media, MediaContent, RemoteMediaPolicy, ThumbnailRequest},
    rooms::Rooms,
};

/// The part of a file that is held in memory while another server downloads it.
const TRANSFER_BUFFER_BYTES: usize = 64 * 1024;

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_content::v1::Request, _>(get_content))
        .merge(endpoint::<get_content_thumbnail::v1::Request, _>(
            get_content_thumbnail,
        ))
}

/// `GET /_matrix/federation/v1/media/download/{mediaId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediadownloadmediaid).
async fn get_content(
    State(media): State<Media>,
    State(rooms): State<Rooms>,
    MatrixRequest { request, .. }: MatrixRequest<get_content::v1::Request>,
) -> Result<Response> {
    let (own, wait) = (rooms.memory.server_name(), request.timeout_ms);
    let content = media
        .content(own, &request.media_id, wait, RemoteMediaPolicy::LocalOnly)
        .await?;
    let disposition = disposition_of_file(&content);
    multipart_response(content, &disposition)
}

/// `GET /_matrix/federation/v1/media/thumbnail/{mediaId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1mediathumbnailmediaid).
async fn get_content_thumbnail(
    State(media): State<Media>,
    State(rooms): State<Rooms>,
    MatrixRequest { request, .. }: MatrixRequest<get_content_thumbnail::v1::Request>,
) -> Result<Response> {
    let (width, height) = (request.width.into(), request.height.into());
    let wanted =
        ThumbnailRequest::new(width, height, request.method.as_ref()).ok_or_else(|| {
            Error::refused(
                RefusalCode::CannotThumbnail,
                "there is no thumbnail of this size and method".to_owned(),
            )
        })?;
    let wanted = wanted.with_animation(request.animated);
    let address = crate::media::MediaAddress {
        server: rooms.memory.server_name(),
        media_id: &request.media_id,
    };
    let content = media
        .thumbnail(
            address,
            wanted,
            request.timeout_ms,
            RemoteMediaPolicy::LocalOnly,
        )
        .await?;
    let disposition = disposition_of_thumbnail(&content);
    multipart_response(content, &disposition)
}

/// Returns a file as `multipart/mixed`: an empty object as metadata, followed by the file.
fn multipart_response(content: MediaContent, disposition: &ContentDisposition) -> Result<Response> {
    // Long enough that no file contains it by chance.
    let boundary = format!("{:032x}", rand::random::<u128>());
    let before = format!(
        "--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n--{boundary}\r\n\
         Content-Type: {}\r\nContent-Disposition: {disposition}\r\n\r\n",
        content.content_type
    );
    let after = format!("\r\n--{boundary}--\r\n");
    let around = u64::try_from(before.len() + after.len()).unwrap_or(u64::MAX);
    let length = content.size.saturating_add(around);
    let file = ReaderStream::with_capacity(content.file, TRANSFER_BUFFER_BYTES);
    let text = |text: String| stream::once(async { Ok(Bytes::from(text)) });
    let parts = text(before).chain(file).chain(text(after));
    let content_type = format!("multipart/mixed; boundary={boundary}");
    let content_type = HeaderValue::try_from(content_type)
        .map_err(|source| Error::internal("write a header", source))?;
    let mut response = Response::new(Body::from_stream(parts));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}
