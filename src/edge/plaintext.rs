//! Last words on a socket: the 400 in clear for plain HTTP on a TLS port (S25), and the wait that lets last words arrive.

use std::io;

use bytes::Bytes;
use http::Response;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Gives this answer and reads on until the client has closed, so that it arrives. The caller bounds the time.
pub(super) async fn explain(mut socket: TcpStream, answer: Response<Bytes>) -> io::Result<()> {
    socket.write_all(&written(&answer)).await?;
    socket.shutdown().await?;
    drain(socket).await
}

/// The answer as it stands on the wire; a date is not worth a clock here.
pub(super) fn written(answer: &Response<Bytes>) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {}\r\n", answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(answer.body());
    bytes
}

/// Reads and throws away until the client closes. Ending with unread bytes would send a reset, which may overtake our last
/// bytes (RFC 9112 section 9.6). The caller bounds the time.
pub(super) async fn drain(mut socket: TcpStream) -> io::Result<()> {
    let mut waste = vec![0; 16 * 1024];
    while socket.read(&mut waste).await? > 0 {}
    Ok(())
}
