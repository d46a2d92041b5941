//! The hypervisors of a runtime, and which of them to take.

use std::collections::BTreeMap;
use std::sync::Arc;

use kata_hypervisor::{Acceleration, Error as VmError, Features, Finding, Hypervisor, Probe};
use tokio::sync::OnceCell;
use tokio::task::JoinSet;

use crate::error::{Context, ErrorKind, Result};

/// What hypervisors have found out about the host, by their names.
pub(crate) type Knowledge = BTreeMap<String, String>;

/// The hypervisors, in the order in which they were added.
#[derive(Debug, Default)]
pub(crate) struct Backends(Vec<Backend>);

#[derive(Clone, Debug)]
struct Backend {
    hypervisor: Arc<dyn Hypervisor>,
    /// Asked once: it takes its time, and hosts do not change.
    probe: Arc<OnceCell<Probe>>,
}

impl Backend {
    async fn probe(&self) -> &Probe {
        self.probe.get_or_init(|| self.hypervisor.probe()).await
    }
}

impl Backends {
    pub(crate) fn add(&mut self, hypervisor: impl Hypervisor) {
        let backend = Backend {
            hypervisor: Arc::new(hypervisor),
            probe: Arc::default(),
        };
        self.0.push(backend);
    }

    /// Those that are built in and run on most hosts, where none was added.
    pub(crate) fn or_default(self) -> Self {
        if self.0.is_empty() {
            Self::built_in()
        } else {
            self
        }
    }

    /// Of those that work equally well, the first is taken.
    fn built_in() -> Self {
        #[cfg_attr(
            not(any(all(feature = "kvm", target_arch = "x86_64"), feature = "qemu")),
            expect(unused_mut, reason = "there is none to add")
        )]
        let mut backends = Self::default();
        #[cfg(all(feature = "kvm", target_arch = "x86_64"))]
        backends.add(kata_hypervisor::kvm::Kvm::new());
        #[cfg(feature = "qemu")]
        backends.add(kata_hypervisor::qemu::Qemu::default());
        backends
    }

    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.0
            .iter()
            .map(|backend| backend.hypervisor.name())
            .collect()
    }

    /// What they have found out that other processes need not.
    pub(crate) fn knowledge(&self) -> Knowledge {
        let all = self.0.iter().filter_map(|Backend { hypervisor, .. }| {
            Some((hypervisor.name().to_owned(), hypervisor.knowledge()?))
        });
        all.collect()
    }

    /// Takes what another process has found out.
    pub(crate) fn recall(&self, knowledge: &Knowledge) {
        for Backend { hypervisor, .. } in &self.0 {
            if let Some(known) = knowledge.get(hypervisor.name()) {
                hypervisor.recall(known);
            }
        }
    }

    /// Checks that there is one to take, without asking it anything.
    pub(crate) fn check(&self, wanted: Option<&str>, context: &Context) -> Result<()> {
        let names = self.names();
        if names.is_empty() {
            let error = context.invalid("there is no hypervisor");
            return Err(
                error.with_remedy("add one to the runtime, or enable the feature qemu or kvm")
            );
        }
        match wanted {
            Some(name) if !names.contains(&name) => {
                let reason = format!("there is no hypervisor {name:?}, only {}", names.join(", "));
                Err(context.invalid(reason))
            }
            _ => Ok(()),
        }
    }

    /// What each finds on this host.
    pub(crate) async fn probe(&self) -> Vec<(&'static str, Probe)> {
        let mut asked = JoinSet::new();
        for (index, backend) in self.0.iter().cloned().enumerate() {
            asked.spawn(async move { (index, backend.probe().await.clone()) });
        }
        let mut found = asked.join_all().await;
        found.sort_by_key(|(index, _)| *index);
        found
            .into_iter()
            .map(|(index, probe)| (self.0[index].hypervisor.name(), probe))
            .collect()
    }

    /// The one of that name, or else the best that works here and offers what is
    /// needed.
    pub(crate) async fn choose(
        &self,
        wanted: Option<&str>,
        needs: Needs,
        context: &Context,
    ) -> Result<Arc<dyn Hypervisor>> {
        self.check(wanted, context)?;
        if let Some(name) = wanted {
            let named = self
                .0
                .iter()
                .find(|backend| backend.hypervisor.name() == name);
            return Ok(Arc::clone(&named.expect("checked above").hypervisor));
        }
        if let [only] = &self.0[..] {
            return Ok(Arc::clone(&only.hypervisor)); // it finds out for itself
        }
        for backend in &self.0 {
            // Nothing beats this: the others need not be asked, which takes long.
            let met = needs.are_met_by(backend.hypervisor.offers());
            if met && rank(backend.probe().await) == BEST_RANK {
                return Ok(Arc::clone(&backend.hypervisor));
            }
        }
        let found = self.probe().await;
        let best = found
            .iter()
            .zip(&self.0)
            .filter(|((_, probe), _)| probe.is_usable())
            // What lacks something is taken where nothing has it, and says so.
            .min_by_key(|((_, probe), backend)| {
                let lacking = !needs.are_met_by(backend.hypervisor.offers());
                (lacking, rank(probe))
            });
        match best {
            Some((_, backend)) => Ok(Arc::clone(&backend.hypervisor)),
            None => Err(none_usable(&found, context)),
        }
    }
}

/// What a sandbox needs that not every hypervisor has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// Its machine is to grow.
    pub(crate) growth: bool,
    /// Disks are to come and go.
    pub(crate) disks: bool,
    /// Network devices are to come and go.
    pub(crate) nics: bool,
    /// It is to be in a control group that this process is not in.
    pub(crate) process: bool,
}

impl Needs {
    fn are_met_by(self, offered: Features) -> bool {
        (!self.growth || offered.hotplug)
            && (!self.disks || offered.disks)
            && (!self.nics || offered.nics)
            && (!self.process || offered.process)
    }
}

const BEST_RANK: u8 = 0;

fn rank(probe: &Probe) -> u8 {
    match probe.acceleration {
        Some(Acceleration::Kvm) => BEST_RANK,
        Some(Acceleration::Emulation) => 2,
        _ => 1,
    }
}

fn none_usable(found: &[(&'static str, Probe)], context: &Context) -> crate::Error {
    let findings: Vec<Finding> = found
        .iter()
        .flat_map(|(name, probe)| {
            probe.findings.iter().map(move |finding| Finding {
                what: format!("{name}: {}", finding.what),
                ..finding.clone()
            })
        })
        .collect();
    let source = VmError::NotCapable {
        backend: "every hypervisor",
        findings,
    };
    context
        .error(
            ErrorKind::HostNotCapable,
            "no hypervisor works on this host",
        )
        .caused_by(source)
}

#[cfg(test)]
mod tests {
    use kata_hypervisor::{Severity, Vm, VmConfig, async_trait};

    use super::*;

    #[derive(Debug)]
    struct Fake(&'static str, Option<Acceleration>);

    #[async_trait]
    impl Hypervisor for Fake {
        fn name(&self) -> &'static str {
            self.0
        }

        async fn probe(&self) -> Probe {
            let mut probe = Probe::default();
            probe.acceleration = self.1;
            if self.1.is_none() {
                probe.find(Severity::Blocker, "no such device", Some("buy one"));
            }
            probe
        }

        async fn create(&self, _: VmConfig) -> kata_hypervisor::Result<Box<dyn Vm>> {
            Err(VmError::Unsupported {
                backend: self.0,
                operation: "creating",
            })
        }
    }

    fn backends(list: impl IntoIterator<Item = Fake>) -> Backends {
        let mut backends = Backends::default();
        list.into_iter().for_each(|fake| backends.add(fake));
        backends
    }

    async fn chosen(backends: &Backends, wanted: Option<&str>) -> Result<&'static str> {
        let context = Context::new("start sandbox", "s");
        backends
            .choose(wanted, Needs::default(), &context)
            .await
            .map(|chosen| chosen.name())
    }

    #[tokio::test]
    async fn the_best_that_works_is_taken_and_the_first_of_equals() {
        let backends = backends([
            Fake("broken", None),
            Fake("slow", Some(Acceleration::Emulation)),
            Fake("fast", Some(Acceleration::Kvm)),
            Fake("fast-too", Some(Acceleration::Kvm)),
        ]);
        assert_eq!(chosen(&backends, None).await.unwrap(), "fast");
        assert_eq!(chosen(&backends, Some("slow")).await.unwrap(), "slow");
        let error = chosen(&backends, Some("none")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(
            error.to_string().contains("only broken, slow, fast"),
            "{error}"
        );
        let probes = backends.probe().await;
        assert_eq!(
            probes.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            backends.names()
        );
    }

    /// Runs machines as they were made, fast.
    #[derive(Debug)]
    struct Rigid;

    #[async_trait]
    impl Hypervisor for Rigid {
        fn name(&self) -> &'static str {
            "rigid"
        }

        async fn probe(&self) -> Probe {
            Fake("rigid", Some(Acceleration::Kvm)).probe().await
        }

        fn offers(&self) -> Features {
            Features::default()
        }

        async fn create(&self, config: VmConfig) -> kata_hypervisor::Result<Box<dyn Vm>> {
            Fake("rigid", None).create(config).await
        }
    }

    #[tokio::test]
    async fn one_that_lacks_what_is_needed_is_passed_over() {
        let mut backends = Backends::default();
        backends.add(Rigid);
        backends.add(Fake("slow", Some(Acceleration::Emulation)));
        let context = Context::new("start sandbox", "s");
        for (growth, disks, nics, process, expected) in [
            (false, false, false, false, "rigid"),
            (true, false, false, false, "slow"),
            (false, true, false, false, "slow"),
            (false, false, true, false, "slow"),
            (false, false, false, true, "slow"),
        ] {
            let needs = Needs {
                growth,
                disks,
                nics,
                process,
            };
            let chosen = backends.choose(None, needs, &context).await.unwrap();
            assert_eq!(chosen.name(), expected);
        }
    }

    /// Keeps what it is told.
    #[derive(Debug, Default)]
    struct Mindful(std::sync::Mutex<Option<String>>);

    #[async_trait]
    impl Hypervisor for Mindful {
        fn name(&self) -> &'static str {
            "mindful"
        }

        async fn probe(&self) -> Probe {
            Probe::default()
        }

        fn knowledge(&self) -> Option<String> {
            self.0.lock().unwrap().clone()
        }

        fn recall(&self, knowledge: &str) {
            *self.0.lock().unwrap() = Some(knowledge.to_owned());
        }

        async fn create(&self, config: VmConfig) -> kata_hypervisor::Result<Box<dyn Vm>> {
            Fake("mindful", None).create(config).await
        }
    }

    #[test]
    fn each_is_told_what_one_of_its_name_found_out() {
        let mut backends = Backends::default();
        backends.add(Fake("forgetful", None));
        backends.add(Mindful::default());
        assert_eq!(backends.knowledge(), Knowledge::new());
        let known = |name: &str| (name.to_owned(), format!("of {name}"));
        backends.recall(&Knowledge::from([known("forgetful"), known("mindful")]));
        assert_eq!(backends.knowledge(), Knowledge::from([known("mindful")]));
    }

    #[tokio::test]
    async fn where_none_works_each_says_why() {
        let error = chosen(&backends([Fake("a", None), Fake("b", None)]), None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::HostNotCapable);
        let text = format!("{error:#}");
        assert!(
            text.contains("a: no such device (buy one); b: no such device"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_runtime_without_any_says_so() {
        let error = chosen(&backends([]), None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.remedy().is_some());
    }
}
