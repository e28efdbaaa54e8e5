//! Request bodies and ids in paths.

use axum::body::Bytes;
use axum::extract::FromRequestParts;
use axum::extract::{FromRequest, Path, Request};
use axum::http::header;
use axum::http::request::Parts;
use serde_json::Value;
use uuid::Uuid;

use super::invites::MAX_INVITE;
use crate::app_id::AppId;
use crate::fields::Fields;
use crate::problem::{Code, Problem};
use crate::server::read_body;

/// The largest body in bytes, as an extension of routes whose limit is not [`MAX_INVITE`].
#[derive(Debug, Clone, Copy)]
pub(super) struct MaxBody(pub usize);

/// Values in one body. A full batch of invites with all fields has a quarter of them.
const MAX_VALUES: usize = 24_000;

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Self::of(JsonBody::from_request(request, state).await?.value).map_err(Problem::invalid)
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

/// An organization's or a project's id in the path.
pub(super) struct TargetPath(pub AppId);

impl<S: Send + Sync> FromRequestParts<S> for TargetPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Segment(text) = Segment::from_request_parts(parts, state).await?;
        AppId::parse(&text).map(Self).ok_or_else(|| Code::InvalidId.into())
    }
}
