//! Last words on a socket: the 400 in clear for plain HTTP on a TLS port (S25), and the wait that lets last words arrive.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Answers 400 and reads on until the client has closed, so that it gets the answer. The caller bounds the time.
pub(super) async fn explain(mut socket: TcpStream) -> io::Result<()> {
    let body = BODY;
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(answer.as_bytes()).await?;
    socket.shutdown().await?;
    drain(socket).await
}

/// Reads and throws away until the client closes. Ending with unread bytes would send a reset, which may overtake our last
/// bytes (RFC 9112 section 9.6). The caller bounds the time.
pub(super) async fn drain(mut socket: TcpStream) -> io::Result<()> {
    let mut waste = vec![0; 16 * 1024];
    while socket.read(&mut waste).await? > 0 {}
    Ok(())
}

/// Says nothing of the request: no echo.
const BODY: &str = "{\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\"code\":\"https_required\",\"detail\":\"this port speaks HTTPS; use an https:// URL\"}\n";
