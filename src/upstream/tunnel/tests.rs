//! One direction of a tunnel between two ends that a test holds.

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::DuplexStream;
use tokio::io::duplex;

use super::*;

/// A flow between two ends that a test holds.
struct Scene {
    flow: Flow,
    source: DuplexStream,
    sink: DuplexStream,
    sends: DuplexStream,
    takes: DuplexStream,
}

/// The sink takes this many bytes before it blocks.
fn scene(room: usize) -> Scene {
    let (sends, source) = duplex(1 << 20);
    let (sink, takes) = duplex(room);
    Scene {
        flow: Flow::default(),
        source,
        sink,
        sends,
        takes,
    }
}

impl Scene {
    async fn turn(&mut self) -> Poll<Result<(), Broken>> {
        // A task that has used up tokio's budget is told that nothing is ready; a turn of its own begins with a new one.
        tokio::task::yield_now().await;
        let Scene {
            flow, source, sink, ..
        } = self;
        poll_fn(|cx| Poll::Ready(flow.poll(cx, source, sink))).await
    }

    async fn finish(&mut self, words: &[u8]) -> Poll<()> {
        let Scene {
            flow, source, sink, ..
        } = self;
        poll_fn(|cx| Poll::Ready(flow.poll_finish(cx, source, sink, words))).await
    }

    async fn taken(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.takes.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.takes.read_to_end(&mut bytes).await.unwrap();
        bytes
    }
}

#[tokio::test]
async fn a_sink_that_takes_nothing_stops_the_source() {
    let mut scene = scene(1000);
    scene.sends.write_all(&[7; 200_000]).await.unwrap();
    assert!(scene.turn().await.is_pending());
    assert!(scene.flow.held.len() <= PIECE_BYTES);
    assert_eq!(scene.flow.bytes, PIECE_BYTES as u64, "one piece was read");
    assert!(scene.turn().await.is_pending());
    assert_eq!(scene.flow.bytes, PIECE_BYTES as u64, "and no more");
    scene.sends.shutdown().await.unwrap();
    let mut got = 0;
    while got < 200_000 {
        got += scene.taken(1000).await.len();
        let _ = scene.turn().await;
    }
    assert_eq!(scene.turn().await, Poll::Ready(Ok(())));
    assert!(scene.rest().await.is_empty());
    assert_eq!(scene.flow.held.capacity(), 0, "at rest it holds no memory");
}

#[tokio::test]
async fn a_close_frame_waits_for_the_end_of_the_frame_under_way() {
    let frame = [&[0x82, 5][..], b"hello"].concat();
    let words = [0x88, 2, 3, 0xf0];
    // Cut anywhere: inside the header, inside the payload, at its end.
    for at in 1..=frame.len() {
        let mut scene = scene(1000);
        scene.sends.write_all(&frame[..at]).await.unwrap();
        assert!(scene.turn().await.is_pending());
        let ready = at == frame.len();
        assert_eq!(scene.finish(&words).await.is_ready(), ready, "{at}");
        if !ready {
            // What follows that frame does not go out any more.
            scene.sends.write_all(&frame[at..]).await.unwrap();
            scene.sends.write_all(&frame).await.unwrap();
            assert!(scene.finish(&words).await.is_ready());
        }
        assert_eq!(scene.rest().await, [&frame[..], &words].concat(), "{at}");
    }
}

#[tokio::test]
async fn a_frame_that_was_held_back_is_ended_too() {
    let frame = [&[0x82, 126, 0, 200][..], &[1; 200]].concat();
    let words = [0x88, 2, 3, 0xf0];
    let mut scene = scene(50);
    let two = [&frame[..], &frame].concat();
    scene.sends.write_all(&two).await.unwrap();
    assert!(scene.turn().await.is_pending());
    assert_eq!(scene.flow.held.len(), two.len() - 50);
    let mut got = Vec::new();
    while scene.finish(&words).await.is_pending() {
        got.extend(scene.taken(50.min(frame.len() + 4 - got.len())).await);
    }
    got.extend(scene.rest().await);
    assert_eq!(got, [&frame[..], &words].concat());
}

#[tokio::test]
async fn nothing_follows_a_close_frame() {
    let close = [0x88, 0];
    let mut scene = scene(1000);
    scene.sends.write_all(&close).await.unwrap();
    assert!(scene.turn().await.is_pending());
    assert!(scene.finish(&[0x88, 2, 3, 0xf0]).await.is_ready());
    assert_eq!(scene.rest().await, close);
}

#[tokio::test]
async fn a_source_that_ends_inside_a_frame_is_not_waited_for() {
    let mut scene = scene(1000);
    scene.sends.write_all(&[0x82, 5, b'h']).await.unwrap();
    assert!(scene.turn().await.is_pending());
    scene.sends.shutdown().await.unwrap();
    assert!(scene.finish(&[0x88, 2, 3, 0xf0]).await.is_ready());
    assert!(!scene.flow.shut, "it is cut, not closed");
}

#[tokio::test]
async fn the_end_of_a_side_is_passed_on_and_the_other_goes_on() {
    let mut down = scene(1000);
    down.sends.write_all(b"last").await.unwrap();
    down.sends.shutdown().await.unwrap();
    assert_eq!(down.turn().await, Poll::Ready(Ok(())));
    assert_eq!(down.rest().await, b"last");
    assert_eq!(down.turn().await, Poll::Ready(Ok(())), "and is asked again");
    let mut up = scene(1000);
    up.takes = duplex(1).0;
    up.sends.write_all(b"to nobody").await.unwrap();
    assert_eq!(up.turn().await, Poll::Ready(Err(Broken::Sink)));
}
