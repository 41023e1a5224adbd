//! Alerts that could not be written down: told all the same, shown in lists, and written once there is room.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use crate::store::alerts::AlertView;
use crate::store::alerts::Delivery;
use crate::store::alerts::Noted;

/// How many are held; some hundred bytes each.
pub const UNWRITTEN_MAX: usize = 1_000;

/// Those of this process, oldest first. What is told of a full disk cannot lie on it.
#[derive(Debug, Default)]
pub struct Unwritten {
    /// A std mutex: held for a look or a change, by the control side only.
    held: Mutex<VecDeque<(Noted, Delivery)>>,
}

impl Unwritten {
    /// Whether the same one is held, and still holds.
    #[must_use]
    pub fn knows(&self, alert: &Noted) -> bool {
        let held = self.lock();
        held.iter()
            .any(|(known, _)| known.once == alert.once && known.until > alert.at)
    }

    /// Holds one. `false` where there is no room: then it must not be told, since it would be told again and again.
    #[must_use]
    pub fn hold(&self, alert: &Noted, delivery: Delivery) -> bool {
        let mut held = self.lock();
        if held.len() >= UNWRITTEN_MAX {
            // What holds no more has been told, and is the first to go.
            held.retain(|(known, _)| known.until > alert.at);
        }
        let has_room = held.len() < UNWRITTEN_MAX;
        if has_room {
            held.push_back((alert.clone(), delivery));
        }
        has_room
    }

    /// Notes how far the delivery of one is; whether it is held.
    #[must_use]
    pub fn delivered(&self, id: &str, delivery: Delivery) -> bool {
        let mut held = self.lock();
        let known = held.iter_mut().find(|(known, _)| known.id == id);
        known.map(|(_, how_far)| *how_far = delivery).is_some()
    }

    /// The oldest, to be written.
    #[must_use]
    pub fn first(&self) -> Option<(Noted, Delivery)> {
        self.lock().front().cloned()
    }

    /// It is written.
    pub fn let_go(&self, id: &str) {
        self.lock().retain(|(known, _)| known.id != id);
    }

    /// As lists show them, the latest first.
    #[must_use]
    pub fn list(&self) -> Vec<AlertView> {
        let held = self.lock();
        let views = held.iter().rev();
        views
            .map(|(alert, delivery)| AlertView::of(alert, *delivery))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Noted, Delivery)>> {
        // A queue is whole after every step.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Wall;

    fn alert(number: usize, until: u64) -> Noted {
        Noted {
            id: format!("alert_{number}"),
            kind: "store.trouble".to_owned(),
            once: format!("store.trouble {number}"),
            until: Wall(until),
            text: "the store cannot be written".to_owned(),
            body: "{}".to_owned(),
            at: Wall(number as u64),
        }
    }

    /// FF15: each is held once, in the order of lists, with how far its delivery is, until it is written.
    #[test]
    fn what_could_not_be_written_is_held_until_it_is() {
        let held = Unwritten::default();
        assert!(!held.knows(&alert(1, 100)));
        assert!(held.hold(&alert(1, 100), Delivery::Pending));
        assert!(held.hold(&alert(2, 100), Delivery::Pending));
        assert!(held.knows(&alert(1, 100)));
        let later = Noted {
            at: Wall(100),
            ..alert(1, 200)
        };
        assert!(!held.knows(&later), "it holds no more");
        assert!(held.delivered("alert_1", Delivery::Done));
        assert!(!held.delivered("alert_3", Delivery::Done));
        let shown: Vec<(String, String)> = (held.list().into_iter())
            .map(|alert| (alert.id, alert.delivery))
            .collect();
        let pair = |id: &str, how_far: &str| (id.to_owned(), how_far.to_owned());
        assert_eq!(shown, [pair("alert_2", "pending"), pair("alert_1", "done")]);
        let (first, delivery) = held.first().unwrap();
        assert_eq!((first.id.as_str(), delivery), ("alert_1", Delivery::Done));
        held.let_go("alert_1");
        assert_eq!(held.list().len(), 1);
    }

    /// A full disk and many alerts: no more than so many are held, and what holds no more makes room.
    #[test]
    fn no_more_than_so_many_are_held() {
        let held = Unwritten::default();
        for number in 0..UNWRITTEN_MAX {
            let until = if number == 7 { 5_000 } else { 9_000 };
            assert!(held.hold(&alert(number, until), Delivery::None));
        }
        assert!(!held.hold(&alert(4_000, 9_000), Delivery::None));
        assert!(held.hold(&alert(6_000, 9_000), Delivery::None));
        assert_eq!(held.list().len(), UNWRITTEN_MAX);
        assert!(!held.knows(&alert(7, 5_000)));
    }
}
