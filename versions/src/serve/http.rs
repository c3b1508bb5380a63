//! The routes. Everything that goes wrong is answered with `{"error": "…"}` and a status that tells the kind.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Config;
use super::auth;
use super::error::Refusal;
use super::jobs::Jobs;
use super::payload;

/// How long a body may take to arrive.
const BODY: Duration = Duration::from_secs(120);
/// How long `/runsync` waits: when it is not told, at least, and at most (RunPod's limits).
const WAIT: Duration = Duration::from_secs(90);
const WAIT_LEAST: Duration = Duration::from_secs(1);
const WAIT_MOST: Duration = Duration::from_secs(300);
/// When a client that found the queue full may try again, in seconds.
const RETRY: &str = "5";

#[derive(Clone)]
struct App {
    config: Arc<Config>,
    jobs: Arc<Jobs>,
}

pub(super) fn router(config: Arc<Config>, jobs: Arc<Jobs>) -> Router {
    let limit = config.body_limit;
    let app = App { config, jobs };
    Router::new()
        .route("/run", post(run))
        .route("/runsync", post(run_and_wait))
        .route("/status/{id}", get(status).post(status))
        .route("/cancel/{id}", post(cancel))
        .route("/health", get(health))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .layer(DefaultBodyLimit::max(limit))
        .with_state(app)
}

/// Who may not ask learns nothing, and nothing that he sends is read.
async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    match auth::check(app.config.token.as_ref(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, reason)) => {
            let mut response = failure(status, reason);
            if status == StatusCode::UNAUTHORIZED {
                let scheme = header::HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

async fn run(State(app): State<App>, request: Request) -> Response {
    match submit(&app, request, "").await {
        Ok((id, _)) => answer(StatusCode::OK, &json!({ "id": id, "status": "IN_QUEUE" })),
        Err(response) => response,
    }
}

async fn run_and_wait(
    State(app): State<App>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Response {
    let asked = query.iter().find(|(key, _)| key == "wait");
    let wait = match asked.map(|(_, value)| value.parse().map(Duration::from_millis)) {
        None => WAIT,
        Some(Ok(wait)) => wait.clamp(WAIT_LEAST, WAIT_MOST),
        Some(Err(_)) => return failure(StatusCode::BAD_REQUEST, "wait is a number of milliseconds"),
    };
    match submit(&app, request, "sync-").await {
        Ok((id, mut done)) => {
            // In vain or not, what is known by then is the answer.
            let _ = tokio::time::timeout(wait, done.wait_for(|done| *done)).await;
            view(&app, id).await
        }
        Err(response) => response,
    }
}

async fn submit(
    app: &App,
    request: Request,
    prefix: &'static str,
) -> Result<(String, watch::Receiver<bool>), Response> {
    let body = match tokio::time::timeout(BODY, Bytes::from_request(request, &())).await {
        Err(_) => return Err(failure(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let limit = app.config.body_limit;
            let reason = format!("the body is larger than {limit} bytes; large inputs can be given by URL");
            return Err(failure(StatusCode::PAYLOAD_TOO_LARGE, &reason));
        }
        Ok(Err(rejection)) => return Err(failure(rejection.status(), "the body could not be read")),
        Ok(Ok(body)) => body,
    };
    let worker = app.clone();
    let submitted = tokio::task::spawn_blocking(move || {
        // Decoding what may be large.
        let input = payload::parse(&body, &worker.config)?;
        worker.jobs.submit(input, prefix)
    });
    match submitted.await {
        Ok(submitted) => submitted.map_err(|refusal| refuse(&refusal)),
        Err(_) => Err(failure(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be handled")),
    }
}

async fn status(State(app): State<App>, Path(id): Path<String>) -> Response {
    view(&app, id).await
}

async fn cancel(State(app): State<App>, Path(id): Path<String>) -> Response {
    if app.jobs.cancel(&id) { view(&app, id).await } else { unknown(&id) }
}

async fn health(State(app): State<App>) -> Response {
    answer(StatusCode::OK, &app.jobs.health())
}

async fn nothing() -> Response {
    failure(
        StatusCode::NOT_FOUND,
        "there is nothing here: POST /run, POST /runsync, GET /status/ID, POST /cancel/ID, GET /health",
    )
}

async fn not_so(method: Method) -> Response {
    failure(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not for this path"))
}

/// The state of a job, written out on a thread where that may take its time.
async fn view(app: &App, id: String) -> Response {
    let jobs = Arc::clone(&app.jobs);
    let written = tokio::task::spawn_blocking(move || {
        jobs.view(&id).map_or_else(|| unknown(&id), |view| answer(StatusCode::OK, &view))
    });
    written
        .await
        .unwrap_or_else(|_| failure(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written"))
}

fn unknown(id: &str) -> Response {
    let shown: String = id.chars().take(80).collect();
    failure(StatusCode::NOT_FOUND, &format!("there is no job {shown:?}; results are kept for a limited time"))
}

fn refuse(refusal: &Refusal) -> Response {
    let status = match refusal {
        Refusal::Full(_) => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        Refusal::Syntax(_)
        | Refusal::Field { .. }
        | Refusal::Unknown { .. }
        | Refusal::Version { .. }
        | Refusal::NoWorkflow
        | Refusal::Workflow(_) => StatusCode::BAD_REQUEST,
    };
    let mut response = failure(status, &refusal.to_string());
    if matches!(refusal, Refusal::Full(_) | Refusal::Stopping) {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY));
    }
    response
}

fn failure(status: StatusCode, reason: &str) -> Response {
    answer(status, &json!({ "error": reason }))
}

fn answer(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], Body::from(value.to_string())).into_response()
}
