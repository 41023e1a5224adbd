//! Signals, the state of the drain, and what the service manager is told.

use std::future::pending;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::Signal as SignalStream;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::watch;

/// How far the process is on its way out. Only ever moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Serving.
    Running,
    /// Serving, but no longer ready: whoever balances over several gateways is to look away first.
    Leaving,
    /// Takes nothing new; what is under way has this long, counted from the change.
    Draining(Duration),
    /// Everything is cut.
    Now,
}

/// Moves the state; one owner.
#[derive(Debug)]
pub struct Shutdown {
    state: watch::Sender<State>,
}

/// Sees the state; one per part that has to end.
#[derive(Clone, Debug)]
pub struct Watch {
    state: watch::Receiver<State>,
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}

impl Shutdown {
    /// Starts in `Running`.
    #[must_use]
    pub fn new() -> Shutdown {
        Shutdown {
            state: watch::Sender::new(State::Running),
        }
    }

    /// For a part that has to end.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch {
            state: self.state.subscribe(),
        }
    }

    /// What `Signal::Terminate` means: the first time a drain of this length, after that `Now`. Says what is in force.
    pub fn terminate(&self, drain_timeout: Duration) -> State {
        let next = match *self.state.borrow() {
            State::Running | State::Leaving => State::Draining(drain_timeout),
            State::Draining(_) | State::Now => State::Now,
        };
        self.state.send_replace(next);
        next
    }

    /// No longer ready, and nothing else; the drain comes by `terminate`.
    pub fn leave(&self) {
        if *self.state.borrow() == State::Running {
            self.state.send_replace(State::Leaving);
        }
    }
}

impl Watch {
    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Waits until the process takes nothing new; returns what it does instead. An owner that is gone counts as `Now`.
    pub async fn stopping(&mut self) -> State {
        match self.state.wait_for(|state| *state > State::Leaving).await {
            Ok(state) => *state,
            Err(_) => State::Now,
        }
    }

    /// Waits for `Now`. An owner that is gone counts as that.
    pub async fn now(&mut self) {
        let _ = self.state.wait_for(|state| *state == State::Now).await;
    }
}

/// What an operator asks of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// TERM or INT: drain; a second one: stop now.
    Terminate,
    /// HUP: read gateway.toml and the certificates again.
    Reload,
    /// USR1: open the log files anew.
    ReopenLogs,
}

/// The stream of signals.
#[derive(Debug)]
pub struct Signals {
    term: SignalStream,
    int: SignalStream,
    hup: SignalStream,
    usr1: SignalStream,
}

impl Signals {
    /// Takes the signals over from their defaults; needs a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses a handler.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next one; loses none when it is dropped half-way.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            biased;
            _ = self.term.recv() => Signal::Terminate,
            _ = self.int.recv() => Signal::Terminate,
            _ = self.hup.recv() => Signal::Reload,
            _ = self.usr1.recv() => Signal::ReopenLogs,
        }
    }
}

/// Tells the service manager that the process serves (again, after `notify_reloading`).
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells the service manager that a reload began. Both lines in one datagram, or systemd from 253 on rejects it.
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot tell the service manager of the reload"),
    }
}

/// Tells the service manager that the drain began.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Does nothing when no service manager listens.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// Feeds the watchdog of the service manager while `progressed` says that the data path turns; never ends. It is asked four times per
/// watchdog interval (but at most each second), so that one late answer does not kill the process. Idle when no watchdog is set.
pub async fn feed_watchdog(progressed: impl FnMut() -> bool) {
    match sd_notify::watchdog_enabled() {
        Some(interval) => {
            let pause = (interval / 4).max(Duration::from_secs(1));
            feed(pause, progressed, || notify(&[NotifyState::Watchdog])).await;
        }
        None => pending().await,
    }
}

async fn feed(pause: Duration, mut progressed: impl FnMut() -> bool, mut tell: impl FnMut()) {
    loop {
        if progressed() {
            tell();
        } else {
            tracing::warn!("a worker has stood still; the watchdog is not fed");
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::cell::Cell;

    use tokio::sync::Notify;

    const DRAIN: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn first_terminate_drains_and_second_stops_now() {
        let shutdown = Shutdown::new();
        let mut watch = shutdown.watch();
        assert_eq!(watch.state(), State::Running);
        assert_eq!(shutdown.terminate(DRAIN), State::Draining(DRAIN));
        assert_eq!(watch.stopping().await, State::Draining(DRAIN));
        assert_eq!(shutdown.terminate(DRAIN), State::Now);
        shutdown.leave();
        assert_eq!(watch.state(), State::Now);
        watch.now().await;
        assert_eq!(shutdown.terminate(DRAIN), State::Now);
    }

    #[tokio::test]
    async fn leaving_stops_nothing() {
        let shutdown = Shutdown::new();
        let mut watch = shutdown.watch();
        shutdown.leave();
        assert_eq!(watch.state(), State::Leaving);
        let waited = tokio::time::timeout(Duration::from_millis(10), watch.stopping()).await;
        assert!(waited.is_err(), "{waited:?}");
        assert_eq!(shutdown.terminate(DRAIN), State::Draining(DRAIN));
    }

    #[tokio::test]
    async fn an_owner_that_is_gone_counts_as_now() {
        let mut watch = Shutdown::new().watch();
        assert_eq!(watch.stopping().await, State::Now);
        watch.now().await;
    }

    #[tokio::test]
    async fn each_signal_becomes_its_event() {
        let mut signals = Signals::listen().unwrap();
        let cases = [
            (rustix::process::Signal::HUP, Signal::Reload),
            (rustix::process::Signal::USR1, Signal::ReopenLogs),
            (rustix::process::Signal::INT, Signal::Terminate),
            (rustix::process::Signal::TERM, Signal::Terminate),
        ];
        for (sent, expected) in cases {
            rustix::process::kill_process(rustix::process::getpid(), sent).unwrap();
            assert_eq!(signals.next().await, expected);
        }
    }

    #[tokio::test]
    async fn the_watchdog_is_fed_only_while_the_data_path_turns() {
        let mut turning = [true, false, false, true].into_iter();
        let fed = Cell::new(0);
        let asked_all = Notify::new();
        let progressed = || {
            turning.next().unwrap_or_else(|| {
                asked_all.notify_one();
                false
            })
        };
        let pause = Duration::from_millis(1);
        tokio::select! {
            () = feed(pause, progressed, || fed.set(fed.get() + 1)) => {}
            () = asked_all.notified() => {}
        }
        assert_eq!(fed.get(), 2);
    }
}
