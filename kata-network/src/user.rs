//! A network without privileges: the guest's connections are sockets of this
//! user, which `passt(1)` makes.

use std::collections::HashMap;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::address::MacAddress;
use crate::endpoint::Attachment;
use crate::error::{Error, Result};
use crate::given::GuestConfig;
use crate::lease::Lease;
use crate::netns::inside;
use crate::rtnl::Rtnl;
use crate::scan::Scan;
use crate::setup::{Network, SetupRequest};

/// Where the program is when nothing else is said.
const PASST: &str = "/usr/bin/passt";
/// How long it may take until it serves.
const READY: Duration = Duration::from_secs(10);
/// The guest's hardware address; each guest is alone with its program.
const MAC: MacAddress = MacAddress::new([0x02, 0x6b, 0x61, 0x74, 0x61, 0x01]);
/// The guest's address of each family, its network and gateway.
const V4: [&str; 3] = ["10.0.2.15", "24", "10.0.2.2"];
const V6: [&str; 3] = ["fd00:6b61::15", "64", "fd00:6b61::2"];
/// Where the guest asks for names: passed on to the host's own server.
const RESOLVER: &str = "10.0.2.3";
/// With the largest packets fewest of them are copied.
const MTU: u32 = 65_520;
/// The longest frame with such a payload: its header is 14 bytes, 18 with a VLAN.
const MOST_FRAME: usize = 65_538;

/// Connects a sandbox without privileges, through `passt(1)`: what the guest
/// sends leaves as connections of this user, of the families that the host is
/// connected by. Slower than a tap, and needs no root.
#[derive(Clone, Debug)]
pub struct User {
    settings: Settings,
    running: Arc<Mutex<HashMap<String, Child>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Settings {
    program: PathBuf,
    /// Ports of the host that lead to ports of the guest.
    tcp: Vec<(SocketAddr, u16)>,
    udp: Vec<(SocketAddr, u16)>,
}

impl Default for User {
    fn default() -> Self {
        Self::new()
    }
}

impl User {
    /// With `/usr/bin/passt`.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Settings {
            program: PASST.into(),
            tcp: Vec::new(),
            udp: Vec::new(),
        })
    }

    fn of(settings: Settings) -> Self {
        let running = Arc::default();
        Self { settings, running }
    }

    /// Runs this program instead.
    #[must_use]
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.program = path.into();
        self
    }

    /// Makes a TCP port of the host lead to one of the guest.
    #[must_use]
    pub fn tcp(mut self, host: SocketAddr, guest: u16) -> Self {
        self.settings.tcp.push((host, guest));
        self
    }

    /// Makes a UDP port of the host lead to one of the guest.
    #[must_use]
    pub fn udp(mut self, host: SocketAddr, guest: u16) -> Self {
        self.settings.udp.push((host, guest));
        self
    }

    pub(crate) fn from_description(description: &Value) -> Result<Self> {
        let settings = serde_json::from_value(description["settings"].clone());
        settings
            .map(Self::of)
            .map_err(|error| Error::InvalidConfig {
                field: "description",
                reason: error.to_string(),
            })
    }
}

#[async_trait]
impl Network for User {
    fn name(&self) -> &str {
        "user"
    }

    fn description(&self) -> Option<Value> {
        Some(json!({ "kind": "user", "settings": self.settings }))
    }

    async fn setup(&self, request: &SetupRequest) -> Result<Lease> {
        let (settings, running) = (self.settings.clone(), Arc::clone(&self.running));
        let sandbox = request.sandbox.clone();
        let work = move || {
            // Held while it starts: a tear-down waits until it can be ended.
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            let (child, lease) = start(&settings)?;
            running.insert(sandbox, child);
            Ok(lease)
        };
        inside(None, "start passt", work).await
    }

    async fn teardown(&self, sandbox: &str) -> Result<()> {
        let (running, sandbox) = (Arc::clone(&self.running), sandbox.to_owned());
        // One of a process that has crashed ended with the machine.
        let work = move || {
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(mut child) = running.remove(&sandbox) else {
                return Ok(());
            };
            end(&mut child).map_err(Error::host("end passt"))
        };
        inside(None, "end passt", work).await
    }
}

fn end(child: &mut Child) -> io::Result<()> {
    // It has not been waited for: it is still that process.
    child.kill()?;
    child.wait().map(drop)
}

/// Which families the host is connected by.
fn families() -> Result<(bool, bool)> {
    let scan = Rtnl::open().and_then(|mut rtnl| Scan::take(&mut rtnl));
    let scan = scan.map_err(Error::host("look for the host's default routes"))?;
    let has = |v6: bool| {
        let mut routes = scan.routes.iter();
        routes.any(|route| {
            let everywhere = route.destination.is_some_and(|net| net.prefix() == 0);
            everywhere && route.table.is_none() && route.is_ipv6() == v6
        })
    };
    Ok((has(false), has(true)))
}

fn start(settings: &Settings) -> Result<(Child, Lease)> {
    let (v4, v6) = families()?;
    if !v4 && !v6 {
        return Err(Error::Peer {
            peer: settings.program.display().to_string(),
            operation: "connect the guest".to_owned(),
            reason: "the host has no default route".to_owned(),
        });
    }
    let failed = || Error::host(format!("start {}", settings.program.display()));
    let (ours, theirs) = pair().map_err(failed())?;
    let mut command = Command::new(&settings.program);
    command
        .args([
            "--foreground",
            "--fd",
            "0",
            "--no-map-gw",
            "--dns-forward",
            RESOLVER,
        ])
        .args(arguments(settings, v4, v6))
        .env_clear()
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed())?;
    // The command holds the other end of the pair: with it open, neither end
    // would ever see the other go.
    drop(command);
    if v4 && let Err(error) = ready(&mut child, &ours, settings) {
        drop(end(&mut child));
        return Err(error);
    }
    let mut guest = GuestConfig::new(MAC).mtu(MTU);
    for (there, [address, prefix, gateway]) in [(v4, V4), (v6, V6)] {
        if there {
            let parsed = (format!("{address}/{prefix}").parse(), gateway.parse());
            if let (Ok(address), Ok(gateway)) = parsed {
                guest = guest.address(address).gateway(gateway);
            }
        }
    }
    if let (true, Ok(resolver)) = (v4, RESOLVER.parse::<IpAddr>()) {
        guest = guest.name_server(resolver);
    }
    Ok((child, guest.lease(Attachment::Stream(ours))))
}

fn arguments(settings: &Settings, v4: bool, v6: bool) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
    if v4 {
        add(&["-a", V4[0], "-n", V4[1], "-g", V4[2]]);
    } else {
        add(&["-6"]);
    }
    if v6 {
        add(&["-a", V6[0], "-g", V6[2]]);
    } else {
        add(&["-4"]);
    }
    for (option, ports) in [("-t", &settings.tcp), ("-u", &settings.udp)] {
        if ports.is_empty() {
            add(&[option, "none"]);
        }
        for (host, guest) in ports {
            add(&[option, &format!("{}/{}:{guest}", host.ip(), host.port())]);
        }
    }
    arguments
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    Ok(rustix::net::socketpair(
        family,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Asks for the gateway's hardware address, as a guest does first: the answer
/// says that the program serves.
fn ready(child: &mut Child, stream: &OwnedFd, settings: &Settings) -> Result<()> {
    let peer = || settings.program.display().to_string();
    let failed = || Error::host(format!("speak with {}", peer()));
    let frame = question().ok_or_else(|| failed()(io::ErrorKind::InvalidInput.into()))?;
    match send(stream, &frame, SendFlags::NOSIGNAL) {
        // One that has ended already has said why.
        Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => {}
        Err(errno) => return Err(failed()(errno.into())),
    }
    let gone = pidfd_open(Pid::from_child(child), PidfdFlags::empty());
    let gone = gone.map_err(|errno| failed()(errno.into()))?;
    let until = Instant::now() + READY;
    let mut answer = Vec::new();
    while !is_whole(&answer) {
        let mut waited = [
            PollFd::new(stream, PollFlags::IN),
            PollFd::new(&gone, PollFlags::IN),
        ];
        let left = until.saturating_duration_since(Instant::now());
        let limit = Timespec::try_from(left).map_err(|_| failed()(io::ErrorKind::Other.into()))?;
        match poll(&mut waited, Some(&limit)) {
            Ok(0) => {
                return Err(Error::Timeout {
                    operation: format!("reach {}", peer()),
                    limit: READY,
                });
            }
            polled => polled.map_err(|errno| failed()(errno.into()))?,
        };
        // Not a byte more than the answer: what follows is for the machine.
        let mut bytes = vec![0; missing(&answer)];
        match recv(stream, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) if length > 0 => answer.extend(&bytes[..length]),
            // It has left: it is about to end, if it has not.
            _ => {
                let _ = poll(&mut waited[1..], Some(&limit));
                return Err(Error::Peer {
                    peer: peer(),
                    operation: "start".to_owned(),
                    reason: last_words(child),
                });
            }
        }
    }
    Ok(())
}

/// How many bytes a frame after its length lacks, as far as what has come tells:
/// some programs write the two apart.
fn missing(answer: &[u8]) -> usize {
    const LENGTH: usize = 4;
    let Some((length, frame)) = answer.split_first_chunk::<LENGTH>() else {
        return LENGTH - answer.len();
    };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    // No frame is longer than this; what says so is not read for ever.
    length.min(MOST_FRAME).saturating_sub(frame.len())
}

fn is_whole(answer: &[u8]) -> bool {
    missing(answer) == 0
}

/// An ARP request (RFC 826) for the gateway, after its length.
fn question() -> Option<Vec<u8>> {
    let [IpAddr::V4(own), IpAddr::V4(gateway)] = [V4[0].parse().ok()?, V4[2].parse().ok()?] else {
        return None;
    };
    let mac = MAC.bytes();
    let arp = [
        &[0xff; 6][..],
        &mac,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &mac,
        &own.octets(),
        &[0; 6],
        &gateway.octets(),
    ]
    .concat();
    let length = u32::try_from(arp.len()).ok()?.to_be_bytes();
    Some([&length[..], &arp].concat())
}

/// What a program that has ended wrote last.
fn last_words(child: &mut Child) -> String {
    let mut text = Vec::new();
    if let Some(stderr) = &mut child.stderr {
        let _ = rustix::io::ioctl_fionbio(stderr.as_fd(), true);
        drop(stderr.take(4096).read_to_end(&mut text));
    }
    let text = String::from_utf8_lossy(&text);
    // Where there is no syslog it complains of that first.
    let lines = text.lines().filter(|line| !line.contains("to syslog"));
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end_and_no_further() {
        // passt may write the length and the frame apart.
        let answer = [0, 0, 0, 3, 7, 8, 9];
        let lacks = [4, 3, 2, 1, 3, 2, 1, 0];
        for (there, lacks) in lacks.into_iter().enumerate() {
            assert_eq!(missing(&answer[..there]), lacks, "{there} bytes came");
        }
        assert!(is_whole(&answer) && !is_whole(&answer[..4]));
        assert_eq!(missing(&[0xff; 4]), MOST_FRAME);
    }

    #[test]
    fn ports_and_families_are_said() {
        let network = User::new().tcp("127.0.0.1:8080".parse().unwrap(), 80);
        let said = arguments(&network.settings, true, false).join(" ");
        assert_eq!(
            said,
            "-a 10.0.2.15 -n 24 -g 10.0.2.2 -4 -t 127.0.0.1/8080:80 -u none"
        );
        let words = network.description().unwrap();
        let again = User::from_description(&words).unwrap();
        assert_eq!(again.settings, network.settings);
    }
}
