//! What a container's processes are and use, as the guest's kernel says.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, SystemTime};

use common::{Host, sh};
use kata_sandbox::{PtySize, StdioMode};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_a_container_are_listed_with_what_ps_shows() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "listed").await;
    let container = host.sleeper(&sandbox, "c").await;
    let other = host.sleeper(&sandbox, "other").await;
    let exec = container.exec("/bin/sleep").args(["4711"]);
    let exec = exec
        .user("web")
        .stdio(StdioMode::Pty(PtySize { rows: 24, cols: 80 }));
    let process = exec.spawn().await.unwrap();

    let list = container.processes().await.unwrap();

    let [first, second] = &list[..] else {
        panic!("{list:?}");
    };
    assert_eq!(Some(first.pid), container.status().pid);
    assert_eq!((first.container_pid, first.uid), (1, 0));
    // Its shell may still be on its way to be that.
    assert!(first.args.last().unwrap().ends_with("100000"), "{first:?}");
    assert_eq!(first.tty, None);
    assert_eq!(
        (second.args.join(" ").as_str(), second.uid),
        ("/bin/sleep 4711", 1000)
    );
    assert_eq!(second.tty.as_deref(), Some("pts/0"));
    let age = SystemTime::now().duration_since(second.started);
    // The guest's clock is its own.
    assert!(
        age.unwrap_or_default() < Duration::from_secs(3600),
        "{second:?}"
    );
    assert_eq!(other.processes().await.unwrap().len(), 1);

    process.kill(kata_sandbox::Signal::KILL).await.unwrap();
    process.wait().await.unwrap();
    assert_eq!(container.processes().await.unwrap().len(), 1);
    sandbox.stop(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stats_tell_what_events_print() {
    let Some(host) = Host::new() else { return };
    let runtime = host.runtime();
    let sandbox = host.start(&runtime, "counted").await;
    let container = host.sleeper(&sandbox, "c").await;
    sh(
        &container,
        "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done",
    )
    .await;

    let stats = container.stats().await.unwrap();

    assert!(stats.cpu_user > Duration::ZERO, "{stats:?}");
    assert!(stats.cpu >= stats.cpu_user + stats.cpu_kernel - Duration::from_millis(1));
    assert_eq!(stats.memory_use.usage, stats.memory);
    assert!(stats.memory_stat.contains_key("anon"), "{stats:?}");
    assert_eq!(stats.pids_limit, None);
    let interfaces: Vec<_> = stats.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert!(interfaces.contains(&"lo"), "{interfaces:?}");
    sandbox.stop(Duration::from_secs(5)).await.unwrap();
}
