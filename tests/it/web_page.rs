//! Tests the web page at `/`. The tests in `web/tests` use it in a browser.

use crate::harness::Server;

#[tokio::test]
async fn the_page_runs_only_its_own_scripts() {
    let server = Server::start().await;

    let page = server.get("/").await;

    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    for kind in ["script-src", "style-src"] {
        let rule = policy.split("; ").find(|rule| rule.starts_with(kind));
        // `'self'` would also permit files that users uploaded to this server.
        assert!(!rule.expect("a rule").contains("'self'"), "{policy}");
    }
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert_eq!(page.header("x-content-type-options"), "nosniff");
    assert!(!page.text.contains("https://cdn"), "{}", page.text);
}

#[tokio::test]
async fn every_file_of_the_page_has_its_content_type() {
    let server = Server::start().await;
    let page = server.get("/").await.text;

    for file in asset_paths(&page) {
        let answer = server.get(file).await;

        assert_eq!(answer.status, 200, "{file}");
        let wanted = match file.rsplit_once('.') {
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            Some((_, "webmanifest")) => "application/manifest+json",
            other => panic!("{other:?}"),
        };
        assert_eq!(answer.header("content-type"), wanted);
    }
}

#[tokio::test]
async fn every_response_has_a_new_nonce() {
    let server = Server::start().await;
    let nonce = async || {
        let page = server.get("/").await;
        let policy = page.header("content-security-policy").to_owned();
        let (_, rest) = policy.split_once("script-src 'nonce-")?;
        let (nonce, _) = rest.split_once('\'')?;
        for tag in ["<script type=\"module\"", "<link rel=\"stylesheet\""] {
            let (_, rest) = page.text.split_once(tag).expect("the page has the tag");
            let (tag, _) = rest.split_once('>').expect("the tag ends");
            assert!(tag.contains(&format!("nonce=\"{nonce}\"")), "{tag}");
        }
        assert!(!page.text.contains("__CSP_NONCE__"), "{}", page.text);
        assert_eq!(page.header("cache-control"), "no-store");
        Some(nonce.to_owned())
    };

    let (first, second) = (nonce().await, nonce().await);

    // The page of a server that was built without Node has no files.
    if first.is_some() {
        assert_ne!(first, second);
    }
}

#[tokio::test]
async fn the_service_worker_is_the_only_worker_of_the_page() {
    let server = Server::start().await;

    let page = server.get("/").await;
    let worker = server.get("/service-worker.js").await;

    // The page of a server that was built without Node has no service worker.
    if asset_paths(&page.text).is_empty() {
        worker.expect_error(404, "M_UNRECOGNIZED");
        return;
    }
    let policy = page.header("content-security-policy");
    let rule = policy
        .split("; ")
        .find(|rule| rule.starts_with("worker-src"));
    assert_eq!(rule, Some("worker-src *:*/service-worker.js"), "{policy}");
    assert_eq!(worker.status, 200);
    assert_eq!(
        worker.header("content-type"),
        "text/javascript; charset=utf-8"
    );
    // A browser asks for a new version each time.
    assert_eq!(worker.header("cache-control"), "no-cache");
    assert_eq!(worker.header("x-content-type-options"), "nosniff");
    assert!(
        worker
            .header("content-security-policy")
            .starts_with("default-src 'none'")
    );
}

#[tokio::test]
async fn unknown_asset_paths_are_not_found() {
    let server = Server::start().await;

    for path in [
        "/assets/nothing.js",
        "/assets/icon.svg.gz",
        "/service-worker.js.gz",
        "/assets/../index.html",
        "/index.html",
    ] {
        server.get(path).await.expect_error(404, "M_UNRECOGNIZED");
    }
}

/// Returns the asset paths in the page's tags. A server that was built without Node has none.
fn asset_paths(page: &str) -> Vec<&str> {
    page.split('"')
        .filter(|part| part.starts_with("/assets/"))
        .collect()
}
