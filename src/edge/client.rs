//! One client connection as its task, its requests and the sweep see it.

use std::cell::Cell;
use std::cell::RefCell;
use std::future::Future;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::task::Waker;

use crate::handler::in_flight::Carrier;
use crate::handler::in_flight::Passage;
use crate::upstream::ClientStream;

use super::counters::ConnectionCounters;
use super::sweep::View;
use super::sweep::over;
use super::watched::Progress;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// TLS is being agreed on.
    Handshake,
    /// Speaks HTTP/1.1.
    Http1,
    /// Speaks HTTP/2.
    Http2,
    /// Carries something else after a 101, with an idle timer of its own (S40).
    Tunnel,
    /// Closed on our side; what the client still sends is thrown away, so that the kernel does not answer it with a
    /// reset that would take our last bytes with it (RFC 9112 section 9.6).
    Lingering,
}

/// Why a connection ends before its client wants it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    HandshakeTimeout,
    HeadTimeout,
    Idle,
    Stalled,
    Flooded,
    Drain,
    /// The key of the answer under way was revoked.
    Revoked,
    /// Told to finish, with nothing left to answer, and did not.
    Unfinished,
}

/// What the sweep tells a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Continue,
    /// Answer what is under way, take no more requests, close.
    Finish(Why),
    /// Close at once.
    Cut(Why),
}

/// One client connection as its task, its requests and the sweep see it.
#[derive(Debug)]
pub(super) struct Client {
    /// What the socket noted.
    pub(super) progress: Arc<Progress>,
    /// Where the registry keeps it.
    pub(super) slot: Cell<usize>,
    phase: Cell<Phase>,
    quiet_since: Cell<u32>,
    requests: Cell<usize>,
    served: Cell<bool>,
    /// Since when its worker drains; 0 while it does not.
    draining_since: Cell<u32>,
    order: Cell<Order>,
    finishing_since: Cell<u32>,
    /// HTTP/2 streams under way; HTTP/1.1 needs no list.
    streams: RefCell<Vec<Rc<Stream>>>,
    /// The connection after a 101, of which HTTP has let go.
    stream: RefCell<Option<ClientStream>>,
    /// What goes on after a 101.
    passage: RefCell<Option<Passage>>,
    /// A tunnel is to say goodbye.
    must_leave: Cell<bool>,
    /// When names were last told to HTTP/2's compression table; 0 before.
    names_told: Cell<u32>,
    /// When its first answer over HTTP/2 began; 0 before.
    answers_since: Cell<u32>,
    waker: RefCell<Option<Waker>>,
    counters: Arc<ConnectionCounters>,
}

/// One HTTP/2 request and its answer.
#[derive(Debug)]
struct Stream {
    /// Since when the answer waits for the client to take it; 0 while it waits for us. HTTP/2 flow control stops a
    /// stream while the socket goes on, so the socket's notes cannot tell.
    owed_since: Cell<u32>,
    /// It is to be reset, whatever is under way.
    is_cut: Cell<bool>,
    /// Has it polled by its connection.
    waker: Waker,
}

impl Stream {
    fn cut(&self) {
        self.is_cut.set(true);
        self.waker.wake_by_ref();
    }
}

impl Carrier for Client {
    /// HTTP/1.1 has one answer at a time, and no other way to cut it than to close (RFC 9112 section 8).
    fn cut(&self) {
        self.give(Order::Cut(Why::Revoked));
    }

    fn hand_over(&self, passage: Passage) {
        *self.passage.borrow_mut() = Some(passage);
    }

    fn must_leave(&self) -> bool {
        self.must_leave.get()
    }
}

impl Carrier for Stream {
    /// Dropped by its connection, the stream sends RST_STREAM CANCEL, and not what waits for the client's window.
    fn cut(&self) {
        Stream::cut(self);
    }

    /// HTTP/2 has no 101 (RFC 9113 section 8.6), and extended CONNECT is not offered.
    fn hand_over(&self, _passage: Passage) {}

    fn must_leave(&self) -> bool {
        false
    }
}

impl Client {
    pub(super) fn new(progress: Arc<Progress>, counters: Arc<ConnectionCounters>) -> Client {
        let now = progress.now();
        Client {
            progress,
            slot: Cell::new(0),
            phase: Cell::new(Phase::Handshake),
            quiet_since: Cell::new(now),
            requests: Cell::new(0),
            served: Cell::new(false),
            draining_since: Cell::new(0),
            order: Cell::new(Order::Continue),
            finishing_since: Cell::new(0),
            streams: RefCell::new(Vec::new()),
            stream: RefCell::new(None),
            passage: RefCell::new(None),
            must_leave: Cell::new(false),
            names_told: Cell::new(0),
            answers_since: Cell::new(0),
            waker: RefCell::new(None),
            counters,
        }
    }

    /// Notes that it had come at this tick already: its waits began then.
    pub(super) fn came(&self, since: u32) {
        self.quiet_since.set(since);
    }

    /// Goes on to the next phase, whose waits begin now.
    pub(super) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.quiet_since.set(self.progress.now());
        self.progress.forget_reads();
    }

    /// What the sweep judges.
    pub(super) fn view(&self) -> View {
        let phase = self.phase.get();
        let requests = self.requests.get();
        let head_since = match phase {
            Phase::Http2 => self.progress.block_since(),
            // While a request is under way, what is read is its body or the next request waiting its turn.
            Phase::Http1 if requests > 0 => 0,
            _ => self.progress.reading_since(),
        };
        View {
            phase,
            quiet_since: self.quiet_since.get(),
            requests,
            served: self.served.get(),
            head_since,
            blocked_since: self.progress.blocked_since(),
            flooded: self.progress.flooded(),
            finishing_since: self.finishing_since.get(),
            silent_since_told: phase == Phase::Http2 && self.progress.reading_since() == 0,
            draining_since: self.draining_since.get(),
        }
    }

    /// Whether it was cut because the client took nothing for too long.
    pub(super) fn has_stalled(&self) -> bool {
        self.order.get() == Order::Cut(Why::Stalled)
    }

    /// From now on this connection is judged as one of a worker that drains.
    pub(super) fn drain(&self) {
        if self.draining_since.get() == 0 {
            self.draining_since.set(self.progress.now());
        }
    }

    /// Whether the answer about to begin is the last one: an HTTP/1.1 client is told so by `Connection: close`, and no request that is on
    /// its way already meets a closed connection. HTTP/2 has GOAWAY for that.
    pub(super) fn answers_last(&self) -> bool {
        self.draining_since.get() != 0 && self.phase.get() == Phase::Http1
    }

    /// Whether it is to end once nothing is under way.
    pub(super) fn is_finishing(&self) -> bool {
        matches!(self.order.get(), Order::Finish(_))
    }

    /// Tells a tunnel to say goodbye, or cuts what is none.
    pub(super) fn dismiss(&self) {
        if self.phase.get() == Phase::Tunnel {
            self.must_leave.set(true);
            self.wake();
        } else {
            self.give(Order::Cut(Why::Drain));
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Gives an order unless it, or a harder one, has been given; says whether it is new.
    pub(super) fn give(&self, order: Order) -> bool {
        let new = match (self.order.get(), order) {
            (Order::Continue, _) => order != Order::Continue,
            (Order::Finish(_), Order::Cut(_)) => true,
            _ => false,
        };
        if new {
            self.order.set(order);
            if let Order::Finish(_) = order {
                self.finishing_since.set(self.progress.now());
                // Over HTTP/2, where heads are timed by their frames, what comes from now on tells that the client still listens.
                if self.phase.get() == Phase::Http2 {
                    self.progress.forget_reads();
                }
            }
            self.wake();
        }
        new
    }

    /// Resets each stream whose answer the client has not taken for `limit` ticks; the others live on. Says how many.
    pub(super) fn cut_stalled_streams(&self, now: u32, limit: u32) -> u64 {
        let mut cut = 0;
        for stream in self.streams.borrow().iter() {
            if over(stream.owed_since.get(), now, limit) {
                stream.owed_since.set(0);
                stream.cut();
                cut += 1;
            }
        }
        cut
    }

    /// Polls `work`, unless the order is to cut.
    pub(super) fn poll_unless_cut<T>(
        &self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Option<T>> {
        if let Order::Cut(_) = self.order.get() {
            return Poll::Ready(None);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        work(cx).map(Some)
    }

    /// Runs `work` to its end, or to `None` when the order is to cut.
    pub(super) async fn unless_cut<F: Future>(&self, work: F) -> Option<F::Output> {
        let mut work = pin!(work);
        poll_fn(|cx| self.poll_unless_cut(cx, |cx| work.as_mut().poll(cx))).await
    }

    /// Takes the connection after a 101.
    pub(super) fn hand_back(&self, stream: ClientStream) {
        *self.stream.borrow_mut() = Some(stream);
    }

    /// Whether there is something left to do after HTTP/1.1 has ended.
    pub(super) fn goes_on(&self) -> bool {
        self.stream.borrow().is_some()
    }

    /// After HTTP/1.1 has ended: goes on with what a 101 began.
    pub(super) async fn go_on(self: &Rc<Self>) {
        if let (Some(passage), Some(stream)) = (self.passage.take(), self.stream.take()) {
            self.enter(Phase::Tunnel);
            let _under_way = UnderWay::begin(self);
            self.unless_cut(passage.begin(stream)).await;
        }
    }

    /// Forgets what will not go on any more, which knows of this connection in its turn.
    pub(super) fn forget(&self) {
        self.passage.take();
    }

    /// Counts a client that broke the rules of its protocol.
    pub(super) fn breaks_rules(&self) {
        self.counters.protocol_error.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what ended an HTTP/2 connection.
    pub(super) fn count_error(&self, error: &h2::Error) {
        // A client that went away broke no rule.
        let gone = self.progress.ended();
        if !gone {
            self.breaks_rules();
        }
        tracing::debug!(%error, gone, "client connection ended with an error");
    }

    fn count_panic(&self) {
        self.counters.panicked.fetch_add(1, Ordering::Relaxed);
        tracing::error!("a request panicked; its connection or stream is closed, others go on");
    }
}

/// A request under way: from its head to the last byte handed on, however it ends.
#[derive(Debug)]
pub(super) struct UnderWay {
    client: Rc<Client>,
    /// On HTTP/2 only.
    stream: Option<Rc<Stream>>,
}

impl UnderWay {
    /// Begins a request over HTTP/1.1, or a tunnel.
    pub(super) fn begin(client: &Rc<Client>) -> UnderWay {
        client.requests.set(client.requests.get() + 1);
        client.served.set(true);
        UnderWay {
            client: Rc::clone(client),
            stream: None,
        }
    }

    /// Begins a request over HTTP/2, where it is one of several and may stall alone; `waker` has it polled.
    pub(super) fn begin_stream(client: &Rc<Client>, waker: &Waker) -> UnderWay {
        let stream = Rc::new(Stream {
            owed_since: Cell::new(0),
            is_cut: Cell::new(false),
            waker: waker.clone(),
        });
        client.streams.borrow_mut().push(Rc::clone(&stream));
        let mut under_way = UnderWay::begin(client);
        under_way.stream = Some(stream);
        under_way
    }

    /// What carries the answer.
    pub(super) fn carrier(&self) -> Rc<dyn Carrier> {
        match &self.stream {
            Some(stream) => Rc::clone(stream) as Rc<dyn Carrier>,
            None => Rc::clone(&self.client) as Rc<dyn Carrier>,
        }
    }

    /// Whether the connection takes no request after this one.
    pub(super) fn is_last(&self) -> bool {
        self.client.answers_last()
    }

    /// Whether its stream is to be reset.
    pub(super) fn is_cut(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(|stream| stream.is_cut.get())
    }

    /// The worker's tick.
    pub(super) fn now(&self) -> u32 {
        self.client.progress.now()
    }

    /// Whether the answer about to begin is to leave the names of its fields in HTTP/2's compression table: the first one, and then one in so many
    /// ticks, since what else comes into the table drives them out.
    pub(super) fn tells_names(&self) -> bool {
        let (told, now) = (&self.client.names_told, self.now());
        let tells = told.get() == 0 || now.wrapping_sub(told.get()) >= NAMES_KEPT_TICKS;
        if tells {
            told.set(now);
        }
        tells
    }

    /// Whether the connection has begun to be answered over HTTP/2 so lately that a `Date` is worth its place in the compression table: a new one comes each
    /// second, and all of them are looked through for each answer.
    pub(super) fn is_young(&self) -> bool {
        let (since, now) = (&self.client.answers_since, self.now());
        if since.get() == 0 {
            since.set(now);
        }
        now.wrapping_sub(since.get()) < YOUNG_TICKS
    }

    /// Counts a panic that its stream alone dies of.
    pub(super) fn panicked(&self) {
        self.client.count_panic();
    }

    /// Notes whether something of the answer waits for the client to take it.
    pub(super) fn owed(&self, owed: bool) {
        if let Some(stream) = &self.stream {
            let since = if owed { self.client.progress.now() } else { 0 };
            stream.owed_since.set(since);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let client = &self.client;
        client.requests.set(client.requests.get() - 1);
        client.quiet_since.set(client.progress.now());
        if self.stream.is_none() {
            client.progress.forget_reads();
        }
        if let Some(stream) = &self.stream {
            let mut streams = client.streams.borrow_mut();
            if let Some(at) = streams.iter().position(|other| Rc::ptr_eq(other, stream)) {
                streams.swap_remove(at);
            }
        }
        if std::thread::panicking() {
            client.count_panic();
        }
    }
}

/// Half a minute.
const NAMES_KEPT_TICKS: u32 = 120;
/// Four seconds: a date as it is costs what a dozen others in the table do.
const YOUNG_TICKS: u32 = 16;
