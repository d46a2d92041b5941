//! Devices of the host that a container is given.

use kata_sandbox::oci;

/// Whether a container may use every device, as engines have it for one that is
/// privileged: they list all devices of the host then, and mean none of them in
/// particular.
pub(crate) fn are_all_given(spec: &oci::Spec) -> bool {
    let linux = spec.linux().as_ref();
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    let rules = resources.and_then(|resources| resources.devices().as_ref());
    rules.into_iter().flatten().any(|rule| {
        let kind = rule.typ().unwrap_or(oci::LinuxDeviceType::A);
        let access = rule.access().as_deref().unwrap_or("rwm");
        rule.allow()
            && kind == oci::LinuxDeviceType::A
            && [rule.major(), rule.minor()]
                .iter()
                .all(|number| number.unwrap_or(-1) < 0)
            && "rwm".chars().all(|may| access.contains(may))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_devices_are_given_by_a_rule_without_numbers() {
        let given = |rules: &str| {
            let json = format!(
                "{{\"ociVersion\": \"1.0.2\", \"linux\": {{\"resources\": {{\"devices\": {rules}}}}}}}"
            );
            are_all_given(&serde_json::from_str(&json).unwrap())
        };
        assert!(given("[{\"allow\": true, \"access\": \"rwm\"}]"));
        assert!(given(
            "[{\"allow\": true, \"type\": \"a\", \"major\": -1, \"minor\": -1}]"
        ));
        assert!(!given("[{\"allow\": false, \"access\": \"rwm\"}]"));
        assert!(!given(
            "[{\"allow\": true, \"type\": \"c\", \"access\": \"m\"}]"
        ));
        assert!(!given(
            "[{\"allow\": true, \"type\": \"c\", \"major\": 1, \"minor\": 3}]"
        ));
        assert!(!given("[]"));
    }
}
