//! Clerk's webhook payloads, reduced to what usher acts on.
//!
//! Liberal in what it takes: unknown fields are ignored and whatever Clerk documents as optional may be null or missing.
//! Strict where a guess would do harm: a user without `email_addresses` is an error, not a person who lost every address.
//! Errors name the place in the payload, never what stands there.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;

mod json;

use self::json::{Fields, Node, Object, parse_json};
use super::bounds;

/// The event types that usher acts on; all others are answered 2xx and forgotten.
///
/// `session.pending` is left out on purpose: it has no published schema, and who is pending is not signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// `user.created`
    UserCreated,
    /// `user.updated`
    UserUpdated,
    /// `user.deleted`
    UserDeleted,
    /// `session.created`
    SessionCreated,
    /// `session.ended`
    SessionEnded,
    /// `session.removed`
    SessionRemoved,
    /// `session.revoked`
    SessionRevoked,
}

impl EventKind {
    /// Every kind, for commands and metrics that list them.
    pub const ALL: [EventKind; 7] = [
        EventKind::UserCreated,
        EventKind::UserUpdated,
        EventKind::UserDeleted,
        EventKind::SessionCreated,
        EventKind::SessionEnded,
        EventKind::SessionRemoved,
        EventKind::SessionRevoked,
    ];

    /// The kind of this `type`, if usher acts on it. Clerk's types are case-sensitive.
    pub fn from_type(event_type: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.as_str() == event_type)
    }

    /// Clerk's name of the type.
    pub const fn as_str(self) -> &'static str {
        match self {
            EventKind::UserCreated => "user.created",
            EventKind::UserUpdated => "user.updated",
            EventKind::UserDeleted => "user.deleted",
            EventKind::SessionCreated => "session.created",
            EventKind::SessionEnded => "session.ended",
            EventKind::SessionRemoved => "session.removed",
            EventKind::SessionRevoked => "session.revoked",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a webhook body has no type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PeekError {
    /// The body is not JSON in UTF-8.
    #[error("the body is not JSON")]
    NotJson,
    /// The body is JSON, but not an object with one `type` that is a non-empty string.
    #[error("the body has no `type`")]
    NoType,
}

/// Reads only `type` from a webhook body, without building anything for the rest; the rest is still checked to be JSON.
///
/// # Errors
///
/// See [`PeekError`].
pub fn peek_type(body: &[u8]) -> Result<Cow<'_, str>, PeekError> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(rename = "type", borrow)]
        event_type: Cow<'a, str>,
    }

    // serde_json doesn't look for UTF-8 in strings that it skips, but the inbox keeps the payload as text.
    let body = std::str::from_utf8(body).map_err(|_| PeekError::NotJson)?;
    // A derived struct would also be read from an array.
    if !body.trim_ascii_start().starts_with('{') {
        return match serde_json::from_str::<IgnoredAny>(body) {
            Ok(_) => Err(PeekError::NoType),
            Err(_) => Err(PeekError::NotJson),
        };
    }
    match serde_json::from_str::<Envelope<'_>>(body) {
        Ok(envelope) if envelope.event_type.is_empty() => Err(PeekError::NoType),
        Ok(envelope) => Ok(envelope.event_type),
        Err(error) if error.is_data() => Err(PeekError::NoType),
        Err(_) => Err(PeekError::NotJson),
    }
}

/// Why a payload can't be acted on. It names a place and never repeats what stands there: payloads hold addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Not JSON.
    #[error("not JSON at line {line}, column {column}")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in bytes.
        column: usize,
    },
    /// A field is not what Clerk documents.
    #[error("{path} is {problem}")]
    Field {
        /// The field, e.g. `data.email_addresses[1].email_address`.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// What happened, in usher's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Clerk created or changed the user.
    UserSeen(User),
    /// Clerk deleted the user.
    UserDeleted {
        /// Absent in some deliveries; nothing can be done about those.
        clerk_user_id: Option<String>,
    },
    /// The person signed in.
    SessionStarted {
        /// The session that began.
        session: Session,
        /// In newer deliveries.
        user: Option<User>,
    },
    /// A session was made, but is not `active`: tasks are open, and until they are done nobody is signed in.
    SessionPending {
        /// The session that is not yet one.
        session: Session,
        /// In newer deliveries.
        user: Option<User>,
    },
    /// The sign-in is over: ended, removed or revoked.
    SessionEnded {
        /// The session that is over.
        session: Session,
    },
}

impl Event {
    /// Parses a whole webhook payload (the envelope with `type` and `data`) of a known kind.
    ///
    /// # Errors
    ///
    /// See [`PayloadError`]; repeating the attempt can't help.
    pub fn parse(kind: EventKind, payload: &str) -> Result<Event, PayloadError> {
        let envelope = Fields::of(parse_json(payload.as_bytes())?).unwrap_or_default();
        let data = Node::new("data".to_owned(), envelope.get("data")).object()?;
        Ok(match kind {
            EventKind::UserCreated | EventKind::UserUpdated => Event::UserSeen(User::of(&data)?),
            EventKind::UserDeleted => Event::UserDeleted {
                clerk_user_id: data.get("id").if_present(Node::id)?,
            },
            EventKind::SessionCreated => {
                let session = Session::of(&data)?;
                let user = data.get("user").if_present(|node| User::of_session(node, &session))?;
                if data.get("status").text()? == "active" {
                    Event::SessionStarted { session, user }
                } else {
                    Event::SessionPending { session, user }
                }
            }
            EventKind::SessionEnded | EventKind::SessionRemoved | EventKind::SessionRevoked => Event::SessionEnded {
                session: Session::of(&data)?,
            },
        })
    }
}

/// A Clerk user, as webhooks and the Backend API show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// `user_…`; never empty.
    pub clerk_user_id: String,
    /// In Clerk's order, which says nothing about which is primary. Empty for who signed up by phone, user name or web3.
    pub addresses: Vec<Address>,
    /// `None` where Clerk has null or an empty string; so are the next three.
    pub first_name: Option<String>,
    /// The family name.
    pub last_name: Option<String>,
    /// The address of a picture.
    pub image_url: Option<String>,
    /// BCP 47, as Clerk sends it.
    pub locale: Option<String>,
    /// May not sign in any more.
    pub banned: bool,
    /// Locked out for a while after failed attempts.
    pub locked: bool,
    /// When Clerk created the user; to the millisecond.
    pub created_at: DateTime<Utc>,
    /// Orders the versions of a user that arrive out of order; to the millisecond.
    pub updated_at: DateTime<Utc>,
}

/// One e-mail address of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Exactly as Clerk sends it; never empty.
    pub email: String,
    /// Clerk's verification says `verified`; everything else, and a missing verification, is not.
    pub verified: bool,
    /// It is the one that `primary_email_address_id` names.
    pub primary: bool,
}

/// Without the address: a `{:?}` in a log line must not leak it.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("verified", &self.verified)
            .field("primary", &self.primary)
            .finish_non_exhaustive()
    }
}

impl User {
    /// Parses a bare user object: what `GET /v1/users/{id}` answers.
    ///
    /// # Errors
    ///
    /// See [`PayloadError`]; paths begin with `user`.
    pub fn from_json(body: &[u8]) -> Result<User, PayloadError> {
        User::of(&Node::new("user".to_owned(), Some(parse_json(body)?)).object()?)
    }

    /// The primary address, verified or not. The first of the list is no substitute for it.
    #[cfg(test)]
    pub(crate) fn primary_email(&self) -> Option<&str> {
        self.addresses
            .iter()
            .find(|address| address.primary)
            .map(|address| address.email.as_str())
    }

    fn of(user: &Object<'_>) -> Result<User, PayloadError> {
        let primary_id = user.get("primary_email_address_id").optional_text()?;
        let mut addresses = Vec::new();
        for address in user.get("email_addresses").items()? {
            let address = address.lenient_object();
            let id = address.get("id").optional_text()?;
            let verification = address.get("verification").lenient_object();
            let status = verification.get("status").optional_text()?;
            addresses.push(Address {
                email: address.get("email_address").text()?,
                verified: status.as_deref() == Some("verified"),
                primary: id.is_some() && id == primary_id,
            });
        }
        let text = |name| user.get(name).optional_text();
        Ok(User {
            clerk_user_id: user.get("id").id()?,
            addresses,
            first_name: text("first_name")?.and_then(|name| bounds::name(&name)),
            last_name: text("last_name")?.and_then(|name| bounds::name(&name)),
            image_url: text("image_url")?.and_then(|url| bounds::image_url(&url)),
            locale: text("locale")?.and_then(|tag| bounds::locale(&tag)),
            banned: user.get("banned").flag()?,
            locked: user.get("locked").flag()?,
            created_at: user.get("created_at").time()?,
            updated_at: user.get("updated_at").time()?,
        })
    }

    /// The user inside a session event, who must be the session's: else invites would be matched for the wrong person.
    fn of_session(node: &Node<'_>, session: &Session) -> Result<User, PayloadError> {
        let object = node.object()?;
        let user = User::of(&object)?;
        if user.clerk_user_id != session.clerk_user_id {
            return Err(object.get("id").error("not the user of the session"));
        }
        Ok(user)
    }
}

/// A Clerk session; whether it is live, the [`Event`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// `sess_…`; never empty.
    pub clerk_session_id: String,
    /// `user_…`; never empty.
    pub clerk_user_id: String,
    /// Somebody else acts as the user: the session has an `actor`.
    pub impersonated: bool,
    /// When the session was made; to the millisecond.
    pub created_at: DateTime<Utc>,
    /// The last change: for a session that is over, about when it ended; to the millisecond.
    pub updated_at: DateTime<Utc>,
}

impl Session {
    fn of(session: &Object<'_>) -> Result<Session, PayloadError> {
        Ok(Session {
            clerk_session_id: session.get("id").id()?,
            clerk_user_id: session.get("user_id").id()?,
            impersonated: session.get("actor").is_present(),
            created_at: session.get("created_at").time()?,
            updated_at: session.get("updated_at").time()?,
        })
    }
}

#[cfg(test)]
mod tests;
