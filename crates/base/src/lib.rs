//! What the service and its leaf crates share.
//!
//! - [`mask`]: addresses as logs and answers may show them.
//! - [`private`]: files that only their owner can read.
//! - [`Throttle`]: log lines that strangers can cause.
//! - [`unicode`]: whether a text shows anything.

#![warn(missing_docs)]

pub mod mask;
pub mod private;
mod throttle;
pub mod unicode;

pub use throttle::Throttle;
