//! The `ttrpc` crate as the other side: it must understand us, and we it.
#![expect(clippy::unwrap_used, reason = "a test says what it expects")]

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kata_protocol::agent::VersionCheckResponse;
use kata_protocol::health::{CheckRequest, Health, HealthClient};
use kata_protocol::ttrpc::{Client, Code, Handler, Status, serve};
use prost::Message as _;
use tokio::task::LocalSet;
use ttrpc::r#async::transport::{Listener, Socket};
use ttrpc::r#async::{MethodHandler, Server, Service, TtrpcContext};

struct Ours;

#[async_trait(?Send)]
impl Health for Ours {
    async fn version(&self, request: CheckRequest) -> Result<VersionCheckResponse, Status> {
        match request.service.as_str() {
            "" => Ok(VersionCheckResponse {
                agent_version: "4.1.0".into(),
                ..Default::default()
            }),
            other => Err(Status::new(Code::NotFound, format!("no service {other}"))),
        }
    }
}

#[async_trait(?Send)]
impl Handler for Ours {
    async fn handle(&self, _: &str, method: &str, request: Bytes) -> Result<Vec<u8>, Status> {
        kata_protocol::agent::health_service::dispatch(self, method, request).await
    }
}

fn theirs(method: &str, service: &str) -> ttrpc::Request {
    let mut request = ttrpc::Request::new();
    request.service = "grpc.Health".into();
    request.method = method.into();
    request.payload = CheckRequest {
        service: service.into(),
    }
    .encode_to_vec();
    request.timeout_nano = Duration::from_secs(5).as_nanos().try_into().unwrap();
    request
}

#[tokio::test]
async fn their_client_understands_our_server() {
    let (near, far) = tokio::net::UnixStream::pair().unwrap();
    LocalSet::new()
        .run_until(async move {
            tokio::task::spawn_local(serve(far, Rc::new(Ours)));
            let client = ttrpc::r#async::Client::new(Socket::new(near));

            let answer = client.request(theirs("Version", "")).await.unwrap();
            let version = VersionCheckResponse::decode(&*answer.payload).unwrap();
            assert_eq!(version.agent_version, "4.1.0");

            let refused = client.request(theirs("Version", "x")).await.unwrap_err();
            let ttrpc::Error::RpcStatus(status) = refused else {
                panic!("{refused}")
            };
            assert_eq!(status.message, "no service x");
            assert_eq!(status.code(), ttrpc::Code::NOT_FOUND);

            let absent = client.request(theirs("Check", "")).await.unwrap_err();
            let ttrpc::Error::RpcStatus(status) = absent else {
                panic!("{absent}")
            };
            assert_eq!(status.code(), ttrpc::Code::UNIMPLEMENTED);
        })
        .await;
}

struct Theirs;

#[async_trait]
impl MethodHandler for Theirs {
    async fn handler(
        &self,
        _: TtrpcContext,
        request: ttrpc::Request,
    ) -> ttrpc::Result<ttrpc::Response> {
        let mut response = ttrpc::Response::new();
        if CheckRequest::decode(&*request.payload).unwrap().service == "x" {
            let status = ttrpc::get_status(ttrpc::Code::NOT_FOUND, "no service x");
            response.set_status(status);
            return Ok(response);
        }
        let version = VersionCheckResponse {
            agent_version: "theirs".into(),
            ..Default::default()
        };
        response.payload = version.encode_to_vec();
        Ok(response)
    }
}

#[tokio::test]
async fn our_client_understands_their_server() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = Listener::bind(format!("unix://{}", path.display())).unwrap();
    let methods: HashMap<String, Box<dyn MethodHandler + Send + Sync>> =
        HashMap::from([("Version".to_owned(), Box::new(Theirs) as _)]);
    let service = Service {
        methods,
        streams: HashMap::<_, Arc<_>>::new(),
    };
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(HashMap::from([("grpc.Health".to_owned(), service)]));
    server.start().await.unwrap();

    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let health = HealthClient(Client::new(stream));
    let soon = Some(Duration::from_secs(5));
    let version = health
        .version(&CheckRequest::default(), soon)
        .await
        .unwrap();
    assert_eq!(version.agent_version, "theirs");

    let refused = health
        .version(
            &CheckRequest {
                service: "x".into(),
            },
            soon,
        )
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Some(Code::NotFound));
    assert_eq!(refused.to_string(), "Version: no service x");
    drop(health);
    server.shutdown().await.unwrap();
}
