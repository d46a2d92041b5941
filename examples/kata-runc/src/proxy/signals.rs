//! Signals that reach this process and are meant for the one in the guest.

use std::io;
use std::task::Poll;

use kata_sandbox::Signal as GuestSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The window of the terminal has another size.
const SIGWINCH: i32 = 28;
const LAST: i32 = 64;

/// Signals that are not the guest's: those that cannot be caught (9, 19), that
/// tell of a fault of this process (4, 5, 6, 7, 8, 11, 31), of its children
/// (17), its pipes (13), its terminal (20, 21, 22), its timers' and C library's
/// own (32, 33), and those that runtimes use on themselves (23).
const KEPT: [i32; 17] = [4, 5, 6, 7, 8, 9, 11, 13, 17, 19, 20, 21, 22, 23, 31, 32, 33];

/// A signal for the guest's process, or its terminal's new size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Signal(GuestSignal),
    Resized,
}

/// Signals caught from the moment that this was made on.
#[derive(Debug)]
pub(crate) struct Forwarded {
    signals: Vec<(i32, Signal)>,
}

impl Forwarded {
    /// Catches them from now on.
    pub(crate) fn catch() -> io::Result<Self> {
        let wanted = (1..=LAST).filter(|number| !KEPT.contains(number));
        let signals = wanted.map(|number| Ok((number, signal(SignalKind::from_raw(number))?)));
        Ok(Self {
            signals: signals.collect::<io::Result<_>>()?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Received {
        std::future::poll_fn(|cx| {
            let came = |(number, signal): &mut (i32, Signal)| {
                signal.poll_recv(cx).is_ready().then_some(*number)
            };
            match self.signals.iter_mut().find_map(came) {
                Some(number) => Poll::Ready(number),
                None => Poll::Pending,
            }
        })
        .await
        .into()
    }
}

impl From<i32> for Received {
    fn from(number: i32) -> Self {
        match number {
            SIGWINCH => Self::Resized,
            number => Self::Signal(GuestSignal(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_is_caught_and_a_new_size_is_told_apart() {
        let mut signals = Forwarded::catch().unwrap();
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::USR2).unwrap();
        assert_eq!(signals.next().await, Received::Signal(GuestSignal::USR2));
        rustix::process::kill_process(own, rustix::process::Signal::WINCH).unwrap();
        assert_eq!(signals.next().await, Received::Resized);
    }
}
