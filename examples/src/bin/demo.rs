//! What `make demo` shows: a container from an OCI bundle, a second process in
//! it, exit statuses, statistics, the boot's timeline, and nothing left behind.

use std::time::{Duration, Instant};

use kata_examples::{Busybox, guest_image};
use kata_sandbox::{ContainerSpec, Runtime, Signal, StdioMode};

/// An OCI bundle's config.json; the library fills in nothing.
const CONFIG: &str = include_str!("../config.json");

#[tokio::main]
async fn main() {
    if let Err(error) = show().await {
        eprintln!("demo: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            eprintln!("  because: {error}");
            cause = error.source();
        }
        std::process::exit(1);
    }
}

async fn show() -> Result<(), Box<dyn std::error::Error>> {
    let busybox = Busybox::new()?;
    let bundle = busybox.bundle(CONFIG)?;
    let runtime = Runtime::builder().guest_image(guest_image()).build()?;
    for (name, probe) in runtime.probe().await {
        match (&probe.acceleration, &probe.version) {
            (Some(how), Some(version)) => println!("hypervisor  {name} {version}, by {how}"),
            (Some(how), None) => println!("hypervisor  {name}, by {how}"),
            (None, _) => println!("hypervisor  {name} is not usable"),
        }
        for finding in &probe.findings {
            println!("            {finding}");
        }
    }

    let sandbox = runtime.sandbox("demo").start().await?;
    println!("\nthe boot\n{}", sandbox.timeline());

    println!("\na container from {}", bundle.display());
    let spec = ContainerSpec::from_bundle(bundle)?.stdio(StdioMode::Piped);
    let container = sandbox.container("demo", spec).await?;
    let mut init = container.start().await?;
    let mut output = init.take_stdout().expect("the specification says piped");
    let stream =
        tokio::spawn(async move { tokio::io::copy(&mut output, &mut tokio::io::stdout()).await });

    let began = Instant::now();
    let second = container
        .exec("/bin/sh")
        .args(["-c", "ps; exit 7"])
        .output()
        .await?;
    println!(
        "\na second process in it: {:?} after {:.0?}",
        second.exit,
        began.elapsed()
    );
    print!("{}", String::from_utf8_lossy(&second.stdout));

    let usage = container.stats().await?;
    println!("\nthe container uses {} of memory", usage.memory);
    println!(
        "{} processes, {:.1?} of processor time",
        usage.pids, usage.cpu
    );

    container.kill(Signal::TERM).await?;
    println!("\nafter SIGTERM: {:?}", init.wait().await?);
    stream.await??;
    sandbox.stop(Duration::from_secs(2)).await?;
    sandbox.delete().await?;
    println!("stopped; nothing is left behind");
    Ok(())
}
