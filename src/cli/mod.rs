//! The commands, one file each.

mod api_key;
mod config;
mod demo;
mod migrate;
mod openapi;
mod paint;
pub mod serve;
mod simulate;
mod stand_in;
mod templates;
mod webhooks;

use clap::{Parser, Subcommand};

use crate::config::Settings;

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
    /// Print what is in force, secrets masked.
    Config,
    /// Print the OpenAPI document of the HTTP API.
    Openapi,
    /// Make a key for the app, and its entry for `USHER_API_KEYS`.
    ApiKey(api_key::MakeApiKey),
    #[command(subcommand)]
    Templates(templates::TemplatesCommand),
    /// The inbox of Clerk's events.
    #[command(subcommand)]
    Webhooks(webhooks::Webhooks),
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
        crate::telemetry::init(self.settings.log_format()?, filter);
        match command {
            Command::Serve(serve) => serve.run(self.settings.resolve()?).await,
            Command::Demo(demo) => demo.run().await,
            Command::Simulate(simulate) => simulate.run(&self.settings.resolve()?).await,
            Command::Migrate(migrate) => migrate.run(self.settings.resolve()?).await,
            Command::Config => config::run(&self.settings.resolve()?),
            Command::Openapi => openapi::run(),
            Command::ApiKey(api_key) => api_key.run(),
            Command::Templates(templates) => templates.run(&self.settings),
            Command::Webhooks(webhooks) => webhooks.run(self.settings.resolve()?).await,
        }
    }
}
