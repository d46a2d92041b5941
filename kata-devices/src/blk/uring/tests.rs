//! What a ring does, and what it does when the kernel does not help.

use std::io::Write;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use vm_memory::{Bytes, GuestAddress, GuestMemory as _};

use super::*;
use crate::blk::request::Range;

fn ring(file: &tempfile::NamedTempFile) -> Option<Uring> {
    let disk = Arc::new(Disk::open(file.path(), false).unwrap());
    Uring::new(disk)
        .inspect_err(|error| eprintln!("skipped: io_uring: {error}"))
        .ok()
}

#[test]
fn a_ring_does_nothing_but_what_a_disk_needs() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let Some(mut uring) = ring(&file) else {
        return;
    };
    // SAFETY: the operation has no memory.
    unsafe { uring.ring.submission().push(&opcode::Nop::new().build()) }.unwrap();
    uring.ring.submit_and_wait(1).unwrap();
    let ended = uring.ring.completion().next().unwrap();
    assert_eq!(ended.result(), -libc::EACCES);
}

/// Has every `io_uring_enter` of this thread fail, from now on.
fn refuse_rings(errno: i32) {
    let filter = SeccompFilter::new(
        [(libc::SYS_io_uring_enter, Vec::new())]
            .into_iter()
            .collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

/// One operation of each kind, on memory that begins with "to the disk".
fn begin_all(ring: &mut Uring, memory: &Arc<GuestMemory>, done: &mut Vec<Completion>) {
    let piece = |at| [memory.get_slice(GuestAddress(at), 11).unwrap()];
    let write = Operation::Write {
        offset: 512,
        data: &piece(0),
        durable: true,
    };
    let range = |offset| Range {
        offset,
        length: 512,
    };
    ring.begin(0, Operation::Read(0, &piece(100)), memory, done);
    ring.begin(1, write, memory, done);
    ring.begin(2, Operation::Flush, memory, done);
    ring.begin(3, Operation::Punch(range(1024)), memory, done);
    ring.begin(4, Operation::Zero(range(2048), false), memory, done);
}

#[test]
fn what_the_kernel_does_not_take_is_done_all_the_same() {
    for errno in [libc::EAGAIN, libc::EBUSY, libc::EPERM, libc::ENOMEM] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"of the disk").unwrap();
        file.as_file().set_len(4096).unwrap();
        let Some(mut ring) = ring(&file) else {
            return;
        };
        let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 4096)]).unwrap());
        memory.write_slice(b"to the disk", GuestAddress(0)).unwrap();
        let thread = std::thread::spawn({
            let memory = Arc::clone(&memory);
            move || {
                refuse_rings(errno);
                let mut done = Vec::new();
                begin_all(&mut ring, &memory, &mut done);
                ring.reap(&mut done);
                // Twice, since the first time leaves something behind.
                begin_all(&mut ring, &memory, &mut done);
                ring.wait(&mut done).unwrap();
                done
            }
        });
        let done: Vec<_> = thread
            .join()
            .unwrap()
            .into_iter()
            .map(|(tag, result)| (tag, result.unwrap()))
            .collect();
        let once = [(0, 11), (1, 11), (2, 0), (3, 0), (4, 0)];
        assert_eq!(done, [once, once].concat(), "{errno}");
        let mut read = [0; 11];
        memory.read_slice(&mut read, GuestAddress(100)).unwrap();
        assert_eq!(&read, b"of the disk");
        let disk = std::fs::read(file.path()).unwrap();
        assert_eq!(&disk[512..523], b"to the disk");
    }
}

#[test]
fn a_kernel_that_is_busy_is_asked_again_when_something_has_ended() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"of the disk").unwrap();
    let Some(mut ring) = ring(&file) else {
        return;
    };
    let memory = Arc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 4096)]).unwrap());
    let into = [memory.get_slice(GuestAddress(0), 11).unwrap()];
    let mut done = Vec::new();
    ring.begin(0, Operation::Read(0, &into), &memory, &mut done);
    assert!(ring.submit(&mut done), "the kernel has taken it");
    let thread = std::thread::spawn({
        let memory = Arc::clone(&memory);
        move || {
            refuse_rings(libc::EBUSY);
            ring.begin(1, Operation::Flush, &memory, &mut done);
            let waits = !ring.submit(&mut done) && done.is_empty();
            // What has ended by now rings the bell, and this is what follows.
            ring.reap(&mut done);
            (waits, done)
        }
    });
    let (waits, done) = thread.join().unwrap();
    assert!(waits);
    let mut tags: Vec<_> = done.iter().map(|(tag, _)| *tag).collect();
    tags.sort_unstable();
    assert_eq!(tags, [0, 1]);
    assert!(done.iter().all(|(_, result)| result.is_ok()));
}
