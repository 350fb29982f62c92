//! The deprecated media endpoints, which can serve files without an access token.

#![expect(
    deprecated,
    reason = "the specification keeps these endpoints for clients that know no others"
)]

use axum::{
    Json, Router,
    extract::{FromRequest, Request, State},
    http::HeaderMap,
    response::Response,
};
use ruma::{
    ServerName,
    api::{
        IncomingRequest, Metadata,
        auth_scheme::{AccessToken, NoAccessToken},
        client::media::{
            get_content, get_content_as_filename, get_content_thumbnail, get_media_config,
            get_media_preview,
        },
    },
};

use serde_json::Value;

use super::{
    downloads::DownloadParameters, file_response::FileAudience, thumbnails::ThumbnailParameters,
    upload::max_upload_size,
};
use crate::{
    api::{App, MatrixRequest, MatrixResponse, RequestAuthenticator, endpoint},
    config::LegacyMedia,
    error::{Error, Result},
    media::{Media, RemoteMediaPolicy},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(endpoint::<get_content::v3::Request, _>(get_content))
        .merge(endpoint::<get_content_as_filename::v3::Request, _>(
            get_content_as_filename,
        ))
        .merge(endpoint::<get_content_thumbnail::v3::Request, _>(
            get_content_thumbnail,
        ))
        .merge(endpoint::<get_media_config::v3::Request, _>(
            get_media_config,
        ))
        .merge(endpoint::<get_media_preview::v3::Request, _>(
            get_media_preview,
        ))
}

/// A request whose sender may have no access token.
struct LegacyRequest<R> {
    request: R,
    audience: FileAudience,
    /// Whether only media from before the freeze may be served.
    is_frozen: bool,
}

impl<R> FromRequest<App> for LegacyRequest<R>
where
    R: IncomingRequest + Metadata<Authentication = NoAccessToken> + Send,
{
    type Rejection = Error;

    async fn from_request(request: Request, app: &App) -> Result<Self> {
        let (parts, body) = request.into_parts();
        // A token that is no longer valid counts as none.
        let has_token = AccessToken::authenticate(app, &parts, &[]).await.is_ok();
        let (audience, is_frozen) = match app.config.media.legacy_unauthenticated {
            _ if has_token => (FileAudience::Private, false),
            LegacyMedia::All => (FileAudience::Public, false),
            LegacyMedia::Frozen => (FileAudience::Public, true),
            LegacyMedia::None => return Err(frozen_media_error()),
        };
        let request = Request::from_parts(parts, body);
        let MatrixRequest { request, .. } = MatrixRequest::<R>::from_request(request, app).await?;
        Ok(Self {
            request,
            audience,
            is_frozen,
        })
    }
}

impl<R> LegacyRequest<R> {
    /// Checks that the freeze allows this media to be served.
    ///
    /// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#content-repository).
    async fn check_freeze(&self, media: &Media, server: &ServerName, media_id: &str) -> Result<()> {
        if self.is_frozen && !media.is_before_freeze(server, media_id).await? {
            return Err(frozen_media_error());
        }
        Ok(())
    }
}

fn frozen_media_error() -> Error {
    Error::not_found("this media is not served without an access token")
}

/// `GET /_matrix/media/*/download/{serverName}/{mediaId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3downloadservernamemediaid).
async fn get_content(
    State(media): State<Media>,
    headers: HeaderMap,
    legacy: LegacyRequest<get_content::v3::Request>,
) -> Result<Response> {
    let (server, media_id) = (&legacy.request.server_name, &legacy.request.media_id);
    legacy.check_freeze(&media, server, media_id).await?;
    let LegacyRequest {
        request, audience, ..
    } = legacy;
    let download = DownloadParameters {
        server_name: request.server_name,
        media_id: request.media_id,
        file_name: None,
        timeout: request.timeout_ms,
        remote: remote(request.allow_remote),
    };
    download.respond(&media, audience, &headers).await
}

/// `GET /_matrix/media/*/download/{serverName}/{mediaId}/{fileName}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3downloadservernamemediaidfilename).
async fn get_content_as_filename(
    State(media): State<Media>,
    headers: HeaderMap,
    legacy: LegacyRequest<get_content_as_filename::v3::Request>,
) -> Result<Response> {
    let (server, media_id) = (&legacy.request.server_name, &legacy.request.media_id);
    legacy.check_freeze(&media, server, media_id).await?;
    let LegacyRequest {
        request, audience, ..
    } = legacy;
    let download = DownloadParameters {
        server_name: request.server_name,
        media_id: request.media_id,
        file_name: Some(request.filename),
        timeout: request.timeout_ms,
        remote: remote(request.allow_remote),
    };
    download.respond(&media, audience, &headers).await
}

/// `GET /_matrix/media/*/thumbnail/{serverName}/{mediaId}`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3thumbnailservernamemediaid).
async fn get_content_thumbnail(
    State(media): State<Media>,
    headers: HeaderMap,
    legacy: LegacyRequest<get_content_thumbnail::v3::Request>,
) -> Result<Response> {
    let (server, media_id) = (&legacy.request.server_name, &legacy.request.media_id);
    legacy.check_freeze(&media, server, media_id).await?;
    let LegacyRequest {
        request, audience, ..
    } = legacy;
    let thumbnail = ThumbnailParameters {
        server_name: request.server_name,
        media_id: request.media_id,
        width: request.width,
        height: request.height,
        method: request.method,
        animated: request.animated,
        timeout: request.timeout_ms,
        remote: remote(request.allow_remote),
    };
    thumbnail.respond(&media, audience, &headers).await
}

fn remote(is_allowed: bool) -> RemoteMediaPolicy {
    if is_allowed {
        RemoteMediaPolicy::Fetch
    } else {
        RemoteMediaPolicy::LocalOnly
    }
}

/// `GET /_matrix/media/*/config`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3config).
async fn get_media_config(
    State(media): State<Media>,
    _: MatrixRequest<get_media_config::v3::Request>,
) -> MatrixResponse<get_media_config::v3::Response> {
    MatrixResponse(get_media_config::v3::Response::new(max_upload_size(&media)))
}

/// `GET /_matrix/media/*/preview_url`
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixmediav3preview_url).
async fn get_media_preview(
    State(media): State<Media>,
    MatrixRequest { request, .. }: MatrixRequest<get_media_preview::v3::Request>,
) -> Result<Json<Value>> {
    Ok(Json(media.preview(&request.url).await?.into()))
}
