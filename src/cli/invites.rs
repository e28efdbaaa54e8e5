//! `usher invites`: lists invites, and shows the history of one.

use anyhow::bail;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::report;
use crate::fields::Fields;
use crate::invite_history;
use crate::invites::roles::Roles;
use crate::invites::{InviteFilter, Status};
use crate::store::{DeliveryStatus, InviteView, Store};

/// List invites, or show the history of one.
#[derive(Debug, clap::Subcommand)]
pub enum Invites {
    /// List invites, newest first.
    List {
        #[command(flatten)]
        selection: Selection,
        /// The maximum number.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show what happened to one invite and its mails, and which events or requests caused it.
    Show {
        /// The invite's id.
        id: Uuid,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Clone, clap::Args)]
pub struct Selection {
    /// Only invites to this address.
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// Only invites with this status: pending, accepted, declined, revoked or expired.
    #[arg(long)]
    status: Option<String>,
    /// Only invites into this organization and its projects.
    #[arg(long, value_name = "ID")]
    organization: Option<String>,
    /// Only invites into this project.
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// Only invites by this person: an admin's id or a Clerk user id.
    #[arg(long, value_name = "ID")]
    invited_by: Option<String>,
}

impl Selection {
    /// Reads it as the API reads a query.
    fn filter(self) -> anyhow::Result<InviteFilter> {
        let given = json!({
            "email": self.email, "status": self.status, "organization_id": self.organization,
            "project_id": self.project, "invited_by": self.invited_by,
        });
        let mut fields = Fields::of(given).map_err(|errors| report::field_errors(&errors, None))?;
        let filter = InviteFilter::read(&mut fields);
        fields
            .finish(Some(filter))
            .map_err(|errors| report::field_errors(&errors, None))
    }
}

impl Invites {
    pub(super) async fn run(self, store: Store, roles: &Roles) -> anyhow::Result<()> {
        match self {
            Self::List { selection, limit, json } => list(&store, selection, limit, json).await?,
            Self::Show { id, json } => show(&store, roles, id, json).await?,
        }
        store.close().await;
        Ok(())
    }
}

#[derive(Serialize)]
struct Line {
    id: Uuid,
    email: String,
    status: Status,
    role: String,
    organization: String,
    project: Option<String>,
    created_at: DateTime<Utc>,
    mail: Option<DeliveryStatus>,
}

impl Line {
    fn of(view: &InviteView, now: DateTime<Utc>) -> Self {
        Self {
            id: view.invite.id,
            email: view.invite.email.clone(),
            status: view.invite.status_at(now),
            role: view.invite.role.clone(),
            organization: view.organization_name.clone(),
            project: view.project_name.clone(),
            created_at: view.invite.created_at,
            mail: view.delivery().map(|(_, status)| status),
        }
    }

    fn place(&self) -> String {
        match &self.project {
            Some(project) => format!("{} / {project}", self.organization),
            None => self.organization.clone(),
        }
    }
}

async fn list(store: &Store, selection: Selection, limit: u32, as_json: bool) -> anyhow::Result<()> {
    let filter = selection.filter()?;
    let now = store.now();
    let mut tx = store.read().await?;
    let page = tx.list_invites(&filter, None, None, limit).await?;
    let ids: Vec<Uuid> = page.into_iter().map(|(id, _)| id).collect();
    let views = tx.invite_views(&ids).await?;
    let lines: Vec<Line> = views.iter().rev().map(|view| Line::of(view, now)).collect();
    if as_json {
        return report::json(&lines);
    }
    let rows: Vec<[String; 7]> = lines
        .iter()
        .map(|line| {
            [
                line.id.to_string(),
                line.email.clone(),
                line.status.to_string(),
                line.role.clone(),
                line.place(),
                report::distance(line.created_at, now),
                line.mail.map(|mail| mail.to_string()).unwrap_or_default(),
            ]
        })
        .collect();
    report::table(["ID", "ADDRESS", "STATUS", "ROLE", "INTO", "CREATED", "MAIL"], &rows);
    report::more(lines.len(), limit);
    Ok(())
}

async fn show(store: &Store, roles: &Roles, id: Uuid, as_json: bool) -> anyhow::Result<()> {
    let now = store.now();
    let mut tx = store.read().await?;
    let Some(view) = tx.invite_views(&[id]).await?.into_iter().next() else {
        bail!("there is no invite {id}; `usher invites list --email …` finds it by its address");
    };
    let story = invite_history::story(&mut tx, &view.invite, now).await?;
    let waits_for = invite_history::waits_for(&mut tx, &view, roles, now).await?;
    let line = Line::of(&view, now);
    let is_open = line.status == Status::Pending;
    let obstacle = view.facts.obstacle(roles).filter(|_| is_open);
    if as_json {
        return report::json(&json!({ "invite": line, "obstacle": obstacle, "waits_for": waits_for, "story": story }));
    }
    let invite = &view.invite;
    for (name, value) in [
        ("invite", Some(id.to_string())),
        ("to", Some(invite.email.clone())),
        ("into", Some(line.place())),
        ("as", Some(invite.role.clone())),
        ("by", view.inviter_email.clone()),
        ("status", Some(line.status.to_string())),
        ("waits for", waits_for),
        ("no mail", view.held().map(|held| held.to_string())),
        ("acceptance", Some(invite.acceptance.to_string())),
        ("leads to", invite.details.redirect_url.clone()),
        ("expires", Some(report::time(invite.expires_at))),
        (
            "in banner",
            invite.flagged_at.map(|at| format!("since {}", report::time(at))),
        ),
        ("put away", invite.dismissed_at.map(report::time)),
    ] {
        if let Some(value) = value {
            println!("{name:<11} {value}");
        }
    }
    println!();
    for fact in story {
        let cause = fact.cause.map(|cause| format!("  ({cause})")).unwrap_or_default();
        println!("{}  {}{cause}", report::time(fact.at), fact.what);
    }
    Ok(())
}
