//! `/metrics`, `/healthz` and `/readyz`.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::Mutex, task::block_in_place};
use tokio_util::sync::CancellationToken;

use crate::{check::Readiness, http, telemetry::Metrics};

#[derive(Clone)]
struct Context {
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    /// Reading the kernel's counters takes time, so requests for them run one at a time.
    one_at_a_time: Arc<Mutex<()>>,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/metrics", get(text))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .with_state(Context { readiness, metrics, one_at_a_time: Arc::default() });
    http::serve(listener, router, stop).await;
}

async fn text(State(context): State<Context>) -> Response {
    let _turn = context.one_at_a_time.lock().await;
    match block_in_place(|| context.metrics.text()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// The process works: its control loop runs, and nothing is lost that only a new process can get.
async fn healthy(State(context): State<Context>) -> (StatusCode, String) {
    match context.readiness.why_sick() {
        None => (StatusCode::OK, "ok\n".into()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}

/// The node is served, as far as cheap checks show: the plan is in the kernel, the hooks run our programs,
/// and the control loop runs. A missing source does not matter: an API server that is away must not make
/// every node of the cluster unready.
async fn ready(State(context): State<Context>) -> (StatusCode, String) {
    match context.readiness.why_not().await {
        None => match context.readiness.out_of_touch() {
            None => (StatusCode::OK, "ok\n".into()),
            Some(time) => (
                StatusCode::OK,
                format!(
                    "ok, from the state of {} seconds ago: the source is away\n",
                    time.as_secs()
                ),
            ),
        },
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n"),
    }
}
