//! What a network does for a sandbox, on a thread that may wait.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use super::attachment::{Attached, Attachment, collect_garbage, status};
use super::call::Caller;
use super::config::NetworkConfig;
use super::error::{PluginError, PluginFault};
use super::namespace::Namespaces;
use super::record::{Record, Records, container_id};
use super::result::PluginResult;
use super::runtime_config::{PortMapping, RuntimeConfig};
use super::settings::Settings;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::lease::{Lease, Phase};
use crate::netns::{
    Connection, Connections, Options, Reserved, adopt_now, on_thread, open, open_reserved,
};
use crate::setup::SetupRequest;
use crate::wiring::WiringModel;

/// One thing at a time for each sandbox: a tear-down waits for the end of a
/// set-up that was given up.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: Mutex<HashMap<String, Weak<Mutex<()>>>>,
    /// Set-ups whose devices were made ahead, by container.
    begun: Mutex<HashMap<String, Begun>>,
}

/// A set-up whose plugins have not been called yet.
#[derive(Debug)]
struct Begun {
    record: Record,
    netns: PathBuf,
    /// Taps that were made in the namespace.
    reserved: Vec<Reserved>,
    phase: Phase,
}

impl Turns {
    fn begun(&self) -> MutexGuard<'_, HashMap<String, Begun>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, container: &str) -> Arc<Mutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(container).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(container.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// Some work, and what it needs.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) settings: Settings,
    pub(super) turns: Arc<Turns>,
    pub(super) connections: Arc<Connections>,
    /// Readable when nobody wants the result any more.
    pub(super) given_up: Arc<OwnedFd>,
}

impl Work {
    fn caller(&self) -> Caller<'_> {
        Caller {
            directories: &self.settings.plugin_dirs,
            limit: self.settings.limit,
            given_up: &self.given_up,
        }
    }

    fn records(&self) -> Records {
        Records::new(&self.settings.state_dir)
    }

    /// The namespace of a sandbox, and what its connection is noted under.
    pub(super) fn place_of(settings: &Settings, sandbox: &str) -> Result<(OwnedFd, String)> {
        let container = container_id(sandbox);
        let path = Namespaces::new(&settings.netns_dir).path(&container);
        Ok((open(&path)?, container))
    }

    fn namespaces(&self) -> Namespaces {
        Namespaces::new(&self.settings.netns_dir)
    }

    fn networks(&self) -> Result<Vec<NetworkConfig>> {
        let networks = self.settings.networks.iter();
        networks
            .map(|text| NetworkConfig::of(text.clone()))
            .collect()
    }

    /// What is to be attached: an interface for each network.
    fn attachments(&self) -> Vec<Attachment> {
        let args = self.settings.args();
        let networks = self.settings.networks.iter().enumerate();
        let attachments = networks.map(|(index, network)| {
            let mut runtime = self.settings.runtime.clone();
            if index > 0 {
                // What is wished for of one interface is of the first.
                runtime = RuntimeConfig {
                    aliases: runtime.aliases,
                    other: runtime.other,
                    ..RuntimeConfig::default()
                };
            }
            Attachment {
                network: network.clone(),
                interface: format!("eth{index}"),
                args: args.clone(),
                runtime,
                result: None,
            }
        });
        attachments.collect()
    }

    /// Makes the namespace, and a tap in it for each network, where that is
    /// known to be what its plugins need.
    pub(super) fn reserve(&self, request: &SetupRequest) -> Result<Vec<Endpoint>> {
        let networks = self.networks()?;
        let by_filters = matches!(
            self.settings.wiring,
            WiringModel::Auto | WiringModel::TcFilter
        );
        let known = || networks.iter().all(NetworkConfig::makes_one_interface);
        if !by_filters || !self.settings.ahead.unwrap_or_else(known) {
            return Ok(Vec::new());
        }
        let container = container_id(&request.sandbox);
        let turn = self.turns.of(&container);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let reserved = Reserved::of(&request.sandbox, networks.len());
        let (begun, endpoints) = self.begin(request, container, reserved)?;
        let container = begun.record.container.clone();
        self.turns.begun().insert(container, begun);
        Ok(endpoints)
    }

    /// Notes what will be attached, and makes the namespace with those taps in
    /// it.
    fn begin(
        &self,
        request: &SetupRequest,
        container: String,
        reserved: Vec<Reserved>,
    ) -> Result<(Begun, Vec<Endpoint>)> {
        let began = Instant::now();
        self.require_plugins()?;
        for mapping in &self.settings.runtime.port_mappings {
            require_free(mapping)?;
        }
        let record = Record {
            sandbox: request.sandbox.clone(),
            container,
            attachments: self.attachments(),
        };
        let records = self.records();
        if records.read(&record.container)?.is_some() {
            // A dead process's: its addresses are still taken.
            self.undo(&record.container)?;
        }
        // Noted before anything is made.
        records.write(&record)?;
        let namespaces = self.namespaces();
        let (name, queues) = (record.container.clone(), request.queues);
        let (netns, reserved, endpoints) = on_thread("make a network namespace", move || {
            let netns = namespaces.make(&name)?;
            // The thread is in it now.
            let endpoints = open_reserved(&reserved, queues)?;
            Ok((netns, reserved, endpoints))
        })?;
        let begun = Begun {
            record,
            netns,
            reserved,
            phase: Phase::ended("network namespace", began),
        };
        Ok((begun, endpoints))
    }

    pub(super) fn set_up(&self, request: &SetupRequest) -> Result<Lease> {
        let container = container_id(&request.sandbox);
        let turn = self.turns.of(&container);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let reserved = self.turns.begun().remove(&container);
        let begun = match reserved {
            Some(begun) => begun,
            None => self.begin(request, container, Vec::new())?.0,
        };
        let Begun {
            mut record,
            netns,
            reserved,
            phase,
        } = begun;
        let path = netns.display().to_string();
        let mut phases = vec![phase];
        let results = self.add_all(&mut record, &path, &mut phases)?;
        let ahead = !reserved.is_empty();
        let connection = Connection {
            reserved: reserved.into(),
            ..Connection::default()
        };
        let (mut lease, connection) =
            adopt_now(open(&netns)?, self.options(), request, connection)?;
        self.verify(&record, &path, &results, &lease)?;
        if ahead && !lease.endpoints.is_empty() {
            return Err(self.too_many(&record, &lease));
        }
        self.connections
            .lock()
            .insert(record.container.clone(), connection);
        for result in results {
            lease.name_servers.extend(result.dns.servers);
            lease.search_domains.extend(result.dns.search);
            lease.resolver_options.extend(result.dns.options);
        }
        phases.append(&mut lease.phases);
        lease.phases = phases;
        lease.netns = Some(netns);
        Ok(lease)
    }

    /// Looks again at a sandbox's namespace.
    pub(super) fn rescan(&self, request: &SetupRequest) -> Result<Lease> {
        let container = container_id(&request.sandbox);
        let turn = self.turns.of(&container);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let netns = self.namespaces().path(&container);
        let connection = self.connections.lock().get(&container).cloned();
        let connection = connection.unwrap_or_default();
        let (mut lease, connection) =
            adopt_now(open(&netns)?, self.options(), request, connection)?;
        self.connections.lock().insert(container, connection);
        lease.netns = Some(netns);
        Ok(lease)
    }

    fn options(&self) -> Options {
        Options {
            wiring: self.settings.wiring,
            ..Options::default()
        }
    }

    /// The error of plugins that make more than they are known to.
    fn too_many(&self, record: &Record, lease: &Lease) -> Error {
        let names = lease.interfaces.iter().map(|it| it.name.clone()).collect();
        let fault = PluginFault::TooManyInterfaces(names);
        let attachment = record.attachments.last();
        let attached = attachment.map(|it| it.of(&record.container, None));
        match attached {
            Some(Ok(attached)) => attached.fault(fault),
            Some(Err(error)) => error,
            None => Error::InvalidConfig {
                field: "CNI configuration",
                reason: "there is no network".to_owned(),
            },
        }
    }

    /// Has all interfaces added, and notes what came of each.
    fn add_all(
        &self,
        record: &mut Record,
        netns: &str,
        phases: &mut Vec<Phase>,
    ) -> Result<Vec<PluginResult>> {
        let mut results = Vec::new();
        let mut taken = HashSet::new();
        for index in 0..record.attachments.len() {
            let attached = record.attachments[index].of(&record.container, Some(netns))?;
            let (result, written) = attached.add(&self.caller(), phases)?;
            for address in &result.addresses {
                if !taken.insert(address.net.address()) {
                    let twice = PluginFault::DuplicateAddress(address.net.address());
                    return Err(attached.fault(twice));
                }
            }
            record.attachments[index].result = Some(written);
            self.records().write(record)?;
            results.push(result);
        }
        Ok(results)
    }

    /// Every interface that plugins say they made is one of the lease.
    fn verify(
        &self,
        record: &Record,
        netns: &str,
        results: &[PluginResult],
        lease: &Lease,
    ) -> Result<()> {
        for (attachment, result) in record.attachments.iter().zip(results) {
            let made = result.interfaces.iter().filter(|it| it.sandbox == netns);
            for interface in made.filter(|it| it.name == attachment.interface) {
                let is_it = |it: &crate::GuestInterface| it.name == interface.name;
                if !lease.interfaces.iter().any(is_it) {
                    let attached = attachment.of(&record.container, Some(netns))?;
                    return Err(attached.fault(PluginFault::NoInterface));
                }
            }
        }
        Ok(())
    }

    /// A plugin that is missing is noticed before anything is made.
    fn require_plugins(&self) -> Result<()> {
        let caller = self.caller();
        for (index, network) in self.networks()?.iter().enumerate() {
            let missing = network
                .plugins
                .iter()
                .find(|plugin| !caller.has(&plugin.kind));
            if let Some(plugin) = missing {
                return Err(Error::Plugin(Box::new(PluginError {
                    network: network.name.clone(),
                    plugin: plugin.kind.clone(),
                    interface: format!("eth{index}"),
                    command: "ADD",
                    fault: PluginFault::Missing {
                        searched: self.settings.plugin_dirs.clone(),
                    },
                    stderr: String::new(),
                })));
            }
        }
        Ok(())
    }

    pub(super) fn tear_down(&self, sandbox: &str) -> Result<()> {
        let container = container_id(sandbox);
        let turn = self.turns.of(&container);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.turns.begun().remove(&container);
        self.connections.lock().remove(&container);
        self.undo(&container)
    }

    /// Undoes whatever there is of a sandbox.
    fn undo(&self, container: &str) -> Result<()> {
        let records = self.records();
        let Some(record) = records.read(container)? else {
            return self.namespaces().remove(container);
        };
        let netns = self.namespaces().path(container);
        let path = open(&netns).ok().map(|_| netns.display().to_string());
        let mut failures = Vec::new();
        for attachment in record.attachments.iter().rev() {
            match attachment.of(container, path.as_deref()) {
                Ok(attached) => failures.extend(self.delete(&attached, attachment)),
                Err(error) => failures.push(error),
            }
        }
        failures.extend(self.namespaces().remove(container).err());
        if failures.is_empty() {
            failures.extend(records.remove(container).err());
        }
        Error::all(failures)
    }

    fn delete(&self, attached: &Attached<'_>, attachment: &Attachment) -> Vec<Error> {
        let mut failures = attached.delete(&self.caller());
        if attachment.result.is_none() {
            // A plugin that is not there has added nothing either.
            failures.retain(|error| {
                let Error::Plugin(error) = error else {
                    return true;
                };
                !matches!(error.fault, PluginFault::Missing { .. })
            });
        }
        failures
    }

    pub(super) fn check(&self, sandbox: &str) -> Result<()> {
        let container = container_id(sandbox);
        let record = self.records().read(&container)?;
        let record = record.ok_or_else(|| Error::InvalidConfig {
            field: "sandbox",
            reason: format!("{sandbox} has no network of these"),
        })?;
        let netns = self.namespaces().path(&container).display().to_string();
        for attachment in &record.attachments {
            attachment
                .of(&container, Some(&netns))?
                .check(&self.caller())?;
        }
        Ok(())
    }

    pub(super) fn status(&self) -> Result<()> {
        self.require_plugins()?;
        let (caller, networks) = (self.caller(), self.networks()?);
        let failures = networks.iter().flat_map(|network| status(&caller, network));
        Error::all(failures.collect())
    }

    pub(super) fn versions(&self) -> Result<Vec<(String, Vec<String>)>> {
        self.require_plugins()?;
        let caller = self.caller();
        let mut all = Vec::new();
        for network in self.networks()? {
            for plugin in &network.plugins {
                let versions = caller.versions(plugin, network.version);
                let versions = versions.ok_or_else(|| Error::Peer {
                    peer: format!("CNI plugin {} of network {}", plugin.kind, network.name),
                    operation: "say its versions".to_owned(),
                    reason: "it gave no list of them".to_owned(),
                })?;
                all.push((plugin.kind.clone(), versions));
            }
        }
        Ok(all)
    }

    pub(super) fn collect_garbage(&self, alive: &[String]) -> Result<()> {
        let alive: HashSet<String> = alive.iter().map(|sandbox| container_id(sandbox)).collect();
        let mut failures = Vec::new();
        let mut valid = Vec::new();
        for container in self.records().containers()? {
            let turn = self.turns.of(&container);
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if !alive.contains(&container) {
                failures.extend(self.undo(&container).err());
            } else if let Some(record) = self.records().read(&container)? {
                let interfaces = record.attachments.into_iter().map(|it| it.interface);
                valid.extend(interfaces.map(|interface| (container.clone(), interface)));
            }
        }
        for network in self.networks()? {
            failures.extend(collect_garbage(&self.caller(), &network, &valid));
        }
        Error::all(failures)
    }
}

/// Refuses a port that some program of the host listens on: that program would
/// lose it in silence.
fn require_free(mapping: &PortMapping) -> Result<()> {
    let addresses = match mapping.host_address {
        Some(address) => vec![address],
        None => vec![
            IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            IpAddr::from([0, 0, 0, 0]),
        ],
    };
    for address in addresses {
        let address = SocketAddr::new(address, mapping.host_port);
        let bound = match mapping.protocol.as_str() {
            "udp" => UdpSocket::bind(address).map(drop),
            "tcp" => TcpListener::bind(address).map(drop),
            _ => Ok(()),
        };
        match bound {
            // The host has not that family.
            Err(error) if mapping.host_address.is_none() && !is_taken(&error) => {}
            bound => bound.map_err(Error::host(format!(
                "publish {} port {address}",
                mapping.protocol
            )))?,
        }
    }
    Ok(())
}

fn is_taken(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::AddrInUse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_somebody_listens_on_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mapping = PortMapping::tcp(address.port(), 80).on(address.ip());
        let error = require_free(&mapping).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        drop(listener);
        require_free(&mapping).unwrap();
    }

    #[test]
    fn one_thing_is_done_at_a_time_for_a_sandbox() {
        let turns = Turns::default();
        let (first, other) = (turns.of("a"), turns.of("b"));
        let _held = first.lock().unwrap();
        assert!(turns.of("a").try_lock().is_err());
        assert!(other.try_lock().is_ok());
    }
}
