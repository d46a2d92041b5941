//! Kernel parameters of a container's namespaces.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kata_protocol::ttrpc::Status;

use crate::process::{Context as _, refuse};

/// Sets parameters, through the agent's own `/proc`: which namespace they are
/// of is decided by the process that writes them.
pub(super) fn apply(parameters: &BTreeMap<String, String>) -> Result<(), Status> {
    for (name, value) in parameters {
        let path = path(name)
            .ok_or_else(|| refuse(format!("linux.sysctl: {name:?} is no kernel parameter")))?;
        std::fs::write(path, value).context(|| format!("linux.sysctl: set {name} to {value:?}"))?;
    }
    Ok(())
}

/// Dots separate, unless a slash does so first, as for sysctl(8): a network
/// interface may have dots in its name.
fn path(name: &str) -> Option<PathBuf> {
    let dots = match (name.find('.'), name.find('/')) {
        (Some(dot), Some(slash)) => dot < slash,
        (dot, None) => dot.is_some(),
        (None, Some(_)) => false,
    };
    let parts: Vec<String> = if dots {
        name.split('.').map(|part| part.replace('/', ".")).collect()
    } else {
        name.split('/').map(str::to_owned).collect()
    };
    let sound = parts
        .iter()
        .all(|part| !part.is_empty() && part != "." && part != "..");
    (parts.len() > 1 && sound).then(|| ["/proc/sys".to_owned()].into_iter().chain(parts).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn names_become_paths_below_proc_sys() {
        let is = |name: &str, expected: &str| path(name).as_deref() == Some(Path::new(expected));
        assert!(is("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"));
        assert!(is(
            "net/ipv4/conf/eth0.1/forwarding",
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
        ));
        assert!(is(
            "net.ipv4.conf.eth0/1.forwarding",
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
        ));
    }

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        for name in [
            "../../etc/passwd",
            "kernel/../../x",
            "kernel",
            "",
            "kernel..x",
            "/etc/passwd",
        ] {
            assert_eq!(path(name), None, "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_name_leads_out_of_proc_sys(name in "[a-z./]{0,24}") {
            if let Some(path) = path(&name) {
                let below = path.strip_prefix("/proc/sys").unwrap();
                let plain = |part| matches!(part, std::path::Component::Normal(_));
                proptest::prop_assert!(below.components().all(plain), "{path:?}");
            }
        }
    }
}
