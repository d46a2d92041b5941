//! (fake)
