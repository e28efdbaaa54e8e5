//! What tests, benchmarks, fault runs, `usher demo` and `usher simulate` put around usher, once for all of them.
//!
//! - [`fake_clerk`]: Clerk, played: events, signatures, session tokens.
//! - [`smtp`]: a mail server that does what it is told at each step of the conversation.
//! - [`process`]: `usher serve` as a process: started, watched, signalled, stopped.
//! - [`receiver`]: a receiver of usher's events that answers as it is told.
//! - [`database`]: databases to throw away, on SQLite and Postgres.

#![warn(missing_docs)]

#[cfg(feature = "database")]
pub mod database;
pub mod fake_clerk;
#[cfg(feature = "process")]
pub mod process;
#[cfg(feature = "receiver")]
pub mod receiver;
#[cfg(feature = "smtp")]
pub mod smtp;
