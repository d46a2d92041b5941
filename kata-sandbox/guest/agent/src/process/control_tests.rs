//! What a copy sends arrives as it was sent, or as nothing.

use super::super::program::Program;
use super::*;
use kata_protocol::agent::Process;
use kata_protocol::ttrpc::Code;

#[tokio::test]
async fn a_failure_arrives_as_it_was_sent() {
    let (near, far) = control_pair().unwrap();
    far.failed(&Status::new(Code::NotFound, "exec: \"x\": no such file"));
    let status = near.ready().await.unwrap_err();
    assert_eq!(
        status,
        Status::new(Code::NotFound, "exec: \"x\": no such file")
    );
}

#[tokio::test]
async fn a_terminal_comes_before_ready() {
    let (near, far) = control_pair().unwrap();
    let (reader, _writer) = rustix::pipe::pipe().unwrap();
    far.terminal(&reader).unwrap();
    far.ready().unwrap();
    assert!(near.ready().await.unwrap().is_some());
}

#[tokio::test]
async fn closing_means_executed_after_setup_and_death_before() {
    let (near, far) = control_pair().unwrap();
    drop(far);
    assert!(near.executed().await.unwrap().terminal.is_none());
    assert_eq!(near.ready().await.unwrap_err().code(), Code::Aborted);
}

#[tokio::test]
async fn a_home_directory_is_handed_on_before_the_end() {
    let (near, far) = control_pair().unwrap();
    let mut program = Program::new(&Process {
        args: vec!["x".into()],
        ..Process::default()
    })
    .unwrap();
    // Unless the file of users has just changed.
    if let Some(home) = program.complete_environment(0, None) {
        far.home(&home).unwrap();
        drop(far);
        assert_eq!(near.executed().await.unwrap().home, Some(home));
    }
}

#[tokio::test]
async fn an_endless_failure_is_cut() {
    let (near, far) = control_pair().unwrap();
    far.failed(&Status::new(Code::Internal, "é".repeat(PAYLOAD)));
    let message = near.ready().await.unwrap_err().message;
    assert!(message.len() > PAYLOAD / 2 && message.chars().all(|c| c == 'é'));
}

proptest::proptest! {
    #[test]
    fn no_packet_of_a_copy_makes_it_panic(packet in proptest::collection::vec(0_u8..9, 1..40)) {
        let (near, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        rustix::io::write(&far, &packet).unwrap();
        let _ = receive(&near);
    }
}
