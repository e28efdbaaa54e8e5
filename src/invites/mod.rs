//! The domain, pure: what an invite is, who it is for, who may do what. No I/O, no clock of its own.

pub mod accept;
pub mod email;
mod invite;
pub mod limits;
pub mod matching;
pub mod reminders;
pub mod roles;
pub mod token;

pub use invite::{Acceptance, Invite, Status, TargetKind};
