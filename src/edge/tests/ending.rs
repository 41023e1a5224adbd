//! The plain listener, and how connections end in a drain.

use super::*;

#[tokio::test]
async fn the_plain_listener_refuses_and_closes() {
    let gateway = Gateway::start(settings());
    let mut socket = TcpStream::connect(gateway.http).await.unwrap();
    socket.write_all(GET).await.unwrap();
    socket.write_all(GET).await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut socket).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    assert_eq!(
        answer.matches("HTTP/1.1").count(),
        1,
        "one answer only: {answer}"
    );
}

#[tokio::test]
async fn the_plain_listener_cuts_heads_that_drip() {
    let mut settings = settings();
    settings.connections.head_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut socket = TcpStream::connect(gateway.http).await.unwrap();
    socket.write_all(b"GET / HT").await.unwrap();
    let _ = read_to_end(&mut socket).await;
    becomes(&gateway.counters.head_timeout, 1).await;
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_closes_quiet_connections() {
    let mut gateway = Gateway::start(settings());
    let mut quiet = gateway.connect().await;
    assert!(get(&mut quiet).await.ends_with("hello"));
    let mut busy = gateway.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    gateway.held().await;
    let mut send = gateway.http2().await;
    let (busy2, _) = send.send_request(request2("/hold"), true).unwrap();
    gateway.held().await;
    gateway.shutdown.terminate(PATIENCE);
    assert_eq!(read_to_end(&mut quiet).await.unwrap(), b"");
    drop(quiet);
    assert!(
        TcpStream::connect(gateway.https).await.is_err(),
        "takes nothing new"
    );
    gateway.release.add_permits(2);
    let answer = String::from_utf8(read_to_end(&mut busy).await.unwrap()).unwrap();
    assert!(answer.ends_with("held"), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
    drop(busy);
    assert_eq!(patient(busy2).await.unwrap().status(), StatusCode::OK);
    let ready = patient(std::future::poll_fn(|cx| send.poll_ready(cx))).await;
    assert!(
        ready.is_err() || send.send_request(request2("/"), true).is_err(),
        "GOAWAY"
    );
    drop(send);
    gateway.ended().await;
    assert_eq!(gateway.counters.active.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_connection_that_has_just_come_may_still_ask_in_a_drain() {
    // A second is given to it; where the machine stands still for as long, there is another try.
    for _ in 0..TRIES {
        let mut gateway = Gateway::start(settings());
        let mut used = gateway.connect().await;
        assert!(get(&mut used).await.ends_with("hello"));
        let mut fresh = gateway.connect().await;
        let begun = tokio::time::Instant::now();
        gateway.shutdown.terminate(PATIENCE);
        assert_eq!(
            read_to_end(&mut used).await.unwrap(),
            b"",
            "the drain is on"
        );
        let sent = fresh.write_all(GET).await;
        let in_time = begun.elapsed() < Duration::from_millis(500);
        let answer = read_answer(&mut fresh).await;
        drop((fresh, used));
        gateway.ended().await;
        if in_time || answer.ends_with("hello") {
            sent.unwrap();
            assert!(answer.ends_with("hello"), "{answer}");
            return;
        }
    }
    panic!("never in time");
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut() {
    let mut gateway = Gateway::start(settings());
    let mut busy = gateway.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    gateway.held().await;
    let mut send = gateway.http2().await;
    let (busy2, _) = send.send_request(request2("/hold"), true).unwrap();
    gateway.held().await;
    let drain = Duration::from_millis(300);
    assert_eq!(gateway.shutdown.terminate(drain), State::Draining(drain));
    assert!(read_to_end(&mut busy).await.is_err(), "looks cut");
    assert!(patient(busy2).await.is_err());
    gateway.ended().await;
}

#[tokio::test]
async fn a_second_terminate_cuts_at_once() {
    let mut gateway = Gateway::start(settings());
    let mut busy = gateway.connect().await;
    busy.write_all(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    gateway.held().await;
    gateway.shutdown.terminate(PATIENCE * 10);
    gateway.shutdown.terminate(PATIENCE * 10);
    assert!(read_to_end(&mut busy).await.is_err());
    gateway.ended().await;
}
