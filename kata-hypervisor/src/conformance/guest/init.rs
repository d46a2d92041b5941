//! The first process of the conformance suite's guest: echoes on one vsock
//! port, takes orders on another,
//! reads files of shared file systems on a third, disks on a fourth, and tells on a
//! fifth how large the machine is, and its network devices on a sixth. Compiled by the suite itself, so it uses
//! nothing but the standard library and six functions of libc.

use std::ffi::{CString, c_char, c_void};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

const READY: u32 = 1023;
const ECHO: u32 = 7;
const ORDERS: u32 = 9;
const FILES: u32 = 11;
const DISKS: u32 = 13;
const CLOCK: u32 = 17;
const SIZE: u32 = 15;
const CONSOLE: u32 = 23;
const NICS: u32 = 19;

const AF_VSOCK: i32 = 40;
const SOCK_STREAM: i32 = 1;
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;
const RESTART: i32 = 0x0123_4567;
const POWER_OFF: i32 = 0x4321_fedc;

#[repr(C)]
struct Address {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

unsafe extern "C" {
    fn socket(domain: i32, kind: i32, protocol: i32) -> i32;
    fn bind(fd: i32, address: *const Address, length: u32) -> i32;
    fn listen(fd: i32, backlog: i32) -> i32;
    fn accept(fd: i32, address: *mut Address, length: *mut u32) -> i32;
    fn connect(fd: i32, address: *const Address, length: u32) -> i32;
    fn reboot(how: i32) -> i32;
    fn mount(
        source: *const c_char,
        target: *const c_char,
        kind: *const c_char,
        flags: u64,
        data: *const c_void,
    ) -> i32;
}

fn main() {
    let orders = listen_on(ORDERS);
    serve(listen_on(ECHO), answer);
    serve(listen_on(FILES), show);
    for (kind, place) in [("devtmpfs", "/devices"), ("sysfs", "/sys"), ("proc", "/proc")] {
        let _ = mount_new(kind, kind, place);
    }
    serve(listen_on(DISKS), show_disk);
    serve(listen_on(CLOCK), tell_time);
    serve(listen_on(SIZE), tell_size);
    serve(listen_on(CONSOLE), talk);
    serve(listen_on(NICS), tell_nics);
    announce();
    loop {
        let mut order = String::new();
        let mut stream = next(orders);
        let _ = stream.read_to_string(&mut order);
        match order.trim() {
            // The kernel panics when its first process ends.
            "panic" => std::process::exit(3),
            // SAFETY: a system call without pointers.
            "end" => unsafe { drop(reboot(RESTART)) },
            // SAFETY: likewise.
            "off" => unsafe { drop(reboot(POWER_OFF)) },
            other => eprintln!("unknown order {other:?}"),
        }
    }
}

/// Answers each stream on a thread of its own.
fn serve(listener: i32, answer: fn(File)) {
    std::thread::spawn(move || {
        loop {
            let stream = next(listener);
            std::thread::spawn(move || answer(stream));
        }
    });
}

/// Reads `<tag> <path>` and sends the file of that path in the file system of
/// that tag, or the reason why not.
fn show(mut stream: File) {
    let mut line = String::new();
    let _ = stream.read_to_string(&mut line);
    let (tag, path) = line.trim().split_once(' ').unwrap_or_default();
    let bytes = mount_shared(tag).and_then(|root| std::fs::read(format!("{root}/{path}")));
    let _ = match bytes {
        Ok(bytes) => stream.write_all(&bytes),
        Err(error) => write!(stream, "error: {error}"),
    };
}

/// Reads `<serial> [<word>]` and sends the first 512 bytes of the disk with
/// that serial number, after the word was written to it if there is one.
fn show_disk(mut stream: File) {
    let mut line = String::new();
    let _ = stream.read_to_string(&mut line);
    let mut words = line.split_whitespace();
    let (serial, word) = (words.next().unwrap_or_default(), words.next());
    let _ = match disk_bytes(serial, word) {
        Ok(bytes) => stream.write_all(&bytes),
        Err(error) => write!(stream, "error: {error}"),
    };
}

fn disk_bytes(serial: &str, word: Option<&str>) -> std::io::Result<Vec<u8>> {
    for entry in std::fs::read_dir("/sys/block")? {
        let path = entry?.path();
        if std::fs::read_to_string(path.join("serial")).is_ok_and(|text| text.trim() == serial) {
            let node = std::path::Path::new("/devices").join(path.file_name().unwrap_or_default());
            if let Some(word) = word {
                let mut disk = std::fs::OpenOptions::new().write(true).open(&node)?;
                disk.write_all(word.as_bytes())?;
                disk.sync_all()?;
            }
            let mut bytes = vec![0; 512];
            File::open(&node)?.read_exact(&mut bytes)?;
            return Ok(bytes);
        }
    }
    Err(std::io::Error::other("there is no such disk"))
}

/// Sends the hardware address of each network device, one a line.
fn tell_nics(mut stream: File) {
    let _ = match nics() {
        Ok(nics) => stream.write_all(nics.as_bytes()),
        Err(error) => write!(stream, "error: {error}"),
    };
}

fn nics() -> std::io::Result<String> {
    let mut found = String::new();
    for entry in std::fs::read_dir("/sys/class/net")? {
        // One that goes meanwhile is none.
        found += &std::fs::read_to_string(entry?.path().join("address")).unwrap_or_default();
    }
    Ok(found)
}

/// Brings every processor online, and sends how many there are and how many
/// KiB of memory: `<processors> <memory>`.
fn tell_size(mut stream: File) {
    let _ = match size() {
        Ok((processors, memory)) => write!(stream, "{processors} {memory}"),
        Err(error) => write!(stream, "error: {error}"),
    };
}

fn size() -> std::io::Result<(usize, u64)> {
    let mut processors = 0;
    for entry in std::fs::read_dir("/sys/devices/system/cpu")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.strip_prefix("cpu").unwrap_or_default();
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let switch = path.join("online");
        // The first cannot be switched off and has no switch.
        if switch.exists() && std::fs::read_to_string(&switch)?.trim() == "0" {
            std::fs::write(&switch, "1")?;
        }
        processors += 1;
    }
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let total = meminfo.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    Ok((processors, total.unwrap_or_default()))
}

fn mount_shared(tag: &str) -> std::io::Result<String> {
    let root = format!("/{tag}");
    mount_new(tag, "virtiofs", &root)?;
    Ok(root)
}

/// Mounts something on a directory that is made for it.
fn mount_new(source: &str, kind: &str, root: &str) -> std::io::Result<()> {
    std::fs::create_dir(root)?;
    let text = |text: &str| CString::new(text).map_err(std::io::Error::other);
    let (source, target, kind) = (text(source)?, text(root)?, text(kind)?);
    // SAFETY: the strings outlive the call, and there is no data.
    let mounted = unsafe {
        mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null())
    };
    if mounted < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

fn check(result: i32, what: &str) -> i32 {
    if result < 0 {
        panic!("{what}: {}", std::io::Error::last_os_error());
    }
    result
}

fn address(cid: u32, port: u32) -> Address {
    Address { family: 40, reserved: 0, port, cid, zero: [0; 4] }
}

fn listen_on(port: u32) -> i32 {
    // SAFETY: the address is a whole one and outlives the call.
    unsafe {
        let fd = check(socket(AF_VSOCK, SOCK_STREAM, 0), "socket");
        check(bind(fd, &address(ANY, port), 16), "bind");
        check(listen(fd, 64), "listen");
        fd
    }
}

fn next(listener: i32) -> File {
    // SAFETY: null pointers are allowed, and the descriptor is new.
    unsafe {
        let fd = accept(listener, std::ptr::null_mut(), std::ptr::null_mut());
        File::from_raw_fd(check(fd, "accept"))
    }
}

/// Tells the host that this guest is up, if the host listens.
fn announce() {
    // SAFETY: the address is a whole one, and the descriptor is new.
    unsafe {
        let fd = check(socket(AF_VSOCK, SOCK_STREAM, 0), "socket");
        if connect(fd, &address(HOST, READY), 16) == 0 {
            let _ = File::from_raw_fd(fd).write_all(b"up\n");
        }
    }
}

/// Reads a word, writes it to the console of programs, and sends a line that was
/// typed there.
fn talk(mut stream: File) {
    let mut word = String::new();
    let _ = stream.read_to_string(&mut word);
    let _ = match exchange(&word) {
        Ok(line) => stream.write_all(&line),
        Err(error) => write!(stream, "error: {error}"),
    };
}

fn exchange(word: &str) -> std::io::Result<Vec<u8>> {
    let mut options = std::fs::OpenOptions::new();
    let mut console = options.read(true).write(true).open("/devices/hvc0")?;
    console.write_all(word.as_bytes())?;
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && console.read(&mut byte)? > 0 {
        line.extend(byte);
    }
    Ok(line)
}

/// Sends the milliseconds that have passed here since this was first asked.
fn tell_time(mut stream: File) {
    static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    let first = FIRST.get_or_init(std::time::Instant::now);
    let _ = write!(stream, "{}", first.elapsed().as_millis());
}

fn answer(mut stream: File) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}
