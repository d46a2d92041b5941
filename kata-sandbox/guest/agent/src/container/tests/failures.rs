//! What cannot be done is said clearly, and leaves nothing.

use kata_protocol::agent::{StringUser, User};
use kata_protocol::ttrpc::{Code, Status};

use super::{Machine, as_init, mount, shell};

async fn create(machine: &Machine, change: impl FnOnce(&mut kata_protocol::agent::Spec)) -> Status {
    let mut request = machine.request("c", "true");
    change(request.oci.as_mut().unwrap());
    machine.containers.create(request).await.unwrap_err()
}

as_init!(
    what_cannot_be_created_says_why,
    |machine: Machine| async move {
        let status = create(&machine, |spec| {
            spec.root.as_mut().unwrap().path = "/nowhere".into();
        })
        .await;
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message.contains("/nowhere"), "{status}");
        let status = create(&machine, |spec| {
            spec.mounts
                .push(mount("/not/there", "/mnt", "bind", &["rbind"]));
        })
        .await;
        assert!(status.message.contains("/not/there"), "{status}");
        let status = create(&machine, |spec| {
            spec.mounts.push(mount("x", "/mnt", "nosuchfs", &[]));
        })
        .await;
        assert!(status.message.contains("nosuchfs"), "{status}");
        let status = create(&machine, |spec| spec.process.as_mut().unwrap().args.clear()).await;
        assert_eq!(status.code(), Code::InvalidArgument);
        // The id is free again each time.
        let (_, status) = machine.run(machine.request("c", "true")).await;
        assert_eq!(status, 0);
    }
);

as_init!(
    a_program_that_is_not_there_is_reported_by_start,
    |machine: Machine| async move {
        let mut request = machine.request("c", "");
        request.oci.as_mut().unwrap().process.as_mut().unwrap().args = vec!["nothing".into()];
        machine.containers.create(request).await.unwrap();
        let status = machine.start("c").await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(
            status.message,
            "exec: \"nothing\": executable file not found in $PATH"
        );
        assert_eq!(machine.wait("c", "").await.status, 127);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_process_that_cannot_be_says_why,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        let mut process = shell("");
        process.args = vec!["/etc/passwd".into()];
        let status = machine.exec("c", "e", process).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied);
        let mut process = shell("true");
        process.cwd = "/not/there".into();
        let status = machine.exec("c", "e", process).await.unwrap_err();
        assert!(status.message.contains("/not/there"), "{status}");
        let mut process = shell("true");
        process.user = Some(User {
            username: "eve".into(),
            ..User::default()
        });
        let status = machine.exec("c", "e", process).await.unwrap_err();
        assert!(status.message.contains("unknown user \"eve\""), "{status}");
        let status = machine.exec("x", "e", shell("true")).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    ids_that_are_none_and_ids_taken_are_refused,
    |machine: Machine| async move {
        for id in ["", "a/b", "..", &"x".repeat(300), "é"] {
            let status = machine
                .containers
                .create(machine.request(id, "true"))
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{id}");
        }
        machine
            .containers
            .create(machine.request("c", "true"))
            .await
            .unwrap();
        let status = machine
            .containers
            .create(machine.request("c", "true"))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    an_unknown_user_by_name_is_refused_at_creation,
    |machine: Machine| async move {
        let mut request = machine.request("c", "true");
        request.string_user = Some(StringUser {
            uid: "eve".into(),
            ..StringUser::default()
        });
        let status = machine.containers.create(request).await.unwrap_err();
        assert!(status.message.contains("unknown user \"eve\""), "{status}");
    }
);

as_init!(
    a_caller_who_leaves_takes_the_container_along,
    |machine: Machine| async move {
        let mut request = machine.request("c", "true");
        let hook = kata_protocol::agent::Hook {
            path: "/bin/sleep".into(),
            args: vec!["sleep".into(), "1000".into()],
            ..Default::default()
        };
        request.oci.as_mut().unwrap().hooks = Some(kata_protocol::agent::Hooks {
            prestart: vec![hook],
            ..Default::default()
        });
        let creation = machine.containers.create(request);
        let left = tokio::time::timeout(std::time::Duration::from_millis(300), creation).await;
        assert!(left.is_err());
        // Meanwhile, and after, others are not held up.
        let (_, status) = machine.run(machine.request("d", "true")).await;
        assert_eq!(status, 0);
        let (_, status) = machine.run(machine.request("c", "true")).await;
        assert_eq!(status, 0);
    }
);

as_init!(
    a_container_that_does_not_start_in_time_has_stopped,
    |machine: Machine| async move {
        let mut request = machine.request("c", "sleep 1000");
        let hook = kata_protocol::agent::Hook {
            path: "/bin/sleep".into(),
            args: vec!["sleep".into(), "1000".into()],
            ..Default::default()
        };
        request.oci.as_mut().unwrap().hooks = Some(kata_protocol::agent::Hooks {
            start_container: vec![hook],
            ..Default::default()
        });
        machine.containers.create(request).await.unwrap();
        let limit = std::time::Duration::from_millis(200);
        let late = tokio::time::timeout(limit, machine.start("c")).await;
        assert!(late.is_err());
        let ended = machine.wait("c", "").await;
        assert_eq!((ended.status, ended.oom), (137, false));
        let status = machine.exec("c", "e", shell("true")).await.unwrap_err();
        assert!(status.message.contains("has stopped"), "{status}");
        machine.remove("c").await.unwrap();
    }
);
