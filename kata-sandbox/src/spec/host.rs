//! What a container has of the host beside files: hooks, and a process id.

use serde::{Deserialize, Serialize};

use super::ContainerSpec;
use crate::engine::devices;

/// What a container has of the host beside files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OnHost {
    /// Whether hooks may run programs of the host.
    pub(crate) allow_hooks: bool,
    /// What stands for the container among the host's processes.
    pub(crate) pid: Option<u32>,
    /// The process that the container ends with.
    #[serde(default)]
    pub(crate) tied_to: Option<u32>,
}

impl ContainerSpec {
    /// Lets the specification's hooks run programs of the host: `prestart` and
    /// `createRuntime` while the container is made, `poststart` after its start,
    /// `poststop` after its end (OCI runtime specification, section "POSIX-platform
    /// Hooks"). Without this, a specification that has any is refused: a library
    /// runs no programs for a file's sake.
    ///
    /// `createContainer` and `startContainer` hooks are programs of the guest,
    /// and always run there.
    #[must_use]
    pub fn allow_host_hooks(mut self) -> Self {
        self.on_host.allow_hooks = true;
        self
    }

    /// Leaves out of `linux.devices` what is the host's alone, block devices
    /// among it, which would be disks of the guest. For a container that is given
    /// all devices there are and none in particular, as engines' "privileged"
    /// ones are: a device that it has of the host alone is refused otherwise.
    #[must_use]
    pub fn without_host_devices(mut self) -> Self {
        if let Some(linux) = self.spec.linux_mut()
            && let Some(devices) = linux.devices_mut()
        {
            devices.retain(devices::is_everywhere);
        }
        self
    }

    /// The host's process that stands for the container, which hooks are told as
    /// its `pid`; by default 0. Its processes are in the guest, where no hook of
    /// the host can reach them.
    #[must_use]
    pub fn host_pid(mut self, pid: u32) -> Self {
        self.on_host.pid = Some(pid);
        self
    }

    /// Has the container end when that process of the host ends: as if its first
    /// process had been killed, or as if it were deleted when it was not started
    /// yet. For a program that stands for a container among the host's
    /// processes, and may be killed in its place.
    #[must_use]
    pub fn tied_to(mut self, pid: u32) -> Self {
        self.on_host.tied_to = Some(pid);
        self
    }
}

#[cfg(test)]
mod tests {
    use crate::{ContainerSpec, Rootfs};

    #[test]
    fn devices_of_the_host_alone_are_left_out_on_demand() {
        let spec = ContainerSpec::new(Rootfs::Dir("/".into())).edit_oci(|spec| {
            let devices = serde_json::json!([
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
                {"path": "/dev/dri/card0", "type": "c", "major": 226, "minor": 0},
                {"path": "/dev/sda", "type": "b", "major": 8, "minor": 0},
                {"path": "/dev/pipe", "type": "p", "major": 0, "minor": 0},
            ]);
            let linux = spec.linux_mut().as_mut().unwrap();
            linux.set_devices(Some(serde_json::from_value(devices).unwrap()));
        });
        let spec = spec.without_host_devices();
        let devices = spec.oci().linux().as_ref().unwrap().devices().as_ref();
        let left = devices
            .unwrap()
            .iter()
            .map(|device| device.path().display());
        let left: Vec<String> = left.map(|path| path.to_string()).collect();
        assert_eq!(left, ["/dev/fuse", "/dev/pipe"]);
    }
}
