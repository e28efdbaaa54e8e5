//! usher
pub mod clock;
pub mod invites;
pub mod names;
pub mod store;
