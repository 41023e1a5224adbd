//! Clients that drip, flood, fall silent or take nothing.

use super::*;

/// Writes a byte now and then until the other side is gone.
async fn drip(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    let mut pause = tokio::time::interval(Duration::from_millis(100));
    for byte in bytes.iter().cycle() {
        pause.tick().await;
        let write = async { stream.write_all(&[*byte]).await.and(stream.flush().await) };
        if write.await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_head_that_drips_is_cut_while_a_neighbour_lives() {
    let mut settings = settings();
    settings.connections.head_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut slow = gateway.connect().await;
    let mut neighbour = gateway.connect().await;
    assert!(
        get(&mut slow).await.ends_with("hello"),
        "the first request was honest"
    );
    slow.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
    patient(drip(&mut slow, b"a")).await;
    becomes(&gateway.counters.head_timeout, 1).await;
    assert!(get(&mut neighbour).await.ends_with("hello"));
}

#[tokio::test]
async fn http2_continuation_that_drips_is_cut() {
    let mut settings = settings();
    settings.connections.head_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut slow = gateway
        .try_connect(NAME, &[&TLS13], &[b"h2"])
        .await
        .unwrap();
    slow.write_all(HTTP2_OPENING).await.unwrap();
    // The gateway has acknowledged the opening, so the block begins with a read of its own.
    let mut said = Vec::new();
    while !said.ends_with(b"\0\0\0\x04\x01\0\0\0\0") {
        said.push(patient(slow.read_u8()).await.unwrap());
    }
    slow.write_all(b"\0\0\x01\x01\0\0\0\0\x01\x82")
        .await
        .unwrap();
    let continuation = b"\0\0\x01\x09\0\0\0\0\x01\x84";
    patient(drip(&mut slow, continuation)).await;
    becomes(&gateway.counters.head_timeout, 1).await;
}

#[tokio::test]
async fn a_flood_of_pings_ends_the_connection() {
    let gateway = Gateway::start(settings());
    let mut flood = gateway
        .try_connect(NAME, &[&TLS13], &[b"h2"])
        .await
        .unwrap();
    flood.write_all(HTTP2_OPENING).await.unwrap();
    let pings = b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0".repeat(5_000);
    let (mut read, mut write) = tokio::io::split(flood);
    let reading = tokio::spawn(async move { read_to_end(&mut read).await.map(drop) });
    let flooding = async { while write.write_all(&pings).await.is_ok() {} };
    patient(flooding).await;
    let _ = reading.await;
    becomes(&gateway.counters.flooded, 1).await;
}

#[tokio::test]
async fn streams_that_are_opened_and_reset_in_haste_end_the_connection() {
    let gateway = Gateway::start(settings());
    let mut hasty = gateway
        .try_connect(NAME, &[&TLS13], &[b"h2"])
        .await
        .unwrap();
    let mut frames = HTTP2_OPENING.to_vec();
    for stream in (1..2_000u32).step_by(2) {
        // GET https / with an empty authority, then RST_STREAM CANCEL.
        frames.extend(b"\0\0\x03\x01\x05");
        frames.extend(stream.to_be_bytes());
        frames.extend(b"\x82\x84\x87");
        frames.extend(b"\0\0\x04\x03\0");
        frames.extend(stream.to_be_bytes());
        frames.extend(8u32.to_be_bytes());
    }
    let _ = hasty.write_all(&frames).await;
    let mut said = Vec::new();
    let _ = patient(hasty.read_to_end(&mut said)).await;
    let calm = b"\0\0\0\x0b";
    assert!(
        said.windows(4).any(|window| window == calm),
        "GOAWAY with ENHANCE_YOUR_CALM: {said:?}"
    );
    becomes(&gateway.counters.protocol_error, 1).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_cleanly_after_its_time() {
    let mut settings = settings();
    settings.connections.idle_timeout = PROVOKED;
    let gateway = Gateway::start(settings);
    let mut used = gateway.connect().await;
    assert!(get(&mut used).await.ends_with("hello"));
    let mut unused = gateway.connect().await;
    assert_eq!(read_to_end(&mut used).await.unwrap(), b"", "close_notify");
    assert_eq!(read_to_end(&mut unused).await.unwrap(), b"", "close_notify");
    becomes(&gateway.counters.idle_closed, 2).await;
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_after_its_time() {
    let mut settings = settings();
    settings.connections.idle_timeout = PROVOKED;
    let gateway = Gateway::start(settings);
    let stream = gateway
        .try_connect(NAME, &[&TLS13], &[b"h2"])
        .await
        .unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
    let _ = patient(connection).await.unwrap();
    becomes(&gateway.counters.idle_closed, 1).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let mut settings = settings();
    settings.connections.stall_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut stalled = gateway.connect().await;
    let mut neighbour = gateway.connect().await;
    stalled
        .write_all(b"GET /endless HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
        .await
        .unwrap();
    // Reads only what shows that the answer has begun.
    patient(stalled.read_u8()).await.unwrap();
    let counter = &gateway.counters.stalled;
    patient(async {
        while value(counter) == 0 {
            assert!(get(&mut neighbour).await.ends_with("hello"));
        }
    })
    .await;
    assert!(read_to_end(&mut stalled).await.is_err(), "looks cut");
}

#[tokio::test]
async fn a_stalled_http2_stream_is_reset_and_the_others_live() {
    let mut settings = settings();
    settings.connections.stall_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings);
    let mut send = gateway.http2().await;
    let (response, _) = send.send_request(request2("/endless"), true).unwrap();
    let mut body = patient(response).await.unwrap().into_body();
    // Takes data without giving the window back.
    let end = patient(async {
        loop {
            match body.data().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    });
    assert!(end.await.unwrap().unwrap_err().is_reset());
    becomes(&gateway.counters.stalled, 1).await;
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn connections_over_a_cap_are_closed_at_once_and_places_come_back() {
    let mut settings = settings();
    settings.connections.per_address_max = 2;
    let gateway = Gateway::start(settings);
    let mut first = gateway.connect().await;
    let mut second = gateway.connect().await;
    assert!(gateway.try_connect(NAME, &[&TLS13], &[]).await.is_err());
    becomes(&gateway.counters.refused_address_cap, 1).await;
    assert!(get(&mut first).await.ends_with("hello"));
    assert!(get(&mut second).await.ends_with("hello"));
    drop(first);
    patient(async { while gateway.try_connect(NAME, &[&TLS13], &[]).await.is_err() {} }).await;
}
