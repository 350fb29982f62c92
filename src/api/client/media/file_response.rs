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
    media::Content,
};

/// The part of a file that is held in memory during a download.
const BUFFER: usize = 64 * 1024;
/// "The recommended policy"
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#content-repository).
const POLICY: &str = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
                      style-src 'unsafe-inline'; object-src 'self';";
/// "Servers SHOULD restrict `Content-Type` headers to one of the following values when serving content with
/// `Content-Disposition: inline`"
///
/// See the [specification](https://spec.matrix.org/v1.19/client-server-api/#serving-inline-content).
const INLINE: [&str; 26] = [
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
const SCRIPTS: [&str; 16] = [
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
const DESTINATIONS: [&str; 6] = ["empty", "image", "audio", "video", "track", DOCUMENT];
const DOCUMENT: &str = "document";

/// Says whether everyone may see the file, and so whether shared caches may keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Audience {
    Public,
    Private,
}

/// A response with a file.
pub(super) struct Answer {
    content: Content,
    disposition: ContentDisposition,
    audience: Audience,
}

/// The requested bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Span {
    Whole,
    /// `length` bytes, starting at `first`.
    Part {
        first: u64,
        length: u64,
    },
    Nothing,
}

impl Answer {
    /// Returns the response for an upload. A file name in the request replaces the name from the upload.
    pub(super) fn file(
        mut content: Content,
        file_name: Option<String>,
        audience: Audience,
    ) -> Self {
        content.file_name = file_name.or(content.file_name);
        Self {
            disposition: disposition_of_file(&content),
            content,
            audience,
        }
    }

    /// Returns the response for a thumbnail, an image of a type that this server chose.
    pub(super) fn thumbnail(content: Content, audience: Audience) -> Self {
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
    pub(super) async fn to(mut self, request: &HeaderMap) -> Result<Response> {
        let destination = request.get(SEC_FETCH_DEST).map(HeaderValue::as_bytes);
        if !destination.is_none_or(may_become) {
            return Err(Error::forbidden(
                "a user's file can be shown or saved, but not run",
            ));
        }
        if destination == Some(DOCUMENT.as_bytes()) {
            self.disposition.disposition_type = ContentDispositionType::Attachment;
        }
        let etag = format!("\"{}\"", self.content.hash);
        let mut headers = self.headers(&etag)?;
        if names(request, &IF_NONE_MATCH, &etag) {
            headers.remove(CONTENT_LENGTH);
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        let size = self.content.size;
        let mut file = self.content.file;
        let is_other = request.contains_key(IF_RANGE) && !names(request, &IF_RANGE, &etag);
        let span = match request.get(RANGE).and_then(|range| range.to_str().ok()) {
            Some(range) if !is_other => span(range, size),
            _ => Span::Whole,
        };
        let (status, length) = match span {
            Span::Whole => (StatusCode::OK, size),
            Span::Nothing => return Ok(not_in_file(size)),
            Span::Part { first, length } => {
                file.seek(SeekFrom::Start(first))
                    .await
                    .map_err(|source| Error::internal("read a media file", source))?;
                let last = first.saturating_add(length).saturating_sub(1);
                let range = format!("bytes {first}-{last}/{size}");
                headers.insert(CONTENT_RANGE, value(range)?);
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                (StatusCode::PARTIAL_CONTENT, length)
            }
        };
        let bytes = ReaderStream::with_capacity(file.take(length), BUFFER);
        Ok((status, headers, Body::from_stream(bytes)).into_response())
    }

    fn headers(&self, etag: &str) -> Result<HeaderMap> {
        // The content of a media id never changes.
        let cache = match self.audience {
            Audience::Public => "public, max-age=31536000, immutable",
            Audience::Private => "private, max-age=31536000, immutable",
        };
        let fixed = [
            (CONTENT_SECURITY_POLICY, POLICY),
            (CROSS_ORIGIN_RESOURCE_POLICY, "cross-origin"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (CACHE_CONTROL, cache),
            (ACCEPT_RANGES, "bytes"),
        ];
        let mut headers: HeaderMap = fixed
            .map(|(name, text)| (name, HeaderValue::from_static(text)))
            .into_iter()
            .collect();
        headers.insert(CONTENT_TYPE, value(type_of(&self.content))?);
        headers.insert(CONTENT_DISPOSITION, value(self.disposition.to_string())?);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.content.size));
        headers.insert(ETAG, value(etag)?);
        Ok(headers)
    }
}

/// Returns the `Content-Disposition` of an upload.
pub(in crate::api) fn disposition_of_file(content: &Content) -> ContentDisposition {
    let kind = if is_inline(&content.content_type) {
        ContentDispositionType::Inline
    } else {
        ContentDispositionType::Attachment
    };
    ContentDisposition::new(kind).with_filename(content.file_name.clone())
}

/// Returns the `Content-Disposition` of a thumbnail.
pub(in crate::api) fn disposition_of_thumbnail(content: &Content) -> ContentDisposition {
    let extension = content.content_type.trim_start_matches("image/");
    let file_name = format!("thumbnail.{extension}");
    let inline = ContentDisposition::new(ContentDispositionType::Inline);
    inline.with_filename(Some(file_name))
}

fn value(text: impl AsRef<str>) -> Result<HeaderValue> {
    HeaderValue::from_str(text.as_ref()).map_err(|source| Error::internal("write a header", source))
}

/// Returns whether a browser may use a file for this destination.
fn may_become(destination: &[u8]) -> bool {
    DESTINATIONS
        .iter()
        .any(|allowed| allowed.as_bytes() == destination)
}

/// Returns the content type with which a file is served.
fn type_of(content: &Content) -> &str {
    if is_among(&SCRIPTS, &content.content_type) {
        "application/octet-stream"
    } else {
        &content.content_type
    }
}

/// Returns whether a browser may display a file of this type by itself.
fn is_inline(content_type: &str) -> bool {
    is_among(&INLINE, content_type)
}

/// Returns whether a type is in a list, ignoring its parameters and case.
fn is_among(types: &[&str], content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    types
        .iter()
        .any(|listed| essence.eq_ignore_ascii_case(listed))
}

/// Returns whether a header names this content.
fn names(request: &HeaderMap, header: &HeaderName, etag: &str) -> bool {
    let named = request.get(header).and_then(|named| named.to_str().ok());
    named.is_some_and(|named| {
        named.split(',').any(|tag| {
            let tag = tag.trim();
            tag == "*" || tag.trim_start_matches("W/") == etag
        })
    })
}

/// Parses a `Range`. For anything other than a single range of bytes the whole file is sent, as HTTP allows.
fn span(range: &str, size: u64) -> Span {
    let Some((first, last)) = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Span::Whole;
    };
    let (first, last) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last),
        (Ok(first), Err(_)) if last.is_empty() => (first, u64::MAX),
        (Err(_), Ok(0)) if first.is_empty() => return Span::Nothing,
        // The last `length` bytes.
        (Err(_), Ok(length)) if first.is_empty() => (size.saturating_sub(length), u64::MAX),
        _ => return Span::Whole,
    };
    if first >= size {
        return Span::Nothing;
    }
    let end = last.saturating_add(1).min(size);
    Span::Part {
        first,
        length: end - first,
    }
}

fn not_in_file(size: u64) -> Response {
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
        let part = |first, length| Span::Part { first, length };

        assert_eq!(span("bytes=0-3", 10), part(0, 4));
        assert_eq!(span("bytes=4-", 10), part(4, 6));
        assert_eq!(span("bytes=-3", 10), part(7, 3));
        assert_eq!(span("bytes=-30", 10), part(0, 10));
        assert_eq!(span("bytes=8-99", 10), part(8, 2));
        assert_eq!(span(&format!("bytes=0-{}", u64::MAX), 10), part(0, 10));
    }

    #[test]
    fn a_range_outside_the_file_is_not_there() {
        for range in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
            assert_eq!(span(range, 10), Span::Nothing, "{range}");
        }
        assert_eq!(span("bytes=0-", 0), Span::Nothing);
        assert_eq!(span("bytes=-1", 0), Span::Nothing);
    }

    #[test]
    fn what_is_no_single_range_means_the_whole_file() {
        for range in [
            "",
            "bytes=",
            "bytes=-",
            "bytes=3-1",
            "bytes=0-1,4-5",
            "lines=1-2",
        ] {
            assert_eq!(span(range, 10), Span::Whole, "{range}");
        }
    }

    #[test]
    fn only_types_that_run_nothing_are_inline() {
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
