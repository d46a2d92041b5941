//! The outcome of a call, and the envelopes of request and response.

/// gRPC's status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Code {
    /// Done.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// No better code fits.
    Unknown = 2,
    /// The request makes no sense.
    InvalidArgument = 3,
    /// The deadline passed first.
    DeadlineExceeded = 4,
    /// No such thing.
    NotFound = 5,
    /// There is one already.
    AlreadyExists = 6,
    /// Not allowed.
    PermissionDenied = 7,
    /// Too much is in use.
    ResourceExhausted = 8,
    /// Wrong state for this call.
    FailedPrecondition = 9,
    /// Stopped half-way.
    Aborted = 10,
    /// Past the end.
    OutOfRange = 11,
    /// No such method here.
    Unimplemented = 12,
    /// The callee's own failure.
    Internal = 13,
    /// Try again later.
    Unavailable = 14,
    /// Lost for good.
    DataLoss = 15,
    /// Who is calling?
    Unauthenticated = 16,
}

/// Why a call failed, in the callee's words (`google.rpc.Status`).
#[derive(Clone, PartialEq, Eq, Hash, prost::Message, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// One of [`Code`].
    #[prost(enumeration = "Code", tag = "1")]
    pub code: i32,
    /// A sentence for the person who asked.
    #[prost(string, tag = "2")]
    pub message: String,
}

impl Status {
    /// A status of a code and a sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code as i32,
            message: message.into(),
        }
    }

    /// A method that this side does not have.
    #[must_use]
    pub fn unimplemented(method: &str) -> Self {
        Self::new(Code::Unimplemented, format!("{method} is not implemented"))
    }
}

/// The payload of a request frame.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RequestEnvelope {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) payload: bytes::Bytes,
    #[prost(int64, tag = "4")]
    pub(super) timeout_nano: i64,
}

/// The payload of a response frame.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResponseEnvelope {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<Status>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) payload: bytes::Bytes,
}
