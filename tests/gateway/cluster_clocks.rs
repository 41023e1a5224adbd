//! Clocks that are set: the shared store's own, which windows and signs of life go by, and those of the nodes, which no limit goes by.

use std::thread;
use std::time::Duration;

use crate::support::eventually;
use crate::support::gateway::Gateway;
use crate::support::gateway::Setup;
use crate::support::nodes::addresses;
use crate::support::nodes::admitted;
use crate::support::nodes::ask;
use crate::support::nodes::ask_at_once;
use crate::support::nodes::heard_of;
use crate::support::nodes::knows_nodes;
use crate::support::nodes::nodes;
use crate::support::redis::Redis;
use crate::support::redis::left_out;
use crate::support::relay::Relay;
use crate::support::site::Site;
use crate::support::upstream::Upstream;

/// Does one thing after the other while `asked` goes on, each when the backend has had some more requests.
fn amid<S, T: Send>(
    upstream: &Upstream,
    things: &[S],
    done: impl Fn(&S),
    asked: impl FnOnce() -> T + Send,
) -> T {
    thread::scope(|scope| {
        let asking = scope.spawn(asked);
        for thing in things {
            let more = upstream.hits() + 30;
            while upstream.hits() < more && !asking.is_finished() {
                thread::sleep(Duration::from_millis(2));
            }
            done(thing);
        }
        asking.join().unwrap()
    })
}

// The store's clock set forward by d lets go of bursts d early: once one burst too many, and no more of the quota. Set back, nothing is let through twice,
// and what was used counts from then on: a window is over when its own length (for a burst that and a lease's, 15 s) has passed, however far it was set.
#[test]
fn a_store_whose_clock_is_set_lets_one_burst_too_many_through_at_most() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start_with_clock(), Upstream::start());
    let all = nodes(&redis, &upstream, "50/hour", "20/min");
    let key = all[0].key("acme");
    all.iter().for_each(|gateway| heard_of(gateway, &key));
    let passed = || {
        let statuses = (0..30).map(|at| all[at % 3].get("/any/x", &key).status);
        let statuses: Vec<u16> = statuses.collect();
        assert!(statuses.iter().all(|status| [200, 429].contains(status)));
        statuses.iter().filter(|status| **status == 200).count()
    };
    assert_eq!(passed(), 20);
    for (seconds, expected) in [
        (30, 0),
        (-3_600, 0),
        (-3_550, 0),
        (-3_524, 20),
        (-3_448, 10),
        // An hour after it was set back, and not a minute before.
        (-60, 0),
        (5, 20),
        // A minute early: this is the one too many.
        (82, 20),
        (81, 0),
        // The quota is not let go of.
        (160, 10),
        (-86_400, 0),
        (-86_400 + 3_500, 0),
        (-86_400 + 3_605, 20),
    ] {
        redis.set_clock_by(seconds);
        assert_eq!(passed(), expected, "at {seconds} s");
    }
}

// The same where permits are held: a lease's end is counted by the node's clock that nobody sets, so what was given before a jump is no more after it.
#[test]
fn a_store_whose_clock_jumps_amid_a_burst_gives_no_permit_twice() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start_with_clock(), Upstream::start());
    let all = nodes(&redis, &upstream, "900/hour", "unlimited");
    let key = all[0].key("acme");
    all.iter().for_each(|gateway| heard_of(gateway, &key));
    let addresses = addresses(&all);
    let jumps = [20, -20, 600, -600, 1_200, 0];
    let passed = admitted(&amid(
        &upstream,
        &jumps,
        |seconds| redis.set_clock_by(*seconds),
        || ask_at_once(&addresses, &key, 4, 100),
    ));
    assert_eq!(upstream.hits(), passed);
    ask(&addresses, &key, 300);
    let first = upstream.hits();
    assert!((700..=900).contains(&first), "{first} of 900");
    // The next hour is one more window, whatever was held when it began.
    redis.set_clock_by(5_000);
    for gateway in &all {
        eventually("a refusal is remembered no more", || {
            (gateway.get("/any/x", &key).status == 200).then_some(())
        });
    }
    ask_at_once(&addresses, &key, 4, 150);
    let both = upstream.hits();
    assert!((first + 1..=first + 900).contains(&both), "{first}, {both}");
}

// A store whose clock is set forward beyond max_stale takes no silent node for gone: it may still admit what was revoked, and is named.
#[test]
fn a_store_whose_clock_is_set_forward_forgets_no_silent_node() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start_with_clock(), Upstream::start());
    let relay = Relay::to(redis.port);
    let near = redis.node(Setup::usual(&upstream), "gw-1").start();
    let far = relay.node(Setup::usual(&upstream), "gw-2").start();
    let key = near.key("acme");
    for gateway in [&near, &far] {
        heard_of(gateway, &key);
        knows_nodes(gateway, 2);
    }
    relay.freeze();
    redis.set_clock_by(2 * 86_400);
    let revoke = || {
        let (code, out, err) = near.command(&["keys", "revoke", &key.id, "--yes"]);
        (code, out + &err)
    };
    let (code, said) = revoke();
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("in force on 1 of 2 nodes"), "{said}");
    assert!(said.contains("gw-2 ("), "{said}");
    let status = |gateway: &Gateway| gateway.get("/any/x", &key).status;
    assert_eq!((status(&near), status(&far)), (401, 200));
    relay.thaw();
    eventually("the revocation is heard of", || {
        (status(&far) == 401).then_some(())
    });
    let (code, said) = revoke();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("in force on 2 of 2 nodes"), "{said}");
}

// Promise 2, FA25: nodes whose clocks are seconds and an hour apart, and are set while they ask, admit no more than the limit, of what they hold too, and
// name one Reset.
#[test]
fn nodes_whose_clocks_are_set_amid_a_burst_change_no_limit() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start(), Upstream::start());
    let all = nodes(&redis, &upstream, "900/hour", "900/min");
    let key = all[0].key("acme");
    all.iter().for_each(|gateway| heard_of(gateway, &key));
    let addresses = addresses(&all);
    let sets = [(0, -5), (1, 7), (2, -3_600), (1, 3_600), (0, 90)];
    let passed = admitted(&amid(
        &upstream,
        &sets,
        |(node, seconds)| all[*node].clock.set_wall_by(*seconds),
        || ask_at_once(&addresses, &key, 4, 100),
    ));
    assert_eq!(upstream.hits(), passed);
    assert!((700..=900).contains(&passed), "{passed} of 900");
    ask(&addresses, &key, 300);
    assert!(upstream.hits() <= 900, "{} of 900", upstream.hits());
    let reset = |gateway: &Gateway| gateway.get("/any/x", &key).number("x-ratelimit-reset");
    let resets: Vec<u64> = all.iter().map(reset).collect();
    assert_eq!(resets, [resets[0]; 3]);
}

// Nobody finds out by refusals: each node says once that the store's clock is not its own.
#[test]
fn a_store_with_another_clock_is_told_of() {
    if left_out() {
        return;
    }
    let (redis, upstream) = (Redis::start_with_clock(), Upstream::start());
    let site = Site::of(redis.node(Setup::usual(&upstream), "gw-1"));
    let _running = site.start();
    let told = || {
        let text = site.stderr();
        text.matches("clocks of the shared store and of this node")
            .count()
    };
    for (seconds, times) in [(30, 1), (0, 1), (-30, 2)] {
        redis.set_clock_by(seconds);
        eventually("it is told", || (told() == times).then_some(()));
        // Some signs of life more, which say nothing new.
        let beat = || redis.ask::<String>(&["GET", "portcullis:beat"]);
        for _ in 0..2 {
            let before = beat();
            eventually("a sign of life", || (beat() != before).then_some(()));
        }
        assert_eq!(told(), times);
    }
}
