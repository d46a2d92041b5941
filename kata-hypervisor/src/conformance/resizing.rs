//! Growing and shrinking.

use super::guest::Guest;
use super::machine::{Machine, Place, chain};
use super::subject::Subject;
use crate::config::MemorySize;
use crate::error::Error;

/// How much memory comes and goes.
const MORE: MemorySize = MemorySize::mib(256);

/// A machine that is to grow does, in the guest's eyes too, shared directories
/// and streams going on meanwhile; sizes it cannot have are refused; and it
/// shrinks again, as far as its guest gives back what it had.
///
/// # Panics
/// When the backend does otherwise.
pub async fn a_machine_grows_and_shrinks(subject: &Subject) {
    let place = Place::new();
    let mut config = place.config(subject);
    let (cpus, memory) = (config.size.vcpus, config.size.memory);
    let most = MemorySize::bytes(memory.as_bytes() + MORE.as_bytes());
    config.size.max_vcpus = cpus + 2;
    config.size.max_memory = most;
    let machine = match Machine::of(subject, place, config).await {
        Ok(machine) => machine.up().await,
        Err(Error::Unsupported { .. }) => {
            eprintln!("skipped: this backend has no machines that grow");
            return;
        }
        Err(error) => panic!("create: {}", chain(&error)),
    };
    let Some(hotplug) = machine.hotplug() else {
        assert!(!machine.features().hotplug);
        eprintln!("skipped: this backend cannot resize machines");
        return;
    };
    assert!(machine.features().hotplug);
    let (cpus_before, memory_before) = size(&machine.asked(Guest::SIZE, "").await);
    assert_eq!(cpus_before, cpus);

    let refused = hotplug.resize(cpus + 3, memory).await;
    assert!(refused.is_err(), "more than at most: {refused:?}");
    let refused = hotplug.resize(cpus, MemorySize::mib(1)).await;
    assert!(refused.is_err(), "less than at boot: {refused:?}");

    let grown = hotplug.resize(cpus + 2, most).await.expect("resize");
    assert_eq!(grown, (cpus + 2, most));
    let has_grown = |answer: &str| {
        let (cpus_now, memory_now) = size(answer);
        // The kernel keeps books on its memory in it.
        cpus_now == cpus + 2 && memory_now > memory_before + (MORE.as_bytes() >> 10) * 9 / 10
    };
    let answer = machine.asked_until(Guest::SIZE, "", has_grown).await;
    assert!(has_grown(&answer), "grown to {grown:?}: {answer}");
    // New memory is used for streams, too: a back end that does not know it fails.
    let much = vec![7; 4 << 20];
    assert_eq!(machine.echo(&much).await, much);

    let (cpus_now, memory_now) = hotplug.resize(cpus, memory).await.expect("resize back");
    assert!((cpus..=cpus + 2).contains(&cpus_now), "{cpus_now}");
    assert!(memory_now < most, "nothing was given back: {memory_now}");
    let has_shrunk = |answer: &str| size(answer).0 == cpus_now;
    let answer = machine.asked_until(Guest::SIZE, "", has_shrunk).await;
    assert!(has_shrunk(&answer), "shrunk to {cpus_now}: {answer}");
    machine.assert_clean().await;
}

/// Processors and KiB of memory, as the guest says them.
fn size(answer: &str) -> (u32, u64) {
    let numbers = answer
        .split_once(' ')
        .and_then(|(cpus, memory)| Some((cpus.parse().ok()?, memory.parse().ok()?)));
    numbers.unwrap_or_else(|| panic!("no size: {answer:?}"))
}
