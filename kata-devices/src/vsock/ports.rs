//! Ports of the host's side of streams that the host dialled.

use std::collections::HashSet;

const FIRST: u32 = 1 << 30;
const LAST: u32 = (1 << 31) - 1;

/// Hands out ports that no living stream has. A port is reused as late as
/// possible, so that a straggler never meets another's stream.
#[derive(Debug)]
pub(super) struct Ports {
    next: u32,
    taken: HashSet<u32>,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            next: FIRST,
            taken: HashSet::new(),
        }
    }
}

impl Ports {
    /// A port of its own. There are far more than there may be streams.
    pub(super) fn take(&mut self) -> u32 {
        loop {
            let port = self.next;
            self.next = if port == LAST { FIRST } else { port + 1 };
            if self.taken.insert(port) {
                return port;
            }
        }
    }

    /// Gives a port back; ports that were not handed out are ignored.
    pub(super) fn release(&mut self, port: u32) {
        self.taken.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_start_at_two_to_the_thirty_and_differ() {
        let mut ports = Ports::default();
        assert_eq!((ports.take(), ports.take()), (1 << 30, (1 << 30) + 1));
    }

    #[test]
    fn a_living_port_is_passed_over_when_they_come_round_again() {
        let mut ports = Ports::default();
        let (first, second) = (ports.take(), ports.take());
        ports.release(second);
        ports.next = LAST;
        assert_eq!(ports.take(), LAST);
        assert_eq!(ports.take(), second);
        assert_ne!(ports.take(), first);
    }
}
