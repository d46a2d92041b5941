//! What a specification may ask for, as a container's process sees it.

use kata_protocol::agent::{
    Hook, Hooks, IoPriority, Linux, LinuxIdMapping, LinuxNamespace, LinuxSeccomp, Personality,
    Process, Scheduler, Spec,
};
use kata_protocol::ttrpc::Code;

use super::{Machine, as_init, mount, shell};

/// Runs a script in a container whose specification is changed first.
async fn run(machine: &Machine, script: &str, change: impl FnOnce(&mut Spec)) -> String {
    let mut request = machine.request("c", script);
    change(request.oci.as_mut().unwrap());
    machine.run(request).await.0
}

fn linux(spec: &mut Spec) -> &mut Linux {
    spec.linux.as_mut().unwrap()
}

fn process(spec: &mut Spec) -> &mut Process {
    spec.process.as_mut().unwrap()
}

as_init!(
    file_systems_of_every_kind_are_mounted,
    |machine: Machine| async move {
        let script = "grep -E ' /(sys|dev/mqueue|dev/shm|cgroup|mnt) ' /proc/mounts; \
                      cat /proc/self/cgroup";
        let output = run(&machine, script, |spec| {
            spec.mounts.extend([
                mount(
                    "sysfs",
                    "/sys",
                    "sysfs",
                    &["nosuid", "noexec", "nodev", "ro"],
                ),
                mount(
                    "mqueue",
                    "/dev/mqueue",
                    "mqueue",
                    &["nosuid", "noexec", "nodev"],
                ),
                mount(
                    "shm",
                    "/dev/shm",
                    "tmpfs",
                    &["nosuid", "mode=1777", "size=65536k"],
                ),
                mount("cgroup", "/cgroup", "cgroup", &["nosuid", "relatime", "ro"]),
                mount(
                    "tmpfs",
                    "/mnt",
                    "tmpfs",
                    &["noatime", "nosymfollow", "nr_inodes=9"],
                ),
            ]);
        })
        .await;
        let lines: Vec<_> = output.lines().collect();
        for (line, parts) in lines.iter().zip([
            ["sysfs /sys sysfs ro,", "noexec"],
            ["mqueue /dev/mqueue mqueue rw,", "nodev"],
            ["shm /dev/shm tmpfs rw,", "size=65536k"],
            ["cgroup /cgroup cgroup2 ro,", "relatime"],
            ["tmpfs /mnt tmpfs rw,", "nosymfollow"],
        ]) {
            assert!(
                line.starts_with(parts[0]) && line.contains(parts[1]),
                "{output}"
            );
        }
        // Its own group is the root of what it sees.
        assert!(lines.contains(&"0::/"), "{output}");
    }
);

as_init!(
    a_tmpfs_may_have_what_it_covers,
    |machine: Machine| async move {
        let script =
            "cat /etc/group | head -n 1; stat -c %a /etc; echo new > /etc/new && cat /etc/new";
        let output = run(&machine, script, |spec| {
            spec.mounts
                .push(mount("tmpfs", "/etc", "tmpfs", &["tmpcopyup", "size=1m"]));
        })
        .await;
        assert_eq!(output, "root:x:0:\n755\nnew\n");
        assert!(!machine.path("rootfs/etc/new").exists());
        let output = run(
            &machine,
            "touch /etc/new || cat /etc/group | head -n 1",
            |spec| {
                spec.mounts
                    .push(mount("tmpfs", "/etc", "tmpfs", &["tmpcopyup", "ro"]));
            },
        )
        .await;
        assert_eq!(output, "root:x:0:\n");
    }
);

as_init!(
    options_may_reach_below_a_mount_or_not,
    |machine: Machine| async move {
        let tree = machine.path("tree");
        std::fs::create_dir_all(tree.join("below")).unwrap();
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", tree.join("below"), "tmpfs", none, None).unwrap();
        let source = tree.to_str().unwrap();
        let script = "touch /a/x || echo a; touch /a/below/x && echo in-a; \
                      touch /b/x || echo b; touch /b/below/x || echo in-b";
        let output = run(&machine, script, |spec| {
            spec.mounts.extend([
                mount(source, "/a", "bind", &["rbind", "ro"]),
                mount(source, "/b", "bind", &["rbind", "rro"]),
            ]);
        })
        .await;
        assert_eq!(output, "a\nin-a\nb\nin-b\n");
        let script = "touch /tmp/y || echo locked";
        let output = run(&machine, script, |spec| {
            spec.mounts.extend([
                mount("tmpfs", "/tmp", "tmpfs", &[]),
                mount("tmpfs", "/tmp", "tmpfs", &["remount", "ro"]),
            ]);
        })
        .await;
        assert_eq!(output, "locked\n");
    }
);

as_init!(
    ids_of_a_mount_are_mapped_as_it_says_or_as_the_container_s,
    |machine: Machine| async move {
        let none = rustix::mount::MountFlags::empty();
        let shared = machine.path("shared");
        std::fs::create_dir(&shared).unwrap();
        rustix::mount::mount("tmpfs", &shared, "tmpfs", none, None).unwrap();
        std::fs::write(shared.join("file"), "").unwrap();
        let mapping = LinuxIdMapping {
            container_id: 0,
            host_id: 5000,
            size: 10,
        };
        let mut request = machine.request("c", "stat -c %u:%g /mnt/file");
        let mut bind = mount(shared.to_str().unwrap(), "/mnt", "bind", &["bind", "idmap"]);
        request.oci.as_mut().unwrap().mounts.push(bind.clone());
        let status = machine
            .containers
            .create(request.clone())
            .await
            .unwrap_err();
        assert!(
            status
                .message
                .starts_with("mounts[3]: idmap needs mappings"),
            "{status}"
        );
        bind.uid_mappings = vec![mapping];
        bind.gid_mappings = vec![mapping];
        *request.oci.as_mut().unwrap().mounts.last_mut().unwrap() = bind;
        match machine.containers.create(request).await {
            // File systems learn it one after the other, tmpfs with 6.3.
            Err(status) => assert!(status.message.contains("map its ids"), "{status}"),
            Ok(()) => {
                machine.start("c").await.unwrap();
                assert_eq!(machine.output("c", "").await, "5000:5000\n");
                machine.remove("c").await.unwrap();
            }
        }
    }
);

as_init!(
    the_root_propagates_as_asked_for,
    |machine: Machine| async move {
        // The optional fields of the root's line.
        let script = "grep ' / / ' /proc/self/mountinfo | grep -o 'shared:\\|unbindable' ; echo -";
        for (wanted, expected) in [
            ("shared", "shared:\n-\n"),
            ("rslave", "-\n"),
            ("private", "-\n"),
            ("unbindable", "unbindable\n-\n"),
        ] {
            let script = script.replace("' / / '", "' / '");
            let output = run(&machine, &script, |spec| {
                linux(spec).rootfs_propagation = wanted.into();
            })
            .await;
            assert_eq!(output, expected, "{wanted}");
        }
        let mut request = machine.request("c", "true");
        linux(request.oci.as_mut().unwrap()).rootfs_propagation = "sideways".into();
        let status = machine.containers.create(request).await.unwrap_err();
        assert!(
            status.message.contains("linux.rootfsPropagation"),
            "{status}"
        );
    }
);

as_init!(
    scheduling_and_personality_are_as_asked_for,
    |machine: Machine| async move {
        let script = "read line < /proc/$$/stat; set -- $line; echo ${41} ${19}; busybox ionice -p $$; busybox uname -m; \
                      cat /proc/self/oom_score_adj";
        let output = run(&machine, script, |spec| {
            let process = process(spec);
            process.scheduler = Some(Scheduler {
                policy: "SCHED_BATCH".into(),
                nice: 5,
                flags: vec!["SCHED_FLAG_RESET_ON_FORK".into()],
                ..Scheduler::default()
            });
            process.io_priority = Some(IoPriority {
                class: "IOPRIO_CLASS_BE".into(),
                priority: 6,
            });
            process.oom_score_adj = 321;
            linux(spec).personality = Some(Personality {
                domain: "LINUX32".into(),
                ..Personality::default()
            });
        })
        .await;
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(lines[0], format!("{} 5", libc::SCHED_BATCH));
        assert_eq!(lines[1], "best-effort: prio 6");
        assert_eq!(
            lines[2],
            if cfg!(target_arch = "x86_64") {
                "i686"
            } else {
                lines[2]
            }
        );
        assert_eq!(lines[3], "321");
    }
);

as_init!(
    ambient_capabilities_survive_a_change_of_user,
    |machine: Machine| async move {
        let script = "id -u; grep -E 'Cap(Inh|Eff|Amb)' /proc/self/status";
        let output = run(&machine, script, |spec| {
            let process = process(spec);
            process.user = Some(kata_protocol::agent::User {
                uid: 1000,
                ..Default::default()
            });
            let sets = process.capabilities.as_mut().unwrap();
            let kill = vec!["CAP_KILL".to_owned()];
            (sets.inheritable, sets.ambient) = (kill.clone(), kill);
        })
        .await;
        let kill = "0000000000000020";
        assert_eq!(
            output,
            format!("1000\nCapInh:\t{kill}\nCapEff:\t{kill}\nCapAmb:\t{kill}\n")
        );
    }
);

as_init!(
    names_parameters_and_the_directory_are_the_container_s,
    |machine: Machine| async move {
        let script =
            "hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/shm_rmid_forced; pwd";
        let output = run(&machine, script, |spec| {
            spec.hostname = "own".into();
            spec.domainname = "example.org".into();
            linux(spec).sysctl = [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into();
            process(spec).cwd = "/srv/made".into();
        })
        .await;
        assert_eq!(output, "own\nexample.org\n1\n/srv/made\n");
    }
);

as_init!(
    namespaces_of_another_container_can_be_joined,
    |machine: Machine| async move {
        let mut first = machine.request("first", "exec sleep 1000");
        first.oci.as_mut().unwrap().hostname = "shared-name".into();
        machine.create_and_start(first).await;
        let script = "hostname; grep -c sleep /proc/1/cmdline; readlink /proc/self/ns/ipc";
        let joined = ["pid", "uts", "ipc"].map(|kind| LinuxNamespace {
            r#type: kind.into(),
            path: "container:first".into(),
        });
        let output = run(&machine, script, |spec| {
            spec.hostname.clear();
            linux(spec).namespaces = joined.to_vec();
        })
        .await;
        machine
            .exec("first", "e", shell("readlink /proc/self/ns/ipc"))
            .await
            .unwrap();
        let ipc = machine.output("first", "e").await;
        assert_eq!(output, format!("shared-name\n1\n{ipc}"));
        let mut request = machine.request("c", "true");
        let spec = request.oci.as_mut().unwrap();
        linux(spec).namespaces[0].path = "container:nobody".into();
        let status = machine.containers.create(request).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message.starts_with("linux.namespaces: "), "{status}");
        machine.remove("first").await.unwrap();
    }
);

as_init!(
    a_hook_that_fails_fails_the_call_with_its_words,
    |machine: Machine| async move {
        let hook = || Hook {
            path: "/bin/sh".into(),
            args: ["sh", "-c", "echo no luck >&2; exit 5"]
                .map(String::from)
                .to_vec(),
            ..Hook::default()
        };
        let mut request = machine.request("c", "true");
        request.oci.as_mut().unwrap().hooks = Some(Hooks {
            create_container: vec![hook()],
            ..Hooks::default()
        });
        let status = machine.containers.create(request).await.unwrap_err();
        let expected = "hook /bin/sh: exit status 5: no luck";
        assert_eq!(status.message, format!("hooks.createContainer: {expected}"));
        let mut request = machine.request("c", "true");
        request.oci.as_mut().unwrap().hooks = Some(Hooks {
            start_container: vec![hook()],
            ..Hooks::default()
        });
        machine.containers.create(request).await.unwrap();
        let status = machine.start("c").await.unwrap_err();
        assert_eq!(status.message, format!("hooks.startContainer: {expected}"));
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    calls_in_no_rule_answer_the_profile_s_error,
    |machine: Machine| async move {
        let names = "access arch_prctl brk close dup2 dup3 execve exit exit_group faccessat \
                     fcntl fork clone getpid getppid geteuid getuid getgid getegid ioctl mmap \
                     mprotect munmap newfstatat openat open pipe2 poll prctl prlimit64 read \
                     rseq rt_sigaction rt_sigprocmask rt_sigreturn set_robust_list \
                     set_tid_address setgid setuid stat fstat lstat umask uname vfork wait4 \
                     write writev getrandom readlink getcwd sysinfo getgroups";
        let profile = LinuxSeccomp {
            default_action: "SCMP_ACT_ERRNO".into(),
            default_errno_ret: Some(38),
            syscalls: vec![kata_protocol::agent::LinuxSyscall {
                names: names.split_whitespace().map(str::to_owned).collect(),
                action: "SCMP_ACT_ALLOW".into(),
                ..Default::default()
            }],
            ..LinuxSeccomp::default()
        };
        let output = run(&machine, "mkdir /tmp/d 2>&1", |spec| {
            process(spec).no_new_privileges = true;
            linux(spec).seccomp = Some(profile);
        })
        .await;
        assert!(output.contains("Function not implemented"), "{output}");
    }
);

as_init!(
    a_further_process_runs_where_it_is_told,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        let mut process = shell("grep Cpus_allowed_list /proc/self/status");
        process.exec_cpu_affinity = Some(kata_protocol::agent::ExecCpuAffinity {
            initial: String::new(),
            r#final: "0".into(),
        });
        machine.exec("c", "e", process.clone()).await.unwrap();
        assert_eq!(machine.output("c", "e").await, "Cpus_allowed_list:\t0\n");
        process.exec_cpu_affinity.as_mut().unwrap().initial = "none".into();
        let status = machine.exec("c", "f", process).await.unwrap_err();
        assert!(
            status.message.starts_with("process.execCPUAffinity: "),
            "{status}"
        );
        machine.remove("c").await.unwrap();
    }
);
