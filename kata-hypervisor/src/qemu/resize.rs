//! Growing and shrinking of a running machine.
//!
//! Processors are devices of their own, each in a socket: those beyond the ones
//! at boot come with `device_add` and go with `device_del`. Memory is one
//! virtio-mem device (virtio 1.2, section 5.15) with room for all that may
//! come; the guest is asked to have so much of it, and does as it can. The back
//! ends outside QEMU have mapped that room since the start, so nothing changes
//! for them.

use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::args::PluggedMemory;
use super::vm::QemuVm;
use crate::config::MemorySize;
use crate::error::{Error, Result};
use crate::validate::MEMORY_GRAIN;
use crate::vm::Hotplug;

/// How long a guest may take to let go of a processor.
const UNPLUG: Duration = Duration::from_secs(30);
/// How long a guest may take to plug or unplug memory, without any progress.
const MEMORY_STALLED: Duration = Duration::from_secs(10);
/// How long it may take in all.
const MEMORY: Duration = Duration::from_secs(60);

/// A processor that there is or may be, as QEMU tells it.
#[derive(Clone, Debug, PartialEq)]
struct Slot {
    /// What to give `device_add`.
    driver: String,
    props: Value,
    /// The id of the device, where it was plugged here.
    plugged: Option<String>,
    /// Whether there is a processor in it.
    taken: bool,
}

/// Reads the answer of `query-hotpluggable-cpus`.
fn slots(answer: &Value) -> Option<Vec<Slot>> {
    let slot = |entry: &Value| {
        let path = entry.get("qom-path").and_then(Value::as_str);
        let plugged = path.and_then(|path| path.strip_prefix("/machine/peripheral/"));
        Some(Slot {
            driver: entry.get("type")?.as_str()?.to_owned(),
            props: entry.get("props")?.clone(),
            plugged: plugged.map(str::to_owned),
            taken: path.is_some(),
        })
    };
    answer.as_array()?.iter().map(slot).collect()
}

/// What plugs a processor into a slot.
fn plug(slot: &Slot, id: &str) -> Value {
    let mut arguments = json!({"driver": slot.driver, "id": id});
    if let (Some(into), Some(props)) = (arguments.as_object_mut(), slot.props.as_object()) {
        into.extend(props.clone());
    }
    arguments
}

/// The id of a processor that was plugged here, by the socket it is in.
fn name(slot: &Slot) -> String {
    let socket = slot.props.get("socket-id").and_then(Value::as_u64);
    format!("cpu{}", socket.unwrap_or_default())
}

impl QemuVm {
    /// The processors that there are, after as many as possible were plugged or
    /// unplugged.
    async fn resize_cpus(&self, wanted: u32) -> Result<u32> {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let mut slots = self.slots().await?;
        // QEMU tells the highest first; a guest numbers them from the lowest.
        slots.reverse();
        let mut count = slots.iter().filter(|slot| slot.taken).count();
        for slot in slots.iter().filter(|slot| !slot.taken) {
            if count >= wanted {
                break;
            }
            let id = name(slot);
            self.monitor().forget_device(&id);
            let arguments = Some(plug(slot, &id));
            self.ask("plugging a processor", "device_add", arguments)
                .await?;
            count += 1;
        }
        for id in slots
            .iter()
            .rev()
            .filter_map(|slot| slot.plugged.as_deref())
        {
            if count <= wanted || !self.unplug(id, UNPLUG).await? {
                break;
            }
            count -= 1;
        }
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    async fn slots(&self) -> Result<Vec<Slot>> {
        const PHASE: &str = "counting the processors";
        let answer = self.ask(PHASE, "query-hotpluggable-cpus", None).await?;
        slots(&answer).ok_or_else(|| Error::Command {
            backend: super::NAME,
            command: "query-hotpluggable-cpus".to_owned(),
            reason: "it answered what makes no sense".to_owned(),
        })
    }

    /// Asks the guest to let go of a device; answers whether it did in time.
    pub(super) async fn unplug(&self, id: &str, within: Duration) -> Result<bool> {
        self.monitor().forget_device(id);
        let arguments = Some(json!({"id": id}));
        self.ask("unplugging a device", "device_del", arguments)
            .await?;
        self.told("unplugging a device", within, |plugged| plugged.is_gone(id))
            .await
            .map(|gone| gone.unwrap_or(false))
    }

    /// The plugged memory that there is, in bytes, after the guest was asked to
    /// have so much of it.
    async fn resize_memory(&self, wanted: u64) -> Result<u64> {
        const PHASE: &str = "resizing the memory";
        let arguments = json!({
            "path": format!("/machine/peripheral/{}", PluggedMemory::ID),
            "property": "requested-size",
            "value": wanted,
        });
        self.ask(PHASE, "qom-set", Some(arguments)).await?;
        let until = Instant::now() + MEMORY;
        let mut size = self.monitor().plugged().memory;
        while size != wanted && Instant::now() < until {
            let before = size;
            let changed = self
                .told(PHASE, MEMORY_STALLED, |plugged| {
                    (plugged.memory != before).then_some(plugged.memory)
                })
                .await?;
            match changed {
                Some(now) => size = now,
                None => break,
            }
        }
        Ok(size)
    }
}

#[async_trait]
impl Hotplug for QemuVm {
    async fn resize(&self, vcpus: u32, memory: MemorySize) -> Result<(u32, MemorySize)> {
        self.must_run("resize")?;
        let size = self.size();
        let wrong = |field, reason| Err(Error::InvalidConfig { field, reason });
        if vcpus < size.vcpus || vcpus > size.max_vcpus {
            let (least, most) = (size.vcpus, size.max_vcpus);
            return wrong(
                "vcpus",
                format!("{vcpus} is not between {least} and {most}"),
            );
        }
        if memory < size.memory || memory > size.max_memory {
            let (least, most) = (size.memory, size.max_memory);
            let reason = format!("{memory} is not between {least} and {most}");
            return wrong("memory", reason);
        }
        let _one = self.resizing().await;
        let count = self.resize_cpus(vcpus).await?;
        let mut now = size.memory;
        if size.max_memory > size.memory {
            let plugged = memory.as_bytes() - size.memory.as_bytes();
            let plugged = plugged.next_multiple_of(MEMORY_GRAIN);
            let plugged = self.resize_memory(plugged).await?;
            now = MemorySize::bytes(size.memory.as_bytes() + plugged);
        }
        Ok((count, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_read_with_what_is_in_them() {
        let answer = json!([
            {"type": "max-x86_64-cpu", "vcpus-count": 1, "props": {"socket-id": 2, "core-id": 0}},
            {"type": "max-x86_64-cpu", "vcpus-count": 1, "props": {"socket-id": 1},
             "qom-path": "/machine/peripheral/cpu1"},
            {"type": "max-x86_64-cpu", "vcpus-count": 1, "props": {"socket-id": 0},
             "qom-path": "/machine/unattached/device[0]"},
        ]);
        let slots = slots(&answer).unwrap();
        assert_eq!(slots.iter().filter(|slot| slot.taken).count(), 2);
        assert_eq!(slots[1].plugged.as_deref(), Some("cpu1"));
        assert_eq!(slots[2].plugged, None);
        assert_eq!(
            plug(&slots[0], &name(&slots[0])),
            json!({"driver": "max-x86_64-cpu", "id": "cpu2", "socket-id": 2, "core-id": 0})
        );
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_none() {
        for answer in [json!(null), json!({}), json!([{}]), json!([{"type": 1}])] {
            assert_eq!(slots(&answer), None, "{answer}");
        }
    }
}
