//! A real Linux guest under QEMU, driven through its serial console.

mod initramfs;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Emulation on a busy machine is slow; a hang is for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The kernel to boot, from `KATA_TEST_KERNEL`: an uncompressed image with
/// virtio-mmio, virtio-fs, vsock and a serial console built in.
pub(crate) fn kernel() -> Option<PathBuf> {
    let Some(kernel) = std::env::var_os("KATA_TEST_KERNEL").map(PathBuf::from) else {
        eprintln!("skipped: KATA_TEST_KERNEL names no kernel");
        return None;
    };
    if !kernel.exists() {
        eprintln!("skipped: there is no {}", kernel.display());
        return None;
    }
    for (program, flag) in [("qemu-system-x86_64", "--version"), ("rustc", "--version")] {
        let runs = Command::new(program)
            .arg(flag)
            .stdout(Stdio::null())
            .status();
        if !runs.is_ok_and(|status| status.success()) {
            eprintln!("skipped: there is no {program}");
            return None;
        }
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("skipped: there is no static /bin/busybox");
        return None;
    }
    Some(kernel)
}

/// The machine; `KATA_TEST_MACHINE` names another for kernels that need it (q35).
fn machine() -> String {
    let small = "microvm,acpi=off,pit=on,pic=on,rtc=on".to_owned();
    std::env::var("KATA_TEST_MACHINE").unwrap_or(small)
}

/// A vhost-user device of QEMU's: `name`, whose front end connects to `socket`.
pub(crate) fn vhost_user(name: &str, id: &str, socket: &Path) -> [String; 4] {
    [
        "-chardev".to_owned(),
        format!("socket,id={id},path={}", socket.display()),
        "-device".to_owned(),
        format!("{name},chardev={id}"),
    ]
}

pub(crate) struct Guest {
    qemu: Child,
    console: ChildStdin,
    lines: Receiver<String>,
}

impl Guest {
    /// Boots with these devices, as arguments of QEMU.
    pub(crate) fn boot(kernel: &Path, dir: &Path, devices: &[String]) -> Self {
        let initramfs = initramfs::build(dir);
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-M", &format!("{},memory-backend=mem", machine())])
            .args(["-object", "memory-backend-memfd,id=mem,size=256M,share=on"])
            .args([
                "-m",
                "256M",
                "-cpu",
                "max",
                "-nodefaults",
                "-no-user-config",
            ])
            .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 reboot=t mitigations=off",
            ])
            .args(devices)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let console = qemu.stdin.take().unwrap();
        let output = BufReader::new(qemu.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if std::env::var_os("KATA_TEST_VERBOSE").is_some() {
                    eprintln!("guest: {line}");
                }
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut guest = Self {
            qemu,
            console,
            lines,
        };
        guest.until("GUEST READY");
        guest
    }

    /// Waits for `marker`; answers the rest of its line, and what came before.
    pub(crate) fn until(&mut self, marker: &str) -> (String, String) {
        let deadline = Instant::now() + PATIENCE;
        let mut before = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .unwrap_or_else(|_| panic!("no {marker:?} from the guest after:\n{before}"));
            if let Some((rest, found)) = line.split_once(marker) {
                before.push_str(rest);
                return (found.to_owned(), before);
            }
            before.push_str(&line);
            before.push('\n');
        }
    }

    /// Runs a shell command; answers its exit status and output.
    pub(crate) fn run(&mut self, command: &str) -> (i32, String) {
        writeln!(self.console, "{command}").unwrap();
        self.console.flush().unwrap();
        let (status, output) = self.until("<<status ");
        (status.trim_end_matches(">>").parse().unwrap(), output)
    }

    /// Runs a command that must succeed; answers its output.
    pub(crate) fn ok(&mut self, command: &str) -> String {
        let (status, output) = self.run(command);
        assert_eq!(status, 0, "{command}: {output}");
        output
    }

    /// Runs a command that must fail; answers what it complains of.
    pub(crate) fn fails(&mut self, command: &str) -> String {
        let (status, output) = self.run(command);
        assert_ne!(status, 0, "{command} succeeded: {output}");
        output
    }

    /// Kills the machine as a crash would.
    pub(crate) fn kill(&mut self) {
        let _ = self.qemu.kill();
        self.qemu.wait().unwrap();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}
