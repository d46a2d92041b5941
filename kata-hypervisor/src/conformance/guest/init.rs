//! The first process of the conformance suite's guest: echoes on one vsock
//! port, takes orders on another,
//! reads files of shared file systems on a third. Compiled by the suite itself, so it uses
//! nothing but the standard library and six functions of libc.

use std::ffi::{CString, c_char, c_void};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

const READY: u32 = 1023;
const ECHO: u32 = 7;
const ORDERS: u32 = 9;
const FILES: u32 = 11;

const AF_VSOCK: i32 = 40;
const SOCK_STREAM: i32 = 1;
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;
const RESTART: i32 = 0x0123_4567;

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

fn mount_shared(tag: &str) -> std::io::Result<String> {
    let root = format!("/{tag}");
    std::fs::create_dir(&root)?;
    let text = |text: &str| CString::new(text).map_err(std::io::Error::other);
    let (source, target, kind) = (text(tag)?, text(&root)?, text("virtiofs")?);
    // SAFETY: the strings outlive the call, and there is no data.
    let mounted = unsafe {
        mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null())
    };
    if mounted < 0 { Err(std::io::Error::last_os_error()) } else { Ok(root) }
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

fn answer(mut stream: File) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 || stream.write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}
