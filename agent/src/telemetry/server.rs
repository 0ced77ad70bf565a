//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::check::Readiness;

type Context = (Arc<Readiness>, Arc<Metrics>);

/// Serves until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state((readiness, metrics));
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("serving metrics and health")
}

async fn text(State((_, metrics)): State<Context>) -> Response {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The process works: its control loop turns.
async fn healthy(State((readiness, _)): State<Context>) -> (StatusCode, &'static str) {
    if readiness.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the control loop is stuck\n")
    }
}

/// The node is served, as far as can be seen at little cost: the plan is in the kernel, the hooks lead
/// to our programs, and the control loop turns.
async fn ready(State((readiness, _)): State<Context>) -> (StatusCode, String) {
    match readiness.why_not().await {
        None => (StatusCode::OK, "ok\n".into()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}
