//! The calls that concern the whole machine.

mod support;

use std::os::unix::fs::PermissionsExt as _;

use kata_protocol::agent::{
    AddSwapPathRequest, CopyFileRequest, CreateSandboxRequest, GetMetricsRequest,
    GetOomEventRequest, GuestDetailsRequest, OnlineCpuMemRequest, ReseedRandomDevRequest,
    SetGuestDateTimeRequest, Storage,
};
use kata_protocol::health::{CheckRequest, ServingStatus};
use kata_protocol::ttrpc::Code;
use support::{Agent, DEADLINE, able};

#[tokio::test]
async fn an_agent_says_what_it_is() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    let check = agent
        .health
        .check(&CheckRequest::default(), DEADLINE)
        .await
        .unwrap();
    assert_eq!(check.status, ServingStatus::Serving as i32);
    let version = agent
        .health
        .version(&CheckRequest::default(), DEADLINE)
        .await
        .unwrap();
    assert_eq!(version.agent_version, env!("CARGO_PKG_VERSION"));
    let request = GuestDetailsRequest {
        mem_block_size: true,
        mem_hotplug_probe: true,
    };
    let details = agent
        .service
        .get_guest_details(&request, DEADLINE)
        .await
        .unwrap();
    let details = details.agent_details.unwrap();
    assert!(!details.init_daemon);
    assert!(details.supports_seccomp);
    assert!(details.storage_handlers.contains(&"virtio-fs".to_owned()));
    assert!(details.extra_features.contains(&"announce".to_owned()));
    let metrics = agent
        .service
        .get_metrics(&GetMetricsRequest {}, DEADLINE)
        .await
        .unwrap();
    assert!(metrics.metrics.contains("kata_agent_scrape_count 1\n"));
    agent.destroy().await;
}

#[tokio::test]
async fn a_call_that_is_not_served_is_named() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    let error = agent
        .service
        .add_swap_path(&AddSwapPathRequest::default(), DEADLINE)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::Unimplemented));
    assert!(
        error.to_string().contains("AddSwapPath is not implemented"),
        "{error}"
    );
    agent.destroy().await;
}

#[tokio::test]
async fn a_machine_has_one_sandbox_with_its_storages_and_names() {
    if !able() {
        return;
    }
    let agent = Agent::start("mkdir /run/source; echo x > /run/source/file").await;
    let storage = |driver: &str, source: &str, target: &str, options: &[&str]| Storage {
        driver: driver.into(),
        source: source.into(),
        mount_point: target.into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Storage::default()
    };
    let request = CreateSandboxRequest {
        hostname: "box".into(),
        dns: vec!["nameserver 192.0.2.1".into(), "search example.org".into()],
        sandbox_id: "s".into(),
        storages: vec![
            storage("ephemeral", "shm", "/run/shm", &["nodev", "size=1m"]),
            storage("local", "", "/run/local", &["mode=0770"]),
            storage("bind", "/run/source", "/run/bound", &["ro"]),
        ],
        ..CreateSandboxRequest::default()
    };
    agent
        .service
        .create_sandbox(&request, DEADLINE)
        .await
        .unwrap();

    let again = agent
        .service
        .create_sandbox(&request, DEADLINE)
        .await
        .unwrap_err();
    assert_eq!(again.code(), Some(Code::AlreadyExists));
    let resolv = std::fs::read_to_string(agent.path("/etc/resolv.conf")).unwrap();
    assert_eq!(resolv, "nameserver 192.0.2.1\nsearch example.org\n");
    let mounts = agent.mounts();
    let shm = mounts
        .lines()
        .find(|line| line.contains(" /run/shm "))
        .unwrap();
    assert!(shm.contains("nodev") && shm.contains("size=1024k"), "{shm}");
    assert_eq!(
        std::fs::read_to_string(agent.path("/run/bound/file")).unwrap(),
        "x\n"
    );
    assert!(std::fs::write(agent.path("/run/bound/file"), "y").is_err());
    let mode = std::fs::metadata(agent.path("/run/local"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o770);
    agent.destroy().await;
}

#[tokio::test]
async fn a_sandbox_that_fails_leaves_nothing_and_can_be_made_again() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    let good = Storage {
        driver: "ephemeral".into(),
        source: "shm".into(),
        mount_point: "/run/shm".into(),
        ..Storage::default()
    };
    let bad = Storage {
        driver: "floppy".into(),
        mount_point: "/run/a".into(),
        ..good.clone()
    };
    let mut request = CreateSandboxRequest {
        storages: vec![good, bad],
        ..CreateSandboxRequest::default()
    };
    let error = agent
        .service
        .create_sandbox(&request, DEADLINE)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::Unimplemented));
    assert!(error.to_string().contains("floppy"), "{error}");
    assert!(!agent.mounts().contains(" /run/shm "));
    request.storages.pop();
    agent
        .service
        .create_sandbox(&request, DEADLINE)
        .await
        .unwrap();
    agent.destroy().await;
}

#[tokio::test]
async fn a_disk_that_never_comes_is_missed_by_its_address() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    let storage = Storage {
        driver: "blk".into(),
        source: "serial:none-such".into(),
        fstype: "ext4".into(),
        mount_point: "/run/disk".into(),
        ..Storage::default()
    };
    let request = CreateSandboxRequest {
        storages: vec![storage],
        ..CreateSandboxRequest::default()
    };
    let error = agent
        .service
        .create_sandbox(&request, DEADLINE)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    assert!(error.to_string().contains("serial:none-such"), "{error}");
    agent.destroy().await;
}

#[tokio::test]
async fn files_arrive_below_run_and_nowhere_else() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    let mut request = CopyFileRequest {
        path: "/run/kata-containers/x/file".into(),
        file_size: 5,
        file_mode: 0o100_600,
        dir_mode: 0o700,
        uid: 7,
        gid: 8,
        offset: 0,
        data: b"hello".to_vec(),
    };
    agent.service.copy_file(&request, DEADLINE).await.unwrap();
    let read = std::fs::read(agent.path("/run/kata-containers/x/file")).unwrap();
    assert_eq!(read, b"hello");
    for hostile in ["/etc/motd", "/run/../etc/motd"] {
        request.path = hostile.into();
        let error = agent
            .service
            .copy_file(&request, DEADLINE)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(Code::InvalidArgument), "{hostile}");
    }
    agent.destroy().await;
}

#[tokio::test]
async fn entropy_is_taken_and_nonsense_is_not() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    let entropy = ReseedRandomDevRequest { data: vec![7; 64] };
    agent
        .service
        .reseed_random_dev(&entropy, DEADLINE)
        .await
        .unwrap();
    let time = SetGuestDateTimeRequest {
        sec: 1,
        usec: 1_000_000,
    };
    let error = agent
        .service
        .set_guest_date_time(&time, DEADLINE)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::InvalidArgument));
    let all_online = OnlineCpuMemRequest {
        wait: false,
        nb_cpus: 1,
        cpu_only: true,
    };
    agent
        .service
        .online_cpu_mem(&all_online, DEADLINE)
        .await
        .unwrap();
    agent.destroy().await;
}

#[tokio::test]
async fn a_call_without_an_answer_does_not_keep_the_agent_up() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    agent.create_sandbox().await;
    let service = agent.service.clone();
    let waiting =
        tokio::spawn(async move { service.get_oom_event(&GetOomEventRequest {}, None).await });
    agent.destroy().await;
    assert!(waiting.await.unwrap().is_err());
}

#[tokio::test]
async fn a_call_is_carried_to_its_end_when_its_connection_is_lost() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    let storage = |driver: &str, source: &str| Storage {
        driver: driver.into(),
        source: source.into(),
        fstype: "tmpfs".into(),
        mount_point: format!("/run/{driver}"),
        ..Storage::default()
    };
    let request = CreateSandboxRequest {
        storages: vec![
            storage("ephemeral", "x"),
            storage("blk", "serial:none-such"),
        ],
        ..CreateSandboxRequest::default()
    };
    let lost = agent.connect().await;
    let call = lost.create_sandbox(&request, Some(std::time::Duration::from_secs(1)));
    assert!(call.await.is_err());
    drop(lost);
    assert!(
        agent.mounts().contains(" /run/ephemeral "),
        "the call has not begun"
    );
    // It fails in the end, and undoes what it did; only then there is room.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let empty = CreateSandboxRequest::default();
    while let Err(error) = agent.service.create_sandbox(&empty, DEADLINE).await {
        assert_eq!(error.code(), Some(Code::AlreadyExists), "{error}");
        assert!(
            std::time::Instant::now() < deadline,
            "the lost call never ended"
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!agent.mounts().contains(" /run/ephemeral "));
    agent.destroy().await;
}

#[tokio::test]
async fn standard_descriptors_that_are_closed_are_taken_by_nothing() {
    if !able() {
        return;
    }
    let agent = Agent::start("exec 0<&- 1>&- 2>&-").await;
    for number in 0..3 {
        let path = format!("/proc/{}/fd/{number}", agent.process.id());
        let what = std::fs::read_link(path).unwrap();
        assert_eq!(what.to_str(), Some("anon_inode:[eventfd]"));
    }
    agent.destroy().await;
}
