//! The networks of a sandbox while it runs: those that come and go, and what
//! the guest was told of each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kata_hypervisor::NicPlug;
use kata_network::{
    Endpoint, GuestInterface, Lease, MacAddress, Neighbor, Network, Route, Rule, SetupRequest,
};
use tokio::sync::{Mutex, MutexGuard};

use super::{Engine, guest_network, nics};
use crate::error::{Context, Error, ErrorKind, Result};

/// Longest name of a network that is added.
const LONGEST: usize = 64;

/// The networks of a sandbox.
#[derive(Debug)]
pub(super) struct Networks {
    /// Queues of their devices, as many as processors.
    processors: u32,
    /// Held while one comes, goes or changes.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The one that the sandbox has booted with, then those that were added.
    attached: Vec<Attached>,
    /// Routes and rules that the embedder has set in place of theirs.
    set: Option<(Vec<Route>, Vec<Rule>)>,
}

/// A network that the sandbox is connected to.
#[derive(Debug)]
pub(super) struct Attached {
    /// What the embedder calls it; the one from the start has no name.
    name: String,
    /// What it calls the sandbox.
    subject: String,
    network: Arc<dyn Network>,
    /// As the guest has them: by the addresses that it has given its devices.
    interfaces: Vec<GuestInterface>,
    routes: Vec<Route>,
    rules: Vec<Rule>,
    neighbors: Vec<Neighbor>,
    /// Names that interfaces have in the guest instead of the network's own.
    renamed: BTreeMap<String, String>,
    /// Devices that can go again, by interface.
    plugged: BTreeMap<String, MacAddress>,
}

impl Attached {
    fn new(name: &str, subject: &str, network: Arc<dyn Network>) -> Self {
        Self {
            name: name.to_owned(),
            subject: subject.to_owned(),
            network,
            interfaces: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
            neighbors: Vec::new(),
            renamed: BTreeMap::new(),
            plugged: BTreeMap::new(),
        }
    }

    /// Notes what the guest has been told.
    fn told(&mut self, lease: Lease) {
        self.interfaces = lease.interfaces;
        for interface in &mut self.interfaces {
            interface.mac = interface.new_mac.take().unwrap_or(interface.mac);
        }
        self.routes = lease.routes;
        self.rules = lease.rules;
        self.neighbors = lease.neighbors;
    }

    /// The network's own name of an interface.
    fn own_name<'a>(&'a self, interface: &'a str) -> &'a str {
        let mut renamed = self.renamed.iter();
        let own = renamed.find_map(|(own, name)| (name == interface).then_some(own.as_str()));
        own.unwrap_or(interface)
    }

    fn has(&self, interface: &str) -> bool {
        self.interfaces.iter().any(|it| it.name == interface)
    }
}

impl Networks {
    /// The network from the start, and what the guest was told of it.
    pub(super) fn new(id: &str, network: Arc<dyn Network>, lease: Lease, processors: u32) -> Self {
        let mut first = Attached::new("", id, network);
        first.told(lease);
        let state = State {
            attached: vec![first],
            set: None,
        };
        Self {
            processors,
            state: Mutex::new(state),
        }
    }
}

impl State {
    fn names(&self) -> BTreeSet<String> {
        let all = self.attached.iter().flat_map(|it| &it.interfaces);
        all.map(|interface| interface.name.clone()).collect()
    }

    /// The network that has an interface.
    fn of_interface(&mut self, interface: &str, context: &Context) -> Result<&mut Attached> {
        let found = self.attached.iter_mut().find(|it| it.has(interface));
        found.ok_or_else(|| {
            let reason = format!("it has no interface {interface:?}");
            context.error(ErrorKind::NotFound, reason)
        })
    }

    /// All routes and rules that there are to be.
    fn routes(&self) -> (Vec<Route>, Vec<Rule>) {
        if let Some(set) = &self.set {
            return set.clone();
        }
        let routes = self.attached.iter().flat_map(|it| it.routes.clone());
        let rules = self.attached.iter().flat_map(|it| it.rules.clone());
        (routes.collect(), rules.collect())
    }
}

/// Gives interfaces that are new the names that are free, and those that had
/// others before theirs.
fn rename(lease: &mut Lease, renamed: &mut BTreeMap<String, String>, mut taken: BTreeSet<String>) {
    for interface in &lease.interfaces {
        let own = &interface.name;
        let name = renamed.get(own).unwrap_or(own);
        if taken.contains(name) {
            let free = (0_u32..).map(|number| format!("eth{number}"));
            let mut free = free.filter(|name| !taken.contains(name));
            let name = free.next().expect("numbers do not end");
            renamed.insert(own.clone(), name);
        }
        let name = renamed.get(own).unwrap_or(own);
        taken.insert(name.clone());
    }
    let apply = |name: &mut String| {
        if let Some(new) = renamed.get(name) {
            name.clone_from(new);
        }
    };
    lease
        .interfaces
        .iter_mut()
        .for_each(|it| apply(&mut it.name));
    for route in &mut lease.routes {
        apply(&mut route.interface);
        let hops = route.next_hops.iter_mut();
        hops.for_each(|hop| apply(&mut hop.interface));
    }
    for rule in &mut lease.rules {
        let named = rule.input.iter_mut().chain(&mut rule.output);
        named.for_each(apply);
    }
    let neighbors = lease.neighbors.iter_mut();
    neighbors.for_each(|it| apply(&mut it.interface));
    lease.gone.iter_mut().for_each(apply);
}

impl Engine {
    async fn networks(&self) -> MutexGuard<'_, State> {
        self.networks.state.lock().await
    }

    fn plug(&self, context: &Context) -> Result<&dyn NicPlug> {
        self.vm.nics().ok_or_else(|| {
            let reason = "its machine takes no network devices while it runs";
            let error = context.error(ErrorKind::Unsupported, reason);
            error.with_remedy(
                "leave room with SandboxBuilder::spare_interfaces, on a hypervisor that offers it",
            )
        })
    }

    /// Connects the sandbox to a network more, and answers its interfaces.
    pub(crate) async fn add_network(
        self: &Arc<Self>,
        name: &str,
        network: Arc<dyn Network>,
    ) -> Result<Vec<GuestInterface>> {
        let context = self.context("add network to sandbox");
        crate::id::check(name, &context)?;
        if name.len() > LONGEST {
            return Err(context.invalid(format!("the name has more than {LONGEST} bytes")));
        }
        self.require_running(&context)?;
        self.plug(&context)?;
        let (engine, own, called) = (Arc::clone(self), context.clone(), name.to_owned());
        let work = async move { add(&engine, &called, network, &own).await };
        let name = name.to_owned();
        self.complete(&context, work, |engine, _| async move {
            if let Err(error) = engine.remove_network(&name).await {
                log::warn!(sandbox_id = engine.id(), error:%; "left behind");
            }
        })
        .await
    }

    /// Disconnects it from a network that was added.
    pub(crate) async fn remove_network(self: &Arc<Self>, name: &str) -> Result<()> {
        let context = self.context("remove network from sandbox");
        self.require_running(&context)?;
        let (engine, own, name) = (Arc::clone(self), context.clone(), name.to_owned());
        let work = async move { remove(&engine, &name, &own).await };
        self.complete(&context, work, |_, ()| async {}).await
    }

    /// Looks again at what the networks have.
    pub(crate) async fn rescan_networks(self: &Arc<Self>) -> Result<Vec<GuestInterface>> {
        let context = self.context("look at networks of sandbox again");
        self.require_running(&context)?;
        let (engine, own) = (Arc::clone(self), context.clone());
        let work = async move { rescan(&engine, &own).await };
        self.complete(&context, work, |_, _| async {}).await
    }

    /// The network of that name that the sandbox has already.
    pub(crate) async fn own_network(&self, kind: &str) -> Option<Arc<dyn Network>> {
        let state = self.networks().await;
        let mut attached = state.attached.iter();
        let found = attached.find(|it| it.network.name() == kind);
        found.map(|it| Arc::clone(&it.network))
    }

    /// The interfaces, as the guest was told.
    pub(crate) async fn interfaces(&self) -> Vec<GuestInterface> {
        let state = self.networks().await;
        let all = state.attached.iter().flat_map(|it| it.interfaces.clone());
        all.collect()
    }

    /// Routes and rules, as the guest was told.
    pub(crate) async fn routes(&self) -> (Vec<Route>, Vec<Rule>) {
        self.networks().await.routes()
    }

    /// Changes an interface's addresses, MTU and hardware address.
    pub(crate) async fn set_interface(&self, wanted: GuestInterface) -> Result<()> {
        let context = self.context("change interface of sandbox");
        let mut state = self.networks().await;
        let known = state.of_interface(&wanted.name, &context)?;
        let known = known.interfaces.iter_mut();
        let mut known = known.filter(|it| it.name == wanted.name);
        let known = known.next().expect("that network has it");
        let mut told = wanted;
        let new = told.new_mac.unwrap_or(told.mac);
        told.mac = known.mac;
        told.new_mac = (new != known.mac).then_some(new);
        let call = guest_network::tell_interface(&self.agent, &told);
        self.call(&context, call).await?;
        told.mac = new;
        told.new_mac = None;
        *known = told;
        // With an address go the routes that need it.
        self.tell_routes(&state, &context).await
    }

    /// Makes these the routes and rules, in place of those of the networks.
    pub(crate) async fn set_routes(&self, routes: Vec<Route>, rules: Vec<Rule>) -> Result<()> {
        let context = self.context("change routes of sandbox");
        let mut state = self.networks().await;
        let before = state.set.replace((routes, rules));
        let told = self.tell_routes(&state, &context).await;
        if told.is_err() {
            state.set = before;
        }
        told
    }

    /// Limits what goes through an interface.
    pub(crate) async fn limit_interface(
        &self,
        interface: &str,
        limits: &kata_network::RateLimits,
    ) -> Result<()> {
        let context = self.context("limit interface of sandbox");
        self.require_running(&context)?;
        let mut state = self.networks().await;
        let attached = state.of_interface(interface, &context)?;
        let own = attached.own_name(interface);
        let limited = attached.network.limit(&attached.subject, own, limits).await;
        limited.map_err(|error| context.network(error))
    }

    /// What has gone through each interface, as the host counts it; `None` where
    /// the network does not.
    pub(super) async fn counted(&self) -> Vec<(String, Option<kata_network::Counters>)> {
        let state = self.networks().await;
        let mut all = Vec::new();
        for attached in &state.attached {
            let counted = match attached.network.counters(&attached.subject).await {
                Ok(counted) => counted,
                Err(error) => {
                    log::debug!(sandbox_id = self.id(), error:%; "the host does not count");
                    Vec::new()
                }
            };
            for interface in &attached.interfaces {
                let own = attached.own_name(&interface.name);
                let counted = counted.iter().find(|it| it.interface == own);
                all.push((interface.name.clone(), counted.cloned()));
            }
        }
        all
    }

    async fn tell_routes(&self, state: &State, context: &Context) -> Result<()> {
        let (routes, rules) = state.routes();
        let call = guest_network::tell_routes(&self.agent, &routes, &rules);
        self.call(context, call).await
    }

    /// Plugs devices, all or none, and answers which interface has which.
    async fn plug_all(
        &self,
        endpoints: Vec<Endpoint>,
        interfaces: &[GuestInterface],
        context: &Context,
    ) -> Result<BTreeMap<String, MacAddress>> {
        let mut plugged = BTreeMap::new();
        if endpoints.is_empty() {
            return Ok(plugged);
        }
        let plug = self.plug(context)?;
        for endpoint in endpoints {
            let mac = endpoint.mac;
            let device = nics::device(endpoint, context);
            let attached = match device {
                Ok(nic) => plug.attach(nic).await.map_err(|error| context.vm(error)),
                Err(error) => Err(error),
            };
            if let Err(error) = attached {
                self.unplug_all(&mut plugged, context).await?;
                return Err(error);
            }
            let named = interfaces.iter().find(|it| it.mac == mac);
            let name = named.map_or_else(|| mac.to_string(), |it| it.name.clone());
            plugged.insert(name, mac);
        }
        Ok(plugged)
    }

    /// Unplugs devices; those that stay are left.
    async fn unplug_all(
        &self,
        plugged: &mut BTreeMap<String, MacAddress>,
        context: &Context,
    ) -> Result<()> {
        while let Some((name, mac)) = plugged.pop_first() {
            let detached = self.plug(context)?.detach(mac.bytes()).await;
            if let Err(error) = detached {
                plugged.insert(name, mac);
                return Err(context.vm(error));
            }
        }
        Ok(())
    }

    async fn tell_interfaces(&self, wanted: &[GuestInterface], context: &Context) -> Result<()> {
        for interface in wanted {
            let call = guest_network::tell_interface(&self.agent, interface);
            self.call(context, call).await?;
        }
        Ok(())
    }

    async fn tell_neighbors(&self, neighbors: &[Neighbor], context: &Context) -> Result<()> {
        let call = guest_network::tell_neighbors(&self.agent, neighbors);
        self.call(context, call).await
    }
}

async fn add(
    engine: &Arc<Engine>,
    name: &str,
    network: Arc<dyn Network>,
    context: &Context,
) -> Result<Vec<GuestInterface>> {
    let mut state = engine.networks().await;
    if state.attached.iter().any(|it| it.name == name) {
        let reason = format!("it has a network {name:?}");
        return Err(context.error(ErrorKind::AlreadyExists, reason));
    }
    // `+` is in no id: no two sandboxes are called the same.
    let subject = format!("{}+{name}", engine.id());
    let mut attached = Attached::new(name, &subject, Arc::clone(&network));
    let mut site = engine.site.lock().await;
    site.add_network(&subject, network, context).await?;
    drop(site);
    engine.reach("network noted");
    match connect(engine, &state, &mut attached, context).await {
        Ok(()) => {
            let interfaces = attached.interfaces.clone();
            state.attached.push(attached);
            engine.reach("network added");
            let told = engine.tell_routes(&state, context).await;
            if let Err(error) = told {
                let attached = state.attached.pop().expect("it was just added");
                return Err(undo(engine, attached, error, context).await);
            }
            Ok(interfaces)
        }
        Err(error) => Err(undo(engine, attached, error, context).await),
    }
}

/// Sets the network up, plugs its devices, and tells the guest.
async fn connect(
    engine: &Engine,
    state: &State,
    attached: &mut Attached,
    context: &Context,
) -> Result<()> {
    let request = SetupRequest::new(&attached.subject).processors(engine.networks.processors);
    let lease = attached.network.setup(&request).await;
    let mut lease = lease.map_err(|error| context.network(error))?;
    engine.reach("network set up");
    rename(&mut lease, &mut attached.renamed, state.names());
    let endpoints = std::mem::take(&mut lease.endpoints);
    attached.plugged = engine
        .plug_all(endpoints, &lease.interfaces, context)
        .await?;
    engine.reach("devices plugged");
    engine.tell_interfaces(&lease.interfaces, context).await?;
    engine.tell_neighbors(&lease.neighbors, context).await?;
    attached.told(lease);
    Ok(())
}

/// Takes back what there is of a network that could not be added.
async fn undo(engine: &Engine, mut attached: Attached, error: Error, context: &Context) -> Error {
    if let Err(error) = engine.unplug_all(&mut attached.plugged, context).await {
        log::warn!(sandbox_id = engine.id(), error:%; "a network device stays");
    }
    let mut site = engine.site.lock().await;
    if let Err(error) = site.remove_network(&attached.subject, context).await {
        log::warn!(sandbox_id = engine.id(), error:%; "a network stays until the sandbox ends");
    }
    error
}

async fn remove(engine: &Arc<Engine>, name: &str, context: &Context) -> Result<()> {
    let mut state = engine.networks().await;
    let mut named = state.attached.iter().skip(1);
    let index = named.position(|it| it.name == name).map(|index| index + 1);
    let index = index.ok_or_else(|| {
        let reason = format!("no network {name:?} was added");
        context.error(ErrorKind::NotFound, reason)
    })?;
    let plugged = &mut state.attached[index].plugged;
    engine.unplug_all(plugged, context).await?;
    engine.reach("devices unplugged");
    let attached = state.attached.remove(index);
    let told = engine.tell_routes(&state, context).await;
    let mut site = engine.site.lock().await;
    let removed = site.remove_network(&attached.subject, context).await;
    drop(site);
    engine.reach("network removed");
    told.and(removed)
}

async fn rescan(engine: &Arc<Engine>, context: &Context) -> Result<Vec<GuestInterface>> {
    let mut state = engine.networks().await;
    let room = if engine.vm.nics().is_some() {
        usize::MAX
    } else {
        0
    };
    let (mut left_out, mut unsupported, mut looked) = (Vec::new(), None, false);
    for index in 0..state.attached.len() {
        let attached = &state.attached[index];
        let request = SetupRequest::new(&attached.subject)
            .processors(engine.networks.processors)
            .most_devices(room);
        match attached.network.rescan(&request).await {
            Ok(mut lease) => {
                looked = true;
                left_out.append(&mut lease.left_out);
                refresh(engine, &mut state, index, lease, context).await?;
            }
            Err(error @ kata_network::Error::Unsupported { .. }) => {
                unsupported.get_or_insert(error);
            }
            Err(error) => return Err(context.network(error)),
        }
    }
    if let Some(error) = unsupported.filter(|_| !looked) {
        return Err(context.network(error));
    }
    engine.tell_routes(&state, context).await?;
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        let reason = format!("its machine has no room for the interfaces {names}");
        let error = context.error(ErrorKind::Unsupported, reason);
        return Err(error.with_remedy(
            "leave room with SandboxBuilder::spare_interfaces, or NetNs::devices_ahead",
        ));
    }
    let all = state.attached.iter().flat_map(|it| it.interfaces.clone());
    Ok(all.collect())
}

/// Makes one network in the guest what it is on the host.
async fn refresh(
    engine: &Engine,
    state: &mut State,
    index: usize,
    mut lease: Lease,
    context: &Context,
) -> Result<()> {
    let mut taken = state.names();
    let attached = &mut state.attached[index];
    for interface in &attached.interfaces {
        taken.remove(&interface.name);
    }
    rename(&mut lease, &mut attached.renamed, taken);
    for gone in &lease.gone {
        if let Some(mac) = attached.plugged.remove(gone) {
            let mut one = BTreeMap::from([(gone.clone(), mac)]);
            let unplugged = engine.unplug_all(&mut one, context).await;
            attached.plugged.append(&mut one);
            unplugged?;
        }
    }
    let endpoints = std::mem::take(&mut lease.endpoints);
    let plugged = engine.plug_all(endpoints, &lease.interfaces, context);
    attached.plugged.append(&mut plugged.await?);
    engine.tell_interfaces(&lease.interfaces, context).await?;
    engine.tell_neighbors(&lease.neighbors, context).await?;
    attached.told(lease);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str) -> GuestInterface {
        GuestInterface::new(name, MacAddress::new([2, 0, 0, 0, 0, 1]), 1500)
    }

    #[test]
    fn a_name_that_is_taken_is_another_in_all_that_has_it() {
        let mut lease = Lease::new();
        lease.interfaces = vec![interface("eth0"), interface("mv0")];
        lease.routes = vec![Route::to("10.0.0.0/8".parse().unwrap(), "eth0")];
        let mut renamed = BTreeMap::new();
        let taken = BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()]);
        rename(&mut lease, &mut renamed, taken.clone());
        assert_eq!(lease.interfaces[0].name, "eth2");
        assert_eq!(lease.interfaces[1].name, "mv0");
        assert_eq!(lease.routes[0].interface, "eth2");
        // It keeps that name.
        let mut again = Lease::new();
        again.interfaces = vec![interface("eth0")];
        rename(&mut again, &mut renamed, taken);
        assert_eq!(again.interfaces[0].name, "eth2");
    }

    #[test]
    fn routes_that_were_set_stand_for_all_others() {
        let mut lease = Lease::new();
        lease.routes = vec![Route::to("10.0.0.0/8".parse().unwrap(), "eth0")];
        let networks = Networks::new("s", Arc::new(kata_network::None), lease, 1);
        let mut state = networks.state.into_inner();
        assert_eq!(state.routes().0.len(), 1);
        state.set = Some((Vec::new(), Vec::new()));
        assert!(state.routes().0.is_empty());
    }
}
