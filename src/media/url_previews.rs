//! Previews of the pages that messages link to. This server fetches the pages so that clients do not have to.
//!
//! See the [specification](https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1mediapreview_url).

use std::{
    collections::HashMap,
    io::Cursor,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use encoding_rs::{Encoding, UTF_8};
use futures_util::stream;
use image::ImageReader;
use reqwest::{Client, Response, Url, header::CONTENT_TYPE};
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::{FileDescription, Media, clean_content_type, new_media_id, open_graph};
use crate::{
    config::UrlPreviewsSection,
    error::{Error, Result},
    outbound::{self, NetworkReach},
};

/// The part of a page that is read, in bytes. Its properties are near the beginning.
const MAX_PAGE_BYTES: usize = 1024 * 1024;
/// The largest image of a page, in bytes.
const MAX_IMAGE_BYTES: usize = 8 * 1024 * 1024;
/// The time limit for a page, and again for its image.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest URL, in bytes.
const MAX_URL_BYTES: usize = 4096;
/// The number of pages that are fetched at the same time; further ones have to wait.
const MAX_CONCURRENT_PREVIEWS: usize = 8;
/// The number of previews in the cache, and their lifetime in milliseconds.
const MAX_CACHED_PREVIEWS: usize = 1_000;
const PREVIEW_LIFETIME_MS: i64 = 60 * 60 * 1000;

/// Fetches pages, and caches their previews.
#[derive(Clone)]
pub(super) struct UrlPreviewer {
    inner: Arc<UrlPreviewerInner>,
}

struct UrlPreviewerInner {
    client: Client,
    reach: NetworkReach,
    fetch_permits: Semaphore,
    cache: Mutex<HashMap<String, CachedPreview>>,
}

struct CachedPreview {
    preview: Map<String, Value>,
    expires_ms: i64,
}

impl UrlPreviewer {
    /// Sets up previews; `None` if they are disabled in the configuration.
    pub(super) fn open(config: &UrlPreviewsSection) -> Result<Option<Self>> {
        if !config.enabled {
            return Ok(None);
        }
        let reach = if config.allow_private_addresses {
            NetworkReach::Everywhere
        } else {
            NetworkReach::Public
        };
        let inner = UrlPreviewerInner {
            client: outbound::web_client(reach)?,
            reach,
            fetch_permits: Semaphore::new(MAX_CONCURRENT_PREVIEWS),
            cache: Mutex::default(),
        };
        Ok(Some(Self {
            inner: Arc::new(inner),
        }))
    }

    fn lock_cache(&self) -> MutexGuard<'_, HashMap<String, CachedPreview>> {
        let seen = self.inner.cache.lock();
        seen.unwrap_or_else(PoisonError::into_inner)
    }

    fn cached_preview(&self, url: &Url, now: i64) -> Option<Map<String, Value>> {
        let seen = self.lock_cache();
        let seen = seen.get(url.as_str()).filter(|seen| seen.expires_ms > now);
        seen.map(|seen| seen.preview.clone())
    }

    fn cache_preview(&self, url: &Url, preview: &Map<String, Value>, now: i64) {
        let mut seen = self.lock_cache();
        if seen.len() >= MAX_CACHED_PREVIEWS {
            seen.retain(|_, seen| seen.expires_ms > now);
        }
        if seen.len() >= MAX_CACHED_PREVIEWS {
            seen.clear();
        }
        let preview = preview.clone();
        let until = now.saturating_add(PREVIEW_LIFETIME_MS);
        seen.insert(
            url.to_string(),
            CachedPreview {
                preview,
                expires_ms: until,
            },
        );
    }

    /// Fetches a URL, if its address is permitted.
    async fn fetch_url(&self, url: &Url) -> Result<Response> {
        outbound::check_url(url, self.inner.reach)?;
        let unreachable = |error: reqwest::Error| {
            tracing::debug!(%error, "a page could not be fetched for a preview");
            Error::Unreachable("the page cannot be reached".to_owned())
        };
        let request = self.inner.client.get(url.clone()).timeout(FETCH_TIMEOUT);
        let response = request.send().await.map_err(unreachable)?;
        response.error_for_status().map_err(unreachable)
    }
}

impl Media {
    /// Returns the preview of a page. Its image is stored as media of this server.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when previews are disabled; [`Error::InvalidParam`] for an invalid URL; [`Error::Forbidden`]
    /// for an address that is not permitted; [`Error::Unreachable`].
    #[tracing::instrument(skip_all, err(level = "debug"))]
    pub async fn preview(&self, url: &str) -> Result<Map<String, Value>> {
        let previews = self.previews.as_ref();
        let previews =
            previews.ok_or_else(|| Error::not_found("URL previews are disabled on this server"))?;
        let mut url = Some(url)
            .filter(|url| url.len() <= MAX_URL_BYTES)
            .and_then(|url| Url::parse(url).ok())
            .ok_or_else(|| Error::invalid_param("url is not a valid URL"))?;
        url.set_fragment(None);
        if let Some(preview) = previews.cached_preview(&url, self.clock.now_ms()) {
            return Ok(preview);
        }
        // The semaphore is never closed.
        let _place = previews.inner.fetch_permits.acquire().await.ok();
        // Another request may have fetched the page while this one waited.
        let now = self.clock.now_ms();
        if let Some(preview) = previews.cached_preview(&url, now) {
            return Ok(preview);
        }
        let preview = self.fetch_preview(previews, &url).await?;
        previews.cache_preview(&url, &preview, now);
        Ok(preview)
    }

    async fn fetch_preview(
        &self,
        previews: &UrlPreviewer,
        url: &Url,
    ) -> Result<Map<String, Value>> {
        let response = previews.fetch_url(url).await?;
        let content_type = content_type(&response);
        // The URL after redirects, which is the base of relative URLs.
        let base = response.url().clone();
        let mut preview = Map::new();
        if content_type.starts_with("image/") {
            let image = read_body(response, MAX_IMAGE_BYTES, ExcessTreatment::Refuse).await?;
            self.add_image(&mut preview, &content_type, image).await?;
        } else if content_type.starts_with("text/html") || content_type.contains("xhtml") {
            let html = read_body(response, MAX_PAGE_BYTES, ExcessTreatment::Cut).await?;
            let properties = open_graph::read_properties(&decode_page(&html, &content_type));
            let image = properties.get("og:image").cloned();
            let texts = properties.into_iter();
            let texts = texts.filter(|(property, _)| !property.starts_with("og:image"));
            preview.extend(texts.map(|(property, value)| (property, value.into())));
            if let Some(image) = image.and_then(|image| base.join(&image).ok())
                && let Err(error) = self
                    .fetch_preview_image(previews, &image, &mut preview)
                    .await
            {
                // A preview without its image is still useful.
                tracing::debug!(%error, "the image of a page could not be fetched");
            }
        }
        Ok(preview)
    }

    async fn fetch_preview_image(
        &self,
        previews: &UrlPreviewer,
        url: &Url,
        preview: &mut Map<String, Value>,
    ) -> Result<()> {
        let response = previews.fetch_url(url).await?;
        let content_type = content_type(&response);
        if !content_type.starts_with("image/") {
            return Err(Error::not_found(
                "the image URL of the page is not an image",
            ));
        }
        let image = read_body(response, MAX_IMAGE_BYTES, ExcessTreatment::Refuse).await?;
        self.add_image(preview, &content_type, image).await
    }

    /// Stores an image, and adds its URI and size to a preview.
    async fn add_image(
        &self,
        preview: &mut Map<String, Value>,
        content_type: &str,
        image: Bytes,
    ) -> Result<()> {
        let size = image.len();
        let mut add = |name: &str, value: Value| preview.insert(name.to_owned(), value);
        let reader = ImageReader::new(Cursor::new(&image)).with_guessed_format();
        if let Some((width, height)) = reader.ok().and_then(|image| image.into_dimensions().ok()) {
            add("og:image:width", width.into());
            add("og:image:height", height.into());
        }
        let address = self.store_fetched_file(content_type, image).await?;
        add("og:image", address.into());
        add("og:image:type", content_type.into());
        add("matrix:image:size", size.into());
        Ok(())
    }

    /// Stores a file that was not uploaded by a user.
    async fn store_fetched_file(&self, content_type: &str, file: Bytes) -> Result<String> {
        let parts = stream::iter([Ok::<_, std::io::Error>(file)]);
        let arriving = self.receive_file(parts, self.max_upload_bytes).await?;
        let stored = arriving.finish().await?;
        let (media_id, content_type) = (new_media_id(), clean_content_type(Some(content_type)));
        let mut tx = self.db.write().await?;
        let description = FileDescription {
            uploader: None,
            content_type: &content_type,
            file_name: None,
        };
        let address = self.own_address(&media_id);
        self.store_metadata(&mut tx, address, stored, description)
            .await?;
        tx.commit().await?;
        Ok(format!("mxc://{}/{media_id}", self.server_name))
    }
}

/// The treatment of data beyond the limit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ExcessTreatment {
    Cut,
    Refuse,
}

async fn read_body(
    mut response: Response,
    limit: usize,
    too_long: ExcessTreatment,
) -> Result<Bytes> {
    let mut whole = Vec::new();
    loop {
        let part = response.chunk().await;
        let part = part
            .map_err(|_| Error::Unreachable("the page could not be read to its end".to_owned()))?;
        let Some(part) = part else {
            return Ok(whole.into());
        };
        whole.extend_from_slice(&part);
        if whole.len() > limit {
            if too_long == ExcessTreatment::Refuse {
                return Err(Error::Unreachable("the image is too large".to_owned()));
            }
            whole.truncate(limit);
            return Ok(whole.into());
        }
    }
}

fn content_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_lowercase()
}

/// Decodes a page, by the encoding in its content type or in the page itself.
fn decode_page(page: &[u8], content_type: &str) -> String {
    let charset = content_type.split_once("charset=").map(|(_, label)| label);
    let charset = charset.map(|label| label.trim_matches(['"', '\'', ' ']).to_owned());
    let charset = charset.or_else(|| declared_charset(page));
    let encoding = charset.and_then(|label| Encoding::for_label(label.as_bytes()));
    let (text, _, _) = encoding.unwrap_or(UTF_8).decode(page);
    text.into_owned()
}

/// Finds `<meta charset=…>` at the beginning of a page.
fn declared_charset(page: &[u8]) -> Option<String> {
    const SEARCHED_BYTES: usize = 1024;
    let beginning = page.get(..SEARCHED_BYTES).unwrap_or(page);
    let beginning = String::from_utf8_lossy(beginning).to_lowercase();
    let (_, rest) = beginning.split_once("charset=")?;
    let label = rest.trim_start_matches(['"', '\'']);
    let end = label.find(|c: char| !(c.is_ascii_alphanumeric() || "-_:".contains(c)))?;
    label.get(..end).map(ToOwned::to_owned)
}
