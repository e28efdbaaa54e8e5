//! The commands, one file each.

mod api_key;
mod check;
mod config;
mod demo;
mod fake_clerk;
mod invite;
mod invites;
mod jobs;
mod migrate;
mod openapi;
mod paint;
mod report;
pub mod serve;
mod simulate;
mod templates;
mod webhooks;

use std::path::Path;

use anyhow::bail;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::clock::Clock;
use crate::config::{self as settings, DotEnv, Settings, without_environment};
use crate::store::Store;

/// Gets invited people into the organizations and projects they were invited to.
#[derive(Debug, Parser)]
#[command(name = "usher", version, about)]
pub struct Cli {
    /// What to do; `serve` if nothing is said.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten, next_help_heading = "Settings")]
    settings: Settings,
    #[arg(skip)]
    dot_env: Option<DotEnv>,
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
    Check {
        /// Also send one real mail to this address, and show what is said with the mail server. Only a real mail shows
        /// whether it takes the sender, the account and the content.
        #[arg(long, value_name = "ADDRESS")]
        send_to: Option<String>,
    },
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

    /// Whether it asks for more than how to log. What doesn't is not kept from its work by a `.env` beside it.
    fn has_settings(&self) -> bool {
        !matches!(self, Self::Demo(_) | Self::Openapi | Self::ApiKey(_))
    }

    /// Whether it asks for all settings.
    fn needs_all(&self) -> bool {
        !matches!(
            self,
            Self::Templates(_) | Self::Invites(_) | Self::Jobs(_) | Self::Webhooks(_)
        ) && self.has_settings()
    }
}

impl Cli {
    /// Reads the command line, and the settings from it, the environment and `.env`. Ends the process where help was
    /// asked for, or the command line can't be understood.
    ///
    /// # Errors
    /// When `.env` can't be read, with its line, or a value is no text.
    pub fn read() -> anyhow::Result<Self> {
        let matches = match without_environment(Self::command(), false).try_get_matches() {
            Ok(matches) => matches,
            Err(error) if error.kind() == ErrorKind::DisplayHelp => {
                without_environment(Self::command(), true).get_matches()
            }
            Err(error) => error.exit(),
        };
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if cli.command.as_ref().is_none_or(Command::has_settings) {
            cli.dot_env = DotEnv::read(Path::new(""))?;
        }
        cli.settings = Settings::gather(&matches, settings::variable, cli.dot_env.as_ref())?;
        Ok(cli)
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// Whatever went wrong, in a sentence that says what to do.
    pub async fn run(self) -> anyhow::Result<()> {
        let command = self.command.unwrap_or(Command::Serve(serve::Serve::default()));
        let telemetry = match self.settings.telemetry() {
            Ok(telemetry) => telemetry,
            // Together with all else that is wrong.
            Err(_) if command.needs_all() => {
                self.settings.resolve()?;
                bail!("the log can't be set up");
            }
            Err(errors) => return Err(errors.into()),
        };
        let own = command.log_filter().and_then(|filter| filter.parse().ok());
        let filter = telemetry.filter.or(own);
        let exporter = crate::telemetry::init(telemetry.format, filter.as_ref(), telemetry.collector.as_deref())?;
        if let Some(dot_env) = &self.dot_env {
            dot_env.announce();
        }
        settings::warn_of_unknown_variables(self.dot_env.as_ref());
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
            Self::Check { send_to } => check::run(settings, send_to.as_deref()).await,
            Self::Config => config::run(&settings.resolve()?),
            Self::Openapi => openapi::run(),
            Self::ApiKey(api_key) => api_key.run(),
            Self::Templates(templates) => templates.run(&settings),
            Self::Invite(invite) => invite.run(settings.resolve()?).await,
            Self::Invites(invites) => {
                let roles = settings.role_rules()?;
                let store = existing_database(settings.database()?.expose()).await?;
                invites.run(store, &roles).await
            }
            Self::Jobs(jobs) => jobs.run(existing_database(settings.database()?.expose()).await?).await,
            Self::Webhooks(webhooks) => {
                webhooks
                    .run(existing_database(settings.database()?.expose()).await?)
                    .await
            }
        }
    }
}

/// Opens the database for a command that makes none.
async fn existing_database(url: &str) -> anyhow::Result<Store> {
    if !Store::file_exists(url)? {
        bail!("USHER_DATABASE_URL names a file that is not there yet: usher serve makes it, or usher migrate");
    }
    Ok(Store::open(url, Clock::System).await?)
}
