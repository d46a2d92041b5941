//! Whether this host runs our machines.

use std::path::Path;

use kvm_ioctls::{Cap, Kvm};

use super::arch;
use super::settings::{Guests, Settings};
use crate::host_kvm::{Verdict, examine, open};
use crate::probe::{Acceleration, Probe, Severity};

/// What the monitor needs of every KVM, by the names in its documentation.
const NEEDED: [(Cap, &str); 5] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Looks at the host; the probe says why when it is not usable.
pub(super) async fn look(settings: &Settings) -> Result<Probe, Probe> {
    let settings = settings.clone();
    let looked = tokio::task::spawn_blocking(move || examine_host(&settings)).await;
    let probe = looked.unwrap_or_else(|error| {
        let mut probe = Probe::default();
        let what = format!("the examination of KVM failed: {error}");
        probe.find(Severity::Blocker, what, Some("report this"));
        probe
    });
    if probe.is_usable() {
        Ok(probe)
    } else {
        Err(probe)
    }
}

fn examine_host(settings: &Settings) -> Probe {
    let mut probe = Probe::default();
    if !arch::SUPPORTED {
        let what = format!("machines of {} are not supported", std::env::consts::ARCH);
        probe.find(Severity::Blocker, what, Some("use the QEMU backend"));
        return probe;
    }
    let verdict = examine(&settings.device);
    judge(&verdict, settings, &mut probe);
    if !blocked(&probe) {
        capabilities(&settings.device, &mut probe);
    }
    if !blocked(&probe) {
        probe.acceleration = Some(Acceleration::Kvm);
    }
    probe
}

fn blocked(probe: &Probe) -> bool {
    let blocks = |severity| severity == Severity::Blocker;
    probe
        .findings
        .iter()
        .any(|finding| blocks(finding.severity))
}

fn judge(verdict: &Verdict, settings: &Settings, probe: &mut Probe) {
    let Some((what, remedy)) = verdict.problem(&settings.device) else {
        return;
    };
    let severity = match (verdict, settings.guests) {
        (Verdict::NoStockKernel { .. }, Guests::Any) => Severity::Warning,
        _ => Severity::Blocker,
    };
    probe.find(severity, what, Some(remedy));
}

fn capabilities(device: &Path, probe: &mut Probe) {
    let Ok(kvm) = open(device) else {
        let what = format!("{} cannot be opened a second time", device.display());
        return probe.find(Severity::Blocker, what, Some("try again"));
    };
    let all = NEEDED.iter().chain(arch::NEEDED);
    for name in lacking(&kvm, all) {
        let what = format!("the host's KVM lacks {name}");
        probe.find(Severity::Blocker, what, Some("use Linux 5.10 or newer"));
    }
}

fn lacking<'a>(
    kvm: &'a Kvm,
    needed: impl Iterator<Item = &'a (Cap, &'static str)> + 'a,
) -> impl Iterator<Item = &'static str> + 'a {
    needed
        .filter(|(capability, _)| !kvm.check_extension(*capability))
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host_kvm::DEVICE;

    fn judged(verdict: &Verdict, guests: Guests) -> Probe {
        let mut probe = Probe::default();
        let settings = Settings {
            guests,
            ..Settings::default()
        };
        assert_eq!(settings.device, Path::new(DEVICE));
        judge(verdict, &settings, &mut probe);
        probe
    }

    fn no_stock_kernel() -> Verdict {
        Verdict::NoStockKernel {
            pvm: true,
            what: "int3 in ring 0".to_owned(),
        }
    }

    #[test]
    fn a_kvm_without_stock_kernels_blocks_those_who_run_them() {
        let probe = judged(&no_stock_kernel(), Guests::Kernels);
        assert!(blocked(&probe));
        assert!(probe.findings[0].what.contains("kvm_pvm"));
        assert!(!blocked(&judged(&no_stock_kernel(), Guests::Any)));
    }

    #[test]
    fn no_kvm_at_all_blocks_everybody() {
        for verdict in [
            Verdict::Missing,
            Verdict::Unopenable(std::io::ErrorKind::PermissionDenied.into()),
            Verdict::Unusable("old".to_owned()),
        ] {
            let probe = judged(&verdict, Guests::Any);
            assert!(blocked(&probe), "{verdict:?}");
            assert!(probe.findings[0].remedy.is_some());
        }
        assert!(judged(&Verdict::Works, Guests::Kernels).findings.is_empty());
    }

    #[tokio::test]
    async fn a_device_that_is_not_there_is_a_finding() {
        let settings = Settings {
            device: "/nonexistent/kvm".into(),
            ..Settings::default()
        };
        let probe = look(&settings).await.unwrap_err();
        assert!(probe.findings[0].what.contains("/nonexistent/kvm"));
    }
}
