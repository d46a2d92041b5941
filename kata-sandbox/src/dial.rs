//! Streams to what listens in the guest.

use std::time::Duration;

use kata_hypervisor::GuestStream;
use kata_protocol::channel::{self, Reply, Request};
use kata_protocol::port;
use tokio::io::BufReader;

use crate::engine::Engine;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::home::Home;
use crate::home::operation::{Console, Dial};

/// A channel stream, on which the agent has answered.
pub(crate) type Channel = BufReader<GuestStream>;

pub(crate) async fn vsock(home: &Home, port: u32) -> Result<GuestStream> {
    home.ask(Dial { port }).await
}

pub(crate) async fn tcp(home: &Home, port: u16) -> Result<GuestStream> {
    let context = home.context("dial into sandbox");
    let stream = open(home, &Request::Tcp { port }, &context).await?;
    let host_port = stream.get_ref().host_port();
    // What came with the answer is in the buffer: it goes along.
    Ok(GuestStream::new(stream, host_port))
}

pub(crate) async fn udp(home: &Home, port: u16) -> Result<GuestStream> {
    let context = home.context("dial into sandbox");
    let stream = open(home, &Request::Udp { port }, &context).await?;
    let host_port = stream.get_ref().host_port();
    Ok(GuestStream::new(stream, host_port))
}

impl Engine {
    /// Dials, within the deadline of a call.
    pub(crate) async fn dial(&self, port: u32) -> Result<GuestStream> {
        let context = self.context("dial into sandbox");
        self.require_running(&context)?;
        let limit = self.call_timeout();
        match tokio::time::timeout(limit, self.vm().dial(port)).await {
            Ok(dialled) => dialled.map_err(|error| context.vm(error)),
            Err(_) => Err(late(limit, &context).with_console(|| self.vm().console_tail())),
        }
    }
}

/// Opens a stream to something that the agent reaches for us.
pub(crate) async fn open(home: &Home, request: &Request, context: &Context) -> Result<Channel> {
    let dialled = home.ask(Dial {
        port: port::CHANNEL,
    });
    let stream = dialled.await.map_err(|error| {
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
    let limit = home.call_timeout();
    match tokio::time::timeout(limit, exchange).await {
        Ok(reply) => accept(reply, context)?,
        Err(_) => {
            let console = home.ask(Console {}).await.unwrap_or_default();
            return Err(late(limit, context).with_console(|| console));
        }
    }
    Ok(stream)
}

fn late(limit: Duration, context: &Context) -> Error {
    let reason = format!("the guest did not answer within {} ms", limit.as_millis());
    context.error(ErrorKind::Timeout, reason)
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
