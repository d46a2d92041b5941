//! Creating, running, signalling, pausing, removing.

use kata_protocol::agent::{
    LinuxCapabilities, ListProcessesRequest, PauseContainerRequest, ReadStreamRequest,
    ResumeContainerRequest, SignalProcessRequest, StatsContainerRequest,
};
use kata_protocol::ttrpc::Code;

use super::super::SandboxSetup;
use super::{Machine, as_init, shell};

fn signal(id: &str, exec_id: &str, signal: i32) -> SignalProcessRequest {
    SignalProcessRequest {
        container_id: id.into(),
        exec_id: exec_id.into(),
        signal: signal.cast_unsigned(),
    }
}

as_init!(
    a_container_runs_and_gives_its_output_and_status,
    |machine: Machine| async move {
        let (output, status) = machine
            .run(machine.request("c", "echo $$; hostname; exit 3"))
            .await;
        assert_eq!((output.as_str(), status), ("1\nbox\n", 3));
    }
);

as_init!(
    a_container_waits_to_be_started,
    |machine: Machine| async move {
        machine
            .containers
            .create(machine.request("c", "touch /tmp/ran"))
            .await
            .unwrap();
        assert!(!machine.path("rootfs/tmp/ran").exists());
        machine.start("c").await.unwrap();
        assert_eq!(machine.wait("c", "").await.status, 0);
        assert!(machine.path("rootfs/tmp/ran").exists());
        let status = machine.start("c").await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    one_that_was_never_started_can_be_removed,
    |machine: Machine| async move {
        machine
            .containers
            .create(machine.request("c", "true"))
            .await
            .unwrap();
        machine.remove("c").await.unwrap();
        assert_eq!(
            machine.remove("c").await.unwrap_err().code(),
            Code::NotFound
        );
    }
);

as_init!(
    more_processes_join_a_container,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        let script = "hostname; readlink /proc/self/ns/pid; readlink /proc/1/ns/pid; exit 5";
        let pid = machine.exec("c", "e", shell(script)).await.unwrap();
        assert!(pid > 1);
        let output = machine.output("c", "e").await;
        let lines: Vec<_> = output.lines().collect();
        assert_eq!(lines[0], "box");
        assert_eq!(lines[1], lines[2]);
        for _ in 0..2 {
            assert_eq!(machine.wait("c", "e").await.status, 5);
        }
        machine.exec("c", "e", shell("true")).await.unwrap();
        // Of two at once with one id, one is.
        let (one, other) = tokio::join!(
            machine.exec("c", "twice", shell("true")),
            machine.exec("c", "twice", shell("true")),
        );
        assert!(one.is_ok() && other.is_err_and(|status| status.code() == Code::AlreadyExists));
        let again = machine.exec("c", "e", shell("true")).await;
        assert!(again.is_err_and(|status| status.code() == Code::AlreadyExists));
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    signals_reach_one_process_or_all,
    |machine: Machine| async move {
        let script = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.1; done";
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        machine.exec("c", "e", shell(script)).await.unwrap();
        let read = ReadStreamRequest {
            container_id: "c".into(),
            exec_id: "e".into(),
            len: 10,
        };
        assert_eq!(
            machine.containers.read_stdout(read).await.unwrap().data,
            b"ready\n"
        );
        machine
            .containers
            .signal(signal("c", "e", libc::SIGUSR1))
            .await
            .unwrap();
        // Idempotent until it is collected.
        let ended = machine.wait("c", "e");
        assert_eq!(ended.await.status, 9);
        let gone = machine
            .containers
            .signal(signal("c", "e", libc::SIGUSR1))
            .await;
        assert_eq!(gone.unwrap_err().code(), Code::NotFound);

        machine.exec("c", "f", shell("sleep 1000")).await.unwrap();
        machine
            .containers
            .signal(signal("c", "", libc::SIGKILL))
            .await
            .unwrap();
        for exec_id in ["", "f"] {
            let response = machine.wait("c", exec_id).await;
            assert_eq!(
                (response.status, response.signal, response.oom),
                (137, 9, false)
            );
        }
        machine
            .containers
            .signal(signal("c", "", libc::SIGTERM))
            .await
            .unwrap();
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_polite_end_ends_a_first_process_without_a_handler,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "exec sleep 1000"))
            .await;
        machine
            .containers
            .signal(signal("c", "", libc::SIGTERM))
            .await
            .unwrap();
        assert_eq!(machine.wait("c", "").await.status, 137);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_paused_container_does_nothing,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        let pause = PauseContainerRequest {
            container_id: "c".into(),
        };
        machine.containers.pause(pause.clone()).await.unwrap();
        let status = machine.exec("c", "e", shell("true")).await.unwrap_err();
        assert!(status.message.contains("is paused"), "{status}");
        let resume = ResumeContainerRequest {
            container_id: "c".into(),
        };
        machine.containers.resume(resume).await.unwrap();
        machine.exec("c", "e", shell("true")).await.unwrap();
        assert_eq!(machine.wait("c", "e").await.status, 0);
        machine.containers.pause(pause).await.unwrap();
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    orphans_are_collected_and_nothing_is_left,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        // The shell ends; what it left becomes nobody's in the container.
        machine
            .exec("c", "e", shell("sleep 1000 & sleep 1000 & exit 0"))
            .await
            .unwrap();
        assert_eq!(machine.wait("c", "e").await.status, 0);
        let stats = StatsContainerRequest {
            container_id: "c".into(),
        };
        assert!(
            machine
                .containers
                .stats(stats)
                .await
                .unwrap()
                .cgroup_stats
                .is_some()
        );
        machine.remove("c").await.unwrap();
        // Every process but this one, whose /proc is of its own pid namespace.
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let is_pid = |name: &str| name.bytes().all(|b| b.is_ascii_digit());
        let pids = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_pid));
        assert_eq!(pids.count(), 1);
    }
);

as_init!(
    containers_of_a_sandbox_share_what_it_says,
    |machine: Machine| async move {
        let setup = SandboxSetup {
            hostname: "pod".into(),
            shared_pid: true,
            guest_hooks: None,
        };
        machine.containers.open_sandbox(&setup).await.unwrap();
        let shared = |id: &str, script: &str| {
            let mut request = machine.request(id, script);
            request.sandbox_pidns = true;
            request.oci.as_mut().unwrap().hostname = "pod".into();
            request
        };
        machine
            .create_and_start(shared("a", "exec sleep 4711"))
            .await;
        let script =
            "hostname; readlink /proc/self/ns/ipc; grep -c 4711 /proc/*/cmdline | grep -c :1";
        let (output, status) = machine.run(shared("b", script)).await;
        assert_eq!(status, 0, "{output}");
        machine
            .exec("a", "e", shell("readlink /proc/self/ns/ipc"))
            .await
            .unwrap();
        let ipc = machine.output("a", "e").await;
        assert!(output.starts_with(&format!("pod\n{ipc}")), "{output} {ipc}");
        machine.wait("a", "e").await;
        machine.containers.destroy_all().await;
    }
);

as_init!(
    a_status_outlives_whoever_waited,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        machine.exec("c", "e", shell("exit 4")).await.unwrap();
        let waiting = machine.wait("c", "e");
        // The connection is lost before the answer.
        let _ = tokio::time::timeout(std::time::Duration::ZERO, waiting).await;
        assert_eq!(machine.wait("c", "e").await.status, 4);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_container_s_processes_are_listed,
    |machine: Machine| async move {
        // A program that says something is what it is called.
        let said = async |exec_id: &str| {
            let read = ReadStreamRequest {
                container_id: "c".into(),
                exec_id: exec_id.into(),
                len: 64,
            };
            machine.containers.read_stdout(read).await.unwrap().data
        };
        let script = "echo 1 > /1; echo 2 > /2; exec tail -f /1";
        machine.create_and_start(machine.request("c", script)).await;
        assert_eq!(said("").await, b"1\n");
        let mut process = shell("exec tail -f /2");
        process.terminal = true;
        process.user = Some(kata_protocol::agent::User {
            uid: 1000,
            ..Default::default()
        });
        let pid = machine.exec("c", "e", process).await.unwrap();
        assert_eq!(said("e").await, b"2\r\n");
        let request = ListProcessesRequest {
            container_id: "c".into(),
        };
        let list = machine.containers.processes(request).await.unwrap();
        let [first, second] = &list.processes[..] else {
            panic!("{list:?}");
        };
        assert_eq!((first.container_pid, first.uid), (1, 0));
        assert_eq!(
            (first.args.join(" ").as_str(), first.tty.as_str()),
            ("tail -f /1", "")
        );
        assert_eq!((second.pid, second.uid), (pid, 1000));
        assert_eq!((second.ppid, second.name.as_str()), (1, "tail"));
        assert_eq!(second.tty, "pts/0");
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_container_takes_processes_and_stands_still_before_it_is_started,
    |machine: Machine| async move {
        let request = machine.request("c", "echo started");
        machine.containers.create(request).await.unwrap();
        let early = shell("echo early; cat /proc/1/comm >/dev/null && exit 4");
        machine.exec("c", "e", early).await.unwrap();
        assert_eq!(machine.output("c", "e").await, "early\n");
        assert_eq!(machine.wait("c", "e").await.status, 4);

        let mut tracer = shell("true");
        let set = vec!["CAP_SYS_PTRACE".to_owned()];
        tracer.capabilities = Some(LinuxCapabilities {
            bounding: set.clone(),
            effective: set.clone(),
            permitted: set,
            ..LinuxCapabilities::default()
        });
        let refused = machine.exec("c", "t", tracer).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);

        let pause = PauseContainerRequest {
            container_id: "c".into(),
        };
        machine.containers.pause(pause).await.unwrap();
        let refused = machine.start("c").await.unwrap_err();
        assert!(refused.message.contains("is paused"), "{refused}");
        let resume = ResumeContainerRequest {
            container_id: "c".into(),
        };
        machine.containers.resume(resume).await.unwrap();
        machine.start("c").await.unwrap();
        assert_eq!(machine.output("c", "").await, "started\n");
        machine.remove("c").await.unwrap();
    }
);
