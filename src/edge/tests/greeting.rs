//! What a client meets before it has asked for anything: TLS, certificates, HTTP in clear, silence.

use super::*;

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_alpn_chooses_the_protocol() {
    let gateway = Gateway::start(settings());
    type Case = (
        &'static SupportedProtocolVersion,
        &'static [&'static [u8]],
        Option<&'static [u8]>,
    );
    let cases: [Case; 5] = [
        (&TLS13, &[], None),
        (&TLS12, &[], None),
        (&TLS12, &[b"http/1.1"], Some(b"http/1.1")),
        (&TLS13, &[b"http/1.1", b"h2"], Some(b"h2")),
        (&TLS12, &[b"h2"], Some(b"h2")),
    ];
    for (version, alpn, chosen) in cases {
        let mut stream = gateway.try_connect(NAME, &[version], alpn).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        if chosen == Some(b"h2") {
            let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            assert_eq!(get2(&mut send, "/").await.unwrap(), StatusCode::OK);
        } else {
            assert!(get(&mut stream).await.ends_with("hello"));
            assert!(get(&mut stream).await.ends_with("hello"), "kept alive");
        }
    }
    let old = gateway.try_connect(NAME, &[&TLS13], &[b"http/1.0"]).await;
    assert!(get(&mut old.unwrap()).await.ends_with("hello"));
    // Told, and not only closed.
    let refused = gateway.try_connect(NAME, &[&TLS13], &[b"spdy"]).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("ApplicationProtocol"), "{said}");
}

#[tokio::test]
async fn tls_1_2_can_be_switched_off() {
    let gateway = Gateway::start(settings());
    let tls13_only = Tls {
        allow_tls12: false,
        ..only(&gateway.files)
    };
    gateway.tls.store(load(&tls13_only));
    assert!(gateway.try_connect(NAME, &[&TLS12], &[]).await.is_err());
    becomes(&gateway.counters.handshake_failed, 1).await;
    assert!(gateway.try_connect(NAME, &[&TLS13], &[]).await.is_ok());
}

#[tokio::test]
async fn the_server_name_chooses_the_certificate() {
    let gateway = Gateway::start(settings());
    let entry = |file: &str, host: &str| SniCertificate {
        hosts: vec![host.to_owned()],
        files: make_files(&gateway.directory, file, host),
    };
    let tls = Tls {
        sni: vec![
            entry("exact", "api.example.test"),
            entry("wildcard", "*.example.test"),
        ],
        ..only(&gateway.files)
    };
    gateway.tls.store(load(&tls));
    for name in [NAME, "api.example.test", "other.example.test"] {
        // The client checks the name.
        assert!(
            gateway.try_connect(name, &[&TLS13], &[]).await.is_ok(),
            "{name}"
        );
    }
    assert!(
        gateway
            .try_connect("a.b.example.test", &[&TLS13], &[])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_while_old_ones_live() {
    let gateway = Gateway::start(settings());
    let mut old = gateway.connect().await;
    let before = old.get_ref().1.peer_certificates().unwrap().to_vec();
    make_files(&gateway.directory, NAME, NAME);
    gateway.tls.store(load(&only(&gateway.files)));
    let mut new = gateway.connect().await;
    assert_ne!(new.get_ref().1.peer_certificates().unwrap(), before);
    assert!(get(&mut new).await.ends_with("hello"));
    assert!(get(&mut old).await.ends_with("hello"));
}

#[tokio::test]
async fn plain_http_on_the_tls_port_gets_a_clear_400() {
    let gateway = Gateway::start(settings());
    let mut socket = TcpStream::connect(gateway.https).await.unwrap();
    socket.write_all(GET).await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut socket).await.unwrap()).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nin clear"), "{answer}");
    becomes(&gateway.counters.plaintext_on_tls, 1).await;
    becomes(&gateway.counters.handshake_failed, 0).await;
}

#[tokio::test]
async fn garbage_on_the_tls_port_is_closed_without_a_word() {
    let gateway = Gateway::start(settings());
    let mut socket = TcpStream::connect(gateway.https).await.unwrap();
    socket.write_all(&[0x80, 1, 2, 3]).await.unwrap();
    let said = read_to_end(&mut socket).await.unwrap_or_default();
    assert_eq!(said, b"");
    becomes(&gateway.counters.handshake_failed, 1).await;
}

#[tokio::test]
async fn a_probe_that_says_nothing_is_no_failed_handshake() {
    let gateway = Gateway::start(settings());
    drop(TcpStream::connect(gateway.https).await.unwrap());
    assert!(get(&mut gateway.connect().await).await.ends_with("hello"));
    becomes(&gateway.counters.handshake_failed, 0).await;
}

#[tokio::test]
async fn a_slow_handshake_is_cut() {
    let mut settings = settings();
    settings.connections.handshake_timeout = PROVOKED;
    let gateway = Gateway::start(settings);
    let mut quick = gateway.connect().await;
    let mut slow = TcpStream::connect(gateway.https).await.unwrap();
    slow.write_all(&[0x16, 3, 1]).await.unwrap();
    let _ = read_to_end(&mut slow).await;
    becomes(&gateway.counters.handshake_timeout, 1).await;
    assert!(get(&mut quick).await.ends_with("hello"));
}

#[tokio::test]
async fn silent_connections_are_cut_and_counted() {
    let mut settings = settings();
    settings.connections.handshake_timeout = PROVOKED;
    let gateway = Gateway::start(settings);
    let mut quick = gateway.connect().await;
    let begun = tokio::time::Instant::now();
    for socket in &mut gateway.silent(50).await {
        assert_eq!(read_to_end(socket).await.unwrap(), b"");
    }
    assert!(begun.elapsed() >= PROVOKED);
    becomes(&gateway.counters.handshake_timeout, 50).await;
    gateway.holds(1).await;
    assert!(get(&mut quick).await.ends_with("hello"));
}

#[tokio::test]
async fn who_speaks_late_is_served_whoever_left_before() {
    let gateway = Gateway::start(settings());
    let mut silent = gateway.silent(30).await;
    let mut odd = false;
    silent.retain(|_| {
        odd = !odd;
        odd
    });
    gateway.holds(15).await;
    silent.extend(gateway.silent(30).await);
    for socket in silent {
        let mut stream = gateway
            .handshake(socket, NAME, &[&TLS13], &[])
            .await
            .unwrap();
        assert!(get(&mut stream).await.ends_with("hello"));
    }
    gateway.holds(0).await;
    becomes(&gateway.counters.handshake_failed, 0).await;
}

/// The first words of a client, which nobody goes on with.
fn hello() -> Vec<u8> {
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(NAME).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// The first byte that comes: a ServerHello's, not an alert's.
async fn is_answered(socket: &mut TcpStream) {
    let mut first = [0];
    patient(socket.read_exact(&mut first)).await.unwrap();
    assert_eq!(first, [0x16]);
}

#[tokio::test]
async fn a_hello_in_pieces_is_put_together() {
    let gateway = Gateway::start(settings());
    let mut socket = gateway.silent(1).await.remove(0);
    for byte in hello() {
        socket.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    is_answered(&mut socket).await;
}

#[tokio::test]
async fn a_hello_that_breaks_off_is_a_failed_handshake() {
    let gateway = Gateway::start(settings());
    for (count, end) in [1, 5, 11, 60].into_iter().enumerate() {
        let mut socket = gateway.silent(1).await.remove(0);
        socket.write_all(&hello()[..end]).await.unwrap();
        drop(socket);
        becomes(&gateway.counters.handshake_failed, count as u64 + 1).await;
    }
    gateway.holds(0).await;
}

#[tokio::test]
async fn what_begins_like_a_record_and_is_none_gets_an_alert() {
    let gateway = Gateway::start(settings());
    for broken in [[0x16, 9, 9, 0, 9], [0x16, 3, 1, 0xff, 0xff]] {
        let mut socket = gateway.silent(1).await.remove(0);
        socket.write_all(&broken).await.unwrap();
        let said = read_to_end(&mut socket).await.unwrap();
        assert_eq!(said.first(), Some(&0x15), "{said:?}");
    }
    becomes(&gateway.counters.handshake_failed, 2).await;
}

#[tokio::test]
async fn a_drain_waits_a_moment_for_the_rest_of_a_hello() {
    let mut gateway = Gateway::start(settings());
    let mut halves = gateway.silent(3).await;
    let hello = hello();
    for half in &mut halves[..2] {
        half.write_all(&hello[..40]).await.unwrap();
    }
    let begun = tokio::time::Instant::now();
    gateway.shutdown.terminate(PATIENCE * 10);
    // The silent one goes first.
    assert_eq!(read_to_end(&mut halves[2]).await.unwrap(), b"");
    halves[0].write_all(&hello[40..]).await.unwrap();
    is_answered(&mut halves[0]).await;
    assert_eq!(read_to_end(&mut halves[1]).await.unwrap(), b"");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    becomes(&gateway.counters.handshake_timeout, 1).await;
    drop(halves);
    gateway.ended().await;
}

// S25: the same whether the words were there at once or came later; who does not close is not waited for.
#[tokio::test]
async fn plain_http_after_a_silence_gets_the_same_400() {
    let gateway = Gateway::start(settings());
    let mut socket = gateway.silent(1).await.remove(0);
    socket.write_all(GET).await.unwrap();
    let answer = String::from_utf8(read_to_end(&mut socket).await.unwrap()).unwrap();
    assert!(answer.ends_with("\r\n\r\nin clear"), "{answer}");
    becomes(&gateway.counters.plaintext_on_tls, 1).await;
    socket.write_all(GET).await.unwrap();
    gateway.holds(0).await;
    becomes(&gateway.counters.plaintext_on_tls, 1).await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_the_silent_but_hears_who_speaks_in_time() {
    // A second is given; where the machine stands still for as long, there is another try.
    for _ in 0..TRIES {
        let mut gateway = Gateway::start(settings());
        let mut silent = gateway.silent(2).await;
        let speaks = silent.remove(0);
        let begun = tokio::time::Instant::now();
        gateway.shutdown.terminate(PATIENCE);
        let answer = match gateway.handshake(speaks, NAME, &[&TLS13], &[]).await {
            Ok(mut stream) => {
                let _ = stream.write_all(GET).await;
                Some(read_answer(&mut stream).await)
            }
            Err(_) => None,
        };
        let in_time = begun.elapsed() < Duration::from_millis(500);
        assert_eq!(read_to_end(&mut silent[0]).await.unwrap(), b"");
        gateway.ended().await;
        assert_eq!(gateway.counters.active.load(Ordering::Relaxed), 0);
        assert_eq!(value(&gateway.counters.handshake_timeout), 0);
        let served = answer.is_some_and(|answer| answer.ends_with("hello"));
        if in_time || served {
            assert!(served);
            return;
        }
    }
    panic!("never in time");
}

#[tokio::test]
async fn a_second_terminate_cuts_the_silent_at_once() {
    let mut gateway = Gateway::start(settings());
    let mut silent = gateway.silent(3).await;
    gateway.shutdown.terminate(PATIENCE * 10);
    gateway.shutdown.terminate(PATIENCE * 10);
    for socket in &mut silent {
        assert_eq!(read_to_end(socket).await.unwrap(), b"");
    }
    gateway.ended().await;
    assert_eq!(gateway.counters.active.load(Ordering::Relaxed), 0);
}
