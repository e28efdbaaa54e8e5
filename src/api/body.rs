//! Request bodies. An error names every invalid field at once, not only the first.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::extract::{FromRequest, Path, Request};
use axum::http::header;
use axum::http::request::Parts;
use serde_json::Value;
use uuid::Uuid;

use super::invites::MAX_INVITE;
use crate::problem::{Code, FieldError, Problem};
use crate::server::read_body;
use usher_base::unicode::has_visible;

/// The largest body in bytes, as an extension of routes whose limit is not [`MAX_INVITE`].
#[derive(Debug, Clone, Copy)]
pub(super) struct MaxBody(pub usize);

/// Values in one body. A full batch of invites with all fields has a quarter of them.
const MAX_VALUES: usize = 24_000;

/// Unknown fields that an error names, and characters of each: the answer must not be larger than the request.
const MAX_UNKNOWN: usize = 20;
const MAX_NAME_SHOWN: usize = 64;

/// The fields of a JSON object, taken out one by one. [`Fields::finish`] names all that are invalid, missing or unknown.
pub(super) struct Fields {
    values: BTreeMap<String, Value>,
    errors: Vec<FieldError>,
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Self::of(JsonBody::from_request(request, state).await?.value)
    }
}

/// A JSON body, with its bytes.
pub(super) struct JsonBody {
    pub bytes: Bytes,
    pub value: Value,
}

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
        if !is_json {
            return Err(Code::UnsupportedMediaType.into());
        }
        let (parts, body) = request.into_parts();
        let most = parts.extensions.get().map_or(MAX_INVITE, |&MaxBody(most)| most);
        let bytes = read_body(&parts.headers, body, most).await?;
        if !has_few_values(&bytes) {
            return Err(Code::TooLarge.into());
        }
        let value = serde_json::from_slice(&bytes).map_err(|_| Code::NotJson)?;
        Ok(Self {
            bytes: bytes.into(),
            value,
        })
    }
}

/// Whether a JSON text has at most [`MAX_VALUES`]. A value can be two bytes of text, but takes many times that in memory.
fn has_few_values(json: &[u8]) -> bool {
    let (mut values, mut in_text, mut is_escaped) = (1_usize, false, false);
    for &byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values <= MAX_VALUES
}

impl Fields {
    pub(super) fn of(value: Value) -> Result<Self, Problem> {
        match value {
            Value::Object(values) => Ok(Self {
                values: values.into_iter().collect(),
                errors: Vec::new(),
            }),
            _ => Err(Problem::invalid(vec![FieldError::new("", "must be a JSON object")])),
        }
    }

    /// The parameters of a query string; of repeated ones, the last value.
    pub(super) fn of_query(query: Option<&str>) -> Result<Self, Problem> {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self::of(
            pairs
                .map(|(name, value)| (name.into_owned(), Value::from(value.into_owned())))
                .collect(),
        )
    }

    /// A field's value, if it is present and not null. `read` parses it, or says what is wrong with it.
    pub(super) fn optional<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        let value = self.values.remove(name).filter(|value| !value.is_null())?;
        match read(value) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.error(name, problem);
                None
            }
        }
    }

    /// As [`Fields::optional`], but the field must be present.
    pub(super) fn required<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Option<T> {
        if self.values.get(name).is_none_or(Value::is_null) {
            self.values.remove(name);
            self.error(name, "is missing");
            return None;
        }
        self.optional(name, read)
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    pub(super) fn error(&mut self, name: &str, problem: impl Into<String>) {
        self.errors.push(FieldError::new(name, problem));
    }

    /// The value, or an error that names all invalid fields. Fields that were not taken out are unknown.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Problem> {
        let unknown: Vec<String> = self.values.keys().take(MAX_UNKNOWN).cloned().collect();
        for name in unknown {
            let name: String = name.chars().take(MAX_NAME_SHOWN).collect();
            self.error(&name, "is not a field of this request");
        }
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(Problem::invalid(self.errors)),
        }
    }
}

/// Whether this has the form of a Clerk user id.
pub(super) fn is_clerk_user_id(text: &str) -> bool {
    text.strip_prefix("user_").is_some_and(|rest| {
        (1..=59).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    })
}

pub(super) fn uuid(value: Value) -> Result<Uuid, String> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| "must be a UUID".to_owned())
}

/// Reads how many items a page shall have at most: 1 to `most`.
pub(super) fn page_limit(most: u32) -> impl FnOnce(Value) -> Result<u32, String> {
    move |value| {
        value
            .as_str()
            .and_then(|text| text.parse().ok())
            .filter(|limit| (1..=most).contains(limit))
            .ok_or_else(|| format!("must be a number from 1 to {most}"))
    }
}

/// Reads one line of 1 to `most` characters, trimmed, of which something can be seen.
pub(super) fn line(most: usize) -> impl FnOnce(Value) -> Result<String, String> {
    move |value| {
        let text = value.as_str().ok_or("must be a string")?.trim();
        if text.is_empty() {
            return Err("must not be empty".to_owned());
        }
        if text.chars().count() > most {
            return Err(format!("must have at most {most} characters"));
        }
        if text
            .chars()
            .any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
        {
            return Err("must not contain control characters".to_owned());
        }
        if !has_visible(text) {
            return Err("must have a character that can be seen".to_owned());
        }
        Ok(text.to_owned())
    }
}

/// A text in the path. 404 if it is not UTF-8.
pub(super) struct Segment(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let segment = Path::<String>::from_request_parts(parts, state).await;
        segment.map(|Path(text)| Self(text)).map_err(|_| Problem::not_found())
    }
}

/// A UUID in the path.
pub(super) struct Id(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Segment(text) = Segment::from_request_parts(parts, state).await?;
        text.parse().map(Self).map_err(|_| Code::InvalidId.into())
    }
}
