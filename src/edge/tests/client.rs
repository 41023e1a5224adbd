//! What a client of these tests does: waits with patience, reads to an end, asks over HTTP/2.

use super::*;

pub(super) async fn patient<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("patience is over")
}

/// Reads one answer with a `Content-Length`, or what comes until the end.
pub(super) async fn read_answer(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = patient(stream.read(&mut chunk)).await.unwrap_or(0);
        answer.extend_from_slice(&chunk[..read]);
        let text = String::from_utf8_lossy(&answer).into_owned();
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let head = head.to_ascii_lowercase();
            let length = head.split_once("content-length: ").map(|(_, rest)| rest);
            let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
            length.is_some_and(|length: usize| body.len() >= length)
        });
        if read == 0 || whole {
            return text;
        }
    }
}

pub(super) async fn get(stream: &mut TlsStream<TcpStream>) -> String {
    stream.write_all(GET).await.unwrap();
    read_answer(stream).await
}

/// Reads to the end; `Err` when the end was not a clean one (no close_notify, or a reset).
pub(super) async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    patient(stream.read_to_end(&mut all)).await.map(|_| all)
}

/// Waits for a count; the client may see the end of a connection a moment before it is counted.
pub(super) async fn becomes(counter: &AtomicU64, expected: u64) {
    let reached = async {
        while value(counter) < expected {
            tokio::task::yield_now().await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, reached).await;
    assert_eq!(value(counter), expected);
}

pub(super) fn value(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub(super) fn request2(path: &str) -> Request<()> {
    let uri = format!("https://{NAME}{path}");
    Request::builder().uri(uri).body(()).unwrap()
}

pub(super) async fn get2(
    send: &mut h2::client::SendRequest<Bytes>,
    path: &str,
) -> Result<StatusCode, h2::Error> {
    let (response, _) = send.send_request(request2(path), true)?;
    patient(response).await.map(|response| response.status())
}

/// The whole body of an answer.
pub(super) async fn whole2(
    send: &mut h2::client::SendRequest<Bytes>,
    path: &str,
) -> Result<Vec<u8>, h2::Error> {
    let (response, _) = send.send_request(request2(path), true)?;
    let read = async {
        let mut body = response.await?.into_body();
        let mut whole = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            whole.extend_from_slice(&data);
        }
        Ok(whole)
    };
    patient(read).await
}
