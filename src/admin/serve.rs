//! Accepting admin connections: few, short, one request each.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::net::TcpListener;
use tokio::net::UnixListener;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::Semaphore;

use crate::admin::Admin;
use crate::admin::Caller;
use crate::admin::command;
use crate::admin::health;
use crate::admin::rest;
use crate::admin::site;

/// Admin connections open at once on each listener; more of them wait in the backlog.
const CONNECTIONS_MAX: usize = 64;

/// From the first byte of a request head to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest life of one connection; a reload with a large store is what takes longest.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);

/// Pause after an accept that failed, for example because no descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves verbs, reload, status, health and metrics until the task is dropped. Whoever the socket's mode lets connect may do all of it.
pub async fn serve_socket(listener: UnixListener, admin: Arc<Admin>) {
    let router = command::router(Arc::clone(&admin))
        .merge(rest::router(&admin))
        .merge(health::router(admin));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                let caller = Caller { uid, peer: None };
                tokio::spawn(converse(stream, router.clone(), caller, slot));
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// Serves health and metrics to anybody, and the API to whoever shows an admin token, until the task is dropped. While there is no such token
/// there is nothing but health and metrics.
pub async fn serve_tcp(listener: TcpListener, admin: Arc<Admin>) {
    let only_health = health::router(Arc::clone(&admin));
    let whole = only_health
        .clone()
        .merge(rest::router(&admin))
        .merge(site::router())
        .fallback(rest::nothing_here);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let caller = Caller {
                    uid: None,
                    peer: Some(peer),
                };
                let open = admin.keeper.has_admin_tokens(admin.clock.now().wall);
                let router = if open { &whole } else { &only_health };
                tokio::spawn(converse(stream, router.clone(), caller, slot));
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "admin connection not accepted");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

async fn converse<S>(stream: S, router: Router, caller: Caller, slot: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection broken"),
        Err(_) => tracing::debug!("admin connection cut after its longest life"),
    }
    drop(slot);
}
