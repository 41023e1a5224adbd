//! Clients that never stop asking, on HTTP/1.1 and HTTP/2, and hold every answer to account.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::support::Over;
use crate::support::client::Http1;
use crate::support::client::Http2;
use crate::support::request::Answer;
use crate::support::request::Request;

/// What all clients of one run share.
#[derive(Default)]
pub struct Load {
    stop: AtomicBool,
    /// Whether a connection that ends without a word is the end of its client instead of a failure.
    forgives: bool,
    /// Answers that were as they should be.
    pub answered: AtomicUsize,
    /// Connections that the gateway asked its client to leave.
    pub told: AtomicUsize,
    /// What should not have been.
    pub failures: Mutex<Vec<String>>,
}

/// What one client, with a key of its own, has counted.
#[derive(Default)]
pub struct Tally {
    /// Requests sent, answered or not.
    pub sent: u64,
    /// When each was answered.
    pub answers: Vec<Instant>,
}

impl Load {
    /// One whose clients end where the gateway is killed.
    pub fn until_killed() -> Load {
        Load {
            forgives: true,
            ..Load::default()
        }
    }

    /// Ends all clients after the request under way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Ends them when it goes, so that a failure among what they are held against ends the test.
    pub fn until_dropped(&self) -> Over<'_> {
        Over(&self.stop)
    }

    /// Waits until the clients have had so many more answers.
    pub fn goes_on(&self, count: usize) {
        let before = self.answered.load(Ordering::SeqCst);
        crate::support::eventually("the load goes on", || {
            let failed = !self.failures.lock().unwrap().is_empty();
            (failed || self.answered.load(Ordering::SeqCst) >= before + count).then_some(())
        });
    }

    /// Fails, showing the first failures, if there are any.
    #[track_caller]
    pub fn expect_none_failed(&self) {
        let failures = self.failures.lock().unwrap();
        let first: Vec<&String> = failures.iter().take(5).collect();
        assert!(
            failures.is_empty(),
            "{} failures: {first:#?}",
            failures.len()
        );
    }

    /// An HTTP/1.1 client: one request after the other on one connection, a new one only where the last answer said `Connection: close`.
    pub fn http1(&self, address: SocketAddr, key: &str) -> Tally {
        let mut tally = Tally::default();
        let request = Request::get("/any").bearer(key);
        let mut client = Http1::tls(address);
        while !self.stop.load(Ordering::SeqCst) {
            tally.sent += 1;
            client.send(request.bytes());
            let Some(answer) = client.try_read_for("GET") else {
                self.broke_off("an HTTP/1.1 connection was closed without a word");
                break;
            };
            self.judge(&answer, &mut tally);
            if answer.all("connection").contains(&"close") {
                self.told.fetch_add(1, Ordering::SeqCst);
                client = Http1::tls(address);
            }
        }
        tally
    }

    /// An HTTP/2 client: one request after the other on one connection, a new one only after GOAWAY.
    pub fn http2(&self, address: SocketAddr, key: &str) -> Tally {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut tally = Tally::default();
        let request = Request::get("/any").bearer(key);
        runtime.block_on(async {
            let mut client = Http2::connect(address).await;
            while !self.stop.load(Ordering::SeqCst) {
                tally.sent += 1;
                match client.exchange(&request).await {
                    Ok(answer) => self.judge(&answer, &mut tally),
                    // The gateway says which streams it has taken; this one is not among them, and may be sent again.
                    Err(error)
                        if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) =>
                    {
                        tally.sent -= 1;
                        self.told.fetch_add(1, Ordering::SeqCst);
                        client = Http2::connect(address).await;
                    }
                    Err(error) => {
                        self.broke_off(&format!("an HTTP/2 request failed: {error:?}"));
                        break;
                    }
                }
            }
        });
        tally
    }

    /// 200, whole, and the count goes on from the answer before, through whatever happens to the gateway.
    fn judge(&self, answer: &Answer, tally: &mut Tally) {
        tally.answers.push(Instant::now());
        self.answered.fetch_add(1, Ordering::SeqCst);
        if answer.status != 200 || !answer.complete {
            return self.fail(format!("{answer:?}"));
        }
        let used = used(answer);
        if !self.forgives && used != tally.answers.len() as u64 {
            self.fail(format!(
                "{used} used after {} requests",
                tally.answers.len()
            ));
        }
    }

    fn broke_off(&self, what: &str) {
        if !self.forgives {
            self.fail(what.to_owned());
        }
    }

    fn fail(&self, what: String) {
        self.failures.lock().unwrap().push(what);
    }
}

/// How much of its quota a key has used, by the headers of an answer.
pub fn used(answer: &Answer) -> u64 {
    answer.number("x-ratelimit-limit") - answer.number("x-ratelimit-remaining")
}
