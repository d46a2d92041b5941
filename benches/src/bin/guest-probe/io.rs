//! As the only program of a machine: reads and writes the first disk, sends and
//! receives over the first network card, prints how fast each went, and resets.
//!
//! The kernel's command line says where the host is: `io ADDRESS OWN MEBIBYTES`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::Instant;

use super::{Outcome, number};

/// Bytes of a request to the disk, and of a call to the network.
const CHUNK: usize = 256 * 1024;
/// Bytes of a small request.
const SMALL: usize = 4096;
/// What the buffers are aligned to, for requests past the page cache.
const ALIGNMENT: usize = 4096;
const DISK: &str = "/dev/vda";
/// Where the host takes what is sent, and sends.
const TAKES: u16 = 7000;
const SENDS: u16 = 7001;

/// Does all of it; what fails is printed and the machine reset all the same.
pub(super) fn run(words: &[&str]) {
    if let Err(error) = measure(words) {
        println!("failed: {error}");
    }
    // SAFETY: no pointer is passed; the machine ends here.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
}

fn measure(words: &[&str]) -> Outcome {
    let [host, own, mebibytes] = words else {
        return Err("usage: io ADDRESS OWN MEBIBYTES".into());
    };
    let bytes = number(mebibytes)? << 20;
    mount_devices()?;
    disk(bytes)?;
    bring_up("lo", Ipv4Addr::LOCALHOST)?;
    bring_up("eth0", own.parse()?)?;
    network(host.parse()?, bytes)
}

/// Prints a rate in bytes per second.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no such precision")]
fn tell(name: &str, bytes: u64, began: Instant) {
    let rate = bytes as f64 / began.elapsed().as_secs_f64();
    println!("{name} {rate:.0}");
}

fn mount_devices() -> io::Result<()> {
    let name = c"devtmpfs".as_ptr();
    // SAFETY: the names are C strings, and no options are passed. That it is
    // mounted already is no error.
    unsafe { libc::mount(name, c"/dev".as_ptr(), name, 0, std::ptr::null()) };
    std::fs::metadata(DISK).map(drop)
}

fn disk(bytes: u64) -> Outcome {
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(DISK)?;
    let mut memory = vec![b'd'; CHUNK + ALIGNMENT];
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[skip..skip + CHUNK];
    let began = Instant::now();
    for at in (0..bytes).step_by(CHUNK) {
        disk.write_all_at(buffer, at)?;
    }
    disk.sync_data()?;
    tell("disk-write", bytes, began);
    let began = Instant::now();
    for at in (0..bytes).step_by(CHUNK) {
        disk.read_exact_at(buffer, at)?;
    }
    tell("disk-read", bytes, began);
    small(&disk, bytes, &mut buffer[..SMALL])?;
    Ok(())
}

/// One small read after the other, all over the disk.
fn small(disk: &File, bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
    const COUNT: u64 = 2000;
    let blocks = bytes / SMALL as u64;
    let began = Instant::now();
    for index in 0..COUNT {
        // A stride that meets every block of a power of two.
        let block = index.wrapping_mul(12_345) % blocks;
        disk.read_exact_at(buffer, block * SMALL as u64)?;
    }
    tell("disk-small", COUNT * SMALL as u64, began);
    Ok(())
}

fn network(host: Ipv4Addr, bytes: u64) -> Outcome {
    let mut buffer = vec![b'n'; CHUNK];
    let mut stream = TcpStream::connect((host, TAKES))?;
    let began = Instant::now();
    let mut left = bytes;
    while left > 0 {
        stream.write_all(&buffer)?;
        left = left.saturating_sub(CHUNK as u64);
    }
    stream.shutdown(Shutdown::Write)?;
    // The host closes when it has all.
    stream.read_exact(&mut [0; 1])?;
    tell("net-send", bytes, began);
    let mut stream = TcpStream::connect((host, SENDS))?;
    let began = Instant::now();
    let mut received = 0;
    while let count @ 1.. = stream.read(&mut buffer)? {
        received += count as u64;
    }
    if received != bytes {
        return Err(format!("{received} bytes came of {bytes}").into());
    }
    tell("net-receive", bytes, began);
    Ok(())
}

/// Gives an interface an address, with a mask of 24 bits, and brings it up.
fn bring_up(name: &str, address: Ipv4Addr) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let internet = |address: Ipv4Addr| {
        let mut bytes = [0; 14];
        bytes[2..6].copy_from_slice(&address.octets());
        libc::sockaddr {
            sa_family: libc::sa_family_t::try_from(libc::AF_INET).expect("2"),
            sa_data: bytes.map(u8::cast_signed),
        }
    };
    let mut request = Request::new(name);
    request.what.ifru_addr = internet(address);
    request.apply(&socket, libc::SIOCSIFADDR)?;
    request.what.ifru_netmask = internet(Ipv4Addr::new(255, 255, 255, 0));
    request.apply(&socket, libc::SIOCSIFNETMASK)?;
    request.what.ifru_flags = libc::c_short::try_from(libc::IFF_UP).expect("1");
    request.apply(&socket, libc::SIOCSIFFLAGS)
}

/// What is asked of an interface.
struct Request {
    name: [libc::c_char; libc::IFNAMSIZ],
    what: libc::__c_anonymous_ifr_ifru,
}

impl Request {
    fn new(name: &str) -> Self {
        let mut bytes = [0; libc::IFNAMSIZ];
        for (place, byte) in bytes.iter_mut().zip(name.bytes()) {
            *place = byte.cast_signed();
        }
        Self {
            name: bytes,
            what: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 },
        }
    }

    fn apply(&self, socket: &impl AsRawFd, request: libc::c_ulong) -> io::Result<()> {
        let asked = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: self.what,
        };
        // SAFETY: these requests read an `ifreq`, which outlives the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw const asked) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}
