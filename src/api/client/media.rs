//! The content repository: files up and down, and thumbnails.
//!
//! Files stream through in both directions. `legacy` has the deprecated paths, `answer` what is said with a file.

mod answer;
mod legacy;
mod upload;

use axum::{Router, extract::State, http::HeaderMap, response::Response};
use ruma::{
    OwnedServerName, UInt,
    api::client::{
        authenticated_media::{
            get_content, get_content_as_filename, get_content_thumbnail, get_media_config,
        },
        media::create_content,
    },
    media::Method,
};

use self::answer::{Answer, Audience};
use crate::{
    api::{App, Class, Incoming, Limits, Outgoing, endpoint},
    error::{Error, Result},
    media::{self, Media, Wanted},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<create_content::v3::Request, _>(create_content))
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
        .merge(legacy::routes())
}

/// `POST /_matrix/media/*/upload`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#post_matrixmediav3upload
async fn create_content(
    State(media): State<Media>,
    State(limits): State<Limits>,
    mut arriving: upload::Arriving,
) -> Result<Outgoing<create_content::v3::Response>> {
    arriving.from.must_not_be_guest()?;
    limits.check(Class::Upload, &*arriving.from.user_id)?;
    let upload = media::Upload {
        uploader: arriving.from.user,
        content_type: arriving.request.content_type.as_deref(),
        file_name: arriving.request.filename.as_deref(),
        announced_size: arriving.announced_size,
    };
    let uploaded = media.upload(upload, &mut arriving.parts).await;
    if uploaded.is_err() {
        arriving.drain().await;
    }
    Ok(Outgoing(create_content::v3::Response::new(uploaded?)))
}

/// `GET /_matrix/client/*/media/download/{serverName}/{mediaId}`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaid
async fn get_content(
    State(media): State<Media>,
    headers: HeaderMap,
    Incoming { request, .. }: Incoming<get_content::v1::Request>,
) -> Result<Response> {
    let content = media
        .content(&request.server_name, &request.media_id)
        .await?;
    let answer = Answer::file(content, None, Audience::Private);
    answer.to(&headers).await
}

/// `GET /_matrix/client/*/media/download/{serverName}/{mediaId}/{fileName}`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediadownloadservernamemediaidfilename
async fn get_content_as_filename(
    State(media): State<Media>,
    headers: HeaderMap,
    Incoming { request, .. }: Incoming<get_content_as_filename::v1::Request>,
) -> Result<Response> {
    let content = media
        .content(&request.server_name, &request.media_id)
        .await?;
    let answer = Answer::file(content, Some(request.filename), Audience::Private);
    answer.to(&headers).await
}

/// `GET /_matrix/client/*/media/thumbnail/{serverName}/{mediaId}`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid
async fn get_content_thumbnail(
    State(media): State<Media>,
    headers: HeaderMap,
    Incoming { request, .. }: Incoming<get_content_thumbnail::v1::Request>,
) -> Result<Response> {
    let thumbnail = Thumbnail {
        server_name: request.server_name,
        media_id: request.media_id,
        width: request.width,
        height: request.height,
        method: request.method,
        animated: request.animated,
    };
    thumbnail.answer(&media, Audience::Private, &headers).await
}

/// `GET /_matrix/client/*/media/config`
///
/// [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediaconfig
async fn get_media_config(
    State(media): State<Media>,
    _: Incoming<get_media_config::v1::Request>,
) -> Outgoing<get_media_config::v1::Response> {
    Outgoing(get_media_config::v1::Response::new(upload_size(&media)))
}

fn upload_size(media: &Media) -> UInt {
    UInt::try_from(media.max_upload_bytes()).unwrap_or(UInt::MAX)
}

/// What the two endpoints for thumbnails are asked.
struct Thumbnail {
    server_name: OwnedServerName,
    media_id: String,
    width: UInt,
    height: UInt,
    method: Option<Method>,
    animated: Option<bool>,
}

impl Thumbnail {
    async fn answer(
        self,
        media: &Media,
        audience: Audience,
        headers: &HeaderMap,
    ) -> Result<Response> {
        let (width, height) = (self.width.into(), self.height.into());
        let wanted = Wanted::new(width, height, self.method.as_ref()).ok_or_else(|| {
            Error::CannotThumbnail("there is no thumbnail of this size and method".to_owned())
        })?;
        // "When not provided, the server SHOULD NOT return an animated thumbnail."
        let animated = self.animated.unwrap_or(false);
        let content = media
            .thumbnail(&self.server_name, &self.media_id, wanted, animated)
            .await?;
        Answer::thumbnail(content, audience).to(headers).await
    }
}
