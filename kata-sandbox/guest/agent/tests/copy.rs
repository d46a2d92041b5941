//! Copies into and out of a container, and the storages that come and go with
//! it.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use kata_protocol::agent::{
    CreateContainerRequest, Linux, LinuxNamespace, Mount, Process, RemoveContainerRequest, Root,
    Spec, StartContainerRequest, Storage,
};
use kata_protocol::channel::{self, Reply, Request};
use kata_protocol::port;
use kata_protocol::ttrpc::Code;
use support::{Agent, DEADLINE, able};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

const BUSYBOX: &str = "/bin/busybox";
/// A root file system in the agent's `/run`.
const SETUP: &str = "mkdir -p /run/root/bin /run/root/proc /run/root/data /run/root/tmp
    cp /bin/busybox /run/root/bin/busybox
    ln -s busybox /run/root/bin/sleep
    ln -s /data /run/root/way";

fn able_with_busybox() -> bool {
    if !Path::new(BUSYBOX).exists() {
        eprintln!("skipped: there is no {BUSYBOX}");
        return false;
    }
    able()
}

/// The tests' agents share this machine's control groups.
fn unique_group() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("/agent-test-{}-{count}", std::process::id())
}

fn container(id: &str) -> CreateContainerRequest {
    let namespace = |kind: &str| LinuxNamespace {
        r#type: kind.into(),
        ..LinuxNamespace::default()
    };
    let mount = |kind: &str, destination: &str, source: &str| Mount {
        destination: destination.into(),
        source: source.into(),
        r#type: kind.into(),
        options: if kind == "bind" {
            vec!["bind".into()]
        } else {
            Vec::new()
        },
        ..Mount::default()
    };
    CreateContainerRequest {
        container_id: id.into(),
        storages: vec![Storage {
            driver: "ephemeral".into(),
            source: "tmpfs".into(),
            mount_point: format!("/run/storage/{id}"),
            ..Storage::default()
        }],
        oci: Some(Spec {
            version: "1.2.0".into(),
            process: Some(Process {
                args: vec!["/bin/sleep".into(), "1000".into()],
                cwd: "/".into(),
                ..Process::default()
            }),
            root: Some(Root {
                path: "/run/root".into(),
                readonly: false,
            }),
            mounts: vec![
                mount("proc", "/proc", "proc"),
                mount("bind", "/data", &format!("/run/storage/{id}")),
            ],
            linux: Some(Linux {
                namespaces: ["pid", "mount", "ipc", "uts"].map(namespace).to_vec(),
                cgroups_path: unique_group(),
                ..Linux::default()
            }),
            ..Spec::default()
        }),
        ..CreateContainerRequest::default()
    }
}

async fn run(agent: &Agent, id: &str) {
    agent.create_sandbox().await;
    agent
        .service
        .create_container(&container(id), DEADLINE)
        .await
        .unwrap();
    let request = StartContainerRequest {
        container_id: id.into(),
    };
    agent
        .service
        .start_container(&request, DEADLINE)
        .await
        .unwrap();
}

async fn open(agent: &Agent, request: &Request) -> (BufReader<UnixStream>, Reply) {
    let stream = UnixStream::connect(agent.port(port::CHANNEL))
        .await
        .unwrap();
    let mut stream = BufReader::new(stream);
    channel::send(&mut stream, request).await.unwrap();
    let reply = channel::receive(&mut stream).await.unwrap();
    (stream, reply)
}

/// Sends an archive into `directory`; gives the second reply.
async fn copy_in(agent: &Agent, directory: &str, archive: &[u8]) -> Reply {
    let request = Request::CopyIn {
        container: "c".into(),
        directory: directory.into(),
    };
    let (mut stream, reply) = open(agent, &request).await;
    assert_eq!(reply, Reply::Ok);
    stream.write_all(archive).await.unwrap();
    stream.shutdown().await.unwrap();
    channel::receive(&mut stream).await.unwrap()
}

fn archive(name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_uid(12);
    header.set_gid(34);
    header.set_size(data.len() as u64);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, data).unwrap();
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out_as_it_was() {
    if !able_with_busybox() {
        return;
    }
    let agent = Agent::start(SETUP).await;
    run(&agent, "c").await;
    let data = vec![b'd'; 1 << 20];
    let reply = copy_in(&agent, "/data", &archive("deep/file", &data)).await;
    assert_eq!(reply, Reply::Ok);
    // It is where only the container has it: in its mount.
    assert!(agent.path("/run/storage/c/deep/file").exists());
    assert!(!agent.path("/run/root/data/deep").exists());

    let request = Request::CopyOut {
        container: "c".into(),
        path: "/data/deep".into(),
    };
    let (mut stream, reply) = open(&agent, &request).await;
    assert_eq!(reply, Reply::Ok);
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut found = None;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path().unwrap() == Path::new("deep/file") {
            let header = entry.header().clone();
            let ids = (header.uid().unwrap(), header.gid().unwrap());
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            found = Some((ids, header.mode().unwrap() & 0o7777, content == data));
        }
    }
    assert_eq!(found, Some(((12, 34), 0o640, true)));
    agent.destroy().await;
}

#[tokio::test]
async fn a_copy_stays_in_the_container_and_in_its_directory() {
    if !able_with_busybox() {
        return;
    }
    let agent = Agent::start(SETUP).await;
    run(&agent, "c").await;
    // The container's links lead where they lead in the container.
    let reply = copy_in(&agent, "/", &archive("way/file", b"x")).await;
    assert_eq!(reply, Reply::Ok);
    assert!(agent.path("/run/storage/c/file").exists());
    let mut hostile = archive("xx/file", b"x");
    hostile[..2].copy_from_slice(b"..");
    let sum: u32 = hostile[..148]
        .iter()
        .chain(&[b' '; 8])
        .chain(&hostile[156..512])
        .map(|b| u32::from(*b))
        .sum();
    hostile[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let Reply::Error { message } = copy_in(&agent, "/tmp", &hostile).await else {
        panic!("a path that leads out was followed");
    };
    assert!(message.contains("leads out"), "{message}");
    for (request, what) in [
        (
            Request::CopyIn {
                container: "c".into(),
                directory: "/none".into(),
            },
            "/none",
        ),
        (
            Request::CopyOut {
                container: "c".into(),
                path: "/none".into(),
            },
            "/none",
        ),
        (
            Request::CopyOut {
                container: "c".into(),
                path: "/".into(),
            },
            "name",
        ),
    ] {
        let (_, reply) = open(&agent, &request).await;
        let Reply::Error { message } = reply else {
            panic!("{request:?} was done")
        };
        assert!(message.contains(what), "{message}");
    }
    agent.destroy().await;
}

#[tokio::test]
async fn a_container_s_storages_go_with_it() {
    if !able_with_busybox() {
        return;
    }
    let agent = Agent::start(SETUP).await;
    run(&agent, "c").await;
    assert!(agent.mounts().contains(" /run/storage/c "));
    let again = agent
        .service
        .create_container(&container("c"), DEADLINE)
        .await
        .unwrap_err();
    assert_eq!(again.code(), Some(Code::AlreadyExists), "{again}");
    assert!(
        agent.mounts().contains(" /run/storage/c "),
        "the first one's storage went"
    );
    let request = RemoveContainerRequest {
        container_id: "c".into(),
        timeout: 10,
    };
    agent
        .service
        .remove_container(&request, DEADLINE)
        .await
        .unwrap();
    assert!(!agent.mounts().contains(" /run/storage/c "));
    agent.destroy().await;
}

#[tokio::test]
async fn a_container_that_cannot_be_made_leaves_no_storage() {
    if !able_with_busybox() {
        return;
    }
    let agent = Agent::start("").await;
    agent.create_sandbox().await;
    assert!(
        agent
            .service
            .create_container(&container("c"), DEADLINE)
            .await
            .is_err()
    );
    assert!(!agent.mounts().contains(" /run/storage/c "));
    agent.destroy().await;
}
