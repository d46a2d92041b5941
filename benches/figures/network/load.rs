//! What is measured: iperf3's transfers, and round trips of one byte. The host is
//! the client of both guests.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::{ECHO, Outcome, Place};

/// Round trips of one measurement.
const TRIPS: usize = 300;
/// How long a transfer goes on, in seconds.
const SECONDS: &str = "1";
/// How long anything may take: longer, and it does not work.
const LIMIT: Duration = Duration::from_secs(60);

/// One of iperf3's transfers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    from_guest: bool,
    streams: u8,
    v6: bool,
}

impl Transfer {
    pub(super) const ALL: [Self; 8] = [
        Self::of(true, 1, false),
        Self::of(true, 4, false),
        Self::of(true, 1, true),
        Self::of(true, 4, true),
        Self::of(false, 1, false),
        Self::of(false, 4, false),
        Self::of(false, 1, true),
        Self::of(false, 4, true),
    ];

    const fn of(from_guest: bool, streams: u8, v6: bool) -> Self {
        Self {
            from_guest,
            streams,
            v6,
        }
    }

    /// Has the guest start a server for it.
    pub(super) async fn prepare(self, guest: Place) -> Outcome<Prepared> {
        let address = if self.v6 { guest.v6() } else { guest.v4() };
        let server = tokio::task::spawn_blocking(move || listening(address)).await?;
        let server = server.map_err(|error| format!("{self}, {address}: {error}"))?;
        Ok(Prepared {
            transfer: self,
            address,
            _server: server,
        })
    }
}

/// A transfer that can begin.
#[derive(Debug)]
pub(super) struct Prepared {
    transfer: Transfer,
    address: IpAddr,
    /// Its server is for one transfer, and this connection goes with it.
    _server: TcpStream,
}

impl Prepared {
    /// Bytes per second that arrived.
    pub(super) async fn run(self) -> Outcome<f64> {
        let (transfer, address) = (self.transfer, self.address);
        let mut command = Command::new("iperf3");
        command
            .args(["--client", &address.to_string(), "--json"])
            .args(["--interval", "0", "--time", SECONDS])
            .args(["--parallel", &transfer.streams.to_string()])
            .kill_on_drop(true);
        if transfer.from_guest {
            command.arg("--reverse");
        }
        let output = tokio::time::timeout(LIMIT, command.output()).await??;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
        let bits = bits.filter(|bits| *bits > 0.0);
        let bits = bits.ok_or_else(|| format!("{transfer}, {address}: {}", said["error"]))?;
        Ok(bits / 8.0)
    }
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.from_guest {
            "guest → host"
        } else {
            "host → guest"
        };
        let streams = match self.streams {
            1 => "1 stream".to_owned(),
            count => format!("{count} streams"),
        };
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        write!(f, "TCP {way}, {streams}, {family}")
    }
}

/// The program, if it is there.
pub(super) fn iperf() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut programs = std::env::split_paths(&path).map(|directory| directory.join("iperf3"));
    programs.find(|program| program.is_file())
}

/// The median time of one byte to the guest and back, in seconds.
pub(super) async fn round_trip(guest: IpAddr) -> Outcome<f64> {
    let trips = tokio::task::spawn_blocking(move || round_trips(guest)).await?;
    let mut trips = trips.map_err(|error| format!("{guest}: {error}"))?;
    trips.sort_unstable();
    Ok(trips[TRIPS / 2].as_secs_f64())
}

fn round_trips(guest: IpAddr) -> std::io::Result<Vec<Duration>> {
    let mut stream = dial(guest)?;
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let began = Instant::now();
        stream.write_all(b"x")?;
        stream.read_exact(&mut [0])?;
        trips.push(began.elapsed());
    }
    Ok(trips)
}

/// Has the guest start a server of iperf3 for one transfer.
fn listening(guest: IpAddr) -> std::io::Result<TcpStream> {
    let mut stream = dial(guest)?;
    stream.write_all(b"i")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

fn dial(guest: IpAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&(guest, ECHO).into(), LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}
