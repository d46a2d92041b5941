//! The first process of the conformance suite's guest: echoes on one vsock
//! port, takes orders on another. Compiled by the suite itself, so it uses
//! nothing but the standard library and five functions of libc.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

const READY: u32 = 1023;
const ECHO: u32 = 7;
const ORDERS: u32 = 9;

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
}

fn main() {
    let (echo, orders) = (listen_on(ECHO), listen_on(ORDERS));
    std::thread::spawn(move || {
        loop {
            let stream = next(echo);
            std::thread::spawn(move || answer(stream));
        }
    });
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
