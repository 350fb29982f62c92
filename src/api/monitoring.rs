//! Endpoints for the operator's tools: the health and the metrics of the server.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};

use super::{app::App, endpoint::unknown_path, metrics::RequestMetrics};
use crate::{error::Result, health::Health};

/// The content type of Prometheus' text format.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn routes() -> Router<App> {
    Router::new().route("/_parlour/health", get(health))
}

/// Returns the routes of the separate listener for Prometheus.
pub fn metrics_router(metrics: RequestMetrics) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .fallback(unknown_path)
        .with_state(metrics)
}

/// `GET /_parlour/health`
///
/// Responds with 503 and the problem while nothing can be stored.
async fn health(State(health): State<Health>) -> (StatusCode, Json<Value>) {
    match health.problem() {
        None => (StatusCode::OK, Json(json!({ "status": "ok" }))),
        Some(problem) => {
            let body = json!({ "status": "failing", "problem": problem });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body))
        }
    }
}

/// `GET /metrics`
async fn show_metrics(State(metrics): State<RequestMetrics>) -> Result<Response> {
    let text = metrics.to_text().await?;
    Ok(([(CONTENT_TYPE, PROMETHEUS_TEXT)], text).into_response())
}
