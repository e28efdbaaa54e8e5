//! The commands, one file each.

mod api_key;
mod check;
mod config;
mod demo;
mod invite;
mod invites;
mod jobs;
mod migrate;
mod openapi;
mod paint;
mod report;
pub mod serve;
mod simulate;
mod stand_in;
mod templates;
mod webhooks;

use clap::{Parser, Subcommand};

use crate::config::{self as settings, Settings};

/// Gets invited people into the organizations and projects they were invited to.
#[derive(Debug, Parser)]
#[command(name = "usher", version, about)]
pub struct Cli {
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten, next_help_heading = "Settings")]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and run the jobs, in one process unless a role is given.
    Serve(serve::Serve),
    Demo(demo::Demo),
    #[command(subcommand)]
    Simulate(Box<simulate::Simulate>),
    Migrate(migrate::Migrate),
    /// Check everything that must be right before a start: what a deploy runs first.
    Check,
    /// Print what is in force, secrets masked.
    Config,
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
    /// Make a key for the app, and its entry for `USHER_API_KEYS`.
    ApiKey(api_key::MakeApiKey),
    #[command(subcommand)]
    Templates(templates::TemplatesCommand),
    Invite(Box<invite::InviteSomebody>),
    #[command(subcommand)]
    Invites(invites::Invites),
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    #[command(subcommand)]
    Jobs(jobs::Jobs),
}

impl Command {
    /// What is logged where nobody says otherwise, if the command has its own idea of it.
    fn log_filter(&self) -> Option<&'static str> {
        match self {
            Self::Demo(_) => Some(demo::LOG),
            _ => None,
        }
    }
}

impl Cli {
    /// Runs the command to its end.
    ///
    /// # Errors
    /// Whatever went wrong, in a sentence that says what to do.
    pub async fn run(self) -> anyhow::Result<()> {
        let command = self.command.unwrap_or(Command::Serve(serve::Serve::default()));
        let filter = self.settings.rust_log.as_deref().or(command.log_filter());
        let exporter = crate::telemetry::init(self.settings.log_format()?, filter, self.settings.collector()?)?;
        settings::warn_of_unknown_variables();
        let ran = command.run(self.settings).await;
        // Not on a thread of the runtime: it waits for the collector.
        tokio::task::spawn_blocking(|| exporter.stop()).await?;
        ran
    }
}

impl Command {
    async fn run(self, settings: Settings) -> anyhow::Result<()> {
        match self {
            Self::Serve(serve) => serve.run(settings.resolve()?).await,
            Self::Demo(demo) => demo.run().await,
            Self::Simulate(simulate) => simulate.run(&settings.resolve()?).await,
            Self::Migrate(migrate) => migrate.run(settings.resolve()?).await,
            Self::Check => check::run(settings).await,
            Self::Config => config::run(&settings.resolve()?),
            Self::Openapi => openapi::run(),
            Self::ApiKey(api_key) => api_key.run(),
            Self::Templates(templates) => templates.run(&settings),
            Self::Invite(invite) => invite.run(settings.resolve()?).await,
            Self::Invites(invites) => invites.run(settings.resolve()?).await,
            Self::Jobs(jobs) => jobs.run(settings.resolve()?).await,
            Self::Webhooks(webhooks) => webhooks.run(settings.resolve()?).await,
        }
    }
}
