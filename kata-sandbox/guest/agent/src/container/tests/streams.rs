//! Standard streams by calls, by dialled streams, and terminals.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use kata_protocol::agent::{
    Box as Size, CloseStdinRequest, ReadStreamRequest, TtyWinResizeRequest, WriteStreamRequest,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{Machine, as_init, shell};

/// A stream as if dialled from `port`; the host's end.
fn dial(machine: &Machine, port: u32) -> UnixStream {
    let (near, far) = StdStream::pair().unwrap();
    machine.streams.insert(port, OwnedFd::from(near));
    far.set_nonblocking(true).unwrap();
    UnixStream::from_std(far).unwrap()
}

as_init!(
    calls_write_and_read_the_streams,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "cat; echo done >&2"))
            .await;
        let write = WriteStreamRequest {
            container_id: "c".into(),
            data: b"hello".into(),
            ..Default::default()
        };
        assert_eq!(machine.containers.write_stdin(write).await.unwrap().len, 5);
        let read = ReadStreamRequest {
            container_id: "c".into(),
            len: 100,
            ..Default::default()
        };
        assert_eq!(
            machine
                .containers
                .read_stdout(read.clone())
                .await
                .unwrap()
                .data,
            b"hello"
        );
        let close = CloseStdinRequest {
            container_id: "c".into(),
            ..Default::default()
        };
        machine.containers.close_stdin(close).await.unwrap();
        assert_eq!(machine.wait("c", "").await.status, 0);
        assert_eq!(
            machine
                .containers
                .read_stderr(read.clone())
                .await
                .unwrap()
                .data,
            b"done\n"
        );
        assert_eq!(
            machine.containers.read_stdout(read).await.unwrap().data,
            b""
        );
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    dialled_streams_carry_every_byte,
    |machine: Machine| async move {
        let (mut stdin, mut stdout, mut stderr) =
            (dial(&machine, 1), dial(&machine, 2), dial(&machine, 3));
        let mut request = machine.request("c", "wc -c >&2; head -c 1000000 /dev/zero; exit 6");
        (request.stdin_port, request.stdout_port, request.stderr_port) = (1, 2, 3);
        machine.create_and_start(request).await;
        stdin.write_all(&vec![7; 500_000]).await.unwrap();
        stdin.shutdown().await.unwrap();
        let (mut out, mut err) = (Vec::new(), String::new());
        stdout.read_to_end(&mut out).await.unwrap();
        stderr.read_to_string(&mut err).await.unwrap();
        assert_eq!((out.len(), err.trim()), (1_000_000, "500000"));
        assert_eq!(machine.wait("c", "").await.status, 6);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_reader_that_stalls_stops_the_process_and_nothing_else,
    |machine: Machine| async move {
        let stdout = dial(&machine, 2);
        let mut request = machine.request("c", "cat /dev/zero");
        request.stdout_port = 2;
        machine.create_and_start(request).await;
        machine.exec("c", "e", shell("exit 1")).await.unwrap();
        assert_eq!(machine.wait("c", "e").await.status, 1);
        machine.remove("c").await.unwrap();
        drop(stdout);
    }
);

as_init!(
    a_process_ends_though_its_children_hold_the_streams,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        machine
            .exec("c", "e", shell("echo here; sleep 1000 & exit 2"))
            .await
            .unwrap();
        assert_eq!(machine.wait("c", "e").await.status, 2);
        let read = ReadStreamRequest {
            container_id: "c".into(),
            exec_id: "e".into(),
            len: 100,
        };
        assert_eq!(
            machine.containers.read_stdout(read).await.unwrap().data,
            b"here\n"
        );
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    standard_output_can_be_opened_by_its_name,
    |machine: Machine| async move {
        let mut request =
            machine.request("c", "echo one > /dev/stdout; echo two > /proc/self/fd/1");
        let process = request.oci.as_mut().unwrap().process.as_mut().unwrap();
        process.user = Some(kata_protocol::agent::User {
            uid: 1000,
            gid: 1000,
            ..Default::default()
        });
        let (output, status) = machine.run(request).await;
        assert_eq!((output.as_str(), status), ("one\ntwo\n", 0));
    }
);

as_init!(
    a_terminal_has_a_name_a_size_and_an_end,
    |machine: Machine| async move {
        let mut request = machine.request("c", "tty; stty size; cat; stty size < /dev/console");
        let process = request.oci.as_mut().unwrap().process.as_mut().unwrap();
        process.terminal = true;
        process.console_size = Some(Size {
            height: 40,
            width: 100,
        });
        let (mut stdin, mut stdout) = (dial(&machine, 1), dial(&machine, 2));
        (request.stdin_port, request.stdout_port) = (1, 2);
        machine.create_and_start(request).await;
        let mut first = vec![0; "/dev/pts/0\r\n40 100\r\n".len()];
        stdout.read_exact(&mut first).await.unwrap();
        assert_eq!(
            String::from_utf8(first).unwrap(),
            "/dev/pts/0\r\n40 100\r\n"
        );
        let resize = TtyWinResizeRequest {
            container_id: "c".into(),
            row: 50,
            column: 120,
            ..Default::default()
        };
        machine.containers.resize(resize).await.unwrap();
        stdin.shutdown().await.unwrap();
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("50 120\r\n"), "{rest:?}");
        assert_eq!(machine.wait("c", "").await.status, 0);
        machine.remove("c").await.unwrap();
    }
);

as_init!(
    a_further_process_may_have_a_terminal,
    |machine: Machine| async move {
        machine
            .create_and_start(machine.request("c", "sleep 1000"))
            .await;
        let mut process = shell("tty; echo x > /dev/tty");
        process.terminal = true;
        machine.exec("c", "e", process).await.unwrap();
        assert_eq!(machine.output("c", "e").await, "/dev/pts/0\r\nx\r\n");
        assert_eq!(machine.wait("c", "e").await.status, 0);
        machine.remove("c").await.unwrap();
    }
);
