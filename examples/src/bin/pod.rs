//! A pod: two containers in one virtual machine that talk over localhost, each
//! with a root file system and processes of its own.

use std::time::Duration;

use kata_examples::{Busybox, guest_image};
use kata_sandbox::{ContainerSpec, Rootfs, Runtime, Signal, StdioMode};
use tokio::io::{AsyncBufReadExt, BufReader, copy, stdout};

/// httpd goes to the background once it listens.
const SERVE: &str = "echo 'hello over localhost' > /tmp/index.html; \
                     httpd -p 127.0.0.1:8080 -h /tmp && echo listening; exec sleep 3600";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (web_root, client_root) = (Busybox::new()?, Busybox::new()?);
    let runtime = Runtime::builder().guest_image(guest_image()).build()?;
    let pod = runtime.sandbox("pod").start().await?;

    let spec = ContainerSpec::new(Rootfs::Dir(web_root.root()))
        .command(["/bin/sh", "-c", SERVE])
        .stdio(StdioMode::Piped);
    let web = pod.container("web", spec).await?;
    let mut server = web.start().await?;
    let said = server.take_stdout().expect("the specification says piped");
    println!(
        "web: {}",
        BufReader::new(said)
            .lines()
            .next_line()
            .await?
            .unwrap_or_default()
    );

    let spec = ContainerSpec::new(Rootfs::Dir(client_root.root()))
        .command(["/bin/wget", "-q", "-O", "-", "http://127.0.0.1:8080/"])
        .stdio(StdioMode::Piped);
    let client = pod.container("client", spec).await?;
    let mut process = client.start().await?;
    let mut output = process.take_stdout().expect("the specification says piped");
    copy(&mut output, &mut stdout()).await?;
    println!("client: {:?}", process.wait().await?);

    web.kill(Signal::KILL).await?;
    println!("web: {:?}", server.wait().await?);
    pod.stop(Duration::from_secs(2)).await?;
    pod.delete().await?;
    Ok(())
}
