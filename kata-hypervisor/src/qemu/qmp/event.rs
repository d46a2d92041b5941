//! What QEMU tells unasked.

use serde_json::Value;

/// An event, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The machine ends, for this reason.
    Shutdown(Option<Shutdown>),
    /// The guest's kernel says that it panicked.
    Panicked,
    /// Something else.
    Other,
}

/// Why the machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// The guest powered itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest's kernel panicked.
    Panic,
}

/// What the events so far have said about the machine's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The guest's kernel said that it panicked.
    pub(crate) panicked: bool,
    /// Why the machine ended.
    pub(crate) shutdown: Option<Shutdown>,
}

impl Event {
    /// Reads an event of that name.
    pub(super) fn new(name: &str, data: &Value) -> Self {
        match name {
            "SHUTDOWN" => Self::Shutdown(data["reason"].as_str().and_then(Shutdown::new)),
            "GUEST_PANICKED" => Self::Panicked,
            _ => Self::Other,
        }
    }
}

impl Shutdown {
    fn new(reason: &str) -> Option<Self> {
        match reason {
            "guest-shutdown" => Some(Self::PowerOff),
            "guest-reset" => Some(Self::Reset),
            "guest-panic" => Some(Self::Panic),
            _ => None,
        }
    }
}

impl Seen {
    /// Adds an event.
    pub(super) fn note(&mut self, event: Event) {
        match event {
            Event::Panicked => self.panicked = true,
            Event::Shutdown(Some(reason)) => {
                self.shutdown.get_or_insert(reason);
            }
            Event::Shutdown(None) | Event::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_reason_stands() {
        let mut seen = Seen::default();
        for reason in ["host-signal", "guest-reset", "guest-shutdown"] {
            seen.note(Event::new(
                "SHUTDOWN",
                &json!({"guest": true, "reason": reason}),
            ));
        }
        assert_eq!(seen.shutdown, Some(Shutdown::Reset));
    }

    #[test]
    fn a_panic_is_remembered() {
        let mut seen = Seen::default();
        seen.note(Event::new("GUEST_PANICKED", &json!({"action": "poweroff"})));
        seen.note(Event::new("RESUME", &Value::Null));
        assert_eq!(
            seen,
            Seen {
                panicked: true,
                shutdown: None
            }
        );
    }
}
