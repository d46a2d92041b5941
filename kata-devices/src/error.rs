//! Why a device could not be set up.
/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
/// Why a device could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host refused something.
    #[error("cannot {operation}")]
    Host {
        /// What was attempted, and on what.
        operation: String,
        /// Why it failed.
        source: std::io::Error,
    },
}
