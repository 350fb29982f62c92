//! The response for a file. Its headers keep a browser from misusing the file.

use std::io::SeekFrom;

use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
            CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};
use ruma::http_headers::{
    CROSS_ORIGIN_RESOURCE_POLICY, ContentDisposition, ContentDispositionType,
};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::{
    error::{Error, Result},
    media::MediaContent,
};

/// The part of a file that is held in memory during a download.
const DOWNLOAD_BUFFER_BYTES: usize = 64 * 1024;
/// "The recommended policy"
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#content-repository).
const FILE_SECURITY_POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";
/// "Servers SHOULD restrict `Content-Type` headers to one of the following values when serving content with
/// `Content-Disposition: inline`"
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content).
const INLINE_CONTENT_TYPES: [&str; 26] = [
    "text/css",
    "text/plain",
    "text/csv",
    "application/json",
    "application/ld+json",
    "image/jpeg",
    "image/gif",
    "image/png",
    "image/apng",
    "image/webp",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/ogg",
    "video/quicktime",
    "audio/mp4",
    "audio/webm",
    "audio/aac",
    "audio/mpeg",
    "audio/ogg",
    "audio/wave",
    "audio/wav",
    "audio/x-wav",
    "audio/x-pn-wav",
    "audio/flac",
    "audio/x-flac",
];

/// The types that a browser runs as a script. No file is served with one of them, so with `nosniff` no page can run it.
///
/// See [MIME Sniffing Standard](https://mimesniff.spec.whatwg.org/#javascript-mime-type).
const SCRIPT_CONTENT_TYPES: [&str; 16] = [
    "application/ecmascript",
    "application/javascript",
    "application/x-ecmascript",
    "application/x-javascript",
    "text/ecmascript",
    "text/javascript",
    "text/javascript1.0",
    "text/javascript1.1",
    "text/javascript1.2",
    "text/javascript1.3",
    "text/javascript1.4",
    "text/javascript1.5",
    "text/jscript",
    "text/livescript",
    "text/x-ecmascript",
    "text/x-javascript",
];
/// The header in which a browser announces the use of a response.
///
/// See [Fetch Metadata](https://www.w3.org/TR/fetch-metadata/#sec-fetch-dest-header).
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");
/// The uses of a user's file that a browser may make: showing it in a page, or passing it to a script as data. A file
/// that would become a document is saved instead.
const ALLOWED_DESTINATIONS: [&str; 6] = [
    "empty",
    "image",
    "audio",
    "video",
    "track",
    DOCUMENT_DESTINATION,
];
const DOCUMENT_DESTINATION: &str = "document";

/// Says whether everyone may see the file, and so whether shared caches may keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileAudience {
    Public,
    Private,
}

/// A response with a file.
pub(super) struct FileResponse {
    content: MediaContent,
    disposition: ContentDisposition,
    audience: FileAudience,
}

/// The requested bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestedRange {
    Whole,
    /// `length` bytes, starting at `first`.
    Part {
        first: u64,
        length: u64,
    },
    Nothing,
}

impl FileResponse {
    /// Returns the response for an upload. A file name in the request replaces the name from the upload.
    pub(super) fn file(
        mut content: MediaContent,
        file_name: Option<String>,
        audience: FileAudience,
    ) -> Self {
        content.file_name = file_name.or(content.file_name);
        Self {
            disposition: disposition_of_file(&content),
            content,
            audience,
        }
    }

    /// Returns the response for a thumbnail, an image of a type that this server chose.
    pub(super) fn thumbnail(content: MediaContent, audience: FileAudience) -> Self {
        Self {
            disposition: disposition_of_thumbnail(&content),
            content,
            audience,
        }
    }

    /// Returns the response to a request with these headers.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] when a browser would run the file or make it part of a page.
    pub(super) async fn respond_to(mut self, request: &HeaderMap) -> Result<Response> {
        let destination = request.get(SEC_FETCH_DEST).map(HeaderValue::as_bytes);
        if !destination.is_none_or(is_allowed_destination) {
            return Err(Error::forbidden(
                "a user's file can be shown or saved, but not run",
            ));
        }
        if destination == Some(DOCUMENT_DESTINATION.as_bytes()) {
            self.disposition.disposition_type = ContentDispositionType::Attachment;
        }
        let etag = format!("\"{}\"", self.content.hash);
        let mut headers = self.headers(&etag)?;
        if matches_etag(request, &IF_NONE_MATCH, &etag) {
            headers.remove(CONTENT_LENGTH);
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        let size = self.content.size;
        let mut file = self.content.file;
        let is_other = request.contains_key(IF_RANGE) && !matches_etag(request, &IF_RANGE, &etag);
        let span = match request.get(RANGE).and_then(|range| range.to_str().ok()) {
            Some(range) if !is_other => parse_range(range, size),
            _ => RequestedRange::Whole,
        };
        let (status, length) = match span {
            RequestedRange::Whole => (StatusCode::OK, size),
            RequestedRange::Nothing => return Ok(range_not_satisfiable(size)),
            RequestedRange::Part { first, length } => {
                file.seek(SeekFrom::Start(first))
                    .await
                    .map_err(|source| Error::internal("read a media file", source))?;
                let last = first.saturating_add(length).saturating_sub(1);
                let range = format!("bytes {first}-{last}/{size}");
                headers.insert(CONTENT_RANGE, header_value(range)?);
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                (StatusCode::PARTIAL_CONTENT, length)
            }
        };
        let bytes = ReaderStream::with_capacity(file.take(length), DOWNLOAD_BUFFER_BYTES);
        Ok((status, headers, Body::from_stream(bytes)).into_response())
    }

    fn headers(&self, etag: &str) -> Result<HeaderMap> {
        // The content of a media id never changes.
        let cache = match self.audience {
            FileAudience::Public => "public, max-age=31536000, immutable",
            FileAudience::Private => "private, max-age=31536000, immutable",
        };
        let fixed = [
            (CONTENT_SECURITY_POLICY, FILE_SECURITY_POLICY),
            (CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (CACHE_CONTROL, cache),
            (ACCEPT_RANGES, "bytes"),
        ];
        let mut headers: HeaderMap = fixed
            .map(|(name, text)| (name, HeaderValue::from_static(text)))
            .into_iter()
            .collect();
        headers.insert(
            CONTENT_TYPE,
            header_value(served_content_type(&self.content))?,
        );
        headers.insert(
            CONTENT_DISPOSITION,
            header_value(self.disposition.to_string())?,
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.content.size));
        headers.insert(ETAG, header_value(etag)?);
        Ok(headers)
    }
}

/// Returns the `Content-Disposition` of an upload.
pub(in crate::api) fn disposition_of_file(content: &MediaContent) -> ContentDisposition {
    let kind = if is_inline(&content.content_type) {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    };
    ContentDisposition::new(kind).with_filename(content.file_name.clone())
}

/// Returns the `Content-Disposition` of a thumbnail.
pub(in crate::api) fn disposition_of_thumbnail(content: &MediaContent) -> ContentDisposition {
    let extension = content.content_type.trim_start_matches("image/");
    let file_name = format!("thumbnail.{extension}");
    let inline = ContentDisposition::new(ContentDispositionType::Inline);
    inline.with_filename(Some(file_name))
}

fn header_value(text: impl AsRef<str>) -> Result<HeaderValue> {
    HeaderValue::from_str(text.as_ref()).map_err(|source| Error::internal("write a header", source))
}

/// Returns whether a browser may use a file for this destination.
fn is_allowed_destination(destination: &[u8]) -> bool {
    ALLOWED_DESTINATIONS
        .iter()
        .any(|allowed| allowed.as_bytes() == destination)
}

/// Returns the content type with which a file is served.
fn served_content_type(content: &MediaContent) -> &str {
    if contains_content_type(&SCRIPT_CONTENT_TYPES, &content.content_type) {
        "application/octet-stream"
    } else {
        &content.content_type
    }
}

/// Returns whether a browser may display a file of this type by itself.
fn is_inline(content_type: &str) -> bool {
    contains_content_type(&INLINE_CONTENT_TYPES, content_type)
}

/// Returns whether a type is in a list, ignoring its parameters and case.
fn contains_content_type(types: &[&str], content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    types
        .iter()
        .any(|listed| essence.eq_ignore_ascii_case(listed))
}

/// Returns whether a header names this content.
fn matches_etag(request: &HeaderMap, header: &HeaderName, etag: &str) -> bool {
    let named = request.get(header).and_then(|named| named.to_str().ok());
    named.is_some_and(|named| {
        named.split(',').any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.trim_start_matches("W/") == etag
        })
    })
}

/// Parses a `Range`. For anything other than a single range of bytes the whole file is sent, as HTTP allows.
fn parse_range(range: &str, size: u64) -> RequestedRange {
    let Some((first, last)) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return RequestedRange::Whole;
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last),
        (Ok(first), Err(_)) if last.is_empty() => (first, u64::MAX),
        (Err(_), Ok(0)) if first.is_empty() => return RequestedRange::Nothing,
        // The last `length` bytes.
        (Err(_), Ok(length)) if first.is_empty() => (size.saturating_sub(length), u64::MAX),
        _ => return RequestedRange::Whole,
    };
    if first >= size {
        return RequestedRange::Nothing;
    }
    let end = last.saturating_add(1).min(size);
    RequestedRange::Part {
        first,
        length: end - first,
    }
}

fn range_not_satisfiable(size: u64) -> Response {
    let mut response = Error::invalid_param("the range is outside the file").into_response();
    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
    if let Ok(range) = HeaderValue::try_from(format!("bytes */{size}")) {
        response.headers_mut().insert(CONTENT_RANGE, range);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_range_is_read() {
        let part = |first, length| RequestedRange::Part { first, length };

        assert_eq!(parse_range("bytes=0-3", 10), part(0, 4));
        assert_eq!(parse_range("bytes=4-", 10), part(4, 6));
        assert_eq!(parse_range("bytes=-3", 10), part(7, 3));
        assert_eq!(parse_range("bytes=-30", 10), part(0, 10));
        assert_eq!(parse_range("bytes=8-99", 10), part(8, 2));
        assert_eq!(
            parse_range(&format!("bytes=0-{}", u64::MAX), 10),
            part(0, 10)
        );
    }

    #[test]
    fn a_range_outside_the_file_is_not_satisfiable() {
        for range in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(parse_range(range, 10), RequestedRange::Nothing, "{range}");
        }
        assert_eq!(parse_range("bytes=0-", 0), RequestedRange::Nothing);
        assert_eq!(parse_range("bytes=-1", 0), RequestedRange::Nothing);
    }

    #[test]
    fn an_unsupported_range_means_the_whole_file() {
        for range in [
            "",
            "bytes=",
            "bytes=-",
            "bytes=3-1",
            "bytes=0-1,4-5",
            "lines=1-2",
        ] {
            assert_eq!(parse_range(range, 10), RequestedRange::Whole, "{range}");
        }
    }

    #[test]
    fn types_that_run_scripts_are_not_inline() {
        for inline in ["image/png", "Text/Plain; charset=utf-8", "text/css;a=b"] {
            assert!(is_inline(inline), "{inline}");
        }
        for attached in [
            "text/html",
            "image/svg+xml",
            "img/png",
            "",
            "image/png,text/html",
        ] {
            assert!(!is_inline(attached), "{attached}");
        }
    }
}
