//! What a sandbox and its containers use.

use kata_protocol::agent::{GetMetricsRequest, ListProcessesRequest, StatsContainerRequest};

use super::{ContainerRecord, Engine};
use crate::error::{ErrorKind, Result};
use crate::processes::ProcessInfo;
use crate::stats::{self, ContainerStats, GuestMemory, SandboxInterfaceStats, SandboxStats};

impl Engine {
    pub(crate) async fn container_stats(&self, record: &ContainerRecord) -> Result<ContainerStats> {
        let context = self.container_context("take stats of container", record.id());
        let request = StatsContainerRequest {
            container_id: record.id().to_owned(),
        };
        let call = self
            .agent
            .calls()
            .stats_container(&request, self.agent.deadline());
        Ok(ContainerStats::new(&self.call(&context, call).await?))
    }

    pub(crate) async fn container_processes(
        &self,
        record: &ContainerRecord,
    ) -> Result<Vec<ProcessInfo>> {
        let context = self.container_context("list processes of container", record.id());
        let request = ListProcessesRequest {
            container_id: record.id().to_owned(),
        };
        let call = self
            .agent
            .calls()
            .list_processes(&request, self.agent.deadline());
        let answer = self.call(&context, call).await?;
        Ok(answer.processes.into_iter().map(ProcessInfo::new).collect())
    }

    pub(crate) async fn stats(&self) -> Result<SandboxStats> {
        let context = self.context("take stats of sandbox");
        self.require_running(&context)?;
        let vm = async { self.vm.usage().await.map_err(|error| context.vm(error)) };
        let (vm, metrics) = tokio::try_join!(vm, self.guest_metrics())?;
        let metrics = metrics.as_deref().unwrap_or_default();
        let counted = self.counted().await.into_iter();
        let interfaces = counted.map(|(name, host)| SandboxInterfaceStats {
            guest: stats::guest_interface(metrics, &name),
            name,
            host,
        });
        let mut containers = Vec::new();
        for record in self.containers.all() {
            match self.container_stats(&record).await {
                Ok(stats) => containers.push((record.id().to_owned(), stats)),
                // Deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(SandboxStats {
            vm,
            guest: GuestMemory::parse(metrics),
            containers,
            interfaces: interfaces.collect(),
        })
    }

    /// What the guest's kernel says; an agent that does not tell is no failure.
    async fn guest_metrics(&self) -> Result<Option<String>> {
        let context = self.context("take stats of sandbox");
        let call = self
            .agent
            .calls()
            .get_metrics(&GetMetricsRequest {}, self.agent.deadline());
        match self.call(&context, call).await {
            Ok(metrics) => Ok(Some(metrics.metrics)),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(error),
        }
    }
}
