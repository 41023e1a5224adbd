//! A seat for everybody who is in use: his state and its lock, found at once by who knows the number, and by who it is otherwise.
//!
//! Seats stand in rows that never move and are set up when they are needed. A seat says whose it is, and one who follows a number looks at that under
//! the seat's own lock: so a number may be old or wrong, and what an everyday request touches is one piece of memory, with no other lock on the way.
//! Locks are taken in this order: a shard of the list, then seats. Who holds a seat never waits for the list of the same table.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::hash::Hash;
use std::ops::Deref;
use std::ops::DerefMut;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use crate::aside::give_way;
use crate::model::seat::SeatHint;
use crate::prefetch::prefetch;

use super::sync::Mutex;
use super::sync::MutexGuard;
use super::sync::ROW;
use super::sync::SHARDS;
use super::sync::Seed;
use super::sync::lock;

/// All seats of one kind of owner.
#[derive(Debug)]
pub(super) struct Seats<K, T> {
    /// Who sits where. Many small locks, taken by who comes or goes, and by who has no number.
    list: Box<[Mutex<Shard<K>>]>,
    /// Says in which shard; another one than theirs.
    seed: Seed,
    halls: Box<[OnceLock<Hall<K, T>>]>,
    /// The first number that was never given. No seat has the number 0.
    next: AtomicU32,
    /// How many have seats.
    taken: AtomicU32,
}

/// Rows of seats.
type Hall<K, T> = Box<[OnceLock<Row<K, T>>]>;

/// Its length is known beforehand, which makes what points to it smaller, and so more of it stays near.
type Row<K, T> = Box<[Place<K, T>; ROW]>;

/// A seat and its lock, in cache lines of their own.
#[derive(Debug)]
#[repr(align(64))]
struct Place<K, T>(Mutex<Seat<K, T>>);

/// What lies in one seat; the owner first, beside the lock.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Seat<K, T> {
    owner: Option<K>,
    /// Whether its owner is on a list of those who are to be looked at.
    listed: bool,
    state: T,
}

#[derive(Debug)]
struct Shard<K> {
    numbers: HashMap<K, u32, Seed>,
    /// Seats that owners in this shard have left.
    free: Vec<u32>,
}

/// Somebody's seat, which nobody else can touch meanwhile.
pub(crate) struct Held<'a, K, T> {
    seat: MutexGuard<'a, Seat<K, T>>,
    number: u32,
}

impl<K: Clone + Eq + Hash, T: Default> Seats<K, T> {
    pub(super) fn new() -> Seats<K, T> {
        let seed = Seed::default();
        let shard = || Shard {
            numbers: HashMap::with_hasher(seed.clone()),
            free: Vec::new(),
        };
        Seats {
            list: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            seed: Seed::default(),
            halls: (0..HALLS).map(|_| OnceLock::new()).collect(),
            next: AtomicU32::new(1),
            taken: AtomicU32::new(0),
        }
    }

    /// Holds an owner's seat, which is made if he has none. The hint is right afterwards.
    #[inline]
    pub(super) fn hold(&self, owner: &K, hint: &SeatHint) -> Held<'_, K, T> {
        match self.at(hint.number(), owner) {
            Some(held) => held,
            None => self.hold_unknown(owner, hint),
        }
    }

    /// Holds an owner's seat, if he has one.
    pub(super) fn find(&self, owner: &K, number: u32) -> Option<Held<'_, K, T>> {
        self.at(number, owner).or_else(|| {
            let shard = lock(self.shard(owner));
            let number = *shard.numbers.get(owner)?;
            self.at(number, owner)
        })
    }

    /// Has the seat with this number brought from memory, since it is wanted soon.
    #[inline]
    pub(super) fn look_ahead(&self, number: u32) {
        if let Some(place) = self.place(number) {
            prefetch(place);
        }
    }

    /// Holds the seat with this number, if it is this owner's.
    #[inline]
    fn at(&self, number: u32, owner: &K) -> Option<Held<'_, K, T>> {
        let seat = lock(&self.place(number)?.0);
        (seat.owner.as_ref() == Some(owner)).then_some(Held { seat, number })
    }

    #[cold]
    #[inline(never)]
    fn hold_unknown(&self, owner: &K, hint: &SeatHint) -> Held<'_, K, T> {
        let mut shard = lock(self.shard(owner));
        let known = shard.numbers.get(owner).copied();
        let number = known.unwrap_or_else(|| {
            let free = shard.free.pop();
            let number = free.unwrap_or_else(|| self.next.fetch_add(1, Ordering::Relaxed));
            shard.numbers.insert(owner.clone(), number);
            number
        });
        let mut seat = lock(&self.set_up(number).0);
        if known.is_none() {
            seat.owner = Some(owner.clone());
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        hint.set(number);
        Held { seat, number }
    }

    /// Has everybody looked at, by `stays`, which may change his state; those for whom it says `false` twice go, and their state with them. One seat
    /// is locked at a time, in the order in which they lie in memory.
    pub(super) fn retain(&self, mut stays: impl FnMut(&K, &mut T) -> bool) {
        let mut going = Vec::new();
        for number in 1..self.next.load(Ordering::Relaxed) {
            give_way(number as usize);
            // Its row is perhaps being set up for somebody who comes just now.
            let Some(place) = self.place(number) else {
                continue;
            };
            let mut seat = lock(&place.0);
            if let Some((owner, state)) = seat.taken()
                && !stays(owner, state)
            {
                going.push((owner.clone(), number));
            }
            drop(seat);
            if going.len() == ROW {
                self.let_go(&mut going, &mut stays);
            }
        }
        self.let_go(&mut going, &mut stays);
    }

    /// Has those go who were not used again meanwhile.
    fn let_go(&self, going: &mut Vec<(K, u32)>, stays: &mut impl FnMut(&K, &mut T) -> bool) {
        for (owner, number) in going.drain(..) {
            let mut shard = lock(self.shard(&owner));
            let Some(mut held) = self.at(number, &owner) else {
                continue;
            };
            if stays(&owner, &mut held) {
                continue;
            }
            *held.seat = Seat::default();
            shard.numbers.remove(&owner);
            shard.free.push(number);
            self.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many have seats.
    #[inline]
    pub(super) fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    fn shard(&self, owner: &K) -> &Mutex<Shard<K>> {
        &self.list[self.seed.hash_one(owner) as usize % SHARDS]
    }

    #[inline]
    fn place(&self, number: u32) -> Option<&Place<K, T>> {
        let number = number as usize;
        let hall = self.halls.get(number / (ROW * ROWS))?.get()?;
        hall[number / ROW % ROWS].get()?.get(number % ROW)
    }

    /// The same, in a row that is set up if it is not there yet.
    fn set_up(&self, number: u32) -> &Place<K, T> {
        let number = number as usize;
        let hall = self.halls.get(number / (ROW * ROWS));
        let hall = hall.expect("memory ends before so many seats");
        let hall = hall.get_or_init(|| (0..ROWS).map(|_| OnceLock::new()).collect());
        let row = hall[number / ROW % ROWS].get_or_init(|| {
            let places: Vec<Place<K, T>> = (0..ROW).map(|_| Place::new()).collect();
            (places.try_into()).unwrap_or_else(|_| unreachable!("as many as a row has"))
        });
        &row[number % ROW]
    }
}

impl<K, T: Default> Place<K, T> {
    fn new() -> Place<K, T> {
        Place(Mutex::new(Seat::default()))
    }
}

impl<K, T: Default> Default for Seat<K, T> {
    fn default() -> Seat<K, T> {
        Seat {
            owner: None,
            listed: false,
            state: T::default(),
        }
    }
}

impl<K, T> Seat<K, T> {
    fn taken(&mut self) -> Option<(&K, &mut T)> {
        Some((self.owner.as_ref()?, &mut self.state))
    }
}

impl<K, T> Held<'_, K, T> {
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Says whether the owner is on a list from now on. Gives what was said before.
    #[inline]
    pub(super) fn list(&mut self, listed: bool) -> bool {
        std::mem::replace(&mut self.seat.listed, listed)
    }
}

impl<K, T> Deref for Held<'_, K, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.seat.state
    }
}

impl<K, T> DerefMut for Held<'_, K, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.seat.state
    }
}

/// Rows of a hall: 262,144 seats.
const ROWS: usize = 256;

/// Halls: 268 million seats, which take 48 GiB.
const HALLS: usize = 1024;
