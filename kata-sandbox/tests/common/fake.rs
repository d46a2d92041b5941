//! A hypervisor whose machines are a thread: their agents speak the real
//! protocol over real sockets, and behave as badly as a test asks.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use kata_protocol::agent::agent_service::{self, AgentService};
use kata_protocol::agent::{
    CreateContainerRequest, CreateSandboxRequest, DestroySandboxRequest, RemoveContainerRequest,
    SetGuestDateTimeRequest, SignalProcessRequest, StartContainerRequest, StartedProcess,
    WaitProcessRequest, WaitProcessResponse,
};
use kata_protocol::port;
use kata_protocol::ttrpc::{self, Code, Handler, Status};
use kata_sandbox::hypervisor::{
    Acceleration, Error, GuestStream, Hypervisor, Phase, Probe, Result, StopMode, Vm, VmConfig,
    VmExit, VmUsage, async_trait,
};
use kata_sandbox::{Runtime, RuntimeBuilder};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};

/// What is wrong with the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It never announces itself.
    Silent,
    /// It announces itself and says what is no ttRPC.
    Garbage,
    /// It announces itself and hangs up.
    HangsUp,
    /// It announces itself and answers nothing.
    Deaf,
    /// It answers CreateSandbox with an error.
    Refuses,
    /// It is fine until a container is created, and never answers that.
    SlowCreate,
    /// It is fine until a process is waited for, and hangs up then.
    DiesAtWait,
    /// The machine ends before its agent runs.
    Panics,
    /// There is no machine.
    NoMachine,
}

#[derive(Debug)]
pub(crate) struct Fake(pub(crate) Fault);

#[async_trait]
impl Hypervisor for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn probe(&self) -> Probe {
        let mut probe = Probe::default();
        probe.acceleration = Some(Acceleration::Emulation);
        probe
    }

    async fn create(&self, config: VmConfig) -> Result<Box<dyn Vm>> {
        if self.0 == Fault::NoMachine {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::Spawn {
                program: "/usr/bin/fake-vmm".into(),
                source,
            });
        }
        let exit = watch::Sender::new(None);
        let socket = config.devices.vsock.unwrap().socket;
        Ok(Box::new(FakeVm {
            fault: self.0,
            socket,
            exit: Arc::new(exit),
        }))
    }
}

#[derive(Debug)]
struct FakeVm {
    fault: Fault,
    socket: PathBuf,
    exit: Arc<watch::Sender<Option<VmExit>>>,
}

impl FakeVm {
    fn end(&self, how: VmExit) {
        self.exit
            .send_if_modified(|exit| exit.is_none() && exit.replace(how).is_none());
    }

    fn guest_socket(&self, port: u32) -> PathBuf {
        guest_socket(&self.socket, port)
    }
}

fn guest_socket(socket: &Path, port: u32) -> PathBuf {
    socket.with_extension(format!("guest{port}"))
}

impl Drop for FakeVm {
    fn drop(&mut self) {
        self.end(VmExit::Killed);
    }
}

static HOST_PORT: AtomicU32 = AtomicU32::new(5000);

#[async_trait]
impl Vm for FakeVm {
    async fn start(&self) -> Result<()> {
        if self.fault == Fault::Panics {
            self.end(VmExit::Panic);
            return Ok(());
        }
        let (fault, socket, exit) = (self.fault, self.socket.clone(), Arc::clone(&self.exit));
        let ended = self.exit.subscribe();
        std::thread::spawn(move || guest(fault, &socket, exit, ended));
        Ok(())
    }

    async fn stop(&self, _: StopMode) -> Result<VmExit> {
        self.end(VmExit::Killed);
        self.wait().await
    }

    async fn wait(&self) -> Result<VmExit> {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.unwrap();
        Ok(exit.clone().unwrap())
    }

    async fn dial(&self, port: u32) -> Result<GuestStream> {
        let stream = UnixStream::connect(self.guest_socket(port)).await;
        let mut stream = stream.map_err(|_| Error::Refused { port })?;
        let from = HOST_PORT.fetch_add(1, Ordering::Relaxed);
        let told = stream.write_u32(from).await;
        told.map_err(|_| Error::Refused { port })?;
        Ok(GuestStream::new(stream, from))
    }

    fn console_tail(&self) -> Vec<u8> {
        b"last words".to_vec()
    }

    fn phases(&self) -> Vec<Phase> {
        Vec::new()
    }

    async fn usage(&self) -> Result<VmUsage> {
        Ok(VmUsage::default())
    }
}

type ExitSender = Arc<watch::Sender<Option<VmExit>>>;

fn guest(
    fault: Fault,
    socket: &Path,
    exit: ExitSender,
    mut ended: watch::Receiver<Option<VmExit>>,
) {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&tokio, async move {
        tokio::select! {
            () = behave(fault, socket, exit) => {}
            _ = ended.wait_for(Option::is_some) => {}
        }
    });
}

async fn behave(fault: Fault, socket: &Path, exit: ExitSender) {
    // Streams are taken and kept: what is written to them goes nowhere.
    let streams = UnixListener::bind(guest_socket(socket, port::STDIO)).unwrap();
    let keeping = tokio::task::spawn_local(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = streams.accept().await {
            kept.push(stream);
        }
    });
    if fault == Fault::Silent {
        return std::future::pending().await;
    }
    let announcement = format!("{}_{}", socket.display(), port::AGENT);
    let mut stream = UnixStream::connect(announcement).await.unwrap();
    match fault {
        Fault::Garbage => {
            stream.write_all(&[0xff; 4096]).await.ok();
            std::future::pending::<()>().await;
        }
        Fault::HangsUp => drop(stream),
        Fault::Deaf => std::future::pending::<()>().await,
        _ => {
            let agent = Rc::new(FakeAgent {
                fault,
                exit,
                killed: Notify::new(),
            });
            ttrpc::serve(stream, agent).await.ok();
        }
    }
    keeping.abort();
    std::future::pending::<()>().await;
}

struct FakeAgent {
    fault: Fault,
    exit: ExitSender,
    killed: Notify,
}

#[async_trait(?Send)]
impl Handler for FakeAgent {
    async fn handle(
        &self,
        service: &str,
        method: &str,
        request: Bytes,
    ) -> std::result::Result<Vec<u8>, Status> {
        assert_eq!(service, "grpc.AgentService");
        agent_service::dispatch(self, method, request).await
    }
}

type Answer<T> = std::result::Result<T, Status>;

#[async_trait(?Send)]
impl AgentService for FakeAgent {
    async fn create_sandbox(&self, request: CreateSandboxRequest) -> Answer<()> {
        assert_eq!(request.storages[0].source, "kataShared");
        match self.fault {
            Fault::Refuses => Err(Status::new(Code::Internal, "no such tag")),
            _ => Ok(()),
        }
    }

    async fn set_guest_date_time(&self, _: SetGuestDateTimeRequest) -> Answer<()> {
        Ok(())
    }

    async fn destroy_sandbox(&self, _: DestroySandboxRequest) -> Answer<()> {
        self.exit.send_replace(Some(VmExit::PowerOff));
        Ok(())
    }

    async fn create_container(&self, _: CreateContainerRequest) -> Answer<()> {
        match self.fault {
            Fault::SlowCreate => std::future::pending().await,
            _ => Ok(()),
        }
    }

    async fn start_container(&self, _: StartContainerRequest) -> Answer<StartedProcess> {
        Ok(StartedProcess { pid: 7 })
    }

    async fn wait_process(&self, request: WaitProcessRequest) -> Answer<WaitProcessResponse> {
        match self.fault {
            Fault::DiesAtWait => {
                self.exit.send_replace(Some(VmExit::Panic));
                std::future::pending().await
            }
            _ if request.exec_id.is_empty() => {
                self.killed.notified().await;
                Ok(WaitProcessResponse {
                    status: 137,
                    signal: 9,
                    oom: false,
                })
            }
            _ => Ok(WaitProcessResponse {
                status: 0,
                signal: u32::MAX,
                oom: false,
            }),
        }
    }

    async fn signal_process(&self, _: SignalProcessRequest) -> Answer<()> {
        self.killed.notify_one();
        Ok(())
    }

    async fn remove_container(&self, _: RemoveContainerRequest) -> Answer<()> {
        Ok(())
    }
}

/// A runtime on a fake hypervisor, with an image that is not looked at.
pub(crate) fn runtime(directory: &Path, fault: Fault) -> RuntimeBuilder {
    super::image::make(&directory.join("image"));
    Runtime::builder()
        .hypervisor(Fake(fault))
        .state_dir(directory.join("s"))
        .guest_image(directory.join("image"))
}
