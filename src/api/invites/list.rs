//! A page of invites.

use axum::Json;
use axum::extract::{RawQuery, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::views_by_id;
use crate::api::auth::AppClient;
use crate::api::{Api, example, tag};
use crate::app_id::AppId;
use crate::fields::{Fields, page_limit};
use crate::invites::{InviteFilter, Status};
use crate::problem::{Code, Problem};
use crate::view::InviteJson;

/// Invites on a page, by default.
const PAGE: u32 = 50;
const MAX_PAGE: u32 = 200;

/// A page of a list of invites.
#[derive(Serialize, ToSchema)]
pub(super) struct InvitePage {
    /// The invites, newest first.
    items: Vec<InviteJson>,
    /// The `cursor` of the next page; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// List invites
///
/// Newest first. An invite must match all filters. Pages stay stable while invites are added: follow `next_cursor` until it
/// is null.
#[utoipa::path(
    get, path = "/v1/invites", tag = tag::INVITES, operation_id = "listInvites",
    params(
        ("organization_id" = Option<AppId>, Query, description = "Only invites into this organization and its projects"),
        ("project_id" = Option<AppId>, Query, description = "Only invites into this project"),
        ("email" = Option<String>, Query, description = "Only invites to this address; case does not matter", format = Email),
        ("status" = Option<Status>, Query, description = "Only invites with this status now"),
        ("invited_by" = Option<String>, Query, description = "Only invites by this person: an admin's id or a Clerk user id"),
        ("limit" = Option<u32>, Query, description = "Page size; 50 by default", minimum = 1, maximum = 200),
        ("cursor" = Option<String>, Query, description = "The `next_cursor` of the previous page"),
    ),
    responses((status = 200, description = "A page", body = InvitePage, example = example::invite_page)),
    security(("api_key" = [])),
    extensions(("x-problems" = json!([Code::InvalidRequest])))
)]
pub(super) async fn list(
    State(api): State<Api>,
    client: AppClient,
    RawQuery(query): RawQuery,
) -> Result<Json<InvitePage>, Problem> {
    let asked = Asked::read(query.as_deref())?;
    let mut tx = api.app.store.read().await?;
    let limit = asked.limit;
    // One more than the limit shows whether there is a next page.
    let within = client.organizations();
    let mut found = tx.list_invites(&asked.filter, within, asked.before, limit + 1).await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_cursor = found
        .last()
        .filter(|_| has_more)
        .map(|&(id, created_at)| cursor(created_at, id));
    let ids: Vec<Uuid> = found.iter().map(|&(id, _)| id).collect();
    let mut views = views_by_id(&api, &mut tx, &ids).await?;
    // An app that shares its tables may have moved a project to an organization that the key may not see.
    views.retain(|_, invite| client.may_use(invite.organization_id()));
    let items = ids.iter().filter_map(|id| views.remove(id)).collect();
    Ok(Json(InvitePage { items, next_cursor }))
}

/// Which page is asked for.
struct Asked {
    filter: InviteFilter,
    before: Option<(DateTime<Utc>, Uuid)>,
    limit: u32,
}

impl Asked {
    fn read(query: Option<&str>) -> Result<Self, Problem> {
        let mut fields = Fields::of_query(query);
        let asked = Self {
            filter: InviteFilter::read(&mut fields),
            limit: fields.optional("limit", page_limit(MAX_PAGE)).unwrap_or(PAGE),
            before: fields.optional("cursor", read_cursor),
        };
        fields.finish(Some(asked)).map_err(Problem::invalid)
    }
}

/// Where a page ends: the creation time and the id of its last invite.
fn cursor(created_at: DateTime<Utc>, id: Uuid) -> String {
    let mut bytes = created_at.timestamp_micros().to_be_bytes().to_vec();
    bytes.extend_from_slice(id.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_cursor(value: Value) -> Result<(DateTime<Utc>, Uuid), String> {
    let read = |text: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == 24)?;
        let micros = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        // Databases don't accept other years.
        let created_at =
            DateTime::from_timestamp_micros(micros).filter(|at| (1970..=9999).contains(&chrono::Datelike::year(at)))?;
        Some((created_at, Uuid::from_slice(&bytes[8..]).ok()?))
    };
    value
        .as_str()
        .and_then(read)
        .ok_or_else(|| "must be the next_cursor of an earlier answer".to_owned())
}

#[cfg(test)]
mod tests {
    use chrono::Datelike as _;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fuzz_a_cursor_is_read_as_it_was_written(micros in 0_i64..253_402_300_800_000_000, id: u128) {
            let (created_at, id) = (DateTime::from_timestamp_micros(micros).unwrap(), Uuid::from_u128(id));
            prop_assert_eq!(read_cursor(Value::from(cursor(created_at, id))), Ok((created_at, id)));
        }

        #[test]
        fn fuzz_a_cursor_is_nothing_that_no_database_takes(
            text in prop_oneof!["[A-Za-z0-9_-]{32}", "\\PC{0,40}", any::<[u8; 24]>().prop_map(|bytes| URL_SAFE_NO_PAD.encode(bytes))],
        ) {
            if let Ok((created_at, id)) = read_cursor(Value::from(text.as_str())) {
                prop_assert!((1970..=9999).contains(&created_at.year()));
                prop_assert_eq!(cursor(created_at, id), text);
            }
        }
    }
}
