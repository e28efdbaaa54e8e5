//! The commands, one file each.

// First, so that its `println!` is that of all commands.
#[macro_use]
mod output;

mod api_key;
mod audit;
mod check;
mod completions;
mod config;
mod demo;
mod events;
mod fake_clerk;
mod invite;
mod invites;
mod jobs;
mod man;
mod members;
mod migrate;
mod move_file;
mod openapi;
mod ops_key;
mod paint;
mod queues;
mod report;
mod schedules;
pub mod serve;
mod simulate;
mod table;
mod templates;
mod webhooks;

use std::ffi::OsString;
use std::path::Path;

use anyhow::bail;
use clap::{Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::clock::Clock;
use crate::config::{self as settings, DotEnv, Settings, without_environment};
use crate::repair::Operator;
use crate::secret::Secret;
use crate::store::{AuditDoor, Layout, Store};

/// Adds invited people to the organizations and projects that they were invited to.
#[derive(Debug, Parser)]
#[command(name = "usher", version = crate::VERSION, about, after_help = SETTINGS_HELP)]
pub struct Cli {
    /// The command; `serve` by default.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten, next_help_heading = "Settings")]
    settings: Settings,
    #[arg(skip)]
    dot_env: Option<DotEnv>,
}

const SETTINGS_HELP: &str = "Settings are flags, environment variables, or lines of .env: usher help settings";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the API and run the jobs, in one process unless a role is given.
    Serve(serve::Serve),
    Demo(demo::Demo),
    #[command(subcommand)]
    Simulate(Box<simulate::Simulate>),
    Migrate(migrate::Migrate),
    Move(move_file::Move),
    /// Check everything that `usher serve` needs. Run it first in a deploy.
    Check {
        /// Also send one real mail to this address, and show the SMTP session. Only a real mail shows whether the server accepts
        /// the sender, the account and the content.
        #[arg(long, value_name = "ADDRESS")]
        send_to: Option<String>,
    },
    /// Print the settings in force, secrets masked.
    Config,
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
    Completions(completions::Completions),
    Man(man::PrintMan),
    /// Make a key for the app, and its entry for `USHER_API_KEYS`.
    ApiKey(api_key::MakeApiKey),
    OpsKey(ops_key::MakeOpsKey),
    #[command(subcommand)]
    Templates(templates::TemplatesCommand),
    Invite(Box<invite::InviteSomebody>),
    #[command(subcommand)]
    Invites(invites::Invites),
    #[command(subcommand)]
    Members(members::Members),
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    #[command(subcommand)]
    Events(events::Events),
    #[command(subcommand)]
    Queues(queues::Queues),
    #[command(subcommand)]
    Schedules(schedules::Schedules),
    Audit(audit::Audit),
}

impl Command {
    /// The log filter without `RUST_LOG`, if it is not the usual one.
    fn log_filter(&self) -> Option<&'static str> {
        match self {
            Self::Demo(_) => Some(demo::LOG),
            _ => None,
        }
    }

    /// Whether it has settings beyond logging. A command without any must not fail because of an invalid `.env`.
    fn has_settings(&self) -> bool {
        !matches!(
            self,
            Self::Demo(_) | Self::Openapi | Self::Completions(_) | Self::Man(_) | Self::ApiKey(_) | Self::OpsKey(_)
        )
    }

    /// Whether it needs all settings.
    fn needs_all(&self) -> bool {
        !matches!(
            self,
            Self::Templates(_)
                | Self::Invites(_)
                | Self::Members(_)
                | Self::Jobs(_)
                | Self::Webhooks(_)
                | Self::Queues(_)
                | Self::Schedules(_)
                | Self::Audit(_)
                | Self::Events(
                    events::Events::List { .. }
                        | events::Events::Show { .. }
                        | events::Events::Replay(_)
                        | events::Events::Enable { .. }
                )
        ) && self.has_settings()
    }
}

impl Cli {
    /// Reads the command line, and the settings from it, the environment and `.env`. Exits the process after `--help` or an
    /// invalid command line.
    pub fn read() -> anyhow::Result<Self> {
        let words: Vec<OsString> = std::env::args_os().collect();
        if words.get(1..).is_some_and(|words| words == ["help", "settings"]) {
            println!("{}", settings_help());
            std::process::exit(0);
        }
        let matches = without_environment(Self::command()).get_matches_from(words);
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if cli.command.as_ref().is_none_or(Command::has_settings) {
            cli.dot_env = DotEnv::read(Path::new(""))?;
        }
        cli.settings = Settings::gather(&matches, settings::variable, cli.dot_env.as_ref())?;
        Ok(cli)
    }

    /// Runs the command. Errors say what to do.
    pub async fn run(self) -> anyhow::Result<()> {
        let command = self.command.unwrap_or(Command::Serve(serve::Serve::default()));
        let telemetry = match self.settings.telemetry() {
            Ok(telemetry) => telemetry,
            // Report it together with all other errors.
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
        // Not on a thread of the runtime, because it blocks until the collector answers.
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
            Self::Move(moving) => moving.run(settings.resolve()?).await,
            Self::Check { send_to } => check::run(settings, send_to.as_deref()).await,
            Self::Config => config::run(&settings.resolve()?),
            Self::Openapi => openapi::run(),
            Self::Completions(completions) => {
                completions.run();
                Ok(())
            }
            Self::Man(man) => man.run(),
            Self::ApiKey(api_key) => api_key.run(),
            Self::OpsKey(ops_key) => ops_key.run(),
            Self::Templates(templates) => templates.run(&settings),
            Self::Invite(invite) => invite.run(settings.resolve()?).await,
            Self::Invites(invites) => {
                let roles = settings.role_rules()?;
                let store = open_database(&settings).await?;
                invites.run(store, &roles).await
            }
            Self::Members(members) => {
                let roles = settings.role_rules()?;
                let store = open_database(&settings).await?;
                members.run(store, &roles).await
            }
            Self::Jobs(jobs) => jobs.run(open_database(&settings).await?).await,
            Self::Events(events::Events::Sending(sending)) => sending.run(&settings.resolve()?).await,
            Self::Events(events) => events.run(open_database(&settings).await?).await,
            Self::Webhooks(webhooks) => webhooks.run(open_database(&settings).await?).await,
            Self::Queues(queues) => queues.run(open_database(&settings).await?).await,
            Self::Schedules(schedules) => schedules.run(open_database(&settings).await?).await,
            Self::Audit(audit) => audit.run(open_database(&settings).await?).await,
        }
    }
}

/// All settings with what they do; `--help` leaves them out, since they are many.
fn settings_help() -> String {
    let about = "Each setting is a flag, an environment variable, or a line of .env, in this order.";
    let command = clap::Command::new("settings")
        .about(about)
        .next_help_heading("Settings")
        .disable_help_flag(true)
        .override_usage("usher [--SETTING <VALUE>]… [COMMAND]");
    // Their values may be passwords.
    let mut command = Settings::augment_args(command).mut_args(|argument| argument.hide_env_values(true));
    command.render_long_help().ansi().to_string()
}

/// Who runs this command, for the audit.
fn command_line() -> Operator {
    Operator {
        name: settings::login_name(),
        door: AuditDoor::CommandLine,
    }
}

/// Opens the database for a command that needs nothing else.
async fn open_database(settings: &Settings) -> anyhow::Result<Store> {
    let (url, layout) = settings.database()?;
    existing_database(&url, &layout).await
}

/// Opens the database for a command that does not create one.
async fn existing_database(url: &Secret, layout: &Layout) -> anyhow::Result<Store> {
    let url = url.expose();
    if !Store::file_exists(url)? {
        bail!("USHER_DATABASE_URL names a file that is not there yet: usher serve makes it, or usher migrate");
    }
    Ok(Store::open_with(url, layout, Clock::System).await?)
}
