//! A guest's network against the same QEMU with a tap that is joined to the same
//! bridge by hand: throughput of iperf3 both ways, one and four streams, both
//! families, and round trips of one byte.
//!
//! ```text
//!   sandbox ─ tap ═ filters ═ eth0 ─ veth ─┐
//!                     namespace `pod`      ├─ br0: the host's end of both
//!   by hand ─ tap ─────────────────────────┘
//! ```

mod bed;
mod by_hand;
mod load;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kata_examples::Busybox;
use kata_sandbox::network::NetNs;
use kata_sandbox::{ContainerSpec, MemorySize, Rootfs, Runtime, StdioMode};

use crate::Kit;
use crate::floor::Model;
use crate::measure::ready;
use crate::table::{Bar, Table};
use by_hand::ByHand;
use load::Transfer;

pub(crate) use bed::enter;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Memory of both guests, in mebibytes.
const MEMORY: u64 = 256;
/// Virtual processors of both guests, and so queue pairs of their devices.
const PROCESSORS: u32 = 2;
const ROUNDS: usize = 9;
/// The port of `guest-probe network`.
const ECHO: u16 = 7;

/// The two ends of a guest's link: its own addresses are the bridge's network
/// and this number.
#[derive(Clone, Copy, Debug)]
struct Place(u8);

impl Place {
    const HOST: Self = Self(1);
    const OURS: Self = Self(2);
    const BY_HAND: Self = Self(3);

    fn v4(self) -> IpAddr {
        Ipv4Addr::new(10, 88, 0, self.0).into()
    }

    fn v6(self) -> IpAddr {
        Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, self.0.into()).into()
    }
}

/// What was measured of both guests at the same time, round by round.
#[derive(Debug, Default)]
struct Pairs {
    ours: Vec<f64>,
    floor: Vec<f64>,
}

impl Pairs {
    fn push(&mut self, ours: f64, floor: f64) {
        self.ours.push(ours);
        self.floor.push(floor);
    }

    /// The medians of both, and of their ratios.
    fn medians(self) -> (f64, f64, f64) {
        let ratios = self.ours.iter().zip(&self.floor);
        let ratios = ratios.map(|(ours, floor)| ours / floor).collect();
        (middle(self.ours), middle(self.floor), middle(ratios))
    }
}

fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[derive(Debug, Default)]
struct Figures {
    /// Bytes per second of each transfer.
    rates: [Pairs; Transfer::ALL.len()],
    /// Seconds of a round trip over IPv4 and IPv6.
    trips: [Pairs; 2],
}

impl Figures {
    /// Both guests at once: what else the machine does is then in both alike.
    async fn measure(&mut self) -> Outcome {
        for (transfer, rates) in Transfer::ALL.iter().zip(&mut self.rates) {
            let ours = transfer.prepare(Place::OURS).await?;
            let floor = transfer.prepare(Place::BY_HAND).await?;
            let (ours, floor) = tokio::try_join!(ours.run(), floor.run())?;
            rates.push(ours, floor);
        }
        for (address, trips) in [Place::v4, Place::v6].into_iter().zip(&mut self.trips) {
            let (ours, floor) = (address(Place::OURS), address(Place::BY_HAND));
            let (ours, floor) = tokio::try_join!(load::round_trip(ours), load::round_trip(floor))?;
            trips.push(ours, floor);
        }
        Ok(())
    }
}

/// The sandbox, and beside it the guest by hand.
pub(crate) async fn network(kit: &Kit, table: &mut Table) -> Outcome {
    bed::lay()?;
    let root = root(kit)?;
    let state = tempfile::Builder::new().prefix("kata-bench-").tempdir()?;
    let runtime = Runtime::builder()
        .state_dir(state.path())
        .guest_image(&kit.image)
        .build()?;
    let builder = runtime.sandbox("network").memory(MemorySize::mib(MEMORY));
    let sandbox = builder
        .vcpus(PROCESSORS)
        .network(NetNs::new(bed::POD))
        .start()
        .await?;
    let by_hand = ByHand::start(&Model::of_child()?, &root.root()).await?;

    let spec = ContainerSpec::new(Rootfs::Dir(root.root()));
    let port = ECHO.to_string();
    let spec = spec
        .command(["/bin/guest-probe", "network", &port])
        .stdio(StdioMode::Piped);
    let container = sandbox.container("network", spec).await?;
    let mut server = container.start().await?;
    ready(&mut server).await?;

    // One round to warm up: addresses are resolved, programs are in memory.
    Figures::default().measure().await?;
    let mut figures = Figures::default();
    for _ in 0..ROUNDS {
        figures.measure().await?;
    }
    by_hand.end().await?;
    sandbox.stop(Duration::ZERO).await?;
    sandbox.delete().await?;
    fill(table, figures);
    Ok(())
}

fn fill(table: &mut Table, figures: Figures) {
    for (transfer, pairs) in Transfer::ALL.iter().zip(figures.rates) {
        let name = format!("{transfer} / a tap by hand");
        table.add_pairs(name, pairs.medians(), megabits, Bar::AtLeast(0.97));
    }
    for (family, pairs) in ["IPv4", "IPv6"].into_iter().zip(figures.trips) {
        let name = format!("TCP round trip, {family} / a tap by hand");
        table.add_pairs(name, pairs.medians(), micros, Bar::AtMost(1.05));
    }
}

fn megabits(rate: f64) -> String {
    format!("{:.0} Mbit/s", rate * 8.0 / 1e6)
}

fn micros(seconds: f64) -> String {
    format!("{:.0} µs", seconds * 1e6)
}

/// The root of both guests: busybox, the probe, and this host's iperf3 with the
/// libraries that it is linked with.
fn root(kit: &Kit) -> Outcome<Busybox> {
    let root = Busybox::new()?;
    std::fs::copy(&kit.probe, root.root().join("bin/guest-probe"))?;
    let iperf = load::iperf().ok_or("there is no iperf3 in PATH")?;
    std::fs::copy(&iperf, root.root().join("bin/iperf3"))?;
    for library in libraries(&iperf)? {
        let copy = root.root().join(library.strip_prefix("/")?);
        std::fs::create_dir_all(copy.parent().ok_or("a library is in no directory")?)?;
        std::fs::copy(&library, copy)?;
    }
    Ok(root)
}

/// What `ldd` says that a program is linked with.
fn libraries(program: &Path) -> Outcome<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    let said = String::from_utf8(output.stdout)?;
    let paths = said
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}
