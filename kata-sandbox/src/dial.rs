//! Streams to what listens in the guest.

use kata_hypervisor::GuestStream;
use kata_protocol::channel::{self, Reply, Request};
use kata_protocol::port;
use tokio::io::BufReader;

use crate::engine::Engine;
use crate::error::{Context, ErrorKind, Result};

/// A channel stream, on which the agent has answered.
pub(crate) type Channel = BufReader<GuestStream>;

pub(crate) async fn vsock(engine: &Engine, port: u32) -> Result<GuestStream> {
    let context = engine.context("dial into sandbox");
    connect(engine, port, &context).await
}

pub(crate) async fn tcp(engine: &Engine, port: u16) -> Result<GuestStream> {
    let context = engine.context("dial into sandbox");
    let stream = open(engine, &Request::Tcp { port }, &context).await?;
    let host_port = stream.get_ref().host_port();
    // What came with the answer is in the buffer: it goes along.
    Ok(GuestStream::new(stream, host_port))
}

/// Dials, within the deadline of a call.
async fn connect(engine: &Engine, port: u32, context: &Context) -> Result<GuestStream> {
    engine.require_running(context)?;
    let dialled = in_time(engine, context, engine.vm().dial(port)).await?;
    dialled.map_err(|error| context.vm(error))
}

/// Opens a stream to something that the agent reaches for us.
pub(crate) async fn open(engine: &Engine, request: &Request, context: &Context) -> Result<Channel> {
    let stream = connect(engine, port::CHANNEL, context)
        .await
        .map_err(|error| {
            // Nobody listens on that port but an agent of ours.
            if error.kind() == ErrorKind::NotFound {
                let reason = "the agent in the guest has no streams of its own";
                return context
                    .error(ErrorKind::Unsupported, reason)
                    .caused_by(error);
            }
            error
        })?;
    let mut stream = BufReader::new(stream);
    let exchange = async {
        channel::send(&mut stream, request).await?;
        channel::receive::<Reply>(&mut stream).await
    };
    let reply = in_time(engine, context, exchange).await?;
    accept(reply, context)?;
    Ok(stream)
}

/// What the agent's answer means. Its words go into the error.
pub(crate) fn accept(reply: std::io::Result<Reply>, context: &Context) -> Result<()> {
    match reply {
        Ok(Reply::Ok) => Ok(()),
        Ok(Reply::Error { message }) => Err(context.error(ErrorKind::NotFound, message)),
        Ok(_) => Err(context.error(ErrorKind::Protocol, "the agent's answer is not known")),
        Err(source) if source.kind() == std::io::ErrorKind::InvalidData => {
            let reason = "the agent's answer is malformed";
            Err(context.error(ErrorKind::Protocol, reason).caused_by(source))
        }
        Err(source) => Err(context.io("the agent ended the stream", source)),
    }
}

async fn in_time<T>(
    engine: &Engine,
    context: &Context,
    work: impl Future<Output = T>,
) -> Result<T> {
    let limit = engine.agent().deadline().unwrap_or_default();
    tokio::time::timeout(limit, work).await.map_err(|_| {
        let reason = format!("the guest did not answer within {} ms", limit.as_millis());
        context
            .error(ErrorKind::Timeout, reason)
            .with_console(|| engine.vm().console_tail())
    })
}
