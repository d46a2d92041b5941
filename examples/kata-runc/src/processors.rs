//! Processors and memory nodes that a specification names: the host's, by their
//! numbers. The guest has processors of its own, which the machine runs on those.

use kata_sandbox::oci;

/// Takes `linux.resources.cpu.cpus` and `mems` out of a specification, which the
/// guest gets the rest of; answers resources with nothing else.
pub(crate) fn take(spec: &mut oci::Spec) -> Option<oci::LinuxResources> {
    let linux = spec.linux_mut().as_mut()?;
    let cpu = linux.resources_mut().as_mut()?.cpu_mut().as_mut()?;
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (cpus, mems) = (filled(cpu.cpus()), filled(cpu.mems()));
    cpu.set_cpus(None).set_mems(None);
    if cpus.is_none() && mems.is_none() {
        return None;
    }
    let mut of_host = oci::LinuxCpu::default();
    of_host.set_cpus(cpus).set_mems(mems);
    let mut resources = oci::LinuxResources::default();
    resources.set_cpu(Some(of_host));
    Some(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_the_host_are_taken_and_the_rest_stays() {
        let json = r#"{"ociVersion": "1.0.2", "linux": {"resources":
            {"cpu": {"cpus": "2-3", "mems": "", "quota": 50000}}}}"#;
        let mut spec: oci::Spec = serde_json::from_str(json).unwrap();
        let taken = take(&mut spec).unwrap();
        let of_host = taken.cpu().as_ref().unwrap();
        assert_eq!(of_host.cpus().as_deref(), Some("2-3"));
        assert_eq!((of_host.mems(), of_host.quota()), (&None, None));
        assert_eq!(take(&mut spec), None);
        let linux = spec.linux().as_ref().unwrap();
        let left = linux.resources().as_ref().unwrap().cpu().as_ref().unwrap();
        assert_eq!(left.quota(), Some(50000));
    }
}
