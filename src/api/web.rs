//! The chat page at `/` and its service worker, which `build.rs` builds from `web/`. A server built without them shows a
//! short page that explains how to connect a client.

mod welcome;

use axum::{
    Router,
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{
            ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY,
            CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use ruma::serde::{Base64, base64::UrlSafe};
use sha2::{Digest, Sha256};

use super::{
    app::App,
    endpoint::{PathParams, unknown_path},
};
use crate::config::Config;

/// A file of the page: its path below `/`, and its bytes.
type PageFile = (&'static str, &'static [u8]);

/// The output of Vite; empty without Node. Each text file is also included compressed, with `.gz` added to its name.
const PAGE_FILES: &[PageFile] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Marks the place of the nonce in the page; `web/vite.config.ts` writes it there.
const NONCE_PLACEHOLDER: &str = "__CSP_NONCE__";
/// The length of a nonce, long enough that it cannot be guessed.
const NONCE_BYTES: usize = 16;
/// Vite puts a hash of the content into these names, so a file with such a name never changes.
const IMMUTABLE_CACHE_CONTROL: &str = "public, max-age=31536000, immutable";
const REVALIDATED_CACHE_CONTROL: &str = "no-cache";
/// The service worker. Its scope, the pages whose notifications it shows, is the folder of its address: it must be at the
/// root.
const SERVICE_WORKER: &str = "service-worker.js";
/// The content security policy of the service worker. It only shows notifications, which have an icon.
const SERVICE_WORKER_POLICY: &str = "default-src 'none'; img-src 'self'";

pub(super) fn routes(config: &Config) -> Router<App> {
    if find_file("index.html").is_none() {
        return welcome::routes(config);
    }
    Router::new()
        .route("/", get(index))
        .route("/assets/{*name}", get(asset))
        .route("/service-worker.js", get(service_worker))
}

/// `GET /`
async fn index() -> Response {
    let Some(page) = find_file("index.html") else {
        return unknown_path().await.into_response();
    };
    let nonce: Base64<UrlSafe, _> = Base64::new(rand::random::<[u8; NONCE_BYTES]>());
    let nonce = nonce.encode();
    let page = String::from_utf8_lossy(page).replace(NONCE_PLACEHOLDER, &nonce);
    let mut response = page.into_response();
    let answer_headers = [
        (CONTENT_SECURITY_POLICY, policy(&nonce)),
        (CONTENT_TYPE, content_type("index.html").to_owned()),
        // A nonce is valid for one response.
        (CACHE_CONTROL, "no-store".to_owned()),
        (REFERRER_POLICY, "no-referrer".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    for (name, value) in answer_headers {
        insert_header(&mut response, name, &value);
    }
    response
}

/// Returns the content security policy of the page. It runs the scripts and styles with the nonce of this response, and
/// anything that these load. It shows content fetched from this server, and cannot be framed. A file uploaded by a user
/// also has an address on this server, but no nonce.
///
/// The address of the service worker is given without the server's name, which may be a different one behind a proxy. A
/// browser loads workers only from the server of the page.
fn policy(nonce: &str) -> String {
    format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' blob: data:; \
         media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; worker-src *:*/{SERVICE_WORKER}; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// `GET /assets/…`
async fn asset(PathParams(name): PathParams<String>, headers: HeaderMap) -> Response {
    let path = format!("assets/{name}");
    // The compressed files have no address of their own.
    if find_file(&path).is_none() || is_compressed(&path) {
        return unknown_path().await.into_response();
    }
    serve_file(&path, &headers)
}

/// `GET /service-worker.js`
async fn service_worker(headers: HeaderMap) -> Response {
    let mut response = serve_file(SERVICE_WORKER, &headers);
    insert_header(
        &mut response,
        CONTENT_SECURITY_POLICY,
        SERVICE_WORKER_POLICY,
    );
    response
}

fn serve_file(path: &str, headers: &HeaderMap) -> Response {
    let Some(plain) = find_file(path) else {
        return axum::http::StatusCode::NOT_FOUND.into_response();
    };
    let etag = etag(plain);
    let mut response = if headers
        .get(IF_NONE_MATCH)
        .is_some_and(|known| known == &*etag)
    {
        axum::http::StatusCode::NOT_MODIFIED.into_response()
    } else {
        file_body(path, plain, headers)
    };
    let answer_headers = [
        (ETAG, etag),
        (CACHE_CONTROL, cache_control(path).to_owned()),
        (VARY, "accept-encoding".to_owned()),
        (REFERRER_POLICY, "no-referrer".to_owned()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    for (name, value) in answer_headers {
        insert_header(&mut response, name, &value);
    }
    response
}

fn file_body(path: &str, plain: &'static [u8], headers: &HeaderMap) -> Response {
    let compressed = accepts_gzip(headers)
        .then(|| find_file(&format!("{path}.gz")))
        .flatten();
    let mut response = compressed.unwrap_or(plain).into_response();
    insert_header(&mut response, CONTENT_TYPE, content_type(path));
    if compressed.is_some() {
        insert_header(&mut response, CONTENT_ENCODING, "gzip");
    }
    response
}

fn insert_header(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn find_file(path: &str) -> Option<&'static [u8]> {
    let at = PAGE_FILES
        .binary_search_by_key(&path, |(name, _)| name)
        .ok()?;
    PAGE_FILES.get(at).map(|(_, bytes)| *bytes)
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let all = headers.get_all(ACCEPT_ENCODING);
    all.iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            matches!(coding.split(';').next().map(str::trim), Some("gzip" | "*"))
                && !is_coding_refused(coding)
        })
}

fn is_coding_refused(coding: &str) -> bool {
    let weight = coding.split(';').nth(1).map(str::trim);
    weight.is_some_and(|weight| matches!(weight, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
}

fn cache_control(path: &str) -> &'static str {
    let is_hashed = path.starts_with("assets/") && path.contains('-');
    if is_hashed {
        IMMUTABLE_CACHE_CONTROL
    } else {
        REVALIDATED_CACHE_CONTROL
    }
}

fn etag(bytes: &[u8]) -> String {
    let hash: Base64<UrlSafe, _> = Base64::new(Sha256::digest(bytes).to_vec());
    format!("\"{}\"", hash.encode())
}

fn is_compressed(path: &str) -> bool {
    extension(path) == "gz"
}

fn extension(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn content_type(path: &str) -> &'static str {
    match extension(path) {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" => "application/json",
        "webmanifest" => "application/manifest+json",
        "png" => "image/png",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_encoding(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))])
    }

    #[test]
    fn compressed_files_go_to_clients_that_accept_gzip() {
        assert!(accepts_gzip(&with_encoding("br, gzip;q=0.8")));
        assert!(accepts_gzip(&with_encoding("*")));
        assert!(!accepts_gzip(&with_encoding("br, gzip;q=0")));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn only_immutable_files_are_cached_for_long() {
        assert_eq!(
            cache_control("assets/index-CqZ1.js"),
            IMMUTABLE_CACHE_CONTROL
        );
        assert_eq!(cache_control("assets/icon.svg"), REVALIDATED_CACHE_CONTROL);
        assert_eq!(cache_control("index.html"), REVALIDATED_CACHE_CONTROL);
        assert_eq!(cache_control(SERVICE_WORKER), REVALIDATED_CACHE_CONTROL);
    }

    #[test]
    fn the_files_are_sorted_so_that_they_are_found() {
        assert!(PAGE_FILES.is_sorted_by_key(|(name, _)| *name));
        assert!(PAGE_FILES.iter().all(|(name, _)| content_type(name)
            != "application/octet-stream"
            || is_compressed(name)));
    }
}
