//! The queue before an upstream that takes only so many requests at once.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::model::tenant::TenantId;
use crate::upstream::queue::Bounds;
use crate::upstream::queue::Gate;
use crate::upstream::queue::Line;
use crate::upstream::queue::TurnedAway;

fn bounds(most: usize, waiting_max: usize) -> Bounds {
    Bounds { most, waiting_max }
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Waiting requests of these tenants, in this order; each says its name when it gets in, and leaves.
async fn order(gate: &Arc<Gate>, names: &[&str], waiting_max: usize) -> Vec<String> {
    let held = gate.enter(bounds(1, waiting_max)).unwrap();
    let through = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for (at, name) in names.iter().enumerate() {
        let (own, through) = (Arc::clone(gate), Arc::clone(&through));
        let id = tenant(name);
        tasks.spawn(async move {
            let got = own.wait(Some(&id), bounds(1, waiting_max), far()).await;
            if got.is_ok() {
                through.lock().unwrap().push(id.as_str().to_owned());
            }
        });
        while gate.waiting() + usize::try_from(gate.turned_away()).unwrap() <= at {
            tokio::task::yield_now().await;
        }
    }
    drop(held);
    while tasks.join_next().await.is_some() {}
    let order = through.lock().unwrap().clone();
    assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
    order
}

#[tokio::test]
async fn tenants_take_turns() {
    let gate = Arc::new(Gate::default());
    let names = ["a", "a", "a", "a", "b", "c", "b"];
    let order = order(&gate, &names, 100).await;
    assert_eq!(order.concat(), "abcabaa");
}

#[tokio::test]
async fn whoever_has_the_most_waiting_makes_way() {
    let gate = Arc::new(Gate::default());
    let order = order(&gate, &["a", "a", "a", "b", "c", "c"], 3).await;
    assert_eq!(order.concat(), "abc");
    assert_eq!(gate.turned_away(), 3);
}

#[tokio::test]
async fn who_leaves_the_queue_leaves_no_trace() {
    let gate = Arc::new(Gate::default());
    let held = gate.enter(bounds(1, 1)).unwrap();
    let soon = Instant::now() + Duration::from_millis(5);
    let id = tenant("a");
    let late = gate.wait(Some(&id), bounds(1, 1), soon).await;
    assert_eq!(late.unwrap_err(), TurnedAway::Late);
    let full = gate.wait(None, bounds(1, 0), far()).await;
    assert_eq!(full.unwrap_err(), TurnedAway::Full);
    assert_eq!(gate.waiting(), 0);
    drop(held);
    assert_eq!(gate.in_flight(), 0);
    drop(gate.enter(bounds(1, 1)).unwrap());
}

#[test]
fn a_place_given_to_somebody_who_left_goes_on() {
    let gate = Arc::new(Gate::default());
    let held = gate.enter(bounds(1, 9)).unwrap();
    let (id, other) = (tenant("a"), tenant("b"));
    let Ok(Line::Waiting(first)) = gate.stand_in_line(Some(&id), bounds(1, 9)) else {
        panic!("there was room");
    };
    let Ok(Line::Waiting(mut second)) = gate.stand_in_line(Some(&other), bounds(1, 9)) else {
        panic!("there was room");
    };
    drop(held);
    // The first was called, and leaves before it has heard.
    drop(first);
    let permit = second.called.try_recv().unwrap();
    assert_eq!((gate.in_flight(), gate.waiting()), (1, 0));
    drop(permit);
    drop(second);
    assert_eq!(gate.in_flight(), 0);
}

/// Many threads, never more than the bound at once, and nobody waits for ever.
#[test]
fn the_bound_holds_over_threads() {
    let gate = Arc::new(Gate::default());
    let inside = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..4)
        .map(|at| {
            let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let id = tenant(["a", "b", "c", "d"][at]);
                    let mut tasks = JoinSet::new();
                    for _ in 0..8 {
                        let (gate, inside, id) =
                            (Arc::clone(&gate), Arc::clone(&inside), id.clone());
                        tasks.spawn(async move {
                            for _ in 0..500 {
                                let bounds = bounds(3, 100);
                                let permit = match gate.enter(bounds) {
                                    Some(permit) => permit,
                                    None => gate.wait(Some(&id), bounds, far()).await.unwrap(),
                                };
                                let count = inside.fetch_add(1, Ordering::SeqCst);
                                assert!(count < 3, "{count}");
                                tokio::task::yield_now().await;
                                inside.fetch_sub(1, Ordering::SeqCst);
                                drop(permit);
                            }
                        });
                    }
                    while let Some(ended) = tasks.join_next().await {
                        ended.unwrap();
                    }
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!((gate.in_flight(), gate.waiting()), (0, 0));
}
