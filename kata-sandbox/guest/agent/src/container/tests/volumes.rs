//! Mounts from volumes that containers write to.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Machine, as_init, mount};

/// A volume as the agent mounts them: after its start.
fn volume(machine: &Machine, name: &str) -> String {
    let path = machine.path(name);
    std::fs::create_dir(&path).unwrap();
    let none = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", &path, "tmpfs", none, None).unwrap();
    path.to_str().unwrap().to_owned()
}

as_init!(
    a_link_planted_in_a_volume_shows_nothing_of_the_guest,
    |machine: Machine| async move {
        let shared = volume(&machine, "shared");
        let secret = machine.path("secret");
        std::fs::create_dir(&secret).unwrap();
        std::fs::write(secret.join("file"), "guest's").unwrap();
        // As its other user would, who may choose any path.
        symlink(&secret, Path::new(&shared).join("sub")).unwrap();
        symlink("/", Path::new(&shared).join("root")).unwrap();
        std::fs::write(Path::new(&shared).join("own"), "volume's").unwrap();

        let mut request = machine.request("c", "cat /mnt/file");
        let source = format!("{shared}/sub");
        let mounts = &mut request.oci.as_mut().unwrap().mounts;
        mounts.push(mount(&source, "/mnt", "bind", &["bind"]));
        let status = machine.containers.create(request).await.unwrap_err();
        assert!(status.message.contains("/shared/sub"), "{status}");

        let mut request = machine.request("c", "cat /mnt/own");
        let source = format!("{shared}/root");
        let mounts = &mut request.oci.as_mut().unwrap().mounts;
        mounts.push(mount(&source, "/mnt", "bind", &["rbind"]));
        assert_eq!(machine.run(request).await.0, "volume's");
    }
);

as_init!(
    a_root_that_a_link_leads_out_of_its_volume_is_none,
    |machine: Machine| async move {
        let shared = volume(&machine, "shared");
        symlink(machine.path("rootfs"), Path::new(&shared).join("rootfs")).unwrap();
        let mut request = machine.request("c", "true");
        request.oci.as_mut().unwrap().root.as_mut().unwrap().path = format!("{shared}/rootfs");
        let status = machine.containers.create(request).await.unwrap_err();
        assert!(status.message.contains("root"), "{status}");
    }
);
