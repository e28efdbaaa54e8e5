//! Lists that refresh themselves: however many look at the same one, it is read once a second.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use maud::{Markup, PreEscaped};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::viewer::Viewer;
use crate::ops_key::OpsRole;
use crate::store::StoreError;

const FRESH: Duration = Duration::from_secs(1);
/// The script's refreshes have it. What a person opens is always read, and so shows what they have just done.
const HEADER: &str = "x-usher-refresh";

/// The page that a refresh asks for, with its filters; `None` if a person opens it.
pub(super) struct Refresh(Option<String>);

impl<S: Sync> FromRequestParts<S> for Refresh {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let is_refresh = parts.headers.contains_key(HEADER);
        Ok(Self(is_refresh.then(|| parts.uri.to_string())))
    }
}

/// What was shown in the last second.
#[derive(Default)]
pub(super) struct Live(Mutex<HashMap<(String, OpsRole), (Instant, Body)>>);

type Body = Arc<OnceCell<String>>;

impl Live {
    /// A page's content, which must be the same for all viewers of a role: it has no form of theirs.
    pub(super) async fn body(
        &self,
        refresh: Refresh,
        viewer: &Viewer,
        read: impl Future<Output = Result<Markup, StoreError>>,
    ) -> Result<Markup, StoreError> {
        let Refresh(Some(page)) = refresh else {
            return read.await;
        };
        let body = {
            let mut shown = self.0.lock().await;
            shown.retain(|_, (at, _)| at.elapsed() < FRESH);
            let (_, body) = shown
                .entry((page, viewer.role))
                .or_insert_with(|| (Instant::now(), Body::default()));
            Arc::clone(body)
        };
        let text = body
            .get_or_try_init(|| async { Ok::<_, StoreError>(read.await?.0) })
            .await?;
        Ok(PreEscaped(text.clone()))
    }
}
