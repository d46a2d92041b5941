//! Resource limits, where the kernel has controllers for cgroup v2, and speed.

use std::process::Command;
use std::time::{Duration, Instant};

use kata_protocol::agent::{
    LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxPids, LinuxResources, SignalProcessRequest,
    StatsContainerRequest, UpdateContainerRequest,
};
use kata_protocol::ttrpc::Code;

use super::{Machine, as_init, shell};

fn lacks(machine: &Machine, controller: &str) -> bool {
    let path = machine
        .containers
        .config
        .cgroup_root
        .join("cgroup.controllers");
    let lacking = !std::fs::read_to_string(path).unwrap().contains(controller);
    if lacking {
        eprintln!("skipped: cgroup v2 has no {controller} controller here");
    }
    lacking
}

fn file(machine: &Machine, id: &str, name: &str) -> String {
    let group = machine.containers.config.cgroup_root.join("kata").join(id);
    std::fs::read_to_string(group.join(name))
        .unwrap()
        .trim()
        .to_owned()
}

fn limited(
    machine: &Machine,
    script: &str,
    resources: LinuxResources,
) -> kata_protocol::agent::CreateContainerRequest {
    let mut request = machine.request("c", script);
    request
        .oci
        .as_mut()
        .unwrap()
        .linux
        .as_mut()
        .unwrap()
        .resources = Some(resources);
    request
}

fn memory(limit: i64) -> LinuxResources {
    let memory = LinuxMemory {
        limit,
        swap: limit,
        ..LinuxMemory::default()
    };
    LinuxResources {
        memory: Some(memory),
        ..LinuxResources::default()
    }
}

as_init!(
    a_limit_that_the_kernel_cannot_keep_is_refused_by_name,
    |machine: Machine| async move {
        let limit = LinuxHugepageLimit {
            pagesize: "7MB".into(),
            limit: 1,
        };
        let resources = LinuxResources {
            hugepage_limits: vec![limit],
            ..LinuxResources::default()
        };
        let status = machine
            .containers
            .create(limited(&machine, "true", resources))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message.contains("hugetlb"), "{status}");
    }
);

as_init!(
    a_container_out_of_memory_is_killed_and_told,
    |machine: Machine| async move {
        if lacks(&machine, "memory") {
            return;
        }
        let script = "x=0123456789abcdef; while :; do x=$x$x; done";
        machine
            .create_and_start(limited(&machine, script, memory(16 << 20)))
            .await;
        let response = machine.wait("c", "").await;
        assert_eq!(
            (response.status, response.signal, response.oom),
            (137, 9, true)
        );
        assert_eq!(machine.containers.next_oom().await, "c");
        machine.remove("c").await.unwrap();
        // A SIGKILL of the host's is none of the kernel's.
        machine
            .create_and_start(limited(&machine, "sleep 1000", memory(16 << 20)))
            .await;
        let kill = SignalProcessRequest {
            container_id: "c".into(),
            signal: 9,
            ..Default::default()
        };
        machine.containers.signal(kill).await.unwrap();
        assert!(!machine.wait("c", "").await.oom);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    limits_are_set_changed_and_counted,
    |machine: Machine| async move {
        if lacks(&machine, "memory") || lacks(&machine, "cpu") || lacks(&machine, "pids") {
            return;
        }
        let cpu = |quota| {
            Some(LinuxCpu {
                shares: 512,
                quota,
                period: 10_000,
                ..LinuxCpu::default()
            })
        };
        let resources = LinuxResources {
            cpu: cpu(5_000),
            pids: Some(LinuxPids { limit: 7 }),
            ..memory(64 << 20)
        };
        machine
            .create_and_start(limited(&machine, "sleep 1000", resources))
            .await;
        assert_eq!(file(&machine, "c", "cpu.max"), "5000 10000");
        assert_eq!(file(&machine, "c", "pids.max"), "7");
        assert_eq!(file(&machine, "c", "memory.max"), (64 << 20).to_string());
        let request = UpdateContainerRequest {
            container_id: "c".into(),
            resources: Some(LinuxResources {
                cpu: cpu(-1),
                ..memory(32 << 20)
            }),
        };
        machine.containers.update(request).await.unwrap();
        assert_eq!(file(&machine, "c", "cpu.max"), "max 10000");
        assert_eq!(file(&machine, "c", "pids.max"), "7");
        let request = StatsContainerRequest {
            container_id: "c".into(),
        };
        let stats = machine
            .containers
            .stats(request)
            .await
            .unwrap()
            .cgroup_stats
            .unwrap();
        let usage = stats.memory_stats.unwrap().usage.unwrap();
        assert!(usage.usage > 0 && usage.limit == 32 << 20, "{usage:?}");
        assert_eq!(stats.pids_stats.unwrap().limit, 7);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    too_many_processes_are_refused,
    |machine: Machine| async move {
        if lacks(&machine, "pids") {
            return;
        }
        let pids = Some(LinuxPids { limit: 3 });
        let resources = LinuxResources {
            pids,
            ..LinuxResources::default()
        };
        let script = "for i in 1 2 3 4 5; do sleep 1000 & done; echo all";
        let (output, status) = machine.run(limited(&machine, script, resources)).await;
        assert_eq!(output, "");
        assert_ne!(status, 0);
    }
);

/// The mean: a guest's clock may be coarse.
fn mean(times: &[Duration]) -> Duration {
    times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap()
}

as_init!(
    a_further_process_costs_little_more_than_a_process,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        let mut process = shell("");
        process.args = vec!["/bin/true".into()];
        let busybox = machine.path("rootfs/bin/busybox");
        let (mut plain, mut exec) = (Vec::new(), Vec::new());
        for round in 0..60 {
            let start = Instant::now();
            // This thread waits for it at once; the reaper does not run meanwhile.
            assert!(
                Command::new(&busybox)
                    .arg("true")
                    .status()
                    .unwrap()
                    .success()
            );
            plain.push(start.elapsed());
            let id = format!("e{round}");
            let start = Instant::now();
            machine.exec("c", &id, process.clone()).await.unwrap();
            assert_eq!(machine.wait("c", &id).await.status, 0);
            exec.push(start.elapsed());
        }
        let (plain, exec) = (mean(&plain), mean(&exec));
        eprintln!("fork, exec and wait: {plain:?}; a container's process: {exec:?}");
        assert!(exec < plain * 8, "{plain:?} {exec:?}");
        machine.remove("c").await.unwrap();
    }
);
