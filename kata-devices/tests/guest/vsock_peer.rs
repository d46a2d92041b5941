//! The guest's side of the vsock tests: a program of its own, linked statically.
//!
//! `vsock_peer` listens on some ports and never ends:
//! 7 echoes, 8 counts what it gets and answers the count, 9 sends as many bytes
//! as the line asks for, 10 closes at once after a greeting, 11 never reads.
//! `vsock_peer dial PORT` dials the host, sends a greeting and prints the answer.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread;

const AF_VSOCK: i32 = 40;
const SOCK_STREAM: i32 = 1;
const ANY: u32 = u32::MAX;
const HOST: u32 = 2;

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
    fn accept(fd: i32, address: *mut u8, length: *mut u32) -> i32;
    fn connect(fd: i32, address: *const Address, length: u32) -> i32;
    fn shutdown(fd: i32, how: i32) -> i32;
}

fn address(cid: u32, port: u32) -> Address {
    Address { family: AF_VSOCK as u16, reserved: 0, port, cid, zero: [0; 4] }
}

fn check(result: i32, what: &str) -> i32 {
    if result < 0 {
        println!("vsock_peer: {what}: {}", std::io::Error::last_os_error());
        std::process::exit(1);
    }
    result
}

fn serve(port: u32, handle: fn(File)) {
    let fd = unsafe { check(socket(AF_VSOCK, SOCK_STREAM, 0), "socket") };
    unsafe {
        check(bind(fd, &address(ANY, port), 16), "bind");
        // A hundred streams may come before the first is accepted.
        check(listen(fd, 128), "listen");
    }
    thread::spawn(move || loop {
        let stream = unsafe {
            File::from_raw_fd(check(accept(fd, std::ptr::null_mut(), std::ptr::null_mut()), "accept"))
        };
        thread::spawn(move || handle(stream));
    });
}

fn end_sending(stream: &File) {
    unsafe { shutdown(stream.as_raw_fd(), 1) };
}

fn echo(mut stream: File) {
    let mut buffer = [0; 65536];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
    end_sending(&stream);
    let _ = stream.read(&mut buffer);
}

fn count(mut stream: File) {
    let (mut total, mut sum) = (0u64, 0u64);
    let mut buffer = vec![0; 1 << 18];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        total += count as u64;
        sum += buffer[..count].iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }
    let _ = write!(stream, "{total} {sum}\n");
}

fn send(stream: File) {
    let mut line = String::new();
    if BufReader::new(&stream).read_line(&mut line).is_err() {
        return;
    }
    let mut left: usize = line.trim().parse().unwrap_or(0);
    let chunk: Vec<u8> = (0..1usize << 17).map(|at| (at % 251) as u8).collect();
    while left > 0 {
        let count = left.min(chunk.len());
        if (&stream).write_all(&chunk[..count]).is_err() {
            return;
        }
        left -= count;
    }
    // Closing at once: not a byte may be lost.
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|word| word == "dial") {
        let port = arguments[2].parse().expect("a port");
        let fd = unsafe { check(socket(AF_VSOCK, SOCK_STREAM, 0), "socket") };
        unsafe { check(connect(fd, &address(HOST, port), 16), "connect") };
        let mut stream = unsafe { File::from_raw_fd(fd) };
        stream.write_all(b"hello from the guest\n").expect("send");
        end_sending(&stream);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("receive");
        println!("ANSWER {answer}");
        return;
    }
    serve(7, echo);
    serve(8, count);
    serve(9, send);
    serve(10, |mut stream| drop(stream.write_all(b"bye")));
    serve(11, |stream| {
        thread::park();
        drop(stream);
    });
    println!("PEER READY");
    loop {
        thread::park();
    }
}
