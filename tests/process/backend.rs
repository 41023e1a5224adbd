//! A backend for long runs: keeps counts instead of requests, fails on demand, and can be stopped and started again on its port.

use std::collections::HashMap;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;

/// How large a large body is, either way.
pub const BIG_BYTES: usize = 1 << 20;

/// Serves `…/ok`, `…/big` (a large answer), `…/upload` (says how many bytes came), `…/late`, `…/refuse` (closes without a word) and
/// `…/half` (closes within the body).
pub struct Backend {
    /// Where it listens while it runs.
    pub address: SocketAddr,
    /// Requests that were read whole, over all lives.
    pub served: Arc<AtomicU64>,
    life: Option<Life>,
}

/// The connections there are, by number, so that a stop can end them.
type Open = Arc<Mutex<HashMap<u64, TcpStream>>>;

struct Life {
    stopping: Arc<AtomicBool>,
    open: Open,
    acceptor: JoinHandle<()>,
}

impl Backend {
    pub fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut backend = Backend {
            address: listener.local_addr().unwrap(),
            served: Arc::default(),
            life: None,
        };
        backend.live(listener);
        backend
    }

    /// Ends every connection, stays away for so long, and listens again.
    pub fn restart(&mut self, away: Duration) {
        self.stop();
        thread::sleep(away);
        let listener = super::support::eventually("the port is free again", || {
            TcpListener::bind(self.address).ok()
        });
        self.live(listener);
    }

    fn live(&mut self, listener: TcpListener) {
        let stopping = Arc::new(AtomicBool::new(false));
        let open = Open::default();
        let (stop, all, served) = (
            Arc::clone(&stopping),
            Arc::clone(&open),
            Arc::clone(&self.served),
        );
        let acceptor = thread::spawn(move || {
            let mut number = 0;
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let Ok(handle) = stream.try_clone() else {
                    continue;
                };
                number += 1;
                all.lock().unwrap().insert(number, handle);
                let (all, served, number) = (Arc::clone(&all), Arc::clone(&served), number);
                thread::spawn(move || {
                    serve(stream, &served);
                    // The list holds the socket too: without this it would stay open.
                    if let Some(stream) = all.lock().unwrap().remove(&number) {
                        let _ = stream.shutdown(Shutdown::Both);
                    }
                });
            }
        });
        self.life = Some(Life {
            stopping,
            open,
            acceptor,
        });
    }

    fn stop(&mut self) {
        let Some(life) = self.life.take() else { return };
        life.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = life.acceptor.join();
        for stream in life.open.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop();
    }
}

fn serve(stream: TcpStream, served: &AtomicU64) {
    let Ok(mut out) = stream.try_clone() else {
        return;
    };
    let mut input = BufReader::with_capacity(64 * 1024, stream);
    while let Some((path, came)) = read(&mut input) {
        served.fetch_add(1, Ordering::Relaxed);
        let head = |length: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        let body = vec![b'x'; BIG_BYTES];
        let done = match path.rsplit('/').next() {
            Some("refuse") => return,
            Some("half") => {
                let _ = out.write_all(head(BIG_BYTES).as_bytes());
                let _ = out.write_all(&body[..BIG_BYTES / 2]);
                return;
            }
            Some("big") => out
                .write_all(head(BIG_BYTES).as_bytes())
                .and_then(|()| out.write_all(&body)),
            Some("upload") => {
                let text = came.to_string();
                out.write_all(format!("{}{text}", head(text.len())).as_bytes())
            }
            Some("late") => {
                thread::sleep(Duration::from_millis(150));
                out.write_all(format!("{}ok", head(2)).as_bytes())
            }
            _ => out.write_all(format!("{}ok", head(2)).as_bytes()),
        };
        if done.is_err() {
            return;
        }
    }
}

/// The path of the next request and the length of its body.
fn read(input: &mut BufReader<TcpStream>) -> Option<(String, usize)> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|count| *count > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
        chunked |= line == "transfer-encoding: chunked";
    }
    if !chunked {
        skip(input, length)?;
        return Some((path, length));
    }
    let mut total = 0;
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|count| *count > 0)?;
        let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
        skip(input, size + 2)?;
        total += size;
        if size == 0 {
            return Some((path, total));
        }
    }
}

fn skip(input: &mut BufReader<TcpStream>, count: usize) -> Option<()> {
    let skipped = std::io::copy(&mut input.take(count as u64), &mut std::io::sink());
    (skipped.ok()? == count as u64).then_some(())
}
