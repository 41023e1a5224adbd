//! Connections to a TLS port that have not said a whole word, or were told that they speak no TLS: a small record each, no task, no session of TLS.
//!
//! Most of what a flood of connections brings never says anything, or half a word (S22, S25). So whoever comes is heard once when it is accepted, and
//! waits here until there is more; only a first record of TLS that is whole makes a connection of it.

use std::cell::Cell;
use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use rustix::event::epoll;
use rustix::event::epoll::CreateFlags;
use rustix::event::epoll::Event;
use rustix::event::epoll::EventData;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::SendFlags;
use rustix::net::sockopt::set_socket_linger;
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::task::yield_now;

use crate::gate::Peer;

use super::Edge;
use super::Seat;
use super::Start;
use super::accept;
use super::accept::Arrival;
use super::counters::Place;
use super::plaintext;
use super::sweep::DRAIN_GRACE;
use super::sweep::DRAIN_HEAD;
use super::sweep::LINGER;
use super::sweep::over;
use super::watched::NotTls;

/// A connection that has its place under the caps and nothing else yet.
pub(super) struct Guest {
    pub(super) socket: TcpStream,
    pub(super) peer: Peer,
    pub(super) place: Place,
    /// Makes a connection of it.
    pub(super) start: Start,
    /// The tick when it came, or when it was told that it speaks no TLS.
    pub(super) since: u32,
    state: State,
    /// The beginning of its first record; one record at most.
    said: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Has not said a whole word.
    Silent,
    /// Was told, and is read from until it closes, so that our last bytes reach it (RFC 9112 section 9.6).
    Told,
    /// Its time is over; somebody is on the way to close it.
    Over,
}

impl Guest {
    pub(super) fn new(
        socket: TcpStream,
        peer: Peer,
        place: Place,
        start: Start,
        since: u32,
    ) -> Guest {
        Guest {
            socket,
            peer,
            place,
            start,
            since,
            state: State::Silent,
            said: Vec::new(),
        }
    }

    /// Whether it has said something that could become a handshake.
    fn has_begun(&self) -> bool {
        !self.said.is_empty()
    }

    /// Reads what there is into this buffer. From who was told already it is thrown away.
    fn hear(&mut self, buffer: &mut [u8]) -> Heard {
        match rustix::net::recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) => Heard::End,
            Ok((count, _)) if self.state == State::Silent => self.understand(&buffer[..count]),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Heard::Silence,
            Err(_) => Heard::End,
        }
    }

    fn understand(&mut self, words: &[u8]) -> Heard {
        if !self.has_begun() {
            if let Some(other) = NotTls::told_by(words[0]) {
                return Heard::Other(other);
            }
            if is_whole(words) {
                return Heard::Hello(Bytes::copy_from_slice(words));
            }
        }
        self.said.extend_from_slice(words);
        match is_whole(&self.said) {
            true => Heard::Hello(std::mem::take(&mut self.said).into()),
            false => Heard::Silence,
        }
    }
}

/// Whether there is a whole TLS record (RFC 8446 section 5.1), or what can be none, of which TLS says what is wrong with it.
fn is_whole(said: &[u8]) -> bool {
    let [_, major, _, high, low, fragment @ ..] = said else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    *major != TLS_MAJOR || length > FRAGMENT_BYTES_MAX || fragment.len() >= length
}

/// What a socket has to say.
enum Heard {
    /// Nothing yet, or not enough.
    Silence,
    /// It has closed, or failed.
    End,
    /// A TLS record, or the beginning of a broken one.
    Hello(Bytes),
    /// Something else.
    Other(NotTls),
}

/// Those of one worker who wait.
pub(super) struct Porch {
    /// Tells which sockets can be read. The runtime watches this one instead of each of them, which would cost an allocation, two locks and a
    /// system call more for each.
    ready: AsyncFd<OwnedFd>,
    guests: RefCell<Guests>,
    /// Slots of those whose time is over, until they are closed.
    leaving: RefCell<Vec<usize>>,
    /// Told when the last one leaves.
    empty: Notify,
    /// The tick when a drain was first seen; 0 before.
    draining_since: Cell<u32>,
    /// What is read goes here first.
    buffer: RefCell<Box<[u8]>>,
    /// What who speaks HTTP in clear is told, and the tick it was made for.
    in_clear: RefCell<(u32, Bytes)>,
}

/// Guests by slot; slots are used again.
#[derive(Default)]
struct Guests {
    slots: Vec<Option<Guest>>,
    free: Vec<usize>,
}

impl Guests {
    fn add(&mut self, guest: Guest) -> usize {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(guest);
                slot
            }
            None => {
                self.slots.push(Some(guest));
                self.slots.len() - 1
            }
        }
    }

    fn take(&mut self, slot: usize) -> Option<Guest> {
        let guest = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        if self.is_empty() && self.slots.len() > SLOTS_KEPT {
            // A flood is over; its room is given back.
            *self = Guests::default();
        }
        Some(guest)
    }

    fn is_empty(&self) -> bool {
        self.slots.len() == self.free.len()
    }
}

impl Porch {
    /// # Errors
    /// When the system gives no epoll, or the runtime does not take it.
    pub(super) fn new() -> io::Result<Porch> {
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Porch {
            ready: accept::watched(ready)?,
            guests: RefCell::default(),
            leaving: RefCell::default(),
            empty: Notify::new(),
            draining_since: Cell::new(0),
            buffer: RefCell::new(vec![0; BUFFER_BYTES].into()),
            in_clear: RefCell::default(),
        })
    }

    /// Lets somebody wait. Who cannot be watched is closed.
    fn add(&self, guest: Guest) {
        let mut guests = self.guests.borrow_mut();
        let slot = guests.add(guest);
        let Some(guest) = &guests.slots[slot] else {
            return;
        };
        let data = EventData::new_u64(slot as u64);
        let watched = epoll::add(self.ready.get_ref(), &guest.socket, data, EventFlags::IN);
        if let Err(error) = watched {
            tracing::debug!(%error, "a connection cannot be watched");
            guests.take(slot);
        }
    }

    /// Lets somebody go. A socket that is closed then needs no `ignore`.
    fn take(&self, slot: usize) -> Option<Guest> {
        let mut guests = self.guests.borrow_mut();
        let guest = guests.take(slot);
        if guests.is_empty() {
            self.empty.notify_waiters();
        }
        guest
    }

    /// Watches a socket no more that lives on elsewhere.
    fn ignore(&self, socket: &TcpStream) {
        if let Err(error) = epoll::delete(self.ready.get_ref(), socket) {
            tracing::debug!(%error, "a socket was not watched");
        }
    }

    /// Reads what somebody has to say.
    fn hear(&self, guest: &mut Guest) -> Heard {
        guest.hear(&mut self.buffer.borrow_mut())
    }

    fn hear_at(&self, slot: usize) -> Option<Heard> {
        let mut guests = self.guests.borrow_mut();
        Some(self.hear(guests.slots.get_mut(slot)?.as_mut()?))
    }

    /// The answer in clear, made once a tick: a flood gets copies. The id in it stands in no log that another copy could be mistaken in.
    fn in_clear(&self, now: u32, explain: &dyn Fn() -> Response<Bytes>) -> Bytes {
        let mut made = self.in_clear.borrow_mut();
        if made.0 != now {
            *made = (now, plaintext::written(&explain()).into());
        }
        made.1.clone()
    }

    /// The slots of some who have something to say; none when nobody has.
    fn knocking(&self, events: &mut [Event]) -> usize {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            match epoll::wait(self.ready.get_ref(), &mut *events, Some(&now)) {
                Ok(count) => return count,
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waiting connections cannot be watched");
                    return 0;
                }
            }
        }
    }

    /// Judges everybody at this tick, `handshake` ticks being the longest wait: says how many have waited too long for a whole word. Those and all others
    /// whose time is over stand in `leaving` then.
    fn judge(&self, now: u32, handshake: u32, draining: bool) -> u64 {
        let (mut guests, mut leaving) = (self.guests.borrow_mut(), self.leaving.borrow_mut());
        if draining && self.draining_since.get() == 0 {
            self.draining_since.set(now);
        }
        let draining_since = self.draining_since.get();
        let mut timeouts = 0;
        for (slot, guest) in guests.slots.iter_mut().enumerate() {
            let Some(guest) = guest else {
                continue;
            };
            let begun = guest.has_begun();
            // A drain waits a moment for the rest of a handshake, as it does for one that has a task (`sweep`).
            let held_up =
                draining && begun && over(guest.since.max(draining_since), now, DRAIN_HEAD);
            let too_slow =
                guest.state == State::Silent && (held_up || over(guest.since, now, handshake));
            let ends = match guest.state {
                State::Silent => {
                    too_slow || (draining && !begun && over(guest.since, now, DRAIN_GRACE))
                }
                State::Told => over(guest.since, now, LINGER),
                State::Over => false,
            };
            timeouts += u64::from(too_slow);
            if ends {
                guest.state = State::Over;
                leaving.push(slot);
            }
        }
        timeouts
    }

    /// Closes one whose time is over; `false` when there is none.
    fn close_one(&self) -> bool {
        let Some(slot) = self.leaving.borrow_mut().pop() else {
            return false;
        };
        // It may have left by itself, and somebody else have come.
        let is_over = {
            let guests = self.guests.borrow();
            let guest = guests.slots.get(slot).and_then(Option::as_ref);
            guest.is_some_and(|guest| guest.state == State::Over)
        };
        if is_over {
            drop(self.take(slot));
        }
        true
    }

    /// Closes everybody.
    pub(super) fn clear(&self) {
        self.leaving.borrow_mut().clear();
        *self.guests.borrow_mut() = Guests::default();
        self.empty.notify_waiters();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.guests.borrow().is_empty()
    }

    /// Waits until nobody waits.
    pub(super) async fn emptied(&self) {
        let told = self.empty.notified();
        if !self.is_empty() {
            told.await;
        }
    }
}

impl Edge {
    /// Hears who has just come; most clients have sent the beginning of their handshake by now.
    pub(super) fn receive(self: &Rc<Self>, mut guest: Guest) {
        match self.porch.hear(&mut guest) {
            Heard::Silence => self.porch.add(guest),
            Heard::End => hang_up(guest),
            Heard::Hello(said) => self.begin(guest, said),
            Heard::Other(other) => {
                if self.answer(&mut guest, other) {
                    self.porch.add(guest);
                }
            }
        }
    }

    /// Greets whoever has something to say, a few before everybody else on this worker gets a turn. Never ends.
    pub(super) async fn attend(self: Rc<Self>) {
        let nothing = Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        };
        let mut events = [nothing; EVENTS];
        let mut greeted = 0;
        while let Ok(mut ready) = self.porch.ready.readable().await {
            let count = self.porch.knocking(&mut events);
            if count == 0 {
                // Found empty, not only emptied: what is level-triggered tells nobody a second time.
                ready.clear_ready();
                continue;
            }
            for event in &events[..count] {
                self.greet(event.data.u64() as usize);
                greeted += 1;
                if greeted == AT_ONCE {
                    greeted = 0;
                    yield_now().await;
                }
            }
        }
    }

    fn greet(self: &Rc<Self>, slot: usize) {
        // While others had their turn, this one may have been closed and its slot be another's, who then has nothing to say.
        match self.porch.hear_at(slot) {
            None | Some(Heard::Silence) => {}
            Some(Heard::End) => {
                if let Some(guest) = self.porch.take(slot) {
                    self.dismiss(guest);
                }
            }
            Some(Heard::Hello(said)) => {
                if let Some(guest) = self.porch.take(slot) {
                    self.porch.ignore(&guest.socket);
                    self.begin(guest, said);
                }
            }
            Some(Heard::Other(other)) => self.answer_at(slot, other),
        }
    }

    /// Closes somebody who has closed, or failed. A probe that connects and closes is no failed handshake.
    fn dismiss(&self, guest: Guest) {
        if guest.has_begun() {
            tracing::debug!("TLS handshake failed: closed in the middle of the first record");
            let counter = &self.counters.handshake_failed;
            counter.fetch_add(1, Ordering::Relaxed);
        }
        hang_up(guest);
    }

    /// Makes a connection of a guest.
    pub(super) fn begin(self: &Rc<Self>, guest: Guest, said: Bytes) {
        match tokio::net::TcpStream::from_std(guest.socket) {
            Ok(socket) => {
                let seat = Seat::new(self, guest.place, guest.since);
                if !said.is_empty() {
                    seat.client.progress.note_begun();
                }
                let peer = guest.peer;
                (guest.start)(seat, Arrival { socket, peer, said });
            }
            Err(error) => tracing::debug!(%error, "a connection cannot be watched"),
        }
    }

    fn answer_at(&self, slot: usize, other: NotTls) {
        let stays = {
            let mut guests = self.porch.guests.borrow_mut();
            let guest = guests.slots.get_mut(slot).and_then(Option::as_mut);
            guest.is_none_or(|guest| self.answer(guest, other))
        };
        if !stays {
            drop(self.porch.take(slot));
        }
    }

    /// Counts who speaks no TLS; says whether it stays to be read from, since it was told why it is closed (S25).
    fn answer(&self, guest: &mut Guest, other: NotTls) -> bool {
        tracing::debug!(?other, "TLS handshake failed");
        let counter = match other {
            NotTls::Text => &self.counters.plaintext_on_tls,
            NotTls::Garbage => &self.counters.handshake_failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if other == NotTls::Garbage {
            return false;
        }
        guest.state = State::Told;
        guest.since = self.registry.now();
        // Fits into the buffer of a socket that nobody has written to. Where it does not, the client is not told.
        let answer = self.porch.in_clear(guest.since, &self.explain);
        let sent = rustix::net::send(&guest.socket, &answer, SendFlags::NOSIGNAL);
        sent.is_ok() && guest.socket.shutdown(Shutdown::Write).is_ok()
    }

    /// Judges who waits, at the registry's tick.
    pub(super) fn judge_guests(self: &Rc<Self>, handshake: u32, draining: bool) {
        let timeouts = self.porch.judge(self.registry.now(), handshake, draining);
        let counter = &self.counters.handshake_timeout;
        counter.fetch_add(timeouts, Ordering::Relaxed);
        if !self.porch.leaving.borrow().is_empty() {
            spawn_local(Rc::clone(self).show_out());
        }
    }

    /// Closes those whose time is over, a few at a time.
    async fn show_out(self: Rc<Self>) {
        while (0..AT_ONCE).all(|_| self.porch.close_one()) {
            yield_now().await;
        }
    }
}

/// Closes. Who never said a whole word is owed nothing and gets a reset: a goodbye, which he acknowledges in his turn, costs twice as much, and a flood is made
/// of them (S22). Who was told something may still be about to get it.
fn hang_up(guest: Guest) {
    if guest.state == State::Silent {
        // Where that is refused, it is closed the usual way.
        let _ = set_socket_linger(&guest.socket, Some(Duration::ZERO));
    }
}

/// So many are greeted or closed before everybody else on this worker gets a turn; each is some microseconds.
const AT_ONCE: usize = 4;
/// How many of those who have something to say are asked for at a time.
const EVENTS: usize = 64;
/// The most that is read of a first flight at once, bytes: more than any ClientHello that fits into one record.
const BUFFER_BYTES: usize = 16 * 1024 + 5;
/// The first byte of the version of every TLS record.
const TLS_MAJOR: u8 = 3;
/// The most that a record holds in clear, bytes (RFC 8446 section 5.1).
const FRAGMENT_BYTES_MAX: usize = 16 * 1024;
/// Room that is kept for the next ones when nobody waits.
const SLOTS_KEPT: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    // S22: half a record brings no task and no session of TLS, however it is cut.
    #[test]
    fn a_record_is_whole_when_all_of_it_is_there() {
        let record = [0x16, 3, 1, 1, 2].into_iter().chain([7; 258]);
        let record: Vec<u8> = record.collect();
        assert!((0..record.len()).all(|end| !is_whole(&record[..end])));
        assert!(is_whole(&record));
        assert!(is_whole(&[&record[..], &[0x16]].concat()), "more behind it");
        assert!(!is_whole(&[0x16, 3, 1, 0x40, 0]), "the longest");
        assert!(is_whole(&[0x16, 3, 1, 0x40, 1]), "too long to be one");
        assert!(is_whole(&[0x16, 2, 0, 0, 9]), "of no version");
    }
}
