//! What QEMU tells unasked.

use std::collections::VecDeque;

use serde_json::Value;

/// How many devices are remembered to have gone: more than are ever waited for.
const MOST_GONE: usize = 256;

/// An event, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The machine ends, for this reason.
    Shutdown(Option<Shutdown>),
    /// The guest's kernel says that it panicked.
    Panicked,
    /// A device is gone.
    DeviceDeleted(String),
    /// The guest will not let go of a device.
    UnplugFailed(String),
    /// Of the memory that may be plugged, there are so many bytes now.
    MemorySize(u64),
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
            "DEVICE_DELETED" => Self::deleted(data),
            // QEMU 6.2 and newer; before, and for memory, the second name.
            "DEVICE_UNPLUG_GUEST_ERROR" => Self::of_device(data, Self::UnplugFailed),
            "MEM_UNPLUG_ERROR" => Self::of_device(data, Self::UnplugFailed),
            "MEMORY_DEVICE_SIZE_CHANGE" => {
                data["size"].as_u64().map_or(Self::Other, Self::MemorySize)
            }
            _ => Self::Other,
        }
    }

    /// An emulated processor stays in the books after it has gone: of that, its
    /// interrupt controller's end tells.
    fn deleted(data: &Value) -> Self {
        let path = data["path"].as_str().unwrap_or_default();
        let processor = path
            .strip_prefix("/machine/peripheral/")
            .and_then(|path| path.strip_suffix("/lapic"));
        match processor {
            Some(id) => Self::DeviceDeleted(id.to_owned()),
            None => Self::of_device(data, Self::DeviceDeleted),
        }
    }

    /// Devices inside of others have no id of their own.
    fn of_device(data: &Value, event: fn(String) -> Self) -> Self {
        let id = data["device"].as_str();
        id.map_or(Self::Other, |id| event(id.to_owned()))
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
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::Panicked => self.panicked = true,
            Event::Shutdown(Some(reason)) => {
                self.shutdown.get_or_insert(*reason);
            }
            _ => {}
        }
    }
}

/// What the events so far have said about devices that come and go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plugged {
    /// Devices that are gone, or that the guest kept, the last ones last.
    gone: VecDeque<(String, bool)>,
    /// Bytes of plugged memory that the guest has.
    pub(crate) memory: u64,
}

impl Plugged {
    /// Adds an event; answers whether it changed anything.
    pub(super) fn note(&mut self, event: Event) -> bool {
        match event {
            Event::DeviceDeleted(id) => self.end(id, true),
            Event::UnplugFailed(id) => self.end(id, false),
            Event::MemorySize(size) => self.memory = size,
            _ => return false,
        }
        true
    }

    fn end(&mut self, id: String, gone: bool) {
        self.forget(&id);
        if self.gone.len() == MOST_GONE {
            self.gone.pop_front();
        }
        self.gone.push_back((id, gone));
    }

    /// Whether that device is gone (true), or the guest kept it (false); `None`
    /// while neither is known.
    pub(crate) fn is_gone(&self, id: &str) -> Option<bool> {
        let found = self.gone.iter().find(|(name, _)| name == id);
        found.map(|(_, gone)| *gone)
    }

    /// Forgets what became of a device: there is a new one of that name.
    pub(super) fn forget(&mut self, id: &str) {
        self.gone.retain(|(name, _)| name != id);
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
            seen.note(&Event::new(
                "SHUTDOWN",
                &json!({"guest": true, "reason": reason}),
            ));
        }
        assert_eq!(seen.shutdown, Some(Shutdown::Reset));
    }

    #[test]
    fn a_panic_is_remembered() {
        let mut seen = Seen::default();
        seen.note(&Event::new(
            "GUEST_PANICKED",
            &json!({"action": "poweroff"}),
        ));
        seen.note(&Event::new("RESUME", &Value::Null));
        assert_eq!(
            seen,
            Seen {
                panicked: true,
                shutdown: None
            }
        );
    }

    #[test]
    fn the_last_word_on_a_device_stands_until_it_is_forgotten() {
        let mut plugged = Plugged::default();
        let event = |name: &str| Event::new(name, &json!({"device": "d", "path": "/p"}));
        assert_eq!(plugged.is_gone("d"), None);
        plugged.note(event("DEVICE_UNPLUG_GUEST_ERROR"));
        assert_eq!(plugged.is_gone("d"), Some(false));
        plugged.note(event("DEVICE_DELETED"));
        assert_eq!(plugged.is_gone("d"), Some(true));
        plugged.forget("d");
        assert_eq!(plugged.is_gone("d"), None);
        let lapic = json!({"path": "/machine/peripheral/d/lapic"});
        plugged.note(Event::new("DEVICE_DELETED", &lapic));
        assert_eq!(plugged.is_gone("d"), Some(true));
    }

    #[test]
    fn what_comes_and_goes_is_remembered_within_bounds() {
        let mut plugged = Plugged::default();
        for number in 0..1000 {
            plugged.note(Event::DeviceDeleted(number.to_string()));
        }
        assert_eq!(plugged.gone.len(), MOST_GONE);
        plugged.note(Event::new(
            "MEMORY_DEVICE_SIZE_CHANGE",
            &json!({"id": "m", "size": 5}),
        ));
        assert_eq!(plugged.memory, 5);
        assert!(!plugged.note(Event::new("DEVICE_DELETED", &json!({"path": "/p"}))));
    }
}
