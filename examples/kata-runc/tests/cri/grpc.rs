//! Calls of a gRPC service on a unix socket, one at a time: all that this suite
//! needs of gRPC, which is a request of HTTP/2 with a message after five bytes,
//! and a status in its trailers (gRPC over HTTP/2, `PROTOCOL-HTTP2.md`).

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use tokio::net::UnixStream;

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(120);
/// What is before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A service that listens on a socket.
pub(crate) struct Service {
    pub(crate) socket: PathBuf,
    pub(crate) name: &'static str,
}

impl Service {
    /// Calls a method, and answers what the service says, or why it fails.
    pub(crate) fn call<A: Message + Default>(
        &self,
        method: &str,
        question: &impl Message,
    ) -> std::result::Result<A, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let told = |error: Box<dyn Error>| format!("{method}: {error}");
        let answer = runtime.block_on(async {
            let asking = self.ask(method, question.encode_to_vec());
            tokio::time::timeout(LIMIT, asking).await?
        });
        let answer = answer.map_err(told)?;
        A::decode(&*answer).map_err(|error| told(error.into()))
    }

    async fn ask(&self, method: &str, question: Vec<u8>) -> Result<Vec<u8>> {
        let socket = UnixStream::connect(&self.socket).await?;
        let (client, connection) = h2::client::handshake(socket).await?;
        let driving = tokio::spawn(connection);
        let request = http::Request::post(format!("http://localhost/{}/{method}", self.name))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, mut body) = client.ready().await?.send_request(request, false)?;
        let mut message = vec![0];
        message.extend(u32::try_from(question.len())?.to_be_bytes());
        message.extend(question);
        body.send_data(Bytes::from(message), true)?;
        let response = response.await?;
        let headers = response.headers().clone();
        let mut stream = response.into_body();
        let mut answer = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            answer.extend(chunk);
        }
        // An answer without a message has its status among the headers.
        let trailers = stream.trailers().await?.unwrap_or(headers);
        driving.abort();
        check(&trailers)?;
        let message = answer.get(PREFIX..).ok_or("an answer without a message")?;
        Ok(message.to_vec())
    }
}

fn check(trailers: &HeaderMap) -> Result<()> {
    let text = |name: &str| trailers.get(name).map(|value| value.to_str()).transpose();
    match text("grpc-status")? {
        Some("0") => Ok(()),
        status => {
            let message = text("grpc-message")?.unwrap_or_default();
            Err(format!("status {status:?}: {message}").into())
        }
    }
}
