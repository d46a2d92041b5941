//! Flow control by credit (virtio 1.2 §5.10.6.3).
//!
//! Guest-controlled: the peer's `buf_alloc` and `fwd_cnt`. All counters wrap at
//! 2^32, as on the wire; a peer that claims to have taken more than it was sent
//! gets no credit out of it.

use super::connection::BUFFER;

/// How far the guest may be behind our true count before it is told.
const UPDATE_AFTER: u32 = BUFFER / 4;

/// What we may send to the guest.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    peer_buf_alloc: u32,
    peer_fwd_cnt: u32,
    sent: u32,
}

impl Outgoing {
    /// The guest said what it can buffer, and what it has taken.
    pub(super) fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_buf_alloc = buf_alloc;
        self.peer_fwd_cnt = fwd_cnt;
    }

    /// Bytes that may be sent now.
    pub(super) fn window(&self) -> u32 {
        self.peer_buf_alloc
            .saturating_sub(self.sent.wrapping_sub(self.peer_fwd_cnt))
    }

    pub(super) fn sent(&mut self, bytes: u32) {
        self.sent = self.sent.wrapping_add(bytes);
    }
}

/// What the guest may send to us.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    received: u32,
    forwarded: u32,
    /// The last `forwarded` that the guest was told.
    announced: u32,
}

impl Incoming {
    /// Takes in `bytes`, unless the guest had no credit for them.
    pub(super) fn receive(&mut self, bytes: u32) -> bool {
        let held = self.received.wrapping_sub(self.forwarded);
        if bytes > BUFFER.saturating_sub(held) {
            return false;
        }
        self.received = self.received.wrapping_add(bytes);
        true
    }

    /// So many bytes have left the buffer.
    pub(super) fn forward(&mut self, bytes: u32) {
        self.forwarded = self.forwarded.wrapping_add(bytes);
    }

    /// Whether the guest should be told that there is room again.
    pub(super) fn is_update_due(&self) -> bool {
        self.forwarded.wrapping_sub(self.announced) >= UPDATE_AFTER
    }

    /// The count for a header that goes to the guest.
    pub(super) fn fwd_cnt(&self) -> u32 {
        self.forwarded
    }

    /// That header went.
    pub(super) fn announced(&mut self) {
        self.announced = self.forwarded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_closes_with_what_is_sent_and_opens_with_what_is_taken() {
        let mut out = Outgoing::default();
        assert_eq!(out.window(), 0);
        out.update(100, 0);
        out.sent(60);
        assert_eq!(out.window(), 40);
        out.update(100, 50);
        assert_eq!(out.window(), 90);
    }

    #[test]
    fn counters_wrap() {
        let mut out = Outgoing {
            peer_buf_alloc: 100,
            peer_fwd_cnt: u32::MAX - 9,
            sent: u32::MAX,
        };
        out.sent(11);
        assert_eq!(out.window(), 80);
        let mut incoming = Incoming {
            received: u32::MAX,
            forwarded: u32::MAX,
            announced: u32::MAX,
        };
        assert!(incoming.receive(BUFFER));
        incoming.forward(BUFFER);
        assert!(incoming.is_update_due());
    }

    #[test]
    fn a_lying_or_shrinking_peer_gets_no_window() {
        let mut out = Outgoing::default();
        out.update(1000, 0);
        out.sent(500);
        out.update(1000, 501);
        assert_eq!(out.window(), 0);
        out.update(10, 0);
        assert_eq!(out.window(), 0);
    }

    #[test]
    fn more_than_the_buffer_is_refused() {
        let mut incoming = Incoming::default();
        assert!(incoming.receive(BUFFER));
        assert!(!incoming.receive(1));
        incoming.forward(1);
        assert!(incoming.receive(1));
        assert!(!incoming.receive(u32::MAX));
    }
}
