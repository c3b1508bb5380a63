//! Connections: how many there may be, and how long they may take to say what they want. One that says nothing, or says it
//! very slowly, keeps nobody else out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How many there are at once; a `/runsync` has one for as long as it waits.
const CONNECTIONS: usize = 1024;
/// How long the head of a request may take, and a connection may be idle.
const HEAD: Duration = Duration::from_secs(30);
/// How long to wait when none can be accepted: no descriptor is free, usually.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers until `told`, or until its sender is gone; then no more are accepted, and those under way come to their end.
pub(super) async fn answer(
    listener: std::net::TcpListener,
    app: Router,
    mut told: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = next(&listener, &room) => match accepted {
                Ok((stream, permit)) => {
                    let service = TowerToHyperService::new(app.clone());
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD)
                        .serve_connection(TokioIo::new(stream), service);
                    let connection = graceful.watch(connection);
                    tokio::spawn(async move {
                        // A client that goes away in the middle is an ordinary end.
                        let _ = connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            _ = &mut told => break,
        }
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, permit))
}
