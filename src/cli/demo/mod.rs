//! `usher demo`: shows invites from start to end, with the real service, offline.

mod mails;
mod stage;
mod story;
mod timeline;

use std::io::{IsTerminal as _, stdin, stdout};
use std::path::Path;

use self::stage::Stage;
use super::paint::{FAINT, STRONG, paint};
use crate::config::VAR;
use crate::shutdown;

/// Only warnings and errors. The refused forged event is part of the demo, so its warning is left out.
pub(super) const LOG: &str = "warn,usher::webhooks=error";

/// Show invites from start to end with the real service, offline, in a few seconds.
///
/// On a terminal it then serves on until Ctrl-C, with an invite for you to open. It uses a new database, secrets and an outbox
/// in var/demo, which is emptied first, and free ports. It does not use your settings or change your data.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Keep serving until Ctrl-C, also without a terminal.
    #[arg(long)]
    stay: bool,
}

impl Demo {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (stage, service) = Stage::set(&Path::new(VAR).join("demo")).await?;
        greet(&stage);
        let outcome = self.perform(&stage).await;
        service.stop().await;
        outcome
    }

    async fn perform(&self, stage: &Stage) -> anyhow::Result<()> {
        story::tell(stage).await?;
        let stays = self.stay || (stdin().is_terminal() && stdout().is_terminal());
        let link = if stays {
            Some(story::invites_you(stage).await?)
        } else {
            None
        };
        show_what_is_left(stage).await?;
        show_how_to_go_on();
        match link {
            Some(link) => stay(stage, &link).await,
            None => Ok(()),
        }
    }
}

fn greet(stage: &Stage) {
    println!(
        "A fresh usher serves on {}. {}",
        stage.address,
        paint(STRONG, "All that follows is real:")
    );
    println!("requests, signatures, jobs, the database, the mails. Only Clerk is played.");
}

async fn show_what_is_left(stage: &Stage) -> anyhow::Result<()> {
    println!("\n{}", paint(STRONG, "The mails"));
    let mails = mails::read(&stage.outbox).await?;
    let width = mails.iter().map(|mail| mail.to.len()).max().unwrap_or(0);
    for mail in &mails {
        println!("  {:width$}  {}", mail.to, mail.subject);
        println!("  {:width$}  {}", "", paint(FAINT, mail.path.display()));
    }
    println!("\n{}", paint(STRONG, "The database"));
    println!("  {}", stage.database.display());
    Ok(())
}

fn show_how_to_go_on() {
    println!("\n{}{HOW_TO_GO_ON}", paint(STRONG, "How to go on"));
}

const HOW_TO_GO_ON: &str = "
  usher serve                                              serve on http://127.0.0.1:8080
  usher simulate user.created --email ada@example.com      send it a first event, from a second terminal
  usher simulate --help                                    all that Clerk can tell
  usher demo --stay                                        look around in what this demo has made

  Under cargo, `usher …` is `cargo run -- …`.";

async fn stay(stage: &Stage, link: &str) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    let (address, admin) = (&stage.address, &stage.admin_address);
    let (key, secret) = (&stage.secrets.api_key, &stage.secrets.signing_secret);
    println!("\n{}", paint(STRONG, "usher serves on until Ctrl-C"));
    println!("  API key   {key}");
    println!("  API       {address}/docs");
    println!("  board     {}", stage.board);
    println!("  health    {admin}/readyz");
    println!("\n{}", paint(STRONG, "From a second terminal"));
    println!("  curl -H 'Authorization: Bearer {key}' \\");
    println!("    {address}/v1/organizations/{}/members", stage.organization_id);
    println!();
    println!("  CLERK_WEBHOOK_SIGNING_SECRET={secret} \\");
    println!("    usher simulate user.created --email you@example.com --url {address}");
    println!("\n{}", paint(STRONG, "Open this page and click"));
    println!("  {link}");
    stop.cancelled().await;
    Ok(())
}
