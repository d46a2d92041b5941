//! A network of a test's own: each test runs again in a process with network
//! and mount namespaces of its own, so that no bridge and no filter rule of it
//! touches the machine's.

use std::process::Command;

/// Set in the process that has namespaces of its own.
const INSIDE: &str = "KATA_TEST_NETWORK";

/// Runs the test of that name in a process with namespaces of its own. `true`
/// in that process, where the test goes on; `false` where it has been run, or
/// aloud cannot be.
pub(crate) fn on_its_own(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        run("ip link set lo up");
        run("mkdir -p /run/netns && mount -t tmpfs none /run/netns");
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return false;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        eprintln!("skipped: the host has no /dev/net/tun");
        return false;
    }
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in namespaces of its own");
    false
}

/// Runs a script on the host's side, which must succeed, and gives its output.
pub(crate) fn run(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{stdout}{stderr}");
    stdout
}

/// Makes the namespace `name` as a CRI would: `eth0` in it, both families, and
/// its other end on the bridge `br0`, which is the host.
pub(crate) fn prepare(name: &str, host_part: u8) {
    if !std::path::Path::new("/sys/class/net/br0").exists() {
        // /sys shows the namespace in which it was mounted: ask ip instead.
        run(
            "ip link show br0 2>/dev/null || { ip link add br0 type bridge; \
             ip addr add 10.88.0.1/24 dev br0; ip -6 addr add fd88::1/64 dev br0 nodad; \
             ip link set br0 up; }",
        );
    }
    run(&format!(
        "ip netns add {name}
         ip link add v{name} type veth peer name eth0 netns {name}
         ip link set v{name} master br0 up
         ip -n {name} link set eth0 up
         ip -n {name} addr add 10.88.0.{host_part}/24 dev eth0
         ip -n {name} -6 addr add fd88::{host_part}/64 dev eth0 nodad
         ip -n {name} route add default via 10.88.0.1
         ip -n {name} -6 route add default via fd88::1"
    ));
}

/// Serves `text` on port 80 of all of the host's addresses, until this process
/// ends.
pub(crate) fn serve(text: &'static str) {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("[::]:80").unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            // One that hangs up is no concern of the others.
            let mut line = String::from("x");
            while !line.trim_end().is_empty() {
                line.clear();
                if stream.read_line(&mut line).is_err() {
                    break;
                }
            }
            drop(write!(stream.get_mut(), "HTTP/1.0 200 OK\r\n\r\n{text}\n"));
        }
    });
}
