//! `usher invite`: invites an address, by the rules of the API.

use anstream::println;
use anyhow::bail;
use chrono::TimeDelta;
use futures::FutureExt as _;
use uuid::Uuid;

use super::{existing_database, report};
use crate::config::Config;
use crate::flows::{self, Invitation, Invited, Refusal, Target};
use crate::invites::Acceptance;
use crate::invites::email::EmailAddress;
use crate::invites::limits::{MAX_TTL, MailHold};
use crate::store::{PersonRef, Tx};

/// Invite an address into an organization or a project, by the rules of the API. A running worker sends the mail.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("target").required(true).args(["organization", "project"]))]
pub struct InviteSomebody {
    /// Their address.
    #[arg(value_parser = EmailAddress::parse)]
    email: EmailAddress,
    /// The organization to invite into.
    #[arg(long, value_name = "UUID")]
    organization: Option<Uuid>,
    /// The project to invite into.
    #[arg(long, value_name = "UUID")]
    project: Option<Uuid>,
    /// The role that the invite gives.
    #[arg(long)]
    role: String,
    /// The inviter: an admin's id or a Clerk user id. Default: none, as for an invite by the app itself.
    #[arg(long, value_name = "ID")]
    invited_by: Option<String>,
    /// How long the invite is valid, such as 7d. Default: `INVITE_TTL`.
    #[arg(long, value_name = "DURATION", value_parser = report::age)]
    expires_in: Option<TimeDelta>,
    /// Whether it is accepted automatically: auto does, ask shows the banner, default follows `AUTO_ACCEPT`.
    #[arg(long, default_value = "default", value_parser = str::parse::<Acceptance>)]
    acceptance: Acceptance,
    /// The language of the mail, such as pt-BR.
    #[arg(long)]
    locale: Option<String>,
    /// A note from the inviter.
    #[arg(long)]
    message: Option<String>,
}

impl InviteSomebody {
    pub(super) async fn run(self, config: Config) -> anyhow::Result<()> {
        let target = match (self.organization, self.project) {
            (Some(id), _) => Target::Organization(id),
            (None, Some(id)) => Target::Project(id),
            (None, None) => bail!("invite into what? Give --organization or --project"),
        };
        let expires_in = self.expires_in.unwrap_or(config.invite_ttl);
        if expires_in > MAX_TTL {
            bail!("--expires-in must be at most 30d");
        }
        let invitation = Invitation {
            target,
            email: self.email,
            role: self.role,
            invited_by: self.invited_by.map(|id| match id.parse() {
                Ok(id) => PersonRef::Admin(id),
                Err(_) => PersonRef::Clerk(id),
            }),
            expires_in,
            acceptance: self.acceptance,
            locale: self.locale,
            message: self.message,
        };
        let store = existing_database(config.database_url.expose()).await?;
        if !store.is_migrated().await.unwrap_or(false) {
            bail!("the schema is not the one that this version works with, or there is none: run usher migrate");
        }
        let invited = store
            .transaction((&invitation, &config), |tx, (invitation, config)| {
                invite_in(tx, invitation, config).boxed()
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

async fn invite_in(tx: &mut Tx, invitation: &Invitation, config: &Config) -> anyhow::Result<Invited> {
    let (set, caps) = (std::slice::from_ref(invitation), config.mail_caps);
    match flows::invite(tx, set, &config.roles, caps, None).await?.pop() {
        Some(Ok(invited)) => Ok(invited),
        Some(Err(refusal)) => bail!("{}", why(refusal)),
        None => bail!("no invite was made"),
    }
}

fn why(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownTarget => "the organization or project does not exist",
        Refusal::UnknownRole => "the role is on no order there: see ORGANIZATION_ROLES and PROJECT_ROLES",
        Refusal::UnknownInviter => "--invited-by names no known person",
        Refusal::RoleAboveInviter => "the inviter may not give this role there",
        Refusal::InviterBlocked => "the inviter is banned or locked in Clerk",
        Refusal::OwnAddress => "the address is the inviter's own",
        Refusal::TooManyMails => {
            "the inviter, or the organization, has no invite mails left today: see MAIL_CAP_INVITER and \
             MAIL_CAP_ORGANIZATION, or come again after midnight UTC"
        }
        Refusal::AlreadyMember => "the address's owner is in already, with this role or a higher one",
    }
}
