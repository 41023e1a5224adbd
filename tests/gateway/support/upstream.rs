//! A backend that records the exact bytes of every request and answers exactly the bytes it is told to.

use std::collections::HashMap;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::thread::JoinHandle;

use crate::support::Gate;
use crate::support::PATIENCE;
use crate::support::eventually;

/// One thing the backend does in answer to a request.
#[derive(Clone)]
pub enum Step {
    /// Reads the rest of the request and records it.
    ReadBody,
    /// Reads so many bytes of a body and forgets them: a large upload that nobody has to keep in memory.
    Forget(usize),
    /// Writes these bytes as they are.
    Send(Vec<u8>),
    /// Writes these bytes so many times: a large body that nobody has to keep in memory.
    Repeat(Vec<u8>, usize),
    /// Waits until the test opens the gate.
    Wait(Gate),
    /// Says nothing and waits until the gateway closes the connection, which is counted in [`Upstream::aborted`].
    Hold,
    /// Closes the connection.
    Close,
}

/// One request as it came in.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Every byte, head and body, framing included.
    pub raw: Vec<u8>,
    /// The request line, without its line end.
    pub line: String,
    /// Names and values in order, names as they were spelled.
    pub headers: Vec<(String, String)>,
    /// The body, its framing taken off.
    pub body: Vec<u8>,
    /// The trailer section, verbatim.
    pub trailers: String,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// Whether all of it was read.
    pub complete: bool,
}

impl Recorded {
    /// The request target.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or("")
    }

    /// All values of headers with this name (letter case aside), in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(found, _): &&(String, String)| found.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .filter(same)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The headers that some backend would take for `name`: letters and digits compared without case, everything else alike.
    pub fn look_alikes(&self, name: &str) -> Vec<(&str, &str)> {
        let canonical = |text: &str| -> String {
            text.chars()
                .map(|letter| match letter.is_ascii_alphanumeric() {
                    true => letter.to_ascii_lowercase(),
                    false => '-',
                })
                .collect()
        };
        self.headers
            .iter()
            .filter(|(found, _)| canonical(found) == canonical(name))
            .map(|(found, value)| (found.as_str(), value.as_str()))
            .collect()
    }

    /// All of it as text, for searching.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }
}

struct Shared {
    requests: Mutex<Vec<Recorded>>,
    changed: Condvar,
    script: Mutex<HashMap<String, Vec<Step>>>,
    /// By number, as long as they are open: thousands may come in one test.
    open: Mutex<HashMap<usize, TcpStream>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopping: AtomicBool,
    connections: AtomicUsize,
    aborted: AtomicUsize,
    repeated: AtomicUsize,
}

/// The running backend; stops when dropped.
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts a backend that answers 200 and `ok` to everything.
    pub fn start() -> Upstream {
        Upstream::start_at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// The same at this address.
    pub fn start_at(address: SocketAddr) -> Upstream {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            requests: Mutex::default(),
            changed: Condvar::new(),
            script: Mutex::default(),
            open: Mutex::default(),
            threads: Mutex::default(),
            stopping: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            aborted: AtomicUsize::new(0),
            repeated: AtomicUsize::new(0),
        });
        let for_thread = Arc::clone(&shared);
        let acceptor = thread::spawn(move || accept(&listener, &for_thread));
        Upstream {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// From now on, requests for this path (query aside) get these steps.
    pub fn script(&self, path: &str, steps: Vec<Step>) -> &Upstream {
        self.shared
            .script
            .lock()
            .unwrap()
            .insert(path.to_owned(), steps);
        self
    }

    /// From now on, requests for this path get exactly these bytes once they are read whole.
    pub fn answer(&self, path: &str, bytes: impl Into<Vec<u8>>) -> &Upstream {
        self.script(path, vec![Step::ReadBody, Step::Send(bytes.into())])
    }

    /// Like [`Upstream::answer`], and the connection is closed after it.
    pub fn answer_and_close(&self, path: &str, bytes: impl Into<Vec<u8>>) -> &Upstream {
        self.script(
            path,
            vec![Step::ReadBody, Step::Send(bytes.into()), Step::Close],
        )
    }

    /// How many requests came, for whatever path.
    pub fn hits(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// How many requests came for this path (query aside).
    pub fn hits_on(&self, path: &str) -> usize {
        self.requests()
            .iter()
            .filter(|request| path_of(request.target()) == path)
            .count()
    }

    /// All requests so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The latest request.
    #[track_caller]
    pub fn last(&self) -> Recorded {
        self.requests()
            .pop()
            .expect("the backend has got no request")
    }

    /// Forgets what came so far.
    pub fn forget(&self) {
        self.shared.requests.lock().unwrap().clear();
    }

    /// Waits until so many requests have come.
    #[track_caller]
    pub fn wait_for_hits(&self, count: usize) {
        let requests = self.shared.requests.lock().unwrap();
        let (requests, _) = self
            .shared
            .changed
            .wait_timeout_while(requests, PATIENCE, |requests| requests.len() < count)
            .unwrap();
        assert!(
            requests.len() >= count,
            "the backend got {} requests, not {count}",
            requests.len()
        );
    }

    /// How many requests the gateway gave up while the backend held them.
    pub fn aborted(&self) -> usize {
        self.shared.aborted.load(Ordering::SeqCst)
    }

    /// Waits until the gateway has given up so many held requests.
    #[track_caller]
    pub fn wait_for_aborted(&self, count: usize) {
        eventually("the gateway cancels the request to the backend", || {
            (self.aborted() >= count).then_some(())
        });
    }

    /// How many bytes it got rid of by [`Step::Repeat`].
    pub fn repeated(&self) -> usize {
        self.shared.repeated.load(Ordering::SeqCst)
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for (_, stream) in self.shared.open.lock().unwrap().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let threads: Vec<_> = self.shared.threads.lock().unwrap().drain(..).collect();
        for thread in threads {
            let _ = thread.join();
        }
    }
}

/// An address on which nothing listens.
pub fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], crate::support::ports::free_port()))
}

/// A 200 with this body and a Content-Length.
pub fn ok(body: &str) -> Vec<u8> {
    status(200, &[], body)
}

/// An answer with this status, these headers and this body.
pub fn status(code: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {code} Scripted\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        let _ = stream.set_nodelay(true);
        if let Ok(handle) = stream.try_clone() {
            shared.open.lock().unwrap().insert(connection, handle);
        }
        let for_thread = Arc::clone(shared);
        let thread = thread::spawn(move || {
            let mut conversation = Conversation {
                stream,
                buffer: Vec::new(),
                shared: for_thread,
                connection,
            };
            while conversation.one_request().is_some() {}
            let _ = conversation.stream.shutdown(Shutdown::Both);
            let shared = &conversation.shared;
            shared.open.lock().unwrap().remove(&connection);
        });
        let mut threads = shared.threads.lock().unwrap();
        if threads.len() % 100 == 99 {
            threads.retain(|thread| !thread.is_finished());
        }
        threads.push(thread);
    }
}

/// One connection and what was read from it but not yet used.
struct Conversation {
    stream: TcpStream,
    buffer: Vec<u8>,
    shared: Arc<Shared>,
    connection: usize,
}

impl Conversation {
    /// Serves one request; `None` ends the connection.
    fn one_request(&mut self) -> Option<()> {
        let head = self.take_until(b"\r\n\r\n")?;
        let request = parse_head(&head, self.connection);
        let path = path_of(request.target()).to_owned();
        let continues = request
            .all("expect")
            .iter()
            .any(|value| value.eq_ignore_ascii_case("100-continue"));
        let index = {
            let mut requests = self.shared.requests.lock().unwrap();
            requests.push(request.clone());
            requests.len() - 1
        };
        self.shared.changed.notify_all();
        let scripted = self.shared.script.lock().unwrap().get(&path).cloned();
        let steps = scripted.unwrap_or_else(|| {
            let mut steps = vec![Step::ReadBody, Step::Send(ok("ok"))];
            if continues {
                steps.insert(0, Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
            }
            steps
        });
        for step in steps {
            self.perform(step, request.clone(), index)?;
        }
        Some(())
    }

    fn perform(&mut self, step: Step, request: Recorded, index: usize) -> Option<()> {
        match step {
            Step::ReadBody => self.read_body(request, index),
            Step::Forget(count) => self.forget(count),
            Step::Send(bytes) => self.stream.write_all(&bytes).ok(),
            Step::Repeat(bytes, times) => (0..times).try_for_each(|_| {
                self.stream.write_all(&bytes).ok()?;
                let repeated = &self.shared.repeated;
                repeated.fetch_add(bytes.len(), Ordering::SeqCst);
                Some(())
            }),
            Step::Wait(gate) => gate.pass().then_some(()),
            Step::Hold => {
                while self.fill().is_some() {}
                if !self.shared.stopping.load(Ordering::SeqCst) {
                    self.shared.aborted.fetch_add(1, Ordering::SeqCst);
                }
                None
            }
            Step::Close => None,
        }
    }

    fn forget(&mut self, mut count: usize) -> Option<()> {
        loop {
            let now = count.min(self.buffer.len());
            self.buffer.drain(..now);
            count -= now;
            if count == 0 {
                return Some(());
            }
            self.fill()?;
        }
    }

    fn read_body(&mut self, mut request: Recorded, index: usize) -> Option<()> {
        let chunked = request
            .all("transfer-encoding")
            .iter()
            .any(|coding| coding.trim().eq_ignore_ascii_case("chunked"));
        if chunked {
            self.read_chunks(&mut request)?;
        } else if let Some(length) = request.all("content-length").first() {
            let length = length.trim().parse().ok()?;
            let body = self.take(length)?;
            request.raw.extend_from_slice(&body);
            request.body = body;
        }
        request.complete = true;
        if let Some(slot) = self.shared.requests.lock().unwrap().get_mut(index) {
            *slot = request;
        }
        self.shared.changed.notify_all();
        Some(())
    }

    fn read_chunks(&mut self, request: &mut Recorded) -> Option<()> {
        loop {
            let line = self.take_until(b"\r\n")?;
            request.raw.extend_from_slice(&line);
            let size = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(size.trim().split(';').next()?, 16).ok()?;
            if size == 0 {
                break;
            }
            let mut chunk = self.take(size + 2)?;
            request.raw.extend_from_slice(&chunk);
            chunk.truncate(size);
            request.body.extend_from_slice(&chunk);
        }
        loop {
            let line = self.take_until(b"\r\n")?;
            request.raw.extend_from_slice(&line);
            if line == b"\r\n" {
                return Some(());
            }
            request.trailers.push_str(&String::from_utf8_lossy(&line));
        }
    }

    fn take_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = find(&self.buffer, end) {
                return Some(self.buffer.drain(..at + end.len()).collect());
            }
            self.fill()?;
        }
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        Some(self.buffer.drain(..count).collect())
    }

    fn fill(&mut self) -> Option<()> {
        let mut piece = [0; 64 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                Some(())
            }
        }
    }
}

pub fn parse_head(head: &[u8], connection: usize) -> Recorded {
    let text = String::from_utf8_lossy(head).into_owned();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let line = lines.next().unwrap_or("").to_owned();
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_owned(), value.trim().to_owned())
        })
        .collect();
    Recorded {
        raw: head.to_vec(),
        line,
        headers,
        connection,
        ..Recorded::default()
    }
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or(target)
}

/// Where `needle` begins in `haystack`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
