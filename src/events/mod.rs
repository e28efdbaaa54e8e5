//! What the app is told: events get their numbers and bodies here, and are signed and sent. Who records them is `store`;
//! when they are sent again, `jobs/deliver_event.rs` decides.

mod body;
mod number;
mod register;
mod send;

pub use body::{EventJson, event_id, read_event_id};
pub use number::{keep_numbering, number};
pub use register::{register, register_until_done};
pub use send::{Answer, Refusal, Sender};
