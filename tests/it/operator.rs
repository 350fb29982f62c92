//! Tests the health and metrics endpoints for operators.

use std::net::SocketAddr;

use serde_json::json;

use crate::harness::{Client, Server};

#[tokio::test]
async fn the_health_endpoint_reports_ok() {
    let server = Server::start().await;

    let body = server.get("/_parlour/health").await.expect_ok();

    assert_eq!(body, json!({ "status": "ok" }));
}

#[tokio::test]
async fn metrics_are_served_at_a_separate_address() {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::with_config(|config| config.metrics.address = Some(any_port)).await;
    let address = server
        .running
        .metrics_address()
        .expect("metrics are enabled");
    let prometheus = Client::for_address(&format!("http://{address}"));

    server
        .get("/_matrix/client/versions?access_token=secret")
        .await
        .expect_ok();
    server
        .get("/no/such/path")
        .await
        .expect_error(404, "M_UNRECOGNIZED");
    let metrics = prometheus.get("/metrics").await.text;

    for line in [
        r#"parlour_http_requests_total{endpoint="/_matrix/client/versions",method="GET",status="2xx"} 1"#,
        r#"parlour_http_requests_total{endpoint="unknown",method="GET",status="4xx"} 1"#,
        "parlour_process_resident_memory_bytes ",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(!metrics.contains("secret"));
}

#[tokio::test]
async fn metrics_are_not_served_to_clients() {
    let server = Server::start().await;

    let answer = server.get("/metrics").await;

    answer.expect_error(404, "M_UNRECOGNIZED");
}
