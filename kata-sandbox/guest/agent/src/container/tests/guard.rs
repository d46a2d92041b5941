//! What containers must not get from the agent while it works for them.

use std::os::fd::AsFd as _;

use kata_protocol::agent::{PauseContainerRequest, SignalProcessRequest};
use kata_protocol::ttrpc::Code;

use super::super::SandboxSetup;
use super::{Machine, as_init, shell};

as_init!(
    the_holder_of_a_pid_namespace_has_given_all_up_when_the_sandbox_is_open,
    |machine: Machine| async move {
        let setup = SandboxSetup {
            shared_pid: true,
            ..SandboxSetup::default()
        };
        machine.containers.open_sandbox(&setup).await.unwrap();
        // This process is the first one here, the holder the only other.
        let others = std::fs::read_dir("/proc").unwrap().flatten();
        let mut others = others
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| *pid != 1);
        let holder = others.next().unwrap();
        assert_eq!(others.next(), None);
        let status = std::fs::read_to_string(format!("/proc/{holder}/status")).unwrap();
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let nothing = format!("{set}:\t0000000000000000\n");
            assert!(status.contains(&nothing), "{status}");
        }
        let root = std::fs::read_dir(format!("/proc/{holder}/root/")).unwrap();
        assert_eq!(root.count(), 0);
        machine.containers.destroy_all().await;
    }
);

as_init!(
    what_copies_use_counts_as_the_container_s,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        let group = machine.containers.config.cgroup_root.join("kata/c");
        let members = std::fs::File::open(group.join("cgroup.procs")).unwrap();
        let keep = [members.as_fd()];
        let look = || {
            let text = std::io::read_to_string(&members).map_err(|e| e.to_string())?;
            let own = std::process::id().to_string();
            match text.lines().any(|pid| pid == own) {
                true => Ok(()),
                false => Err(format!("{own} is not among {text}")),
            }
        };
        machine
            .containers
            .in_container("c", &keep, look)
            .await
            .unwrap();
        let pause = PauseContainerRequest {
            container_id: "c".into(),
        };
        machine.containers.pause(pause).await.unwrap();
        let status = machine.containers.in_container("c", &[], || Ok(())).await;
        assert!(status.unwrap_err().message.contains("is paused"));
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    the_guest_s_console_is_no_container_s,
    |machine: Machine| async move {
        let script = "busybox mknod /tmp/console c 5 1; true < /tmp/console && echo open; \
                      busybox mknod /tmp/null c 1 3; true < /tmp/null && echo null";
        let (output, _) = machine.run(machine.request("c", script)).await;
        assert_eq!(output, "null\n");
    }
);

as_init!(
    signalling_many_processes_does_not_list_them_for_each,
    |machine: Machine| async move {
        let script = "trap : USR1; i=0; while [ $i -lt 300 ]; do (trap 'exit 3' USR1; \
                      sleep 1000 & wait) & i=$((i+1)); done; echo ready; wait; wait; sleep 1000";
        machine.create_and_start(machine.request("c", script)).await;
        let read = kata_protocol::agent::ReadStreamRequest {
            container_id: "c".into(),
            len: 10,
            ..Default::default()
        };
        machine.containers.read_stdout(read).await.unwrap();
        let reads = || {
            let io = std::fs::read_to_string("/proc/self/io").unwrap();
            let line = io.lines().find_map(|line| line.strip_prefix("syscr: "));
            line.unwrap().parse::<u64>().unwrap()
        };
        let before = reads();
        let request = SignalProcessRequest {
            container_id: "c".into(),
            signal: libc::SIGUSR1.cast_unsigned(),
            ..Default::default()
        };
        machine.containers.signal(request).await.unwrap();
        // Two lists, each read in pieces, and what a log costs.
        assert!(reads() - before < 60, "{} reads", reads() - before);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    the_null_device_of_a_stream_cannot_be_changed,
    |machine: Machine| async move {
        use std::os::unix::fs::MetadataExt as _;
        let mode = || std::fs::metadata("/dev/null").unwrap().mode();
        let before = mode();
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        // The mode that it has, so that nothing is lost if it can be set.
        let script = format!(
            "busybox chmod {:o} /proc/self/fd/0 2> /dev/null || echo kept >&2; \
             cat; echo gone > /proc/self/fd/1",
            before & 0o7777
        );
        let request = kata_protocol::agent::ExecProcessRequest {
            container_id: "c".into(),
            exec_id: "e".into(),
            process: Some(shell(&script)),
            stderr_port: 7,
            ..Default::default()
        };
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        machine.streams.insert(7, near.into());
        machine.containers.exec(request).await.unwrap();
        assert_eq!(machine.wait("c", "e").await.status, 0);
        let (tell, read) = tokio::sync::oneshot::channel();
        let reading = std::thread::spawn(move || tell.send(std::io::read_to_string(far)));
        assert_eq!(read.await.unwrap().unwrap(), "kept\n");
        reading.join().unwrap().unwrap();
        assert_eq!(mode(), before);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    the_agent_s_own_program_is_no_container_s,
    |machine: Machine| async move {
        std::os::unix::fs::symlink("/proc/self/exe", machine.path("rootfs/bin/self")).unwrap();
        let script = machine.path("rootfs/bin/script");
        std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, executable).unwrap();
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        for program in ["/proc/self/exe", "self", "script"] {
            let mut process = shell("");
            process.args = vec![program.into(), "--help".into()];
            let status = machine.exec("c", "e", process).await.unwrap_err();
            assert_eq!(status.code(), Code::PermissionDenied, "{program}: {status}");
            assert!(status.message.contains("the agent's own"), "{status}");
        }
        machine.remove("c").await.unwrap();
    }
);

/// A process that may look into others.
fn tracer(script: &str) -> kata_protocol::agent::Process {
    let mut process = shell(script);
    let sets = process.capabilities.as_mut().unwrap();
    for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
        set.push("CAP_SYS_PTRACE".into());
    }
    process
}

as_init!(
    no_process_is_seen_before_it_has_given_up_its_privileges,
    |machine: Machine| async move {
        // CAP_SYS_ADMIN is the agent's, and nobody's in the container.
        let script = "while [ ! -e /tmp/end ]; do \
                      grep -l 'CapEff:.*[2367abef].....$' /proc/[0-9]*/status 2>/dev/null; \
                      done > /tmp/seen";
        let mut request = machine.request("c", "");
        request.oci.as_mut().unwrap().process = Some(tracer(script));
        machine.create_and_start(request).await;
        for round in 0..60 {
            let id = format!("e{round}");
            let process = if round % 2 == 0 {
                shell("true")
            } else {
                tracer("true")
            };
            machine.exec("c", &id, process).await.unwrap();
            assert_eq!(machine.wait("c", &id).await.status, 0);
        }
        std::fs::write(machine.path("rootfs/tmp/end"), "").unwrap();
        machine.wait("c", "").await;
        let seen = std::fs::read_to_string(machine.path("rootfs/tmp/seen")).unwrap();
        assert_eq!(seen, "");
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_process_whose_making_is_hidden_is_as_any_other,
    |machine: Machine| async move {
        let mut request = machine.request("c", "");
        request.oci.as_mut().unwrap().process = Some(tracer("sleep 1000"));
        machine.create_and_start(request).await;
        let mut process = shell("tty; id -u; echo $HOME; readlink /proc/self/ns/pid; exit 4");
        process.terminal = true;
        process.no_new_privileges = true;
        process.user = Some(kata_protocol::agent::User {
            uid: 1000,
            ..Default::default()
        });
        machine.exec("c", "e", process).await.unwrap();
        let output = machine.output("c", "e").await;
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(lines[..3], ["/dev/pts/0", "1000", "/home/bob"]);
        let pid = machine.exec("c", "f", tracer("readlink /proc/1/ns/pid; kill -9 $$"));
        assert!(pid.await.unwrap() > 1);
        let first = machine.output("c", "f").await;
        assert_eq!(first.trim(), lines[3]);
        assert_eq!(machine.wait("c", "e").await.status, 4);
        assert_eq!(machine.wait("c", "f").await.signal, 9);
        let mut missing = shell("");
        missing.args = vec!["nothing".into()];
        let status = machine.exec("c", "g", missing).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_filter_that_needs_no_privilege_may_forbid_making_processes,
    |machine: Machine| async move {
        use kata_protocol::agent::{LinuxSeccomp, LinuxSyscall};
        let mut request = machine.request("c", "");
        let spec = request.oci.as_mut().unwrap();
        spec.process = Some(tracer("exec sleep 1000"));
        spec.process.as_mut().unwrap().no_new_privileges = true;
        let forbid = LinuxSyscall {
            names: [
                "clone", "clone3", "fork", "vfork", "sendmsg", "recvmsg", "setsid",
            ]
            .map(String::from)
            .to_vec(),
            action: "SCMP_ACT_ERRNO".into(),
            ..LinuxSyscall::default()
        };
        spec.linux.as_mut().unwrap().seccomp = Some(LinuxSeccomp {
            default_action: "SCMP_ACT_ALLOW".into(),
            syscalls: vec![forbid],
            ..LinuxSeccomp::default()
        });
        machine.create_and_start(request).await;
        let mut process = shell("");
        process.args = ["echo", "here"].map(String::from).to_vec();
        process.no_new_privileges = true;
        machine.exec("c", "e", process).await.unwrap();
        assert_eq!(machine.output("c", "e").await, "here\n");
        machine.remove("c").await.unwrap();
    }
);
