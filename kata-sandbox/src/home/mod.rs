//! Where a sandbox's engine lives, and how handles reach it.
//!
//! ```text
//!   Sandbox, Container, Process, Exec
//!        │ ask(Operation)        ▲ faces: state, exit, containers …
//!        ▼                       │
//!   Home ── Here ──▶ Operation::perform(engine)
//!        └─ There ─▶ Client ──unix socket──▶ supervisor ──▶ Operation::perform(engine)
//! ```
//!
//! Every operation is one value with one way to perform it. Handles ask for it
//! and do not know where it is performed.

mod face;
pub(crate) mod operation;
mod reply;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use face::{ContainerFace, ContainerKey, Facts, ProcessFace, SandboxFace};
pub(crate) use operation::{Operation, Request};
pub(crate) use reply::{Executed, Packet, Reply};

use crate::engine::Engine;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::supervisor::Client;

/// A sandbox's home. Every handle has a share in it; the last one ends an
/// engine that is here, and lets go of one that is in a supervisor.
#[derive(Debug)]
pub(crate) struct Home {
    face: Arc<SandboxFace>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// In this process.
    Here(Arc<Engine>),
    /// In a supervisor.
    There(Client),
}

impl Home {
    pub(crate) fn here(engine: Arc<Engine>) -> Arc<Self> {
        Arc::new(Self {
            face: Arc::clone(engine.face()),
            place: Place::Here(engine),
        })
    }

    pub(crate) fn there(client: Client) -> Arc<Self> {
        Arc::new(Self {
            face: Arc::clone(client.face()),
            place: Place::There(client),
        })
    }

    /// What is known of the sandbox without asking.
    pub(crate) fn face(&self) -> &Arc<SandboxFace> {
        &self.face
    }

    pub(crate) fn id(&self) -> &str {
        &self.face.id
    }

    /// Whether the engine outlives this process.
    pub(crate) fn is_detached(&self) -> bool {
        matches!(self.place, Place::There(_))
    }

    /// Has an operation performed.
    pub(crate) async fn ask<O: Operation>(&self, operation: O) -> Result<O::Reply> {
        match &self.place {
            Place::Here(engine) => operation.perform(engine).await,
            Place::There(client) => client.ask(operation).await,
        }
    }

    /// Has an operation performed whose outcome nobody waits for.
    pub(crate) fn ask_soon<O: Operation>(&self, operation: O) {
        match &self.place {
            Place::Here(engine) => {
                let own = Arc::clone(engine);
                engine.spawn(async move {
                    if let Err(error) = operation.perform(&own).await {
                        log::debug!(sandbox_id = own.id(), error:%; "could not be done");
                    }
                });
            }
            Place::There(client) => client.ask_soon(operation),
        }
    }

    /// How long the agent may take to answer a call.
    pub(crate) fn call_timeout(&self) -> Duration {
        match &self.place {
            Place::Here(engine) => engine.call_timeout(),
            Place::There(client) => client.call_timeout(),
        }
    }

    /// Lets others have the id of a sandbox that was deleted.
    pub(crate) fn free_id(&self) {
        if let Place::There(client) = &self.place {
            client.free_id();
        }
    }

    pub(crate) fn container(&self, id: &str) -> Option<Arc<ContainerFace>> {
        match &self.place {
            Place::Here(engine) => {
                let record = engine.containers().get(id)?;
                Some(Arc::clone(record.face()))
            }
            Place::There(client) => client.mirror().get(id),
        }
    }

    /// Its containers, by id.
    pub(crate) fn containers(&self) -> Vec<Arc<ContainerFace>> {
        match &self.place {
            Place::Here(engine) => {
                let records = engine.containers().all();
                records.iter().map(|it| Arc::clone(it.face())).collect()
            }
            Place::There(client) => client.mirror().all(),
        }
    }

    /// What to say of something in this sandbox.
    pub(crate) fn context(&self, operation: &'static str) -> Context {
        Context::new(operation, self.id())
    }

    /// What to say of one of its containers.
    pub(crate) fn container_context(&self, operation: &'static str, id: &str) -> Context {
        Context::new(operation, format!("{}/{}", self.id(), crate::id::shown(id)))
    }

    /// The error of a container that there is not.
    pub(crate) fn no_container(&self, id: &str) -> Error {
        let context = self.container_context("find container", id);
        let reason = "the sandbox has no container of that id";
        context.error(ErrorKind::NotFound, reason)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Place::Here(engine) = &self.place {
            engine.abandon();
        }
    }
}
