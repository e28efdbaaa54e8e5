//! What happens to people and invites, each flow one function over a transaction: asked, told of by Clerk, matched,
//! let in.

mod admit;
mod clerk_events;
mod invite;
mod match_people;

pub use admit::{Admitted, admit};
pub use clerk_events::{Arrived, Outcome, apply_events, profile_of};
pub use invite::{Invitation, Invited, Inviter, Refusal, Target, invite};
pub use match_people::{Visit, match_people};
