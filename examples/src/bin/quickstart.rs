//! The least program: one sandbox, one container, its output and its status.

use std::time::Duration;

use kata_examples::{Busybox, guest_image};
use kata_sandbox::{ContainerSpec, Rootfs, Runtime, StdioMode};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let busybox = Busybox::new()?;
    let runtime = Runtime::builder().guest_image(guest_image()).build()?;
    let sandbox = runtime.sandbox("quickstart").start().await?;

    let spec = ContainerSpec::new(Rootfs::Dir(busybox.root()))
        .command(["/bin/sh", "-c", "echo hello from $(uname -sr); exit 3"])
        .stdio(StdioMode::Piped);
    let container = sandbox.container("hello", spec).await?;
    let mut process = container.start().await?;

    let mut output = process.take_stdout().expect("the specification says piped");
    tokio::io::copy(&mut output, &mut tokio::io::stdout()).await?;
    println!("exit: {:?}", process.wait().await?);

    sandbox.stop(Duration::from_secs(2)).await?;
    sandbox.delete().await?;
    Ok(())
}
