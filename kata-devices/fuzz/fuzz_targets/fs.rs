//! FUSE requests to a shared file system, each in a chain of its own.
#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use kata_devices::fs::{Access, FsConfig, SharedTree};
use kata_devices::testing::{MmioDriver, WRITE};
use kata_devices::virtio::ThreadStart;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DRIVER: RefCell<MmioDriver> = RefCell::new(driver());
}

fn driver() -> MmioDriver {
    let dir = tempfile::tempdir().expect("a directory").keep();
    std::fs::write(dir.join("file"), "content").expect("a file");
    let tree = SharedTree::new().expect("a tree");
    tree.share("data", &dir, Access::ReadOnly).expect("a share");
    let config = FsConfig {
        tag: "fuzz".to_owned(),
        tree,
    };
    MmioDriver::new(config.device(&ThreadStart::default()).expect("a device"))
}

fuzz_target!(|requests: Vec<(u8, u64, Vec<u8>)>| {
    DRIVER.with_borrow_mut(|driver| {
        driver.arena.clear();
        driver.start(1 << 32, 16);
        for (opcode, inode, body) in requests.into_iter().take(8) {
            let mut bytes = u32::try_from(40 + body.len())
                .expect("short")
                .to_le_bytes()
                .to_vec();
            bytes.extend(u32::from(opcode % 52).to_le_bytes());
            bytes.extend(1u64.to_le_bytes());
            bytes.extend((inode % 64).to_le_bytes());
            bytes.extend([0; 16]);
            bytes.extend(body);
            let at = driver.arena.place(&bytes);
            let into = driver.arena.allocate(8192);
            let length = u32::try_from(bytes.len()).expect("short");
            driver.queues[1].send(0, &[(at, length, 0), (into, 8192, WRITE)]);
            driver.queues[1].kick(1);
            let answered = driver.wait_used(1, Duration::from_secs(10));
            assert!(answered.is_some(), "no answer");
        }
        driver.write(0x70, 0);
    });
});
