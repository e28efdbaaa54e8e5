//! What a landing page shows of a link to its holder. Looking changes nothing.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Api;
use super::body::Segment;
use super::{example, tag};
use crate::fields::{Fields, body, text};
use crate::invites::{Status, TargetKind};
use crate::problem::{Code, Problem};
use crate::view::{Rfc3339, full_name};
use usher_base::mask::mask;

/// What the holder of a link may see of its invite.
#[derive(Serialize, ToSchema)]
pub(super) struct LinkPreview {
    /// The invite's id.
    id: Uuid,
    /// What it leads into.
    kind: TargetKind,
    /// The organization, or the one that the project belongs to.
    organization: OnlyName,
    /// The project, if the invite is to one.
    #[schema(required)]
    project: Option<OnlyName>,
    /// The role that it gives.
    role: String,
    /// The inviter, where known.
    #[schema(required)]
    invited_by: Option<OnlyName>,
    /// The invited address, masked: its first letter and its domain.
    #[schema(example = "a***@example.com")]
    email: String,
    /// The whole invited address, with which a page fills the form of sign-up. Only for a token that came in the body, while
    /// the invite is open; else null.
    #[schema(required, example = "ada@example.com")]
    address: Option<String>,
    /// The status now.
    status: Status,
    /// When it expires.
    expires_at: Rfc3339,
    /// Where to lead the invitee after accepting, if the app named it and its origin is still allowed.
    #[schema(required, example = "https://app.example.com/welcome")]
    redirect_url: Option<String>,
}

/// A name to show.
#[derive(Serialize, ToSchema)]
#[schema(as = Name)]
struct OnlyName {
    /// The name.
    name: String,
}

/// Preview an invite link
///
/// It changes nothing, so a mail scanner that opens the link does no harm. Forged, void and unknown links get the same
/// answer, and so do links to a deleted organization or project.
#[utoipa::path(
    get, path = "/v1/invite-links/{token}", tag = tag::LINKS, operation_id = "previewInviteLink",
    params(("token" = String, Path, description = "The token from the mail's link", example = example::token)),
    responses((status = 200, description = "What the link's holder may see of the invite", body = LinkPreview, example = example::link_preview)),
    extensions(("x-problems" = json!([Code::NotFound, Code::RateLimited])))
)]
pub(super) async fn preview(State(api): State<Api>, Segment(token): Segment) -> Result<Json<LinkPreview>, Problem> {
    let mut preview = preview_of(&api, &token).await?;
    // Addresses with the token in them are kept in logs and histories, for people who never had the mail.
    preview.address = None;
    Ok(Json(preview))
}

body! {
    /// The token of an invite link.
    pub(super) struct Link {
        /// The token from the mail's link.
        token: String = required(text),
    }
}

/// Preview an invite link, with the token in the body
///
/// As `GET /v1/invite-links/{token}`, for pages: the token stays out of addresses, which logs keep. It changes nothing. Of
/// an open invite it tells the whole address, too: the page fills the form of sign-up with it.
#[utoipa::path(
    post, path = "/v1/invite-links", tag = tag::LINKS, operation_id = "previewInviteLinkByBody",
    request_body(content = Link, example = example::accept_by_token),
    responses((status = 200, description = "What the link's holder may see of the invite", body = LinkPreview, example = example::link_preview_by_body)),
    extensions(("x-problems" = json!([Code::NotFound, Code::RateLimited])))
)]
pub(super) async fn preview_by_body(State(api): State<Api>, mut fields: Fields) -> Result<Json<LinkPreview>, Problem> {
    let body = Link::read(&mut fields);
    let token = fields.finish(body).map_err(Problem::invalid)?.token;
    Ok(Json(preview_of(&api, &token).await?))
}

async fn preview_of(api: &Api, token: &str) -> Result<LinkPreview, Problem> {
    let claim = api.app.token_key.verify(token).ok_or_else(Problem::not_found)?;
    let mut tx = api.app.store.read().await?;
    let now = tx.now();
    let view = tx.invite_views(&[claim.invite_id]).await?.into_iter().next();
    let view = view
        .filter(|view| view.invite.token_version == claim.version && view.facts.target_exists)
        .ok_or_else(Problem::not_found)?;
    let inviter = full_name(view.inviter_first_name.as_deref(), view.inviter_last_name.as_deref());
    let status = view.invite.status_at(now);
    let redirect_url = view.invite.details.redirect_url.as_deref();
    Ok(LinkPreview {
        id: view.invite.id,
        kind: view.invite.kind,
        organization: OnlyName {
            name: view.organization_name,
        },
        project: view.project_name.map(|name| OnlyName { name }),
        invited_by: inviter.map(|name| OnlyName { name }),
        email: mask(&view.invite.email),
        expires_at: Rfc3339(view.invite.expires_at),
        redirect_url: api.app.config.redirects.allowed(redirect_url),
        role: view.invite.role,
        address: (status == Status::Pending).then_some(view.invite.email),
        status,
    })
}
