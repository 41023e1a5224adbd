//! The way of lines to the file: each worker gathers, one thread writes, and nobody waits for it.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;

use crate::access_log::Entry;
use crate::access_log::line::Stamp;
use crate::access_log::line::write_entry;

/// A worker hands its lines over once they exceed this many bytes (or when it is told to, every 200 ms).
const HAND_OVER_BYTES: usize = 64 * 1024;

/// Room of a buffer: what is gathered, and the line that goes beyond.
const BUFFER_BYTES: usize = HAND_OVER_BYTES + 4 * 1024;

/// Empty buffers that a worker has at most.
const EMPTIES: usize = 4;

/// Orders to the writing thread.
enum Order {
    Lines(Lines),
    Reopen,
    Stop,
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// This file, appended to, created 0640.
    File(PathBuf),
}

/// Lines, and where their buffer goes when it is empty: memory that is given back is had again only page by page.
struct Lines {
    bytes: Vec<u8>,
    back: mpsc::SyncSender<Vec<u8>>,
}

impl Lines {
    fn count(&self) -> usize {
        self.bytes.iter().filter(|byte| **byte == b'\n').count()
    }

    fn give_back(mut self) {
        if self.bytes.capacity() <= 2 * BUFFER_BYTES {
            self.bytes.clear();
            // Without room there, or anybody, it is one too many.
            let _ = self.back.try_send(self.bytes);
        }
    }
}

/// The writing thread.
#[derive(Debug)]
pub struct Writer {
    orders: mpsc::SyncSender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// One worker's end of the log; its lines gather here first.
#[derive(Debug)]
pub struct Sink {
    lines: RefCell<Vec<u8>>,
    stamp: RefCell<Stamp>,
    orders: Option<mpsc::SyncSender<Order>>,
    back: mpsc::SyncSender<Vec<u8>>,
    empties: mpsc::Receiver<Vec<u8>>,
    dropped: Arc<AtomicU64>,
}

impl Writer {
    /// Opens the target and starts the thread. Of lines that were handed over, `queue_bytes_max` bytes may wait for it.
    ///
    /// # Errors
    /// When the file cannot be opened or no thread can be had.
    pub fn start(target: Target, queue_bytes_max: usize) -> io::Result<Writer> {
        let mut out = open(&target)?;
        let (orders, inbox) = mpsc::sync_channel((queue_bytes_max / HAND_OVER_BYTES).max(1));
        let thread = std::thread::Builder::new().name(String::from("access-log")).spawn(move || {
            for order in inbox {
                match order {
                    Order::Lines(lines) => {
                        write_lines(&mut *out, &lines.bytes);
                        lines.give_back();
                    }
                    Order::Reopen => match open(&target) {
                        Ok(fresh) => out = fresh,
                        Err(error) => tracing::error!(%error, "access log not reopened, the old file goes on"),
                    },
                    Order::Stop => break,
                }
            }
        })?;
        Ok(Writer {
            orders,
            thread: Some(thread),
        })
    }

    /// A worker's end. `dropped` counts lines that could not be handed over.
    #[must_use]
    pub fn sink(&self, dropped: Arc<AtomicU64>) -> Sink {
        Sink::to(Some(self.orders.clone()), dropped)
    }

    /// Opens the file anew, after it was moved away (USR1).
    pub fn reopen(&self) {
        let _ = self.orders.send(Order::Reopen);
    }

    /// Writes what was handed over and ends the thread.
    pub fn stop(mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Sink {
    /// A sink that writes nowhere (`access = "off"`).
    #[must_use]
    pub fn off() -> Sink {
        Sink::to(None, Arc::default())
    }

    fn to(orders: Option<mpsc::SyncSender<Order>>, dropped: Arc<AtomicU64>) -> Sink {
        let (back, empties) = mpsc::sync_channel(EMPTIES);
        Sink {
            lines: RefCell::new(Vec::new()),
            stamp: RefCell::new(Stamp::new()),
            orders,
            back,
            empties,
            dropped,
        }
    }

    /// Adds one line.
    pub fn record(&self, entry: &Entry<'_>) {
        if self.orders.is_none() {
            return;
        }
        let full = {
            let mut lines = self.lines.borrow_mut();
            write_entry(&mut lines, &mut self.stamp.borrow_mut(), entry);
            lines.len() >= HAND_OVER_BYTES
        };
        if full {
            self.hand_over();
        }
    }

    /// Gives the gathered lines to the writing thread without waiting for it.
    pub fn hand_over(&self) {
        let Some(orders) = &self.orders else { return };
        if self.lines.borrow().is_empty() {
            return;
        }
        let empty = self.empties.try_recv();
        let empty = empty.unwrap_or_else(|_| Vec::with_capacity(BUFFER_BYTES));
        let lines = Lines {
            bytes: self.lines.replace(empty),
            back: self.back.clone(),
        };
        if let Err(
            mpsc::TrySendError::Full(Order::Lines(lost))
            | mpsc::TrySendError::Disconnected(Order::Lines(lost)),
        ) = orders.try_send(Order::Lines(lines))
        {
            self.dropped
                .fetch_add(lost.count() as u64, Ordering::Relaxed);
            lost.give_back();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.hand_over();
    }
}

fn open(target: &Target) -> io::Result<Box<dyn Write + Send>> {
    Ok(match target {
        Target::Stdout => Box::new(io::stdout()),
        Target::File(path) => Box::new(
            OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o640)
                .open(path)?,
        ),
    })
}

fn write_lines(out: &mut dyn Write, lines: &[u8]) {
    if let Err(error) = out.write_all(lines).and_then(|()| out.flush()) {
        tracing::error!(%error, "access log lines lost");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_log::line::tests::entry;

    #[test]
    fn a_file_is_reopened_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let writer = Writer::start(Target::File(path.clone()), 1 << 20).unwrap();
        let sink = writer.sink(Arc::default());
        sink.record(&entry("/one", "h"));
        sink.hand_over();
        writer.reopen();
        sink.record(&entry("/two", "h"));
        drop(sink);
        writer.stop();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 2);
    }
}
