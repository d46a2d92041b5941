//! The wire between a runtime on the host and the agent in the guest.
//!
//! * [`agent`], [`types`], [`health`]: the messages, generated from `proto/`;
//! * [`ttrpc`]: the remote procedure calls that carry them;
//! * [`port`]: the vsock ports either side listens on;
//! * [`channel`]: streams that are no calls (TCP forwarding, copying files);
//! * [`oci`]: a runtime specification, turned into the agent's form;
//! * [`manifest`]: what a guest image says about itself.
//!
//! The names and numbers are Kata Containers 4.1's, so that either side can be
//! exchanged for Kata's. Fields numbered from 1000 are additions of this
//! project, which a peer that does not know them skips.
#![forbid(unsafe_code)]

pub mod channel;
pub mod manifest;
pub mod oci;
pub mod port;
pub mod ttrpc;

mod generated;
pub use generated::{agent, types};

/// Health of the agent: the service `grpc.Health`.
pub mod health {
    pub use crate::generated::agent::health_check_response::ServingStatus;
    pub use crate::generated::agent::{
        CheckRequest, HealthCheckResponse, VersionCheckResponse, health_client::HealthClient,
        health_service::Health,
    };
}
