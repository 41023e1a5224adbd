//! What each deadline ends, and what it leaves alone, by views of a connection.

use super::*;

const NOW: u32 = 1_000;

fn limits() -> Limits {
    Limits {
        handshake: 15,
        head: 20,
        idle: 30,
        stall: 40,
    }
}

fn view() -> View {
    View {
        phase: Phase::Http1,
        quiet_since: NOW,
        requests: 0,
        served: true,
        head_since: 0,
        blocked_since: 0,
        flooded: false,
        finishing_since: 0,
        silent_since_told: false,
        draining_since: 0,
    }
}

#[test]
fn each_deadline_ends_what_it_is_for() {
    use Order::Cut;
    use Order::Finish;
    let ago = |ticks: u32| NOW - ticks;
    let cases: Vec<(&str, View, Option<Order>)> = vec![
        ("quiet", view(), None),
        (
            "handshake in time",
            View {
                phase: Phase::Handshake,
                quiet_since: ago(15),
                ..view()
            },
            None,
        ),
        (
            "handshake too long, whatever was sent",
            View {
                phase: Phase::Handshake,
                quiet_since: ago(16),
                head_since: ago(1),
                ..view()
            },
            Some(Cut(Why::HandshakeTimeout)),
        ),
        (
            "silent handshake in a drain",
            View {
                phase: Phase::Handshake,
                quiet_since: ago(5),
                draining_since: ago(9),
                ..view()
            },
            Some(Cut(Why::Drain)),
        ),
        (
            "speaking handshake in a drain",
            View {
                phase: Phase::Handshake,
                quiet_since: ago(5),
                head_since: ago(5),
                draining_since: ago(5),
                ..view()
            },
            None,
        ),
        (
            "speaking handshake holds a drain up",
            View {
                phase: Phase::Handshake,
                quiet_since: ago(9),
                head_since: ago(5),
                draining_since: ago(9),
                ..view()
            },
            Some(Cut(Why::HandshakeTimeout)),
        ),
        (
            "head in time",
            View {
                head_since: ago(20),
                quiet_since: ago(100),
                ..view()
            },
            None,
        ),
        (
            "head too long",
            View {
                head_since: ago(21),
                ..view()
            },
            Some(Cut(Why::HeadTimeout)),
        ),
        (
            "idle in time",
            View {
                quiet_since: ago(30),
                ..view()
            },
            None,
        ),
        (
            "idle too long",
            View {
                quiet_since: ago(31),
                ..view()
            },
            Some(Finish(Why::Idle)),
        ),
        (
            "busy is not idle",
            View {
                quiet_since: ago(31),
                requests: 1,
                ..view()
            },
            None,
        ),
        (
            "client takes nothing",
            View {
                blocked_since: ago(41),
                requests: 1,
                ..view()
            },
            Some(Cut(Why::Stalled)),
        ),
        (
            "client takes the tail of a finished answer too slowly",
            View {
                blocked_since: ago(41),
                ..view()
            },
            Some(Cut(Why::Stalled)),
        ),
        (
            "busy in a drain over HTTP/2",
            View {
                phase: Phase::Http2,
                requests: 1,
                draining_since: ago(9),
                ..view()
            },
            Some(Finish(Why::Drain)),
        ),
        (
            "busy in a drain, whose answer says that it is the last",
            View {
                requests: 1,
                draining_since: ago(9),
                ..view()
            },
            None,
        ),
        (
            "idle in a drain",
            View {
                draining_since: ago(9),
                quiet_since: ago(3),
                ..view()
            },
            Some(Finish(Why::Drain)),
        ),
        (
            "served a moment ago in a drain",
            View {
                draining_since: ago(9),
                quiet_since: ago(2),
                ..view()
            },
            None,
        ),
        (
            "idle for long, in a drain that has just begun",
            View {
                draining_since: ago(2),
                quiet_since: ago(20),
                ..view()
            },
            None,
        ),
        (
            "half a head, in a drain that has just begun",
            View {
                draining_since: ago(8),
                head_since: ago(15),
                quiet_since: ago(15),
                ..view()
            },
            None,
        ),
        (
            "half a head holds a drain up",
            View {
                draining_since: ago(9),
                head_since: ago(15),
                quiet_since: ago(15),
                ..view()
            },
            Some(Cut(Why::HeadTimeout)),
        ),
        (
            "half a head of HTTP/2 holds a drain up",
            View {
                phase: Phase::Http2,
                draining_since: ago(9),
                head_since: ago(9),
                ..view()
            },
            Some(Cut(Why::HeadTimeout)),
        ),
        (
            "fresh in a drain",
            View {
                draining_since: ago(9),
                served: false,
                ..view()
            },
            None,
        ),
        (
            "fresh for too long in a drain",
            View {
                draining_since: ago(9),
                served: false,
                quiet_since: ago(5),
                ..view()
            },
            Some(Finish(Why::Drain)),
        ),
        (
            "told to finish, does not",
            View {
                finishing_since: ago(9),
                quiet_since: ago(9),
                ..view()
            },
            Some(Cut(Why::Unfinished)),
        ),
        (
            "told to finish, has only just answered",
            View {
                finishing_since: ago(9),
                quiet_since: ago(1),
                ..view()
            },
            None,
        ),
        (
            "told to finish, the client still takes the end",
            View {
                finishing_since: ago(9),
                quiet_since: ago(9),
                blocked_since: ago(1),
                ..view()
            },
            None,
        ),
        (
            "told to finish over HTTP/2",
            View {
                phase: Phase::Http2,
                finishing_since: ago(9),
                quiet_since: ago(9),
                ..view()
            },
            None,
        ),
        (
            "told to finish over HTTP/2 in a drain, answers nothing",
            View {
                phase: Phase::Http2,
                finishing_since: ago(9),
                quiet_since: ago(9),
                silent_since_told: true,
                draining_since: ago(9),
                ..view()
            },
            Some(Cut(Why::Unfinished)),
        ),
        (
            "told to finish over HTTP/2 in a drain, answers",
            View {
                phase: Phase::Http2,
                finishing_since: ago(9),
                quiet_since: ago(9),
                draining_since: ago(9),
                ..view()
            },
            Some(Finish(Why::Drain)),
        ),
        (
            "told to finish, still answering",
            View {
                finishing_since: ago(9),
                requests: 1,
                ..view()
            },
            None,
        ),
        (
            "flooded",
            View {
                flooded: true,
                requests: 1,
                ..view()
            },
            Some(Cut(Why::Flooded)),
        ),
        (
            "lingering",
            View {
                phase: Phase::Lingering,
                quiet_since: ago(9),
                ..view()
            },
            Some(Cut(Why::Unfinished)),
        ),
    ];
    for (name, view, expected) in cases {
        assert_eq!(verdict(&view, NOW, &limits()), expected, "{name}");
    }
}

#[test]
fn a_deadline_is_never_early() {
    for (millis, expected) in [(0, 0), (1, 1), (250, 1), (251, 2), (10_000, 40)] {
        assert_eq!(ticks(Duration::from_millis(millis)), expected);
    }
    assert_eq!(ticks(Duration::MAX), u32::MAX);
    assert!(
        !over(5, 6, 1),
        "two ticks may lie a moment more than one period apart"
    );
    assert!(over(5, 7, 1));
}
