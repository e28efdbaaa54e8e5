//! What happens to people and invites. Each flow is one function over a transaction: invite, apply Clerk's events,
//! match, accept, remind.

mod accept;
mod clerk_events;
mod invite;
mod mail_caps;
mod match_people;
mod members;
mod remind;

pub use accept::{Accepted, Refused, accept_candidates};
pub use clerk_events::{Outcome, ReceivedEvent, apply_events, profile_of};
pub use invite::{InviteRules, Invited, ReadRequest, Refusal, invite, unknown_target};
pub use mail_caps::{Reservation, WantedMail, caps_reset_at, count_mails, room_for_mails};
pub use match_people::{MatchRequest, Matched, held_already, match_people};
pub use members::{MemberRefusal, Removal, remove_member, set_members};
pub use remind::{plan_reminders, remind};
