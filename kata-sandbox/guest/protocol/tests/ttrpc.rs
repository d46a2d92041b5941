//! Calls over a real socket pair, both sides of this crate, and hostile peers.
#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kata_protocol::agent::agent_client::AgentServiceClient;
use kata_protocol::agent::agent_service::{AgentService, dispatch};
use kata_protocol::agent::{
    GuestDetailsRequest, GuestDetailsResponse, SetPolicyRequest, WaitProcessRequest,
    WaitProcessResponse,
};
use kata_protocol::ttrpc::{CallError, Client, Code, Handler, Status, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::LocalSet;

const SOON: Option<Duration> = Some(Duration::from_secs(5));

struct Agent;

#[async_trait(?Send)]
impl AgentService for Agent {
    async fn get_guest_details(
        &self,
        _: GuestDetailsRequest,
    ) -> Result<GuestDetailsResponse, Status> {
        Ok(GuestDetailsResponse {
            mem_block_size_bytes: 42,
            ..Default::default()
        })
    }

    async fn wait_process(&self, r: WaitProcessRequest) -> Result<WaitProcessResponse, Status> {
        match r.container_id.as_str() {
            "never" => std::future::pending().await,
            id => Err(Status::new(Code::NotFound, format!("no container {id}"))),
        }
    }
}

#[async_trait(?Send)]
impl Handler for Agent {
    async fn handle(&self, service: &str, method: &str, request: Bytes) -> Result<Vec<u8>, Status> {
        assert_eq!(service, "grpc.AgentService");
        dispatch(self, method, request).await
    }
}

async fn with_agent<F: Future>(use_it: impl FnOnce(AgentServiceClient) -> F) -> F::Output {
    let (near, far) = UnixStream::pair().unwrap();
    LocalSet::new()
        .run_until(async move {
            let server = tokio::task::spawn_local(serve(far, Rc::new(Agent)));
            let output = use_it(AgentServiceClient(Client::new(near))).await;
            server.await.unwrap().unwrap();
            output
        })
        .await
}

fn wait(container_id: &str) -> WaitProcessRequest {
    WaitProcessRequest {
        container_id: container_id.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_call_that_hangs_delays_no_other() {
    with_agent(|agent| async move {
        let hanging = agent.clone();
        let hang =
            tokio::task::spawn_local(
                async move { hanging.wait_process(&wait("never"), None).await },
            );
        for _ in 0..100 {
            let details = agent
                .get_guest_details(&GuestDetailsRequest::default(), SOON)
                .await;
            assert_eq!(details.unwrap().mem_block_size_bytes, 42);
        }
        hang.abort();
        assert!(hang.await.unwrap_err().is_cancelled());
    })
    .await;
}

#[tokio::test]
async fn the_agents_error_arrives_with_its_code_and_words() {
    let error = with_agent(|agent| async move { agent.wait_process(&wait("x"), SOON).await })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
    assert_eq!(error.to_string(), "WaitProcess: no container x");
}

#[tokio::test]
async fn a_method_that_is_not_there_is_unimplemented_by_name() {
    let error =
        with_agent(
            |agent| async move { agent.set_policy(&SetPolicyRequest::default(), SOON).await },
        )
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::Unimplemented));
    assert!(error.to_string().contains("SetPolicy"), "{error}");
}

#[tokio::test]
async fn a_deadline_names_the_method() {
    let short = Some(Duration::from_millis(20));
    let error = with_agent(|agent| async move { agent.wait_process(&wait("never"), short).await })
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Timeout {
                method: "WaitProcess",
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_peer_that_closes_ends_every_call() {
    let (near, far) = UnixStream::pair().unwrap();
    let agent = AgentServiceClient(Client::new(near));
    let request = wait("never");
    let call = agent.wait_process(&request, None);
    drop(far);
    assert!(matches!(
        call.await.unwrap_err(),
        CallError::Disconnected { .. }
    ));
    // And every later one, at once.
    let late = agent.wait_process(&request, None).await.unwrap_err();
    assert!(matches!(late, CallError::Disconnected { .. }), "{late}");
    agent.0.closed().await;
}

#[tokio::test]
async fn a_peer_that_answers_garbage_ends_the_connection_with_a_reason() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let agent = AgentServiceClient(Client::new(near));
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let error = agent.wait_process(&wait("x"), SOON).await.unwrap_err();
    assert!(error.to_string().contains("4 MiB"), "{error}");
}

#[tokio::test]
async fn a_malformed_answer_is_told_from_a_lost_connection() {
    let (near, mut far) = UnixStream::pair().unwrap();
    let agent = AgentServiceClient(Client::new(near));
    let answer = tokio::spawn(async move {
        let mut header = [0; 10];
        far.read_exact(&mut header).await.unwrap();
        let stream = &header[4..8];
        let mut frame = vec![0, 0, 0, 2];
        frame.extend_from_slice(stream);
        frame.extend_from_slice(&[2, 0, 0xff, 0xff]);
        far.write_all(&frame).await.unwrap();
        far
    });
    let error = agent.wait_process(&wait("x"), SOON).await.unwrap_err();
    assert!(matches!(error, CallError::Malformed { .. }), "{error}");
    drop(answer.await.unwrap());
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_before_it_is_sent() {
    let huge = SetPolicyRequest {
        policy: "x".repeat(5 << 20),
    };
    let error = with_agent(|agent| async move { agent.set_policy(&huge, SOON).await })
        .await
        .unwrap_err();
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
}

/// Answers with the time that its caller gives it.
struct Patient;

#[async_trait(?Send)]
impl Handler for Patient {
    async fn handle(&self, _: &str, _: &str, _: Bytes) -> Result<Vec<u8>, Status> {
        Err(Status::new(Code::Internal, "no time was said"))
    }

    async fn handle_within(
        &self,
        _: &str,
        _: &str,
        _: Bytes,
        limit: Option<Duration>,
    ) -> Result<Vec<u8>, Status> {
        Err(Status::new(Code::Aborted, format!("{limit:?}")))
    }
}

#[tokio::test]
async fn the_server_is_told_how_long_the_caller_waits() {
    let (near, far) = UnixStream::pair().unwrap();
    let errors = LocalSet::new()
        .run_until(async move {
            tokio::task::spawn_local(serve(far, Rc::new(Patient)));
            let agent = AgentServiceClient(Client::new(near));
            [
                agent.wait_process(&wait("x"), SOON).await.unwrap_err(),
                agent.wait_process(&wait("x"), None).await.unwrap_err(),
            ]
        })
        .await;
    assert_eq!(errors[0].to_string(), "WaitProcess: Some(5s)");
    assert_eq!(errors[1].to_string(), "WaitProcess: None");
}
