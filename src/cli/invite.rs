//! `usher invite`: invites an address, by the rules of the API.

use anyhow::bail;
use futures::FutureExt as _;
use serde_json::json;

use super::{existing_database, report};
use crate::config::Config;
use crate::flows::{self, Invited, ReadRequest, Refusal};
use crate::invites::InviteRequest;
use crate::invites::limits::MailHold;
use crate::problem::Code;
use crate::store::Tx;

/// Invite an address into an organization or a project, by the rules of the API. A running worker sends the mail.
#[derive(Debug, clap::Args)]
pub struct InviteSomebody {
    /// Their address.
    email: String,
    /// The organization to invite into.
    #[arg(long, value_name = "ID")]
    organization: Option<String>,
    /// The project to invite into.
    #[arg(long, value_name = "ID")]
    project: Option<String>,
    /// The role that the invite gives.
    #[arg(long)]
    role: Option<String>,
    /// The inviter: an admin's id or a Clerk user id. Default: none, as for an invite by the app itself.
    #[arg(long, value_name = "ID")]
    invited_by: Option<String>,
    /// How long the invite is valid, such as 7d. Default: `INVITE_TTL`.
    #[arg(long, value_name = "DURATION")]
    expires_in: Option<String>,
    /// Whether it is accepted automatically: auto does, ask shows the banner, default follows `AUTO_ACCEPT`.
    #[arg(long, default_value = "default")]
    acceptance: String,
    /// The language of the mail, such as pt-BR.
    #[arg(long)]
    locale: Option<String>,
    /// A note from the inviter.
    #[arg(long)]
    message: Option<String>,
    /// Where the accept page leads after accepting, at an origin of `REDIRECT_URLS`. Default: `APP_URL`.
    #[arg(long, value_name = "URL")]
    redirect_url: Option<String>,
}

impl InviteSomebody {
    pub(super) async fn run(self, config: Config) -> anyhow::Result<()> {
        let body = json!({
            "organization_id": self.organization, "project_id": self.project, "email": self.email, "role": self.role,
            "invited_by": self.invited_by, "expires_in": self.expires_in, "acceptance": self.acceptance,
            "locale": self.locale, "message": self.message, "redirect_url": self.redirect_url,
        });
        let request = InviteRequest::parse(body, &config.roles, &config.redirects);
        let store = existing_database(&config.database_url, &config.layout).await?;
        if !store.is_migrated().await.unwrap_or(false) {
            bail!("the schema is not the one that this version works with, or there is none: run usher migrate");
        }
        let invited = store
            .transaction((&request, &config), |tx, (request, config)| {
                invite_in(tx, request, config).boxed()
            })
            .await?;
        store.close().await;
        let done = if invited.is_new { "invited" } else { "invited again" };
        println!("{} is {done}: {}", invited.invite.email, invited.invite.id);
        if let Some(held) = invited.held {
            println!("No mail goes out: {}", why_held(held));
        }
        println!("Its story: usher invites show {}", invited.invite.id);
        Ok(())
    }
}

fn why_held(held: MailHold) -> &'static str {
    match held {
        MailHold::CoolDown => "the last one is less than five minutes old, and its link goes on working",
        MailHold::DailyCap => "ten went out within a day, and the last one's link goes on working",
        MailHold::AddressCap => "the address has had its mails of today: see MAIL_CAP_ADDRESS",
    }
}

async fn invite_in(tx: &mut Tx, request: &ReadRequest, config: &Config) -> anyhow::Result<Invited> {
    match flows::invite(tx, std::slice::from_ref(request), &config.into(), None)
        .await?
        .pop()
    {
        Some(Ok(invited)) => Ok(invited),
        Some(Err(refusal)) => Err(why(refusal)),
        None => bail!("no invite was made"),
    }
}

/// In the words of the API.
fn why(refusal: Refusal) -> anyhow::Error {
    let code = match refusal {
        Refusal::Invalid(errors) => return report::field_errors(&errors, Some("email")),
        Refusal::RoleAboveInviter => Code::RoleAboveInviter,
        Refusal::InviterBlocked => Code::InviterBlocked,
        Refusal::AlreadyMember => Code::AlreadyMember,
        Refusal::TooManyMails => Code::DailyMailCap,
    };
    anyhow::anyhow!("{} ({})", code.title(), code.as_str())
}
