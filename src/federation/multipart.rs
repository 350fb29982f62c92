//! Parses `multipart/mixed`, the format in which other servers send media, as it arrives.
//!
//! See the [specification](https://spec.matrix.org/v1.19/server-server-api/#content-repository).

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream::BoxStream};
use reqwest::{
    Response,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};

use super::RequestFailure;

/// The longest headers of a part, in bytes.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// The longest boundary ("no more than 70 characters" by RFC 2046, with some margin).
const MAX_BOUNDARY_BYTES: usize = 200;

/// The parts of a response, read one after another.
pub struct MultipartReader {
    bytes: BoxStream<'static, reqwest::Result<Bytes>>,
    /// The separator between parts: a line break, two dashes and the boundary.
    delimiter: Vec<u8>,
    /// Bytes that have arrived and were not returned yet.
    buffer: BytesMut,
    is_complete: bool,
}

/// The headers of a part.
#[derive(Clone, Debug, Default)]
pub struct MultipartPart {
    pub headers: HeaderMap,
}

impl MultipartReader {
    /// Starts to read the parts of a response.
    ///
    /// # Errors
    ///
    /// When the response is not `multipart/mixed`.
    pub fn from_response(response: Response) -> Result<Self, RequestFailure> {
        let content_type = response.headers().get(CONTENT_TYPE);
        let content_type = content_type.and_then(|value| value.to_str().ok());
        let boundary = content_type
            .and_then(parse_boundary)
            .ok_or_else(|| unreadable_answer("it is not multipart/mixed"))?;
        Ok(Self::new(&boundary, response.bytes_stream()))
    }

    fn new(
        boundary: &str,
        bytes: impl Stream<Item = reqwest::Result<Bytes>> + Send + 'static,
    ) -> Self {
        Self {
            bytes: bytes.boxed(),
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            // The first delimiter may be at the very beginning, without a line break before it.
            buffer: BytesMut::from(&b"\r\n"[..]),
            is_complete: false,
        }
    }

    /// Skips the rest of the current part and returns the next one; `None` after the last.
    ///
    /// # Errors
    ///
    /// When the response breaks off, or is malformed.
    pub async fn next_part(&mut self) -> Result<Option<MultipartPart>, RequestFailure> {
        while self.next_chunk().await?.is_some() {}
        self.skip_bytes(self.delimiter.len());
        while self.buffer.len() < 2 && self.read_more().await? {}
        // Two dashes follow the last part; some servers leave them out.
        if self.buffer.len() < 2 || self.buffer.starts_with(b"--") {
            return Ok(None);
        }
        let mut part = MultipartPart::default();
        // The rest of the delimiter's line is blank.
        self.next_line().await?;
        let mut size = 0_usize;
        loop {
            let line = self.next_line().await?;
            size = size.saturating_add(line.len());
            if size > MAX_HEADER_BYTES {
                return Err(unreadable_answer("a part has too many headers"));
            }
            let line = line.trim_ascii();
            if line.is_empty() {
                return Ok(Some(part));
            }
            // A malformed header is ignored.
            let _ = insert_header(&mut part.headers, line);
        }
    }

    /// Returns the next bytes of the current part; `None` at its end.
    ///
    /// # Errors
    ///
    /// When the response breaks off.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, RequestFailure> {
        loop {
            let end = find_delimiter(&self.buffer, &self.delimiter);
            if end == Some(0) {
                return Ok(None);
            }
            // Bytes that could be the start of a delimiter are held back.
            let open = self.delimiter.len() - 1;
            let ready = end.unwrap_or_else(|| self.buffer.len().saturating_sub(open));
            if ready > 0 {
                return Ok(Some(self.buffer.split_to(ready).freeze()));
            }
            if !self.read_more().await? {
                return Err(unreadable_answer("it breaks off"));
            }
        }
    }

    /// Returns the next line, including its line break.
    async fn next_line(&mut self) -> Result<Bytes, RequestFailure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(self.buffer.split_to(end + 1).freeze());
            }
            if self.buffer.len() > MAX_HEADER_BYTES {
                return Err(unreadable_answer("a part has too many headers"));
            }
            if !self.read_more().await? {
                return Err(unreadable_answer("it breaks off"));
            }
        }
    }

    fn skip_bytes(&mut self, length: usize) {
        drop(self.buffer.split_to(length.min(self.buffer.len())));
    }

    /// Waits for more bytes; returns `false` at the end of the response.
    async fn read_more(&mut self) -> Result<bool, RequestFailure> {
        if self.is_complete {
            return Ok(false);
        }
        match self.bytes.next().await {
            Some(Ok(bytes)) => {
                self.buffer.extend_from_slice(&bytes);
                Ok(true)
            }
            Some(Err(error)) => Err(unreadable_answer(&error.without_url().to_string())),
            None => {
                self.is_complete = true;
                Ok(false)
            }
        }
    }
}

fn unreadable_answer(what: &str) -> RequestFailure {
    RequestFailure::Unreachable(format!("the other server's answer cannot be read: {what}"))
}

/// Returns the boundary in a content type.
fn parse_boundary(content_type: &str) -> Option<String> {
    let mut parameters = content_type.split(';');
    let essence = parameters.next()?.trim();
    if !essence.eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let boundary = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("boundary")
            .then(|| value.trim().trim_matches('"').to_owned())
    })?;
    (1..=MAX_BOUNDARY_BYTES)
        .contains(&boundary.len())
        .then_some(boundary)
}

/// Parses a line and inserts its header; `None` if it is malformed.
fn insert_header(headers: &mut HeaderMap, line: &[u8]) -> Option<()> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = line.split_at(colon);
    let name = HeaderName::from_bytes(name.trim_ascii()).ok()?;
    let value = HeaderValue::from_bytes(value.get(1..)?.trim_ascii()).ok()?;
    headers.insert(name, value);
    Some(())
}

/// Returns the first position of a delimiter, which begins with a line break.
fn find_delimiter(bytes: &[u8], delimiter: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let rest = bytes.get(from..)?;
        let next = rest.iter().position(|byte| *byte == b'\r')?;
        if rest.get(next..)?.starts_with(delimiter) {
            return Some(from + next);
        }
        from += next + 1;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    /// Reads a response that arrives in chunks of `size` bytes.
    async fn read(text: &str, size: usize) -> Result<Vec<(MultipartPart, String)>, RequestFailure> {
        let pieces: Vec<_> = text
            .as_bytes()
            .chunks(size)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        let mut parts = MultipartReader::new("abc", stream::iter(pieces));
        let mut found = Vec::new();
        while let Some(part) = parts.next_part().await? {
            let mut body = Vec::new();
            while let Some(chunk) = parts.next_chunk().await? {
                body.extend_from_slice(&chunk);
            }
            found.push((part, String::from_utf8(body).unwrap()));
        }
        Ok(found)
    }

    #[tokio::test]
    async fn parts_are_read_from_chunks_of_any_size() {
        let text = "--abc\r\nContent-Type: application/json\r\n\r\n{}\r\n--abc\r\n\
                    Content-Type: text/plain\r\nX-A:  b \r\n\r\none\r\n--ab\rtwo\r\n--abc--\r\n";
        for size in 1..=text.len() {
            let parts = read(text, size).await.unwrap();

            let bodies: Vec<&str> = parts.iter().map(|(_, body)| &**body).collect();
            assert_eq!(bodies, ["{}", "one\r\n--ab\rtwo"], "{size}");
            assert_eq!(parts[1].0.headers["x-a"], "b");
            assert_eq!(parts[1].0.headers[CONTENT_TYPE], "text/plain");
        }
    }

    #[tokio::test]
    async fn a_preamble_is_skipped_and_the_last_dashes_are_optional() {
        let parts = read("hello\r\n--abc\r\n\r\none\r\n--abc", 4).await.unwrap();

        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].1, "one");
        let empty = read("--abc\n\n\r\n--abc--", 3).await.unwrap();
        assert_eq!(empty[0].1, "");
    }

    #[tokio::test]
    async fn a_response_that_breaks_off_is_an_error() {
        let long = format!("--abc\r\n{}", "A: b\r\n".repeat(MAX_HEADER_BYTES));
        for text in ["", "--abc", "--abc\r\nA: b", "--abc\r\n\r\none", &long] {
            let read = read(text, 1_000).await;
            // The response may end directly after a delimiter.
            assert!(read.is_err() || text == "--abc", "{text}");
        }
    }

    #[test]
    fn the_boundary_is_read_from_the_content_type() {
        let found = |content_type| parse_boundary(content_type);

        assert_eq!(found("multipart/mixed; boundary=a").as_deref(), Some("a"));
        let quoted = "Multipart/Mixed;charset=x; Boundary=\"a b\"";
        assert_eq!(found(quoted).as_deref(), Some("a b"));
        assert_eq!(found("multipart/mixed"), None);
        assert_eq!(found("multipart/form-data; boundary=a"), None);
        assert_eq!(found("multipart/mixed; boundary="), None);
    }
}
