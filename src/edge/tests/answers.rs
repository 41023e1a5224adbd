//! Requests and answers, whole and broken, over both protocols.

use super::*;

#[tokio::test]
async fn heads_that_are_too_large_get_431_and_broken_ones_400() {
    let gateway = Gateway::start(settings());
    let many = "X-Y: z\r\n".repeat(101);
    let cases = [
        (
            format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(40_000)),
            "431",
        ),
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), "431"),
        (
            "GET / HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\n".to_owned(),
            "400",
        ),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ];
    let count = cases.len();
    for (head, status) in cases {
        let mut stream = gateway.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let answer = String::from_utf8(read_to_end(&mut stream).await.unwrap()).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
    becomes(&gateway.counters.protocol_error, count as u64).await;
}

#[tokio::test]
async fn a_client_in_the_middle_of_an_upload_still_gets_the_refusal() {
    let gateway = Gateway::start(settings());
    let stream = gateway.connect().await;
    let (mut read, mut write) = tokio::io::split(stream);
    let upload = tokio::spawn(async move {
        let head = b"POST /refuse HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n";
        write.write_all(head).await?;
        write.write_all(&vec![0; 4_000_000]).await
    });
    let answer = String::from_utf8(read_to_end(&mut read).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // A reset here is what takes the answer from clients that have not read it yet.
    patient(upload).await.unwrap().expect("no reset");
}

#[tokio::test]
async fn an_answer_that_breaks_off_looks_cut_at_once() {
    let gateway = Gateway::start(settings());
    let mut stream = gateway.connect().await;
    stream
        .write_all(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let cut = tokio::time::timeout(Duration::from_secs(1), read_to_end(&mut stream)).await;
    assert!(cut.expect("at once").is_err());
    let mut send = gateway.http2().await;
    let (response, _) = send.send_request(request2("/broken"), true).unwrap();
    let body = async {
        let mut body = response.await?.into_body();
        while let Some(data) = body.data().await {
            data?;
        }
        Ok::<_, h2::Error>(())
    };
    assert!(patient(body).await.unwrap_err().is_reset());
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn a_large_upload_arrives_whole() {
    let gateway = Gateway::start(settings());
    let mut stream = gateway.connect().await;
    let head = b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n";
    stream.write_all(head).await.unwrap();
    stream.write_all(&vec![0; 3_000_000]).await.unwrap();
    assert!(read_answer(&mut stream).await.ends_with("3000000"));
    let mut send = gateway.http2().await;
    let (response, mut body) = send.send_request(request2("/count"), false).unwrap();
    body.send_data(Bytes::from(vec![0; 3_000_000]), true)
        .unwrap();
    let mut answer = patient(response).await.unwrap().into_body();
    assert_eq!(patient(answer.data()).await.unwrap().unwrap(), "3000000");
}

#[tokio::test]
async fn a_panic_ends_one_connection_or_stream_only() {
    let gateway = Gateway::start(settings());
    let mut neighbour = gateway.connect().await;
    let mut doomed = gateway.connect().await;
    doomed
        .write_all(b"GET /panic HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    assert!(read_to_end(&mut doomed).await.is_err());
    assert!(get(&mut neighbour).await.ends_with("hello"));
    let mut send = gateway.http2().await;
    let (held, _) = send.send_request(request2("/hold"), true).unwrap();
    gateway.held().await;
    assert!(get2(&mut send, "/panic").await.is_err());
    assert!(whole2(&mut send, "/panic-later").await.is_err());
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
    gateway.release.add_permits(1);
    assert_eq!(patient(held).await.unwrap().status(), StatusCode::OK);
    becomes(&gateway.counters.panicked, 3).await;
}

// S34: what does not have the length that its head states looks cut, and the connection lives on.
#[tokio::test]
async fn an_http2_answer_of_another_length_is_reset() {
    let gateway = Gateway::start(settings());
    let mut send = gateway.http2().await;
    for path in ["/longer", "/shorter"] {
        // h2 would find it out by itself once the whole answer is there; a reset tells every client.
        let error = whole2(&mut send, path).await.unwrap_err();
        assert!(error.is_remote() && error.is_reset(), "{path}: {error}");
    }
    assert_eq!(whole2(&mut send, "/").await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_head_is_answered_over_http2_without_the_body() {
    let gateway = Gateway::start(settings());
    let mut send = gateway.http2().await;
    let mut request = request2("/");
    *request.method_mut() = http::Method::HEAD;
    let (response, _) = send.send_request(request, true).unwrap();
    let answer = patient(response).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers().contains_key("date"));
    let data = patient(answer.into_body().data()).await;
    assert!(data.is_none_or(|data| data.unwrap().is_empty()));
}

// A client that gives a request up sets free what works for it, whether the answer has begun, or waits for the client's window, or has not.
#[tokio::test]
async fn a_stream_that_the_client_resets_is_let_go() {
    let gateway = Gateway::start(settings());
    let mut send = gateway.http2().await;
    let (response, _) = send.send_request(request2("/left"), true).unwrap();
    gateway.held().await;
    drop(response);
    gateway.held().await;
    let (response, _) = send.send_request(request2("/endless-left"), true).unwrap();
    let mut answer = patient(response).await.unwrap();
    // It sends what the window of 65,535 bytes allows, and waits.
    let mut taken = 0;
    while taken < 65_535 {
        let data = patient(answer.body_mut().data()).await;
        taken += data.unwrap().unwrap().len();
    }
    drop(answer);
    gateway.held().await;
    assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn many_http2_streams_at_once_and_again_are_all_answered() {
    let gateway = Gateway::start(settings());
    let mut send = gateway.http2().await;
    for _ in 0..3 {
        let mut held = Vec::new();
        for _ in 0..10 {
            let (response, _) = send.send_request(request2("/hold"), true).unwrap();
            held.push(response);
            gateway.held().await;
        }
        gateway.release.add_permits(10);
        for response in held {
            assert_eq!(patient(response).await.unwrap().status(), StatusCode::OK);
        }
        for _ in 0..30 {
            assert_eq!(whole2(&mut send, "/").await.unwrap(), b"hello");
        }
    }
}
