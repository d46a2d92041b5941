//! A specification to begin with.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::cli::{Arguments, Globals};
use crate::failure::{Failure, Result};

const FILE: &str = "config.json";
/// What runc 1.1 writes, which those who edit it know.
const TEMPLATE: &str = include_str!("spec.json");

/// The command.
pub(crate) fn spec(_: &Globals, arguments: &Arguments) -> Result<u8> {
    let directory = Path::new(arguments.filled("bundle").unwrap_or("."));
    if !directory.is_dir() {
        let missing = std::io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error());
        return Err(Failure::io("chdir", directory, &missing));
    }
    let text = match arguments.has("rootless") {
        true => rootless()?,
        false => TEMPLATE.to_owned(),
    };
    let path = directory.join(FILE);
    let mut options = std::fs::File::options();
    let made = options.write(true).create_new(true).mode(0o666).open(&path);
    let mut file = made.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::new(format!("File {FILE} exists. Remove it first"))
        }
        _ => Failure::io("open", &path, &error),
    })?;
    file.write_all(text.as_bytes())
        .map_err(|error| Failure::io("write", &path, &error))?;
    Ok(0)
}

/// The same for a user without privileges: with a user namespace that maps the
/// user to root, the host's network and no limits.
fn rootless() -> Result<String> {
    let broken = |error: serde_json::Error| Failure::new(error.to_string());
    let mut spec: Value = serde_json::from_str(TEMPLATE).map_err(broken)?;
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let linux = &mut spec["linux"];
    linux["uidMappings"] = serde_json::json!([{"containerID": 0, "hostID": uid, "size": 1}]);
    linux["gidMappings"] = serde_json::json!([{"containerID": 0, "hostID": gid, "size": 1}]);
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(serde_json::json!({"type": "user"}));
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        for mount in mounts {
            rootless_mount(mount);
        }
    }
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut text, tabs);
    serde::Serialize::serialize(&spec, &mut writer).map_err(broken)?;
    String::from_utf8(text).map_err(|error| Failure::new(error.to_string()))
}

/// Without the host's network, sysfs must be the host's; without other groups,
/// there is none for terminals.
fn rootless_mount(mount: &mut Value) {
    if let Some(options) = mount.get_mut("options").and_then(Value::as_array_mut) {
        options.retain(|option| !option.as_str().is_some_and(|it| it.starts_with("gid=")));
    }
    if mount["type"] == "sysfs" {
        mount["source"] = "/sys".into();
        mount["type"] = "none".into();
        mount["options"] = serde_json::json!(["rbind", "nosuid", "noexec", "nodev", "ro"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_specification() {
        let spec: kata_sandbox::oci::Spec = serde_json::from_str(TEMPLATE).unwrap();
        assert!(spec.process().is_some() && spec.linux().is_some());
        let spec: kata_sandbox::oci::Spec = serde_json::from_str(&rootless().unwrap()).unwrap();
        assert!(spec.linux().as_ref().unwrap().uid_mappings().is_some());
    }
}
