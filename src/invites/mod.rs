//! The domain, pure: what an invite is, who it is for, who may do what. No I/O, no clock of its own.

pub mod accept;
pub mod email;
mod filter;
mod invite;
pub mod limits;
pub mod matching;
pub mod members;
mod redirect;
pub mod reminders;
mod request;
pub mod roles;
pub mod token;

pub use filter::InviteFilter;
pub use invite::{Acceptance, Invite, InviteDetails, Status, TargetKind};
pub use redirect::RedirectOrigins;
pub use request::{CreateInvite, InvalidRequest, InviteRequest, PersonRef, Target, is_clerk_user_id};
