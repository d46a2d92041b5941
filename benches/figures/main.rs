//! The figures of docs/figures.md, measured in one run: `make bench`.
//!
//! Each is a ratio to a floor measured here and now, so that it means the same on
//! a slow machine and on a busy one. Needs a guest image of the minimal kernel
//! (`KATA_GUEST_IMAGE`), the static program `guest-probe` (`KATA_GUEST_PROBE`)
//! and a static busybox.

mod floor;
mod host;
#[cfg(target_arch = "x86_64")]
mod kvm;
mod measure;
mod network;
mod runc;
mod supervisor;
mod table;

use std::path::PathBuf;

use table::Table;

/// What a run measures with.
struct Kit {
    image: PathBuf,
    probe: PathBuf,
    agent: PathBuf,
}

impl Kit {
    fn find() -> Option<Self> {
        let path = |name| std::env::var_os(name).map(PathBuf::from);
        Some(Self {
            image: path("KATA_GUEST_IMAGE")?,
            probe: path("KATA_GUEST_PROBE")?,
            agent: path("KATA_AGENT")?,
        })
    }

    /// The image's kernel, uncompressed as `kata-image` stores it.
    #[cfg(target_arch = "x86_64")]
    fn kernel(&self) -> PathBuf {
        self.image.join("vmlinux")
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().nth(1).as_deref() == Some(supervisor::ARGUMENT) {
        return Ok(kata_sandbox::supervisor::serve(|runtime| runtime)?);
    }
    #[cfg(target_arch = "x86_64")]
    if std::env::args().nth(1).as_deref() == Some(kvm::ARGUMENT) {
        // As few threads as a small program has.
        let tokio = tokio::runtime::Builder::new_current_thread().build()?;
        let arguments = std::env::args_os().skip(2).map(PathBuf::from);
        return tokio.block_on(kvm::embedder(arguments));
    }
    // `cargo bench` and `cargo test` pass arguments of their own; names select.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    // While this process has one thread.
    let networked = ["network", "io"];
    let own_network =
        Kit::find().is_some() && networked.into_iter().any(&wants) && network::enter()?;
    let tokio = tokio::runtime::Runtime::new()?;
    tokio.block_on(measure_all(|name| {
        wants(name) && (own_network || !networked.contains(&name))
    }))
}

async fn measure_all(wants: impl Fn(&str) -> bool) -> Result<(), Box<dyn std::error::Error>> {
    let Some(kit) = Kit::find() else {
        println!(
            "skipped: set KATA_GUEST_IMAGE, KATA_GUEST_PROBE and KATA_AGENT, or use `make bench`"
        );
        return Ok(());
    };
    let mut table = Table::default();
    let began = load();
    if wants("start") {
        measure::start(&kit, &mut table).await?;
    }
    if wants("exec") {
        measure::exec(&kit, &mut table).await?;
    }
    if wants("stream") {
        measure::stream(&kit, &mut table).await?;
    }
    if wants("size") {
        measure::size(&kit, &mut table).await?;
    }
    if wants("crowd") {
        measure::crowd(&kit, &mut table).await?;
    }
    if wants("memory") {
        measure::smallest(&kit, &mut table).await?;
    }
    if wants("supervisor") {
        supervisor::supervisor(&kit, &mut table).await?;
    }
    if wants("runc") {
        runc::runc(&kit, &mut table).await?;
    }
    if wants("network") {
        network::network(&kit, &mut table).await?;
    }
    #[cfg(target_arch = "x86_64")]
    if wants("kvm") {
        kvm::kvm(&mut table).await?;
    }
    #[cfg(target_arch = "x86_64")]
    if wants("hello") {
        kvm::hello(&kit, &mut table).await?;
    }
    #[cfg(target_arch = "x86_64")]
    if wants("io") {
        kvm::io(&kit, &mut table).await?;
    }
    println!("load at the beginning and the end: {began} and {}", load());
    print!("{table}");
    if table.holds() {
        Ok(())
    } else {
        Err("a figure misses its bar".into())
    }
}

/// How many tasks ran or waited for a processor, over one, five and fifteen minutes:
/// what the figures of a busy host are to be read with.
fn load() -> String {
    let line = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<&str> = line.split_whitespace().take(3).collect();
    averages.join(" ")
}
