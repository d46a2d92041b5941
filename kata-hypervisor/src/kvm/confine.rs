//! What threads may ask of the host.
//!
//! A thread that breaks a rule is told `EPERM`, not killed: a signal would end
//! the program that embeds us, and a thread that vanishes would keep its locks.

use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition};
use seccompiler::{SeccompFilter, SeccompRule};

use crate::error::{Error, Result};

/// Calls that every thread of ours makes: memory, locks, its own descriptors.
const COMMON: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// What a processor's thread does to its queues when a driver starts or stops a
/// device.
const ACTIVATION: &[libc::c_long] = &[libc::SYS_epoll_ctl, libc::SYS_eventfd2, libc::SYS_fcntl];

/// What it does when a driver resets a device: waits for requests under way,
/// does what is left of them, and sends on what the guest had sent.
const RESET: &[libc::c_long] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_io_uring_enter,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev2,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// Requests that a processor's thread may make of KVM, by number: `KVM_RUN`,
/// `KVM_GET_REGS`, `KVM_KVMCLOCK_CTRL`, `KVM_SET_DEVICE_ATTR`,
/// `KVM_GET_DEVICE_ATTR`.
const KVM_REQUESTS: &[u64] = &[0xae80, 0x8090_ae81, 0xaead, 0x4018_aee1, 0x4018_aee2];

/// What it asks of KVM when a driver moves the BARs of functions or chooses their
/// messages: `KVM_IOEVENTFD`, `KVM_SET_GSI_ROUTING`.
const PCI_REQUESTS: &[u64] = &[0x4040_ae79, 0x4008_ae6a];

/// What it does when a driver starts a device whose queues somebody else serves:
/// messages to a back end of vhost-user.
const HAND_OVER: &[libc::c_long] = &[libc::SYS_poll, libc::SYS_recvmsg, libc::SYS_sendmsg];

/// The same for the host's kernel: `VHOST_SET_FEATURES`, `_MEM_TABLE`,
/// `_VRING_NUM`, `_VRING_ADDR`, `_VRING_BASE`, `VHOST_GET_VRING_BASE`,
/// `VHOST_SET_VRING_KICK`, `_VRING_CALL`, `VHOST_NET_SET_BACKEND`.
const VHOST_REQUESTS: &[u64] = &[
    0x4008_af00,
    0x4008_af03,
    0x4008_af10,
    0x4028_af11,
    0x4008_af12,
    0xc008_af12,
    0x4008_af20,
    0x4008_af21,
    0x4008_af30,
];

/// What processors of a machine must do beside running the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Duties {
    /// Keep doorbells and interrupts where the guest puts those of functions.
    pub(super) moves_functions: bool,
    /// Hand queues over to those who serve them.
    pub(super) hands_queues_over: bool,
}

/// A filter of system calls, ready to be applied.
#[derive(Debug)]
pub(super) struct Filter(BpfProgram);

impl Filter {
    /// For the thread of a processor with these duties.
    pub(super) fn vcpu(duties: Duties) -> Result<Self> {
        let mut rules = allow(COMMON.iter().chain(ACTIVATION).chain(RESET));
        // A driver that starts a network device chooses its offloads, and one
        // that resets it lets go of its queues.
        let of_taps = [libc::TUNSETOFFLOAD, libc::TUNSETQUEUE];
        let mut requests: Vec<u64> = KVM_REQUESTS.iter().copied().chain(of_taps).collect();
        if duties.moves_functions {
            requests.extend(PCI_REQUESTS);
        }
        if duties.hands_queues_over {
            rules.extend(allow(HAND_OVER.iter()));
            requests.extend(VHOST_REQUESTS);
        }
        let requests = requests.into_iter();
        let requests = requests.map(|request| only(1, request));
        rules.push((libc::SYS_ioctl, requests.collect()));
        // Kicks of the other processors, and of nobody else's.
        let own = u64::from(
            rustix::process::getpid()
                .as_raw_nonzero()
                .get()
                .unsigned_abs(),
        );
        rules.push((libc::SYS_tgkill, vec![only(0, own)]));
        Self::compile(rules)
    }

    /// For the thread of a device. Names of files are not opened here: a device
    /// that must, such as a file server, has no filter. Nor are sockets.
    pub(super) fn device() -> Result<Self> {
        Self::compile(device_rules())
    }

    /// For the thread of the vsock device: as any other's, and it takes callers
    /// and calls, by unix sockets alone.
    pub(super) fn vsock() -> Result<Self> {
        let mut rules = device_rules();
        rules.extend(allow([libc::SYS_accept4, libc::SYS_connect].iter()));
        let unix = libc::AF_UNIX.unsigned_abs().into();
        for call in [libc::SYS_socket, libc::SYS_socketpair] {
            rules.push((call, vec![only(0, unix)]));
        }
        Self::compile(rules)
    }

    fn compile(mut rules: Vec<(libc::c_long, Vec<SeccompRule>)>) -> Result<Self> {
        // Memory may be had, and none of it executed.
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            rules.push((
                call,
                vec![without(2, libc::PROT_EXEC.unsigned_abs().into())],
            ));
        }
        let architecture = std::env::consts::ARCH.try_into().map_err(failed)?;
        let filter = SeccompFilter::new(
            rules.into_iter().collect(),
            SeccompAction::Errno(libc::EPERM.unsigned_abs()),
            SeccompAction::Allow,
            architecture,
        );
        let program = filter.and_then(BpfProgram::try_from).map_err(failed)?;
        Ok(Self(program))
    }

    /// Confines the calling thread, for ever.
    pub(super) fn apply(&self) -> io::Result<()> {
        seccompiler::apply_filter(&self.0).map_err(io::Error::other)
    }
}

/// What every device does: wait, and move bytes between what is open already.
fn device_rules() -> Vec<(libc::c_long, Vec<SeccompRule>)> {
    const IO: &[libc::c_long] = &[
        libc::SYS_dup,
        libc::SYS_epoll_ctl,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
        libc::SYS_eventfd2,
        libc::SYS_fallocate,
        libc::SYS_fcntl,
        libc::SYS_fdatasync,
        libc::SYS_fstat,
        libc::SYS_fsync,
        libc::SYS_getsockopt,
        libc::SYS_io_uring_enter,
        libc::SYS_lseek,
        libc::SYS_ppoll,
        libc::SYS_pread64,
        libc::SYS_preadv,
        libc::SYS_preadv2,
        libc::SYS_pwrite64,
        libc::SYS_pwritev,
        libc::SYS_pwritev2,
        libc::SYS_readv,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_setsockopt,
        libc::SYS_shutdown,
        libc::SYS_statx,
        libc::SYS_timerfd_settime,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll,
    ];
    // Of the requests, only `FIONBIO`, `FIONREAD`, those that discard or
    // clear a block device's range, and those of a tap's queues.
    const REQUESTS: [u64; 6] = [
        0x5421,
        0x541b,
        0x1277,
        0x127f,
        libc::TUNSETOFFLOAD,
        libc::TUNSETQUEUE,
    ];
    let mut rules = allow(COMMON.iter().chain(IO));
    let requests = REQUESTS.map(|request| only(1, request));
    rules.push((libc::SYS_ioctl, requests.to_vec()));
    rules
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Host {
        operation: "make a filter of system calls".to_owned(),
        source: io::Error::other(error),
    }
}

fn allow<'a>(
    calls: impl Iterator<Item = &'a libc::c_long>,
) -> Vec<(libc::c_long, Vec<SeccompRule>)> {
    calls.map(|&call| (call, Vec::new())).collect()
}

/// The rule that an argument has this value.
fn only(argument: u8, value: u64) -> SeccompRule {
    rule(argument, SeccompCmpOp::Eq, value)
}

/// The rule that an argument has none of these bits.
fn without(argument: u8, bits: u64) -> SeccompRule {
    rule(argument, SeccompCmpOp::MaskedEq(bits), 0)
}

fn rule(argument: u8, operation: SeccompCmpOp, value: u64) -> SeccompRule {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operation, value);
    let condition = condition.expect("system calls have six arguments");
    SeccompRule::new(vec![condition]).expect("one condition is enough")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Duties = Duties {
        moves_functions: true,
        hands_queues_over: true,
    };

    /// What `deed` gives on a thread that is confined.
    fn confined<T: Send + 'static>(filter: Filter, deed: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            filter.apply().unwrap();
            deed()
        });
        thread.join().unwrap()
    }

    fn refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM))
    }

    #[test]
    fn neither_files_nor_programs_nor_sockets_are_for_a_processor() {
        let (file, program, socket) = confined(Filter::vcpu(ALL).unwrap(), || {
            (
                refused(std::fs::File::open("/etc/passwd")),
                refused(std::process::Command::new("/bin/true").spawn()),
                refused(std::os::unix::net::UnixStream::pair()),
            )
        });
        assert!(file && program && socket, "{file} {program} {socket}");
    }

    #[test]
    fn a_device_neither_opens_files_nor_calls_anybody() {
        let (file, socket, read) = confined(Filter::device().unwrap(), || {
            (
                refused(std::fs::File::open("/etc/passwd")),
                refused(std::os::unix::net::UnixStream::pair()),
                // What is open already is used.
                rustix::io::read(rustix::stdio::stdin(), &mut [0; 0]),
            )
        });
        assert!(file && socket, "{file} {socket}");
        assert_eq!(read, Ok(0));
    }

    #[test]
    fn vsock_talks_by_unix_sockets_and_opens_nothing() {
        let (file, internet, socket) = confined(Filter::vsock().unwrap(), || {
            let address = rustix::net::SocketAddrUnix::new("/nonexistent").unwrap();
            let socket = rustix::net::socket(
                rustix::net::AddressFamily::UNIX,
                rustix::net::SocketType::STREAM,
                None,
            );
            let connected = socket.and_then(|socket| rustix::net::connect(socket, &address));
            // As a listener's new streams are.
            let (stream, _other) = rustix::net::socketpair(
                rustix::net::AddressFamily::UNIX,
                rustix::net::SocketType::STREAM,
                rustix::net::SocketFlags::empty(),
                None,
            )
            .map(|(one, other)| (std::os::unix::net::UnixStream::from(one), other))
            .unwrap();
            stream.set_nonblocking(true).unwrap();
            let internet = std::net::UdpSocket::bind("127.0.0.1:0");
            let file = std::fs::File::open("/etc/passwd");
            (refused(file), refused(internet), connected)
        });
        assert!(file && internet, "{file} {internet}");
        assert_eq!(socket, Err(rustix::io::Errno::NOENT));
    }

    #[test]
    fn memory_and_locks_still_work() {
        let sum = confined(Filter::vcpu(ALL).unwrap(), || {
            let large: Vec<u8> = vec![1; 8 << 20];
            let lock = std::sync::Mutex::new(large);
            lock.lock()
                .unwrap()
                .iter()
                .map(|&byte| usize::from(byte))
                .sum::<usize>()
        });
        assert_eq!(sum, 8 << 20);
    }
}
