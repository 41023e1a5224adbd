//! A TCP relay between a node and its store, to be slowed down, frozen, cut and led elsewhere.

use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU16;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::support::gateway::Setup;

/// Passes bytes between whoever connects and a port of this machine; ends when dropped.
pub struct Relay {
    /// Where it listens.
    pub port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    target: AtomicU16,
    frozen: AtomicBool,
    /// Milliseconds that a piece takes one way.
    delay: AtomicU64,
    /// Connections of an earlier one are closed.
    generation: AtomicUsize,
    /// So many more are let in.
    room: AtomicUsize,
    ended: AtomicBool,
}

impl Relay {
    /// To this port.
    #[track_caller]
    pub fn to(target: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let inner = Arc::new(Inner {
            target: AtomicU16::new(target),
            frozen: AtomicBool::new(false),
            delay: AtomicU64::new(0),
            generation: AtomicUsize::new(0),
            room: AtomicUsize::new(usize::MAX),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&inner);
        thread::spawn(move || own.accept(&listener));
        Relay { port, inner }
    }

    /// Nothing passes any more, and no connection is closed: as a network does that loses packets.
    pub fn freeze(&self) {
        self.inner.frozen.store(true, Ordering::SeqCst);
    }

    /// From now on a trip and its way back take this long.
    pub fn slow(&self, trip: Duration) {
        let one_way = trip.as_millis() as u64 / 2;
        self.inner.delay.store(one_way, Ordering::SeqCst);
    }

    /// It passes again.
    pub fn thaw(&self) {
        self.inner.frozen.store(false, Ordering::SeqCst);
    }

    /// Closes all connections; later ones go to this port.
    pub fn lead_to(&self, target: u16) {
        self.inner.target.store(target, Ordering::SeqCst);
        self.inner.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Later connections go to this port, and those that are there stay: as when a name or an address moves.
    pub fn later_to(&self, target: u16) {
        self.inner.target.store(target, Ordering::SeqCst);
    }

    /// Lets in so many more connections; later ones are closed.
    pub fn let_in(&self, count: usize) {
        self.inner.room.store(count, Ordering::SeqCst);
    }

    /// This setup as the node with this name, which reaches its store through here.
    pub fn node(&self, setup: Setup, name: &str) -> Setup {
        let servers = format!(r#"["127.0.0.1:{}"]"#, self.port);
        setup
            .set("store", "redis_timeout", r#""3s""#)
            .set("store", "kind", r#""redis""#)
            .set("store", "redis_servers", &servers)
            .set("store", "node", &format!("{name:?}"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.inner.ended.store(true, Ordering::SeqCst);
    }
}

impl Inner {
    fn accept(self: Arc<Inner>, listener: &TcpListener) {
        while !self.ended.load(Ordering::SeqCst) {
            let Ok((near, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(2));
                continue;
            };
            let one = |room: usize| room.checked_sub(1);
            let room = self
                .room
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one);
            if room.is_err() {
                continue;
            }
            let target = self.target.load(Ordering::SeqCst);
            let Ok(far) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], target))) else {
                continue;
            };
            let generation = self.generation.load(Ordering::SeqCst);
            for (from, to) in [(&near, &far), (&far, &near)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let own = Arc::clone(&self);
                thread::spawn(move || own.pass(from, to, generation));
            }
        }
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, generation: usize) {
        let pause = Duration::from_millis(10);
        from.set_nonblocking(false).unwrap();
        from.set_read_timeout(Some(pause)).unwrap();
        let mut bytes = [0; 16_384];
        let over = || {
            self.ended.load(Ordering::SeqCst)
                || self.generation.load(Ordering::SeqCst) != generation
        };
        while !over() {
            if self.frozen.load(Ordering::SeqCst) {
                thread::sleep(pause);
                continue;
            }
            match from.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => {
                    thread::sleep(Duration::from_millis(self.delay.load(Ordering::SeqCst)));
                    if to.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(_) => break,
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
