//! What the figures need inside the guest: a static program that a container runs.
//!
//! `spawn PROGRAM COUNT` times fork, exec and wait of a program, and prints the
//! median in nanoseconds. `echo PORT` sends back what comes on a vsock port,
//! `source PORT BYTES` sends so many bytes there, `flood BYTES` writes them to
//! standard output. `network PORT` sends back what comes on a TCP port of either
//! family, and runs iperf3's server. As `/init` it prints one line and waits: the
//! least that a guest can do; with `io` on the kernel's command line it measures
//! disk and network.
#![expect(
    unsafe_code,
    reason = "fork and exec, timed without std's own work around them"
)]

#[path = "guest-probe/io.rs"]
mod io;

use std::ffi::CString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use vsock::{VMADDR_CID_ANY, VsockListener};

const CHUNK: usize = 64 * 1024;
const USAGE: &str = "usage: guest-probe spawn PROGRAM COUNT | echo PORT | source PORT BYTES | \
                     flood BYTES | network PORT";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // A container's first process has this number too.
    if std::process::id() == 1 && std::env::args().next().as_deref() == Some("/init") {
        if let Some(("io", words)) = words.split_first().map(|(first, rest)| (*first, rest)) {
            io::run(words);
        }
        println!("floor");
        loop {
            std::thread::park();
        }
    }
    let result = match words[..] {
        ["spawn", program, count] => number(count).and_then(|count| spawn(program, count)),
        ["echo", port] => number(port).and_then(echo),
        ["source", port, bytes] => {
            number(port).and_then(|port| number(bytes).and_then(|bytes| source(port, bytes)))
        }
        ["flood", bytes] => number(bytes).and_then(flood),
        ["network", port] => number(port).and_then(network),
        _ => Err(USAGE.into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-probe: {error}");
            ExitCode::FAILURE
        }
    }
}

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

fn number(word: &str) -> Outcome<u64> {
    Ok(word.parse()?)
}

fn spawn(program: &str, count: u64) -> Outcome {
    let program = CString::new(program)?;
    let mut times = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        run(&program)?;
        times.push(began.elapsed().as_nanos());
    }
    times.sort_unstable();
    let median = times
        .get(times.len() / 2)
        .ok_or("a count of 0 has no median")?;
    println!("{median}");
    Ok(())
}

fn run(program: &CString) -> Outcome {
    let arguments = [program.as_ptr(), std::ptr::null()];
    // SAFETY: this program has one thread, and the child only execs or exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: `arguments` is a null-terminated list of C strings that live here.
        unsafe {
            libc::execv(program.as_ptr(), arguments.as_ptr());
            libc::_exit(127);
        }
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the status.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    if child < 0 || waited != child || status != 0 {
        return Err(format!("running {program:?} failed with status {status}").into());
    }
    Ok(())
}

fn accept(port: u64) -> Outcome<vsock::VsockStream> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, u32::try_from(port)?)?;
    println!("ready");
    Ok(listener.accept()?.0)
}

fn echo(port: u64) -> Outcome {
    send_back(&mut accept(port)?)
}

fn send_back(stream: &mut (impl Read + Write)) -> Outcome {
    let mut buffer = vec![0; CHUNK];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// The other end of the network's figures. A connection that begins with an `i`
/// is for one transfer of iperf3: the answer says that its server listens. What
/// comes on any other is sent back.
fn network(port: u64) -> Outcome {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, u16::try_from(port)?))?;
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        if first == *b"i" {
            transfer(&mut stream)?;
        } else {
            stream.write_all(&first)?;
            send_back(&mut stream)?;
        }
    }
    Ok(())
}

fn transfer(control: &mut impl Write) -> Outcome {
    let mut iperf = Command::new("/bin/iperf3")
        .args(["--server", "--one-off", "--interval", "0", "--forceflush"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut said = BufReader::new(iperf.stdout.take().ok_or("no pipe")?).lines();
    if !said.any(|line| line.is_ok_and(|line| line.contains("listening"))) {
        return Err("iperf3 does not listen".into());
    }
    control.write_all(b"i")?;
    said.for_each(drop);
    iperf.wait()?;
    Ok(())
}

fn source(port: u64, bytes: u64) -> Outcome {
    send(&mut accept(port)?, bytes)
}

/// Past std's own standard output, which looks for line ends in all of it.
fn flood(bytes: u64) -> Outcome {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned()?;
    send(&mut std::fs::File::from(stdout), bytes)
}

fn send(to: &mut impl Write, bytes: u64) -> Outcome {
    let chunk = vec![b'k'; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        to.write_all(&chunk[..count])?;
        left -= count as u64;
    }
    to.flush()?;
    Ok(())
}
