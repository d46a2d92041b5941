//! Scheduling policy, I/O priority and personality of a process.
#![expect(
    unsafe_code,
    reason = "sched_setattr, ioprio_set and personality have no safe wrapper"
)]

use std::io;
use std::mem::size_of;

use kata_protocol::agent::{IoPriority, Personality, Scheduler};
use kata_protocol::ttrpc::Status;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::failure::{Context as _, Field as _, refuse};

/// What is set of it, checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scheduling {
    scheduler: Option<Attributes>,
    io_priority: Option<libc::c_int>,
    personality: Option<libc::c_ulong>,
}

/// `struct sched_attr` of sched_setattr(2), first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

impl Scheduling {
    /// Checks what a specification asks for.
    ///
    /// # Errors
    /// When it names what does not exist.
    pub(crate) fn new(
        scheduler: Option<&Scheduler>,
        io: Option<&IoPriority>,
        personality: Option<&Personality>,
    ) -> Result<Self, Status> {
        Ok(Self {
            scheduler: scheduler
                .map(attributes)
                .transpose()
                .field(|| "process.scheduler")?,
            io_priority: io
                .map(io_priority)
                .transpose()
                .field(|| "process.ioPriority")?,
            personality: personality
                .map(domain)
                .transpose()
                .field(|| "linux.personality")?,
        })
    }

    /// Applies it to the calling process.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn apply(&self) -> Result<(), Status> {
        if let Some(attributes) = &self.scheduler {
            // SAFETY: a whole `sched_attr` that says its own size.
            check(unsafe {
                libc::syscall(
                    libc::SYS_sched_setattr,
                    0,
                    std::ptr::from_ref(attributes),
                    0,
                )
            })
            .context(|| "process.scheduler: set the scheduling policy")?;
        }
        if let Some(value) = self.io_priority {
            const WHO_PROCESS: libc::c_int = 1;
            // SAFETY: takes three numbers.
            check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) })
                .context(|| "process.ioPriority: set the I/O priority")?;
        }
        if let Some(domain) = self.personality {
            // SAFETY: takes a number.
            check(libc::c_long::from(unsafe { libc::personality(domain) }))
                .context(|| "linux.personality: set it")?;
        }
        Ok(())
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn attributes(scheduler: &Scheduler) -> Result<Attributes, Status> {
    let policy = match scheduler.policy.as_str() {
        "SCHED_OTHER" | "" => libc::SCHED_OTHER,
        "SCHED_FIFO" => libc::SCHED_FIFO,
        "SCHED_RR" => libc::SCHED_RR,
        "SCHED_BATCH" => libc::SCHED_BATCH,
        "SCHED_IDLE" => libc::SCHED_IDLE,
        "SCHED_DEADLINE" => libc::SCHED_DEADLINE,
        other => return Err(refuse(format!("unknown scheduling policy {other:?}"))),
    };
    let mut flags = 0;
    for flag in &scheduler.flags {
        flags |= match flag.as_str() {
            "SCHED_FLAG_RESET_ON_FORK" => 0x01,
            "SCHED_FLAG_RECLAIM" => 0x02,
            "SCHED_FLAG_DL_OVERRUN" => 0x04,
            "SCHED_FLAG_KEEP_POLICY" => 0x08,
            "SCHED_FLAG_KEEP_PARAMS" => 0x10,
            "SCHED_FLAG_UTIL_CLAMP_MIN" => 0x20,
            "SCHED_FLAG_UTIL_CLAMP_MAX" => 0x40,
            other => return Err(refuse(format!("unknown scheduling flag {other:?}"))),
        };
    }
    let priority = u32::try_from(scheduler.priority).map_err(|_| {
        refuse(format!(
            "negative scheduling priority {}",
            scheduler.priority
        ))
    })?;
    let size = const { size_of::<Attributes>() };
    Ok(Attributes {
        size: u32::try_from(size).expect("48 bytes"),
        policy: policy.cast_unsigned(),
        flags,
        nice: scheduler.nice,
        priority,
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
    })
}

fn io_priority(wanted: &IoPriority) -> Result<libc::c_int, Status> {
    let class = match wanted.class.as_str() {
        "IOPRIO_CLASS_RT" => 1,
        "IOPRIO_CLASS_BE" => 2,
        "IOPRIO_CLASS_IDLE" => 3,
        other => return Err(refuse(format!("unknown I/O priority class {other:?}"))),
    };
    match libc::c_int::try_from(wanted.priority) {
        Ok(level @ 0..=7) => Ok(class << 13 | level),
        _ => Err(refuse(format!(
            "I/O priority {} is not within 0 to 7",
            wanted.priority
        ))),
    }
}

fn domain(wanted: &Personality) -> Result<libc::c_ulong, Status> {
    if let Some(flag) = wanted.flags.first() {
        return Err(refuse(format!("unknown personality flag {flag:?}")));
    }
    match wanted.domain.as_str() {
        "LINUX" | "" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(refuse(format!("unknown personality domain {other:?}"))),
    }
}

/// Processors that a process may run on (sched_setaffinity(2)).
#[derive(Clone, Debug)]
pub(crate) struct Affinity(CpuSet);

impl Affinity {
    /// A list such as `0-3,7`; `None` if it is empty.
    ///
    /// # Errors
    /// When it is no list, or names a processor beyond what the kernel takes.
    pub(crate) fn parse(list: &str) -> Result<Option<Self>, Status> {
        let number = |text: &str| text.trim().parse::<usize>().ok();
        let bounds = |part: &str| match part.split_once('-') {
            Some((first, last)) => Some((number(first)?, number(last)?)),
            None => number(part).map(|number| (number, number)),
        };
        if list.is_empty() {
            return Ok(None);
        }
        let mut set = CpuSet::new();
        for part in list.split(',') {
            match bounds(part) {
                Some((first, last)) if first <= last && last < CpuSet::MAX_CPU => {
                    (first..=last).for_each(|processor| set.set(processor));
                }
                _ => return Err(refuse(format!("{list:?} is no list of processors"))),
            }
        }
        Ok(Some(Self(set)))
    }

    /// Applies it to the calling process.
    ///
    /// # Errors
    /// When there is none of the processors.
    pub(crate) fn apply(&self) -> Result<(), Status> {
        sched_setaffinity(None, &self.0).context(|| "process.execCPUAffinity: set it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_levels_make_the_kernels_number() {
        let wanted = IoPriority {
            class: "IOPRIO_CLASS_BE".into(),
            priority: 5,
        };
        assert_eq!(io_priority(&wanted).unwrap(), 2 << 13 | 5);
    }

    #[test]
    fn what_does_not_exist_is_refused_by_name() {
        let scheduler = Scheduler {
            policy: "SCHED_MAGIC".into(),
            ..Scheduler::default()
        };
        let error = attributes(&scheduler).unwrap_err();
        assert!(error.message.contains("SCHED_MAGIC"));
        let wanted = IoPriority {
            class: "IOPRIO_CLASS_BE".into(),
            priority: 8,
        };
        assert!(io_priority(&wanted).is_err());
    }

    #[test]
    fn lists_of_processors_are_read_and_others_refused() {
        let Affinity(set) = Affinity::parse("0-2,7").unwrap().unwrap();
        let named: Vec<_> = (0..16).filter(|cpu| set.is_set(*cpu)).collect();
        assert_eq!(named, [0, 1, 2, 7]);
        assert!(Affinity::parse("").unwrap().is_none());
        for bad in ["x", "3-1", "1-", "0,", "99999", "0-99999"] {
            assert!(Affinity::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_batch_process_can_be_had() {
        let scheduler = Scheduler {
            policy: "SCHED_BATCH".into(),
            nice: 3,
            ..Scheduler::default()
        };
        let scheduling = Scheduling::new(Some(&scheduler), None, None).unwrap();
        scheduling.apply().unwrap();
        // SAFETY: asks about the calling thread.
        assert_eq!(unsafe { libc::sched_getscheduler(0) }, libc::SCHED_BATCH);
    }

    proptest::proptest! {
        #[test]
        fn no_list_of_processors_makes_it_panic(list in "[0-9,-]{0,16}") {
            let _ = Affinity::parse(&list);
        }
    }
}
