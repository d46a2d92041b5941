//! The agent's calls: what comes in on a connection, and who answers it.

mod copy;
mod cpu;
mod destroy;
mod details;
mod random;
mod sandbox;

// Not the specification's Box of a console size.
use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use kata_protocol::agent::agent_service::{self, AgentService};
use kata_protocol::agent::*;
use kata_protocol::health::{Health, ServingStatus};
use kata_protocol::ttrpc::{Code, Handler, Status};
use kata_protocol::types;
use tokio::task::{spawn_local, yield_now};

pub(crate) use destroy::Ending;
use sandbox::Sandbox;

use crate::config::Config;
use crate::container::Containers;
use crate::storage::Storages;
use crate::{metrics, network};

/// The version of gRPC's protocol files that the messages are Kata's of.
const PROTOCOL_VERSION: &str = "0.0.1";

/// What all connections share.
pub(crate) struct Agent {
    pub(crate) config: Config,
    /// Whether this process is the machine's first.
    pub(crate) init: bool,
    pub(crate) containers: Rc<Containers>,
    pub(crate) ending: Ending,
    storages: Storages,
    sandbox: RefCell<Option<Sandbox>>,
    /// Whether the loopback interface is as containers expect it.
    loopback: Rc<Cell<bool>>,
}

impl Agent {
    /// An agent without a sandbox.
    pub(crate) fn new(config: Config, init: bool, containers: Rc<Containers>) -> Rc<Self> {
        let storages = Storages::new(config.hotplug_timeout);
        Rc::new(Self {
            config,
            init,
            containers,
            ending: Ending::default(),
            storages,
            sandbox: RefCell::default(),
            loopback: Rc::new(Cell::new(!init)),
        })
    }
}

#[async_trait(?Send)]
impl Handler for Agent {
    async fn handle(&self, service: &str, method: &str, request: Bytes) -> Result<Vec<u8>, Status> {
        let answer = match service {
            "grpc.AgentService" => agent_service::dispatch(self, method, request).await,
            "grpc.Health" => health_service::dispatch(self, method, request).await,
            other => Err(Status::new(
                Code::Unimplemented,
                format!("there is no service {other}"),
            )),
        };
        if let Err(status) = &answer {
            log::info!(method, error:% = status; "call failed");
        }
        answer
    }
}

#[async_trait(?Send)]
impl Health for Agent {
    async fn check(&self, _: CheckRequest) -> Result<HealthCheckResponse, Status> {
        Ok(HealthCheckResponse {
            status: ServingStatus::Serving as i32,
        })
    }

    async fn version(&self, _: CheckRequest) -> Result<VersionCheckResponse, Status> {
        Ok(VersionCheckResponse {
            grpc_version: PROTOCOL_VERSION.to_owned(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

#[async_trait(?Send)]
impl AgentService for Agent {
    async fn create_sandbox(&self, request: CreateSandboxRequest) -> Result<(), Status> {
        sandbox::create(self, request).await?;
        let loopback = Rc::clone(&self.loopback);
        spawn_local(async move {
            // The answer goes first; this costs tens of milliseconds on a
            // machine that is emulated.
            for _ in 0..4 {
                yield_now().await;
            }
            if let Err(status) = loopback_up(&loopback) {
                // The first container that is made says so too.
                log::warn!(error:% = status; "there is no loopback interface yet");
            }
        });
        Ok(())
    }

    async fn destroy_sandbox(&self, _: DestroySandboxRequest) -> Result<(), Status> {
        destroy::destroy(self).await
    }

    async fn create_container(&self, mut request: CreateContainerRequest) -> Result<(), Status> {
        loopback_up(&self.loopback)?;
        let claims = self.storages.prepare(&mut request).await?;
        let id = request.container_id.clone();
        let created = self.containers.create(request).await;
        match created {
            Ok(()) => self.storages.keep(&id, claims),
            Err(_) => self.storages.give_up_or_log(claims).await,
        }
        created
    }

    async fn start_container(
        &self,
        request: StartContainerRequest,
    ) -> Result<StartedProcess, Status> {
        self.containers.start(request).await
    }

    async fn remove_container(&self, request: RemoveContainerRequest) -> Result<(), Status> {
        let id = request.container_id.clone();
        self.containers.remove(request).await?;
        self.storages.release(&id).await
    }

    async fn exec_process(&self, request: ExecProcessRequest) -> Result<StartedProcess, Status> {
        self.containers.exec(request).await
    }

    async fn signal_process(&self, request: SignalProcessRequest) -> Result<(), Status> {
        self.containers.signal(request).await
    }

    async fn wait_process(
        &self,
        request: WaitProcessRequest,
    ) -> Result<WaitProcessResponse, Status> {
        self.containers.wait(request).await
    }

    async fn update_container(&self, request: UpdateContainerRequest) -> Result<(), Status> {
        self.containers.update(request).await
    }

    async fn stats_container(
        &self,
        request: StatsContainerRequest,
    ) -> Result<StatsContainerResponse, Status> {
        let mut stats = self.containers.stats(request).await?;
        stats.network_stats = network::stats().map_err(internal("read the network's counters"))?;
        Ok(stats)
    }

    async fn list_processes(
        &self,
        request: ListProcessesRequest,
    ) -> Result<ListProcessesResponse, Status> {
        self.containers.processes(request).await
    }

    async fn pause_container(&self, request: PauseContainerRequest) -> Result<(), Status> {
        self.containers.pause(request).await
    }

    async fn resume_container(&self, request: ResumeContainerRequest) -> Result<(), Status> {
        self.containers.resume(request).await
    }

    async fn write_stdin(
        &self,
        request: WriteStreamRequest,
    ) -> Result<WriteStreamResponse, Status> {
        self.containers.write_stdin(request).await
    }

    async fn read_stdout(&self, request: ReadStreamRequest) -> Result<ReadStreamResponse, Status> {
        self.containers.read_stdout(request).await
    }

    async fn read_stderr(&self, request: ReadStreamRequest) -> Result<ReadStreamResponse, Status> {
        self.containers.read_stderr(request).await
    }

    async fn close_stdin(&self, request: CloseStdinRequest) -> Result<(), Status> {
        self.containers.close_stdin(request).await
    }

    async fn tty_win_resize(&self, request: TtyWinResizeRequest) -> Result<(), Status> {
        self.containers.resize(request).await
    }

    async fn get_oom_event(&self, _: GetOomEventRequest) -> Result<OomEvent, Status> {
        Ok(OomEvent {
            container_id: self.containers.next_oom().await,
        })
    }

    async fn update_interface(
        &self,
        request: UpdateInterfaceRequest,
    ) -> Result<types::Interface, Status> {
        let interface = request
            .interface
            .ok_or_else(|| invalid("no interface is given"))?;
        network::update_interface(&interface, self.config.hotplug_timeout).await
    }

    async fn update_routes(&self, request: UpdateRoutesRequest) -> Result<Routes, Status> {
        let routes = request
            .routes
            .ok_or_else(|| invalid("no routes are given"))?;
        let routes = network::update_routes(&routes.routes)?;
        network::update_rules(&request.rules)?;
        Ok(Routes { routes })
    }

    async fn list_interfaces(&self, _: ListInterfacesRequest) -> Result<Interfaces, Status> {
        Ok(Interfaces {
            interfaces: network::list_interfaces()?,
        })
    }

    async fn list_routes(&self, _: ListRoutesRequest) -> Result<Routes, Status> {
        Ok(Routes {
            routes: network::list_routes()?,
        })
    }

    async fn add_arp_neighbors(&self, request: AddArpNeighborsRequest) -> Result<(), Status> {
        let neighbors = request
            .neighbors
            .ok_or_else(|| invalid("no neighbours are given"))?;
        network::add_neighbors(&neighbors.arp_neighbors)
    }

    async fn get_metrics(&self, _: GetMetricsRequest) -> Result<Metrics, Status> {
        Ok(Metrics {
            metrics: metrics::collect(),
        })
    }

    async fn get_guest_details(
        &self,
        request: GuestDetailsRequest,
    ) -> Result<GuestDetailsResponse, Status> {
        details::guest_details(self.init, request)
    }

    async fn online_cpu_mem(&self, request: OnlineCpuMemRequest) -> Result<(), Status> {
        cpu::online(request, self.config.hotplug_timeout).await
    }

    async fn reseed_random_dev(&self, request: ReseedRandomDevRequest) -> Result<(), Status> {
        random::reseed(&request.data)
    }

    async fn set_guest_date_time(&self, request: SetGuestDateTimeRequest) -> Result<(), Status> {
        details::set_time(request)
    }

    async fn copy_file(&self, request: CopyFileRequest) -> Result<(), Status> {
        copy::copy(request)
    }
}

/// Brings the loopback interface up, once.
fn loopback_up(done: &Cell<bool>) -> Result<(), Status> {
    if !done.get() {
        network::loopback_up().map_err(internal("bring the loopback interface up"))?;
        done.set(true);
    }
    Ok(())
}

/// A failure of the agent's own while it did `what`.
pub(crate) fn internal<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Status {
    move |error| Status::new(Code::Internal, format!("cannot {what}: {error}"))
}

/// A request that makes no sense.
pub(crate) fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, message)
}
