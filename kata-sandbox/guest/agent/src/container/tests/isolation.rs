//! What a container's processes can see and do.

use kata_protocol::agent::linux_syscall::ErrnoRet;
use kata_protocol::agent::{
    Hook, Hooks, LinuxDeviceCgroup, LinuxIdMapping, LinuxNamespace, LinuxResources, LinuxSeccomp,
    LinuxSyscall, LinuxTimeOffset, PosixRlimit, StringUser, User,
};

use super::{Machine, as_init, mount, shell};

as_init!(
    files_outside_cannot_be_seen,
    |machine: Machine| async move {
        let (output, _) = machine
            .run(machine.request("c", "ls /; ls /proc/self/fd; mount"))
            .await;
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(lines[..6], ["bin", "dev", "etc", "proc", "sys", "tmp"]);
        // Its own three, and the directory being listed.
        assert_eq!(lines[6..10], ["0", "1", "2", "3"]);
        assert_eq!(lines[10..].len(), 4, "{output}");
    }
);

as_init!(
    a_working_directory_out_of_the_container_is_refused,
    |machine: Machine| async move {
        let setup = crate::container::SandboxSetup {
            shared_pid: true,
            ..Default::default()
        };
        machine.containers.open_sandbox(&setup).await.unwrap();
        // The first process of a shared pid namespace has the guest's root, and
        // the image says where the link leads.
        let link = machine.path("rootfs/work");
        std::os::unix::fs::symlink("/proc/1/root", link).unwrap();
        let mut request = machine.request("c", "ls");
        request.sandbox_pidns = true;
        request.oci.as_mut().unwrap().process.as_mut().unwrap().cwd = "/work".into();
        machine.containers.create(request).await.unwrap();
        let status = machine.start("c").await.unwrap_err();
        assert!(status.message.contains("not inside"), "{status}");
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    the_first_process_of_a_shared_pid_namespace_has_nothing,
    |machine: Machine| async move {
        let setup = crate::container::SandboxSetup {
            shared_pid: true,
            ..Default::default()
        };
        machine.containers.open_sandbox(&setup).await.unwrap();
        let script = "ls /proc/1/root/ | wc -l; ls /proc/1/cwd/ | wc -l; \
                      grep -E 'Cap(Prm|Bnd)' /proc/1/status";
        let mut request = machine.request("c", script);
        request.sandbox_pidns = true;
        let process = request.oci.as_mut().unwrap().process.as_mut().unwrap();
        let sets = process.capabilities.as_mut().unwrap();
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.push("CAP_SYS_PTRACE".into());
        }
        let (output, _) = machine.run(request).await;
        let none = "0000000000000000";
        assert_eq!(output, format!("0\n0\nCapPrm:\t{none}\nCapBnd:\t{none}\n"));
    }
);

as_init!(
    the_guest_s_null_device_behind_a_masked_path_cannot_be_changed,
    |machine: Machine| async move {
        use std::os::unix::fs::MetadataExt as _;
        let mode = || std::fs::metadata("/dev/null").unwrap().mode();
        let before = mode();
        // The mode that it has, so that nothing is lost if it can be set.
        let script = format!(
            "busybox chmod {:o} /etc/group 2> /dev/null || echo kept; echo x > /etc/group",
            before & 0o7777
        );
        let mut request = machine.request("c", &script);
        let spec = request.oci.as_mut().unwrap();
        spec.linux.as_mut().unwrap().masked_paths = vec!["/etc/group".into()];
        let (output, status) = machine.run(request).await;
        assert_eq!((output.as_str(), status), ("kept\n", 0));
        assert_eq!(mode(), before);
    }
);

as_init!(
    what_is_mounted_below_a_read_only_path_is_seen_and_read_only,
    |machine: Machine| async move {
        let shared = machine.path("shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::write(shared.join("file"), "text").unwrap();
        let mut request = machine.request("c", "cat /a/b/file; touch /a/b/new || echo locked");
        let spec = request.oci.as_mut().unwrap();
        spec.mounts.extend([
            mount("tmpfs", "/a", "tmpfs", &[]),
            mount(shared.to_str().unwrap(), "/a/b", "bind", &["bind"]),
        ]);
        spec.linux.as_mut().unwrap().readonly_paths = vec!["/a".into()];
        let (output, _) = machine.run(request).await;
        assert_eq!(output, "textlocked\n");
    }
);

as_init!(mounts_are_as_asked_for, |machine: Machine| async move {
    let shared = machine.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "text").unwrap();
    let source = shared.to_str().unwrap();
    let mut request = machine.request(
        "c",
        "cat /a/b/file; touch /a/b/new || echo read-only; cat /etc/one; echo x > /data/y; \
         touch /locked/x || echo locked; cat /hidden; ls /secret | wc -l; touch /x || echo ro",
    );
    let spec = request.oci.as_mut().unwrap();
    spec.mounts.extend([
        mount(source, "/a/b", "bind", &["rbind", "ro"]),
        mount(&format!("{source}/file"), "/etc/one", "bind", &["bind"]),
        mount("tmpfs", "/data", "tmpfs", &["size=1m"]),
        mount(source, "/secret", "bind", &["bind"]),
        mount(&format!("{source}/file"), "/hidden", "bind", &["bind"]),
        mount(source, "/locked", "bind", &["bind"]),
    ]);
    spec.root.as_mut().unwrap().readonly = true;
    let linux = spec.linux.as_mut().unwrap();
    linux.masked_paths = ["/hidden", "/secret", "/not/there"]
        .map(String::from)
        .to_vec();
    linux.readonly_paths = vec!["/locked".into()];
    let (output, status) = machine.run(request).await;
    assert_eq!(output, "textread-only\ntextlocked\n0\nro\n");
    assert_eq!(status, 0);
});

as_init!(
    users_groups_limits_and_capabilities_are_as_asked_for,
    |machine: Machine| async move {
        let script = "id -u; id -g; id -G; echo $HOME; umask; ulimit -n; \
                  grep -E '^(Cap(Eff|Bnd)|NoNewPrivs)' /proc/self/status";
        let mut request = machine.request("c", script);
        request.string_user = Some(StringUser {
            uid: "bob".into(),
            ..StringUser::default()
        });
        let process = request.oci.as_mut().unwrap().process.as_mut().unwrap();
        process.umask = Some(0o027);
        process.no_new_privileges = true;
        process.rlimits = vec![PosixRlimit {
            r#type: "RLIMIT_NOFILE".into(),
            hard: 99,
            soft: 88,
        }];
        let (output, _) = machine.run(request).await;
        let expected = "1000\n1000\n1000 50\n/home/bob\n0027\n88\n\
                    CapEff:\t0000000000000000\nCapBnd:\t00000000080000e3\nNoNewPrivs:\t1\n";
        assert_eq!(output, expected);
    }
);

as_init!(
    root_has_the_capabilities_it_is_given,
    |machine: Machine| async move {
        let (output, _) = machine
            .run(machine.request("c", "grep CapEff /proc/self/status"))
            .await;
        assert_eq!(output, "CapEff:\t00000000080000e3\n");
    }
);

as_init!(
    devices_are_there_and_others_denied,
    |machine: Machine| async move {
        let script = "echo x > /dev/null && head -c 1 /dev/zero | wc -c; readlink /dev/fd; \
                      busybox mknod /tmp/mem c 1 1; head -c 1 /tmp/mem > /dev/null || echo denied; \
                      head -c 1 /dev/full | wc -c";
        let (output, _) = machine.run(machine.request("c", script)).await;
        assert_eq!(output, "1\n/proc/self/fd\ndenied\n1\n");
        // The specification's own rules come first, those for everyone after.
        let rule = |allow, major, minor| LinuxDeviceCgroup {
            allow,
            r#type: if major < 0 { "a" } else { "c" }.into(),
            major,
            minor,
            access: "rwm".into(),
        };
        let script =
            "busybox mknod /tmp/tun c 10 200; true < /tmp/tun && echo open; echo > /dev/null";
        for (devices, expected) in [
            (vec![rule(false, -1, -1), rule(true, 10, 200)], "open\n"),
            (vec![rule(true, -1, -1), rule(false, 10, 200)], ""),
        ] {
            let mut request = machine.request("c", script);
            let resources = LinuxResources {
                devices,
                ..LinuxResources::default()
            };
            request
                .oci
                .as_mut()
                .unwrap()
                .linux
                .as_mut()
                .unwrap()
                .resources = Some(resources);
            let (output, status) = machine.run(request).await;
            assert_eq!((output.as_str(), status), (expected, 0));
        }
    }
);

as_init!(
    a_seccomp_profile_is_in_force_for_all_processes,
    |machine: Machine| async move {
        for no_new_privileges in [false, true] {
            let mut request = machine.request("c", "mkdir /tmp/d || echo refused; exec sleep 1000");
            let spec = request.oci.as_mut().unwrap();
            spec.process.as_mut().unwrap().no_new_privileges = no_new_privileges;
            spec.linux.as_mut().unwrap().seccomp = Some(LinuxSeccomp {
                default_action: "SCMP_ACT_ALLOW".into(),
                syscalls: vec![LinuxSyscall {
                    names: ["mkdir", "mkdirat", "from_the_future"]
                        .map(String::from)
                        .to_vec(),
                    action: "SCMP_ACT_ERRNO".into(),
                    ..LinuxSyscall::default()
                }],
                ..LinuxSeccomp::default()
            });
            machine.create_and_start(request).await;
            machine
                .exec("c", "e", shell("mkdir /tmp/e || echo also"))
                .await
                .unwrap();
            assert_eq!(machine.output("c", "e").await, "also\n");
            let read = kata_protocol::agent::ReadStreamRequest {
                container_id: "c".into(),
                len: 100,
                ..Default::default()
            };
            assert_eq!(
                machine.containers.read_stdout(read).await.unwrap().data,
                b"refused\n"
            );
            machine.remove("c").await.unwrap();
        }
    }
);

as_init!(
    a_program_is_found_behind_a_profile_older_than_the_way_to_look,
    |machine: Machine| async move {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let mut request = machine.request("c", "");
            let spec = request.oci.as_mut().unwrap();
            spec.process.as_mut().unwrap().args = ["echo", "found"].map(String::from).to_vec();
            spec.linux.as_mut().unwrap().seccomp = Some(LinuxSeccomp {
                default_action: "SCMP_ACT_ALLOW".into(),
                syscalls: vec![LinuxSyscall {
                    names: vec!["faccessat2".into()],
                    action: "SCMP_ACT_ERRNO".into(),
                    errno_ret: Some(ErrnoRet::Errnoret(errno.unsigned_abs())),
                    ..LinuxSyscall::default()
                }],
                ..LinuxSeccomp::default()
            });
            let (output, status) = machine.run(request).await;
            assert_eq!((output.as_str(), status), ("found\n", 0), "{errno}");
        }
    }
);

as_init!(a_user_namespace_maps_ids, |machine: Machine| async move {
    let mapping = |size| LinuxIdMapping {
        host_id: 100_000,
        container_id: 0,
        size,
    };
    std::os::unix::fs::chown(machine.path("rootfs/tmp"), Some(100_000), Some(100_000)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(machine.path(""), mode).unwrap();
    let mut request = machine.request(
        "c",
        "touch /tmp/mine; echo x > /dev/null && id -u; exec sleep 1000",
    );
    let linux = request.oci.as_mut().unwrap().linux.as_mut().unwrap();
    linux.namespaces.push(LinuxNamespace {
        r#type: "user".into(),
        path: String::new(),
    });
    linux.uid_mappings = vec![mapping(65_536)];
    linux.gid_mappings = vec![mapping(65_536)];
    machine.create_and_start(request).await;
    let read = kata_protocol::agent::ReadStreamRequest {
        container_id: "c".into(),
        len: 100,
        ..Default::default()
    };
    assert_eq!(
        machine.containers.read_stdout(read).await.unwrap().data,
        b"0\n"
    );
    machine
        .exec("c", "e", shell("id -u; cat /proc/self/uid_map"))
        .await
        .unwrap();
    let output = machine.output("c", "e").await;
    let words: Vec<_> = output.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536"]);
    machine.wait("c", "e").await;
    let owner = std::os::unix::fs::MetadataExt::uid(
        &std::fs::metadata(machine.path("rootfs/tmp/mine")).unwrap(),
    );
    assert_eq!(owner, 100_000);
    machine.remove("c").await.unwrap();
});

as_init!(clocks_may_differ, |machine: Machine| async move {
    let mut request = machine.request("c", "cat /proc/uptime; sleep 1000");
    let offset = LinuxTimeOffset {
        secs: 1_000_000_000,
        nanosecs: 0,
    };
    let linux = request.oci.as_mut().unwrap().linux.as_mut().unwrap();
    linux.time_offsets = [("boottime".to_owned(), offset)].into();
    machine.create_and_start(request).await;
    machine
        .exec("c", "e", shell("cat /proc/uptime"))
        .await
        .unwrap();
    assert!(machine.output("c", "e").await.starts_with("10000"));
    machine.remove("c").await.unwrap();
});

as_init!(
    hooks_run_where_and_when_they_should,
    |machine: Machine| async move {
        let log = machine.path("log");
        let hook = |name: &str, file: &str| Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c"]
                .map(String::from)
                .into_iter()
                .chain([format!(
                    "echo {name} $(cat | grep -o '\"status\":\"[a-z]*\"') >> {file}"
                )])
                .collect(),
            env: vec!["PATH=/bin:/usr/bin".into()],
            timeout: 10,
        };
        let outside = log.to_str().unwrap();
        let mut request = machine.request("c", "cat /tmp/log");
        request.oci.as_mut().unwrap().hooks = Some(Hooks {
            prestart: vec![hook("prestart", outside)],
            create_runtime: vec![hook("createRuntime", outside)],
            create_container: vec![hook("createContainer", outside)],
            start_container: vec![hook("startContainer", "/tmp/log")],
            poststart: vec![hook("poststart", outside)],
            poststop: vec![hook("poststop", outside)],
        });
        let (output, _) = machine.run(request).await;
        assert_eq!(output, "startContainer \"status\":\"created\"\n");
        let expected = "prestart \"status\":\"creating\"\ncreateRuntime \"status\":\"creating\"\n\
                    createContainer \"status\":\"creating\"\npoststart \"status\":\"running\"\n\
                    poststop \"status\":\"stopped\"\n";
        assert_eq!(std::fs::read_to_string(log).unwrap(), expected);
    }
);

as_init!(
    the_agent_can_work_inside_a_container,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        let write = || std::fs::write("/tmp/inside", "x").map_err(|error| error.to_string());
        machine
            .containers
            .in_container("c", &[], write)
            .await
            .unwrap();
        assert!(machine.path("rootfs/tmp/inside").exists());
        let status = machine
            .containers
            .in_container("c", &[], || Err("no".into()))
            .await;
        assert_eq!(status.unwrap_err().message, "no");
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_user_that_is_only_a_number_has_its_groups,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        let mut process = shell("id -u; id -g; id -G; echo $HOME");
        let ids = User {
            uid: 7,
            gid: 8,
            additional_gids: vec![9],
            username: String::new(),
        };
        process.user = Some(ids);
        machine.exec("c", "e", process).await.unwrap();
        assert_eq!(machine.output("c", "e").await, "7\n8\n8 9\n/\n");
        machine.remove("c").await.unwrap();
    }
);
