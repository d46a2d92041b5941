//! What a CRI server does, call by call, in this library's terms; and once
//! through all of it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use kata_examples::{Busybox, guest_image};
use kata_sandbox::{
    Container, ContainerSpec, Exit, PtySize, Reader, Result, Rootfs, Runtime, Sandbox, StdioMode,
    oci,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

async fn run_pod_sandbox(runtime: &Runtime, uid: &str) -> Result<Sandbox> {
    let pod = runtime.sandbox(uid).hostname("web-0");
    pod.label("io.kubernetes.pod.uid", uid).start().await
}

async fn create_and_start(
    pod: &Sandbox,
    id: &str,
    (bundle, spec): (&Path, oci::Spec),
    log: &Path,
) -> Result<Container> {
    let rootfs = Rootfs::Dir(bundle.join("rootfs"));
    let spec = ContainerSpec::from_oci(bundle, spec, rootfs).stdio(StdioMode::Log(log.into()));
    let container = pod.container(id, spec).await?;
    container.start().await?;
    Ok(container)
}

async fn exec_sync(
    pod: &Sandbox,
    id: &str,
    command: &[&str],
    limit: Duration,
) -> Result<(Exit, Vec<u8>)> {
    let (program, args) = command.split_first().unwrap_or((&"", &[]));
    let exec = pod.get(id)?.exec(*program).args(args.iter().copied());
    let output = exec.timeout(limit).output().await?;
    Ok((output.exit, output.stdout))
}

/// Both ends of a terminal go to the client's stream; resizes come beside it.
async fn exec_tty(
    pod: &Sandbox,
    id: &str,
    mut input: impl tokio::io::AsyncRead + Unpin,
    mut resizes: mpsc::Receiver<PtySize>,
) -> Result<(Exit, String)> {
    let size = PtySize { rows: 24, cols: 80 };
    let shell = pod.get(id)?.exec("/bin/sh").stdio(StdioMode::Pty(size));
    let mut shell = shell.spawn().await?;
    let control = shell.control();
    let resizing = tokio::spawn(async move {
        while let Some(size) = resizes.recv().await {
            drop(control.resize(size).await); // the shell may have ended
        }
    });
    let mut stdin = shell.take_stdin().expect("a terminal has input");
    let mut stdout: Reader = shell.take_stdout().expect("a terminal has output");
    let mut seen = Vec::new();
    let feeding = tokio::io::copy(&mut input, &mut stdin);
    let (_, _, exit) = tokio::join!(feeding, stdout.read_to_end(&mut seen), shell.wait());
    resizing.abort();
    Ok((exit?, String::from_utf8_lossy(&seen).into_owned()))
}

async fn port_forward(pod: &Sandbox, port: u16, mut client: TcpStream) -> std::io::Result<()> {
    let guest = pod.dial_tcp(port).await;
    let mut guest = guest.map_err(std::io::Error::other)?;
    copy_bidirectional(&mut client, &mut guest).await.map(drop)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let busybox = Busybox::new()?;
    let bundle = busybox.bundle(include_str!("../config.json"))?;
    let mut spec = oci::Spec::load(bundle.join("config.json"))?;
    let serve = "echo 'over a forwarded port' > /tmp/index.html; echo serving; \
                 exec httpd -f -p 127.0.0.1:8080 -h /tmp";
    let process = spec.process_mut().as_mut().expect("the bundle has one");
    process.set_args(Some(["/bin/sh", "-c", serve].map(str::to_owned).into()));
    let log = bundle.join("log");

    let runtime = Runtime::builder().guest_image(guest_image()).build()?;
    let pod = run_pod_sandbox(&runtime, "pod-7f3a").await?;
    let web = create_and_start(&pod, "web", (bundle, spec), &log).await?;
    let limit = Duration::from_secs(10);
    let wait = "until nc 127.0.0.1 8080 < /dev/null; do sleep 0.1; done; hostname";
    let (exit, out) = exec_sync(&pod, "web", &["/bin/sh", "-c", wait], limit).await?;
    print!("exec_sync: {exit}: {}", String::from_utf8_lossy(&out));

    let (resize, resizes) = mpsc::channel(1);
    resize
        .send(PtySize {
            rows: 50,
            cols: 132,
        })
        .await?;
    let (exit, seen) =
        exec_tty(&pod, "web", &b"sleep 0.5; stty size; exit 3\n"[..], resizes).await?;
    println!("exec_tty: {exit}:\n{seen}");

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address: SocketAddr = listener.local_addr()?;
    let forwarding = async { port_forward(&pod, 8080, listener.accept().await?.0).await };
    let fetching = async {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.map(|_| answer)
    };
    let (forwarded, answer) = tokio::join!(forwarding, fetching);
    forwarded?;
    println!(
        "port_forward: {}",
        answer?.lines().last().unwrap_or_default()
    );

    println!("log: {}", std::fs::read_to_string(&log)?.trim());
    println!("removed: {:?}", web.delete().await?);
    pod.delete().await?;
    Ok(())
}
