//! Clerk's webhook payloads, reduced to what usher acts on.
//!
//! Liberal in what it takes: unknown fields are ignored and whatever Clerk documents as optional may be null or missing.
//! Strict where a guess would do harm: a user without `email_addresses` is an error, not a person who lost every address.
//! Errors name the place in the payload, never what stands there.

use std::borrow::Cow;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::bounds::{self, MAX_ADDRESSES};

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
    pub fn primary_email(&self) -> Option<&str> {
        self.addresses
            .iter()
            .find(|address| address.primary)
            .map(|address| address.email.as_str())
    }

    /// First and last name, as far as known. Not cleaned: it is what the person typed.
    pub fn display_name(&self) -> Option<String> {
        let names: Vec<&str> = [&self.first_name, &self.last_name]
            .into_iter()
            .flatten()
            .map(|name| name.trim())
            .filter(|name| !name.is_empty())
            .collect();
        (!names.is_empty()).then(|| names.join(" "))
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

/// The fields that usher reads of an envelope, a user, a session or an address. Everything else is skipped unread: people
/// write their own `unsafe_metadata`, and must not be able to make an event about themselves unreadable.
const READ: &[&str] = &[
    "data",
    "user",
    "id",
    "status",
    "user_id",
    "actor",
    "email_addresses",
    "email_address",
    "verification",
    "primary_email_address_id",
    "first_name",
    "last_name",
    "image_url",
    "locale",
    "banned",
    "locked",
    "created_at",
    "updated_at",
];

/// Checks that it is JSON and where it ends. The reader below goes down by one level each time it is asked to, and skips
/// what it is not asked for without recursion, so how deeply something is nested costs no stack.
fn parse_json(text: &[u8]) -> Result<&RawValue, PayloadError> {
    serde_json::from_slice(text).map_err(|error| PayloadError::NotJson {
        line: error.line(),
        column: error.column(),
    })
}

/// The fields of an object that are in [`READ`], unread. Of two of one name the last counts.
#[derive(Default)]
struct Fields<'a>(Vec<(&'static str, &'a RawValue)>);

impl<'a> Fields<'a> {
    /// The fields, or none if it is no object.
    fn of(value: &'a RawValue) -> Option<Fields<'a>> {
        // A map would also be read from an array.
        value
            .get()
            .starts_with('{')
            .then(|| serde_json::from_str(value.get()).ok())?
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    fn set(&mut self, name: &'static str, value: &'a RawValue) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(Text(name)) = map.next_key()? {
                    match READ.iter().find(|known| ***known == name) {
                        Some(known) => fields.set(known, map.next_value()?),
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Visit)
    }
}

/// Any string of JSON, also those that are none of Unicode: half of a surrogate pair, as JavaScript makes when it cuts an
/// emoji in two. It is left out, and `\u{fffd}` stands in its place.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Text<'de>, E> {
                Ok(Text(String::from_utf8_lossy(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(String::from_utf8_lossy(bytes).into_owned())))
            }
        }

        // serde_json gives bytes as they are; a `str` would have to be Unicode.
        deserializer.deserialize_bytes(Visit)
    }
}

/// A list of at most [`MAX_ADDRESSES`] items, unread.
struct Items<'a>(Option<Vec<&'a RawValue>>);

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;

        impl<'de> Visitor<'de> for Visit {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items<'de>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() < MAX_ADDRESSES {
                        items.push(item);
                    } else {
                        while list.next_element::<IgnoredAny>()?.is_some() {}
                        return Ok(Items(None));
                    }
                }
                Ok(Items(Some(items)))
            }
        }

        deserializer.deserialize_seq(Visit)
    }
}

/// A place in the payload with its path.
///
/// Walked by hand rather than deserialised: serde's messages quote the values that they stumble over.
struct Node<'a> {
    path: String,
    /// `None` where there is nothing or null, which Clerk doesn't tell apart.
    value: Option<&'a RawValue>,
}

/// An object in the payload with its path.
struct Object<'a> {
    path: String,
    fields: Fields<'a>,
}

impl<'a> Object<'a> {
    fn get(&self, key: &str) -> Node<'a> {
        Node::new(format!("{}.{key}", self.path), self.fields.get(key))
    }
}

impl<'a> Node<'a> {
    fn new(path: String, value: Option<&'a RawValue>) -> Node<'a> {
        Node {
            path,
            value: value.filter(|value| value.get() != "null"),
        }
    }

    fn error(&self, problem: &'static str) -> PayloadError {
        PayloadError::Field {
            path: self.path.clone(),
            problem,
        }
    }

    fn is_present(&self) -> bool {
        self.value.is_some()
    }

    fn present(&self) -> Result<&'a RawValue, PayloadError> {
        self.value.ok_or_else(|| self.error("missing"))
    }

    fn if_present<T>(&self, read: impl FnOnce(&Self) -> Result<T, PayloadError>) -> Result<Option<T>, PayloadError> {
        self.is_present().then(|| read(self)).transpose()
    }

    fn object(&self) -> Result<Object<'a>, PayloadError> {
        let fields = Fields::of(self.present()?).ok_or_else(|| self.error("not an object"))?;
        Ok(Object {
            path: self.path.clone(),
            fields,
        })
    }

    /// As [`Node::object`], but what is no object has no fields.
    fn lenient_object(&self) -> Object<'a> {
        Object {
            path: self.path.clone(),
            fields: self.value.and_then(Fields::of).unwrap_or_default(),
        }
    }

    fn items(&self) -> Result<Vec<Node<'a>>, PayloadError> {
        let text = self.present()?.get();
        let Items(items) = serde_json::from_str(text).map_err(|_| self.error("not a list"))?;
        let items = items.ok_or_else(|| self.error("a list of more than 1000"))?;
        let nodes = items
            .into_iter()
            .enumerate()
            .map(|(index, item)| Node::new(format!("{}[{index}]", self.path), Some(item)));
        Ok(nodes.collect())
    }

    fn string(&self, value: &'a RawValue) -> Result<Cow<'a, str>, PayloadError> {
        // Bytes would also be read from an array.
        let text = value.get().starts_with('"').then(|| serde_json::from_str(value.get()));
        match text {
            Some(Ok(Text(text))) => Ok(text),
            _ => Err(self.error("not a string")),
        }
    }

    fn text(&self) -> Result<String, PayloadError> {
        let text = self.string(self.present()?)?;
        if text.trim().is_empty() {
            Err(self.error("empty"))
        } else if text.contains(['\0', char::REPLACEMENT_CHARACTER]) {
            Err(self.error("a string with NUL or half a character"))
        } else {
            Ok(text.into_owned())
        }
    }

    /// The id of a user or a session.
    fn id(&self) -> Result<String, PayloadError> {
        let id = self.string(self.present()?)?;
        bounds::check_id(&id).map_err(|problem| self.error(problem))?;
        Ok(id.into_owned())
    }

    fn optional_text(&self) -> Result<Option<Cow<'a, str>>, PayloadError> {
        let text = self.value.map(|value| self.string(value)).transpose()?;
        Ok(text.filter(|text| !text.trim().is_empty()))
    }

    fn flag(&self) -> Result<bool, PayloadError> {
        match self.value.map(RawValue::get) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(self.error("not a boolean")),
        }
    }

    /// Clerk's times are integer milliseconds since 1970.
    fn time(&self) -> Result<DateTime<Utc>, PayloadError> {
        serde_json::from_str(self.present()?.get())
            .ok()
            .and_then(bounds::time)
            .ok_or_else(|| self.error("not a time in milliseconds"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const CREATED: i64 = 1_790_000_000_123;
    const UPDATED: i64 = 1_790_000_060_456;

    fn address(id: &str, email: &str, verification: Value) -> Value {
        json!({
            "id": id, "object": "email_address", "email_address": email, "verification": verification,
            "linked_to": [], "reserved": false,
        })
    }

    fn verified() -> Value {
        json!({"status": "verified", "strategy": "email_code", "attempts": 1, "expire_at": UPDATED})
    }

    fn ada() -> Value {
        json!({
            "id": "user_ada", "object": "user",
            "email_addresses": [
                address("idn_1", "old@example.com", Value::Null),
                address("idn_2", "Ada@Example.com", verified()),
            ],
            "primary_email_address_id": "idn_2",
            "phone_numbers": [], "primary_phone_number_id": null, "username": null,
            "first_name": "Ada", "last_name": "Lovelace", "image_url": "https://img.clerk.com/ada",
            "external_id": null, "external_accounts": [],
            "public_metadata": {}, "private_metadata": {}, "unsafe_metadata": {"type": "user.deleted"},
            "banned": false, "locked": false, "locale": "en-GB", "last_sign_in_at": null,
            "created_at": CREATED, "updated_at": UPDATED,
            "something_new": {"from": ["the", "future"]},
        })
    }

    /// The shape before Clerk put the user into session events.
    fn old_session(status: &str) -> Value {
        json!({
            "id": "sess_1", "object": "session", "status": status, "user_id": "user_ada", "client_id": "client_1",
            "created_at": CREATED, "updated_at": UPDATED, "last_active_at": UPDATED,
            "expire_at": CREATED + 604_800_000, "abandon_at": CREATED + 2_592_000_000_i64,
        })
    }

    fn new_session(status: &str, user: Value) -> Value {
        with(
            old_session(status),
            &[
                ("user", user),
                ("actor", Value::Null),
                (
                    "latest_activity",
                    json!({"ip_address": "192.0.2.1", "is_mobile": false}),
                ),
                ("last_active_organization_id", Value::Null),
            ],
        )
    }

    fn with(mut object: Value, fields: &[(&str, Value)]) -> Value {
        for (name, value) in fields {
            object[*name] = value.clone();
        }
        object
    }

    fn without(mut object: Value, field: &str) -> Value {
        object.as_object_mut().unwrap().remove(field);
        object
    }

    fn envelope(kind: EventKind, data: Value) -> String {
        json!({
            "type": kind.as_str(), "object": "event", "data": data, "timestamp": UPDATED, "instance_id": "ins_1",
            "event_attributes": {"http_request": {"client_ip": "192.0.2.1", "user_agent": "Firefox"}},
        })
        .to_string()
    }

    fn parse(kind: EventKind, data: Value) -> Result<Event, PayloadError> {
        Event::parse(kind, &envelope(kind, data))
    }

    fn user(data: Value) -> User {
        match parse(EventKind::UserUpdated, data).unwrap() {
            Event::UserSeen(user) => user,
            other => panic!("{other:?}"),
        }
    }

    fn millis(value: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(value).unwrap()
    }

    fn session() -> Session {
        Session {
            clerk_session_id: "sess_1".into(),
            clerk_user_id: "user_ada".into(),
            impersonated: false,
            created_at: millis(CREATED),
            updated_at: millis(UPDATED),
        }
    }

    #[test]
    fn kinds_and_types_name_each_other() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::from_type(kind.as_str()), Some(kind));
        }
        for unknown in ["session.pending", "email.created", "User.Created", "user.created ", ""] {
            assert_eq!(EventKind::from_type(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn the_type_is_read_from_the_envelope_alone() {
        let cases: [(&[u8], Result<&str, PeekError>); 24] = [
            (br#"{"type":"user.created","data":{}}"#, Ok("user.created")),
            (
                b" \r\n\t{ \"data\" : {\"type\":\"inner\"}, \"type\" : \"outer\" } \n",
                Ok("outer"),
            ),
            (br#"{"type":"user\u002ecreated"}"#, Ok("user.created")),
            (br#"{"type":"anything at all"}"#, Ok("anything at all")),
            ("{\"type\":\"ü\"}".as_bytes(), Ok("ü")),
            (br#"{"type":""}"#, Err(PeekError::NoType)),
            (br#"{"type":null}"#, Err(PeekError::NoType)),
            (br#"{"type":7}"#, Err(PeekError::NoType)),
            (br#"{"type":["user.created"]}"#, Err(PeekError::NoType)),
            (br#"{"Type":"user.created"}"#, Err(PeekError::NoType)),
            (br#"{"data":{"type":"user.created"}}"#, Err(PeekError::NoType)),
            (br#"{"type":"a","type":"b"}"#, Err(PeekError::NoType)),
            (b"{}", Err(PeekError::NoType)),
            (br#"["user.created"]"#, Err(PeekError::NoType)),
            (br#""user.created""#, Err(PeekError::NoType)),
            (b"null", Err(PeekError::NoType)),
            (b"", Err(PeekError::NotJson)),
            (b"type=user.created", Err(PeekError::NotJson)),
            (br#"{"type":"user.created""#, Err(PeekError::NotJson)),
            (br#"{"type":"user.created",}"#, Err(PeekError::NotJson)),
            (br#"{"type":"user.created"} x"#, Err(PeekError::NotJson)),
            (br#"{"type":"user.created","data":{]}"#, Err(PeekError::NotJson)),
            (
                b"{\"type\":\"user.created\",\"data\":\"\xff\"}",
                Err(PeekError::NotJson),
            ),
            (b"\xef\xbb\xbf{\"type\":\"user.created\"}", Err(PeekError::NotJson)),
        ];
        for (body, expected) in cases {
            assert_eq!(
                peek_type(body).as_deref(),
                expected.as_ref().copied(),
                "{}",
                body.escape_ascii()
            );
        }
    }

    #[test]
    fn a_plain_type_is_borrowed() {
        assert!(matches!(peek_type(br#"{"type":"user.created"}"#), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn nesting_neither_exhausts_the_stack_nor_hides_what_is_read() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let nested = |name: &str| format!("{}0{}", format!(r#"{{"{name}":"#).repeat(20_000), "}".repeat(20_000));
        for (data, expected) in [
            (deep.clone(), "data is not an object"),
            (nested("data"), "data.email_addresses is missing"),
            (nested("user"), "data.email_addresses is missing"),
            (
                format!(r#"{{"email_addresses":[{deep}]}}"#),
                "data.email_addresses[0].email_address is missing",
            ),
            (
                format!(r#"{{"email_addresses":[],"id":{deep}}}"#),
                "data.id is not a string",
            ),
        ] {
            let envelope = format!(r#"{{"type":"x","data":{data}}}"#);
            assert_eq!(peek_type(envelope.as_bytes()).unwrap(), "x");
            let error = Event::parse(EventKind::UserCreated, &envelope).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let session = format!(
            r#"{{"id":"sess_1","user_id":"user_1","created_at":1,"updated_at":1,"user":{}}}"#,
            nested("user")
        );
        let error = Event::parse(EventKind::SessionCreated, &format!(r#"{{"data":{session}}}"#)).unwrap_err();
        assert_eq!(error.to_string(), "data.user.email_addresses is missing");
        let user = format!(
            r#"{{"type":"user.updated","data":{{"id":"user_1","email_addresses":[],"banned":true,
                "unsafe_metadata":{deep},"created_at":1,"updated_at":1}}}}"#
        );
        match Event::parse(EventKind::UserUpdated, &user) {
            Ok(Event::UserSeen(user)) => assert!(user.banned),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_created_and_an_updated_user_are_read_alike() {
        let expected = User {
            clerk_user_id: "user_ada".into(),
            addresses: vec![
                Address {
                    email: "old@example.com".into(),
                    verified: false,
                    primary: false,
                },
                Address {
                    email: "Ada@Example.com".into(),
                    verified: true,
                    primary: true,
                },
            ],
            first_name: Some("Ada".into()),
            last_name: Some("Lovelace".into()),
            image_url: Some("https://img.clerk.com/ada".into()),
            locale: Some("en-GB".into()),
            banned: false,
            locked: false,
            created_at: millis(CREATED),
            updated_at: millis(UPDATED),
        };
        for kind in [EventKind::UserCreated, EventKind::UserUpdated] {
            assert_eq!(parse(kind, ada()), Ok(Event::UserSeen(expected.clone())));
        }
        assert_eq!(User::from_json(ada().to_string().as_bytes()), Ok(expected));
    }

    #[test]
    fn only_type_and_data_are_relied_on() {
        let bare = json!({"data": ada()}).to_string();
        assert!(Event::parse(EventKind::UserCreated, &bare).is_ok());
    }

    #[test]
    fn only_a_verified_verification_verifies() {
        for (verification, expected) in [
            (verified(), true),
            (json!({"status": "verified"}), true),
            (Value::Null, false),
            (json!({}), false),
            (json!({"status": null}), false),
            (json!({"status": "unverified"}), false),
            (json!({"status": "transferable"}), false),
            (json!({"status": "failed"}), false),
            (json!({"status": "expired"}), false),
            (json!({"status": "Verified"}), false),
            (json!({"status": "verified "}), false),
            (json!("verified"), false),
            (json!(true), false),
        ] {
            let addresses = json!([address("idn_1", "ada@example.com", verification.clone())]);
            let user = user(with(ada(), &[("email_addresses", addresses)]));
            assert_eq!(user.addresses[0].verified, expected, "{verification}");
        }
        let absent = json!([{"id": "idn_1", "email_address": "ada@example.com"}]);
        assert!(!user(with(ada(), &[("email_addresses", absent)])).addresses[0].verified);
    }

    #[test]
    fn the_primary_address_is_the_named_one() {
        assert_eq!(user(ada()).primary_email(), Some("Ada@Example.com"));
        for id in [Value::Null, json!("idn_gone"), json!("")] {
            let user = user(with(ada(), &[("primary_email_address_id", id)]));
            assert_eq!(user.primary_email(), None);
        }
        let no_ids = json!([{"email_address": "ada@example.com", "verification": null}]);
        let user = user(without(
            with(ada(), &[("email_addresses", no_ids)]),
            "primary_email_address_id",
        ));
        assert_eq!(user.primary_email(), None);
    }

    #[test]
    fn names_are_joined_as_far_as_known() {
        for (first, last, expected) in [
            (json!("Ada"), json!("Lovelace"), Some("Ada Lovelace")),
            (json!(" Ada "), Value::Null, Some("Ada")),
            (Value::Null, json!("Lovelace"), Some("Lovelace")),
            (json!(""), json!("  "), None),
            (Value::Null, Value::Null, None),
        ] {
            let user = user(with(ada(), &[("first_name", first), ("last_name", last)]));
            assert_eq!(user.display_name().as_deref(), expected);
        }
    }

    #[test]
    fn who_signed_up_by_phone_has_no_address() {
        let phone = with(
            ada(),
            &[
                ("email_addresses", json!([])),
                ("primary_email_address_id", Value::Null),
                ("phone_numbers", json!([{"phone_number": "+15555550100"}])),
            ],
        );
        assert_eq!(user(phone).addresses, []);
    }

    #[test]
    fn optional_fields_may_be_null_or_missing() {
        let optional = [
            "primary_email_address_id",
            "first_name",
            "last_name",
            "image_url",
            "locale",
            "banned",
            "locked",
        ];
        for field in optional {
            let nulled = user(with(ada(), &[(field, Value::Null)]));
            assert_eq!(user(without(ada(), field)), nulled, "{field}");
        }
        let bare = optional.iter().fold(ada(), |data, field| without(data, field));
        let user = user(bare);
        assert!(!user.banned && !user.locked && user.locale.is_none());
    }

    #[test]
    fn banned_and_locked_are_seen() {
        let user = user(with(ada(), &[("banned", json!(true)), ("locked", json!(true))]));
        assert!(user.banned && user.locked);
    }

    #[test]
    fn the_dashboards_test_event_of_2022_is_as_good_as_any() {
        let data = json!({
            "birthday": "", "created_at": 1_654_012_591_514_i64,
            "email_addresses": [{
                "email_address": "example@example.org", "id": "idn_29w83yL7CwVlJXylYLxcslromF1", "linked_to": [],
                "object": "email_address", "verification": {"status": "verified", "strategy": "ticket"},
            }],
            "external_accounts": [], "external_id": "567772", "first_name": "Example", "gender": "",
            "id": "user_29w83sxmDNGwOuEthce5gg56FcC", "image_url": "https://img.clerk.com/xxxxxx",
            "last_name": "Example", "last_sign_in_at": 1_654_012_591_514_i64, "object": "user",
            "password_enabled": true, "phone_numbers": [],
            "primary_email_address_id": "idn_29w83yL7CwVlJXylYLxcslromF1", "primary_phone_number_id": null,
            "primary_web3_wallet_id": null, "private_metadata": {}, "profile_image_url": "https://www.gravatar.com/avatar",
            "public_metadata": {}, "two_factor_enabled": false, "unsafe_metadata": {},
            "updated_at": 1_654_012_591_835_i64, "username": null, "web3_wallets": [],
        });
        let user = user(data);
        assert_eq!(user.primary_email(), Some("example@example.org"));
        assert_eq!(user.created_at.to_rfc3339(), "2022-05-31T15:56:31.514+00:00");
        assert_eq!(user.updated_at.timestamp_subsec_millis(), 835);
    }

    #[test]
    fn a_deleted_user_may_come_without_an_id() {
        for (data, expected) in [
            (
                json!({"object": "user", "id": "user_ada", "deleted": true, "external_id": "7"}),
                Some("user_ada"),
            ),
            (json!({"object": "user", "deleted": true}), None),
            (json!({"object": "user", "id": null, "deleted": true}), None),
        ] {
            assert_eq!(
                parse(EventKind::UserDeleted, data),
                Ok(Event::UserDeleted {
                    clerk_user_id: expected.map(Into::into)
                })
            );
        }
    }

    #[test]
    fn a_sign_in_is_read_in_the_old_and_in_the_new_shape() {
        for (data, expected) in [
            (old_session("active"), None),
            (new_session("active", Value::Null), None),
            (new_session("active", ada()), Some(user(ada()))),
        ] {
            assert_eq!(
                parse(EventKind::SessionCreated, data),
                Ok(Event::SessionStarted {
                    session: session(),
                    user: expected
                })
            );
        }
    }

    #[test]
    fn only_an_active_session_is_a_sign_in() {
        for status in ["pending", "ended", "abandoned", "Active", "brand_new_status"] {
            assert_eq!(
                parse(EventKind::SessionCreated, new_session(status, ada())),
                Ok(Event::SessionPending {
                    session: session(),
                    user: Some(user(ada()))
                })
            );
        }
    }

    #[test]
    fn a_sign_in_ends_in_three_ways() {
        for (kind, status) in [
            (EventKind::SessionEnded, "ended"),
            (EventKind::SessionRemoved, "removed"),
            (EventKind::SessionRevoked, "revoked"),
        ] {
            for data in [old_session(status), new_session(status, ada())] {
                assert_eq!(parse(kind, data), Ok(Event::SessionEnded { session: session() }));
            }
        }
    }

    #[test]
    fn an_impersonated_session_is_told_apart() {
        let data = with(
            new_session("active", ada()),
            &[("actor", json!({"sub": "user_support"}))],
        );
        let Ok(Event::SessionStarted { session, .. }) = parse(EventKind::SessionCreated, data) else {
            panic!("not a sign-in");
        };
        assert!(session.impersonated);
    }

    #[test]
    fn errors_name_the_place() {
        use EventKind::{SessionCreated, SessionEnded, UserCreated, UserDeleted};

        let in_first = |field: &str, value: Value| {
            let mut data = ada();
            data["email_addresses"][1][field] = value;
            data
        };
        let cases = [
            (UserCreated, without(ada(), "id"), "data.id is missing"),
            (UserCreated, with(ada(), &[("id", Value::Null)]), "data.id is missing"),
            (UserCreated, with(ada(), &[("id", json!(""))]), "data.id is empty"),
            (UserCreated, with(ada(), &[("id", json!(7))]), "data.id is not a string"),
            (
                UserCreated,
                without(ada(), "email_addresses"),
                "data.email_addresses is missing",
            ),
            (
                UserCreated,
                with(ada(), &[("email_addresses", Value::Null)]),
                "data.email_addresses is missing",
            ),
            (
                UserCreated,
                with(ada(), &[("email_addresses", json!({}))]),
                "data.email_addresses is not a list",
            ),
            (
                UserCreated,
                in_first("email_address", Value::Null),
                "data.email_addresses[1].email_address is missing",
            ),
            (
                UserCreated,
                in_first("email_address", json!("")),
                "data.email_addresses[1].email_address is empty",
            ),
            (
                UserCreated,
                in_first("verification", json!({"status": 1})),
                "data.email_addresses[1].verification.status is not a string",
            ),
            (
                UserCreated,
                with(ada(), &[("first_name", json!(["x"]))]),
                "data.first_name is not a string",
            ),
            (
                UserCreated,
                with(ada(), &[("banned", json!("true"))]),
                "data.banned is not a boolean",
            ),
            (UserCreated, without(ada(), "created_at"), "data.created_at is missing"),
            (
                UserCreated,
                with(ada(), &[("updated_at", json!("2026-01-01T00:00:00Z"))]),
                "data.updated_at is not a time in milliseconds",
            ),
            (
                UserCreated,
                with(ada(), &[("updated_at", json!(i64::MAX))]),
                "data.updated_at is not a time in milliseconds",
            ),
            (UserDeleted, json!({"id": "", "deleted": true}), "data.id is empty"),
            (UserCreated, json!([]), "data is not an object"),
            (UserCreated, Value::Null, "data is missing"),
            (
                SessionCreated,
                without(old_session("active"), "user_id"),
                "data.user_id is missing",
            ),
            (
                SessionCreated,
                without(old_session("active"), "status"),
                "data.status is missing",
            ),
            (
                SessionCreated,
                new_session("active", without(ada(), "id")),
                "data.user.id is missing",
            ),
            (
                SessionCreated,
                new_session("active", with(ada(), &[("id", json!("user_eve"))])),
                "data.user.id is not the user of the session",
            ),
            (SessionEnded, without(old_session("ended"), "id"), "data.id is missing"),
        ];
        for (kind, data, expected) in cases {
            assert_eq!(parse(kind, data).unwrap_err().to_string(), expected);
        }
        assert_eq!(
            Event::parse(UserCreated, "{\"data\":\n nope}").unwrap_err().to_string(),
            "not JSON at line 2, column 3"
        );
        assert_eq!(
            Event::parse(UserCreated, "[]").unwrap_err().to_string(),
            "data is missing"
        );
        assert_eq!(
            User::from_json(b"{}").unwrap_err().to_string(),
            "user.email_addresses is missing"
        );
    }

    #[test]
    fn what_no_database_takes_is_refused_with_its_place() {
        use EventKind::{SessionCreated, SessionEnded, UserCreated, UserDeleted};

        let year_10000 = 253_402_300_800_000_i64;
        for time in [
            json!(year_10000),
            json!(-1),
            json!(i64::MIN),
            json!(1e300),
            json!(u64::MAX),
        ] {
            for field in ["created_at", "updated_at"] {
                let error = parse(UserCreated, with(ada(), &[(field, time.clone())])).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    format!("data.{field} is not a time in milliseconds"),
                    "{time}"
                );
            }
        }
        let long = json!("x".repeat(256));
        for (kind, data, expected) in [
            (
                UserCreated,
                with(ada(), &[("id", long.clone())]),
                "data.id is longer than 255 bytes",
            ),
            (UserDeleted, json!({ "id": long }), "data.id is longer than 255 bytes"),
            (
                SessionEnded,
                with(old_session("ended"), &[("id", long.clone())]),
                "data.id is longer than 255 bytes",
            ),
            (
                SessionCreated,
                with(old_session("active"), &[("user_id", json!("user\u{0}_1"))]),
                "data.user_id is not an id: it has characters that ids don't have",
            ),
            (
                UserCreated,
                with(
                    ada(),
                    &[(
                        "email_addresses",
                        Value::Array(vec![address("idn_1", "a@example.com", Value::Null); 1001]),
                    )],
                ),
                "data.email_addresses is a list of more than 1000",
            ),
        ] {
            assert_eq!(parse(kind, data).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn half_a_character_spoils_a_name_and_nothing_else() {
        let with_half = |field: &str| {
            let data = with(ada(), &[(field, json!("HALF"))]);
            Event::parse(
                EventKind::UserUpdated,
                &envelope(EventKind::UserUpdated, data).replace("HALF", "A\\ud83d"),
            )
        };
        for field in ["first_name", "last_name", "username", "unsafe_metadata"] {
            let Ok(Event::UserSeen(user)) = with_half(field) else {
                panic!("{field}");
            };
            assert_eq!(user.primary_email(), Some("Ada@Example.com"));
        }
        assert!(with_half("id").is_err());
        // As the name of a field, too.
        let text = envelope(EventKind::UserUpdated, ada()).replace("something_new", "\\ud800");
        assert!(Event::parse(EventKind::UserUpdated, &text).is_ok());
    }

    #[test]
    fn debug_output_holds_no_address() {
        let event = parse(EventKind::SessionCreated, new_session("active", ada())).unwrap();
        let debug = format!("{event:?}").to_lowercase();
        assert!(debug.contains("user_ada") && !debug.contains("example.com"), "{debug}");
    }
}
