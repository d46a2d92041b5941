//! One machine of a case.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kata_devices::vsock::VsockConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::time::timeout;

use super::guest::Guest;
use super::subject::Subject;
use super::traces;
use crate::config::{Devices, MachineSize, VmConfig};
use crate::error::{Error, Result};
use crate::stream::GuestStream;
use crate::vm::{Vm, VmExit};

/// A machine of a case, with a directory of its own.
#[derive(Debug)]
pub struct Machine {
    vm: Option<Box<dyn Vm>>,
    place: Place,
    patience: Duration,
}

/// Where a machine is: a directory that goes with it, and an id like no other.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) id: String,
    pub(super) directory: PathBuf,
}

impl Place {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("conformance-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(&id);
        std::fs::create_dir(&directory).expect("the temporary directory can be written to");
        Self { id, directory }
    }

    /// A description of a machine in this place that runs the subject's guest.
    pub(super) fn config(&self, subject: &Subject) -> VmConfig {
        let Guest {
            kernel,
            initramfs,
            command_line,
            memory,
        } = subject.guest.clone();
        let socket = self.directory.join("vsock");
        let vsock = Some(VsockConfig {
            guest_cid: 3,
            socket,
        });
        let devices = Devices {
            vsock,
            ..Devices::default()
        };
        VmConfig {
            id: self.id.clone(),
            run_dir: self.directory.clone(),
            size: MachineSize {
                vcpus: subject.vcpus,
                max_vcpus: subject.vcpus,
                memory,
                max_memory: memory,
            },
            kernel,
            initramfs: Some(initramfs),
            command_line,
            devices,
            cgroup: Vec::new(),
            start_deadline: subject.patience,
        }
    }

    /// Asserts that nothing of the machine is left.
    pub(super) async fn assert_clean(&self, patience: Duration) {
        traces::assert_none(&self.id, &self.directory, patience).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Machine {
    /// Makes a machine that is not started.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn create(subject: &Subject) -> Self {
        let place = Place::new();
        let config = place.config(subject);
        match Self::of(subject, place, config).await {
            Ok(machine) => machine,
            Err(error) => panic!("create: {}", chain(&error)),
        }
    }

    /// Makes the machine of a description.
    pub(super) async fn of(subject: &Subject, place: Place, config: VmConfig) -> Result<Self> {
        let made = timeout(subject.patience, subject.hypervisor.create(config)).await;
        Ok(Self {
            vm: Some(made.expect("create ends in time")?),
            place,
            patience: subject.patience,
        })
    }

    /// Makes a machine, starts it, and waits until its guest is up.
    ///
    /// # Panics
    /// When any of that fails.
    pub async fn boot(subject: &Subject) -> Self {
        Self::create(subject).await.up().await
    }

    /// Starts a machine that was made, and waits until its guest is up.
    pub(super) async fn up(self) -> Self {
        let machine = self;
        let socket = machine
            .place
            .directory
            .join(format!("vsock_{}", Guest::READY));
        let listener = UnixListener::bind(&socket).expect("the directory takes sockets");
        machine
            .start()
            .await
            .unwrap_or_else(|error| panic!("start: {}", chain(&error)));
        let up = async {
            tokio::select! {
                accepted = listener.accept() => {
                    let (mut stream, _) = accepted.expect("the listener is sound");
                    let mut word = String::new();
                    let _ = stream.read_to_string(&mut word).await;
                    assert_eq!(word, "up\n", "what the guest says when it is up");
                }
                exit = machine.wait() => panic!("ended while booting: {exit:?}"),
            }
        };
        if timeout(machine.patience, up).await.is_err() {
            panic!(
                "no guest: {}",
                String::from_utf8_lossy(&machine.console_tail())
            );
        }
        drop(listener);
        let _ = std::fs::remove_file(socket);
        machine
    }

    /// Sends an order to the guest.
    pub(super) async fn order(&self, order: &str) {
        let mut stream = self
            .dial(Guest::ORDERS)
            .await
            .expect("the guest takes orders");
        stream
            .write_all(order.as_bytes())
            .await
            .expect("the order is taken");
        // The guest may be gone before it could say goodbye.
        let _ = stream.shutdown().await;
        let _ = stream.read(&mut [0]).await;
    }

    /// Sends bytes and reads as many back.
    pub(super) async fn echo(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.dial(Guest::ECHO).await.expect("the guest echoes");
        self.exchange(&mut stream, bytes).await
    }

    pub(super) async fn exchange(&self, stream: &mut GuestStream, bytes: &[u8]) -> Vec<u8> {
        let mut back = vec![0; bytes.len()];
        let (mut reader, mut writer) = tokio::io::split(stream);
        let both = async {
            tokio::try_join!(writer.write_all(bytes), reader.read_exact(&mut back)).map(drop)
        };
        timeout(self.patience, both)
            .await
            .expect("an echo in time")
            .expect("an echo");
        back
    }

    /// What the guest answers to a line on a port.
    pub(super) async fn asked(&self, port: u32, line: &str) -> String {
        let mut stream = self.dial(port).await.expect("the guest listens there");
        let mut answer = Vec::new();
        let asked = async {
            stream.write_all(line.as_bytes()).await?;
            stream.shutdown().await?;
            stream.read_to_end(&mut answer).await
        };
        let asked = timeout(self.patience, asked).await;
        asked.expect("an answer in time").expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Asks until the answer is as `wanted`: what is plugged, a guest finds when
    /// it comes to it. The last answer, when patience has run out.
    pub(super) async fn asked_until(
        &self,
        port: u32,
        line: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> String {
        let until = tokio::time::Instant::now() + self.patience;
        loop {
            let answer = self.asked(port, line).await;
            if wanted(&answer) || tokio::time::Instant::now() > until {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// How it ends, within patience.
    pub(super) async fn ending(&self) -> VmExit {
        let waited = timeout(self.patience, self.wait()).await;
        waited.expect("it ends in time").expect("wait answers")
    }

    /// Its monitor's process, where it has one.
    pub(super) fn monitor(&self) -> Option<i32> {
        traces::processes(&self.place.id).first().copied()
    }

    /// Asserts that nothing of it is left, after it has ended.
    pub(super) async fn assert_clean(self) {
        let Self {
            vm,
            place,
            patience,
        } = self;
        drop(vm);
        place.assert_clean(patience).await;
    }
}

impl std::ops::Deref for Machine {
    type Target = dyn Vm;

    fn deref(&self) -> &Self::Target {
        self.vm.as_deref().expect("only assert_clean takes it")
    }
}

/// An error with all its causes.
pub(super) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if let Some(console) = error.console_tail() {
        text.push_str("\nconsole: ");
        text.push_str(&String::from_utf8_lossy(console));
    }
    text
}

/// The error of a creation that must fail.
pub(super) fn must_fail(made: Result<Box<dyn Vm>>) -> Error {
    match made {
        Err(error) => error,
        Ok(vm) => panic!("this must not make a machine: {vm:?}"),
    }
}
