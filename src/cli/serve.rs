//! `usher serve`: the API and the workers.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::app::{App, SetupError};
use crate::clock::Clock;
use crate::config::{Config, Environment};
use crate::ops::board_link;
use crate::service::{Role, Service};
use crate::shutdown;
use crate::store::{MigrationError, Store};
use crate::ui::home;

/// Serve the API and run the jobs.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// What this process does: `api`, `worker` or `all`.
    #[arg(long, default_value_t = Role::All, value_parser = str::parse::<Role>)]
    role: Role,
}

impl Default for Serve {
    fn default() -> Self {
        Self { role: Role::All }
    }
}

/// Between two attempts to connect to the database at the start.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

impl Serve {
    /// Serves until SIGTERM or SIGINT.
    pub async fn run(self, config: Config) -> anyhow::Result<()> {
        let clock = Clock::System;
        let url = config.database_url.expose();
        let opened = Store::open_sized(url, &config.layout, config.connections, clock.clone()).await;
        let store = opened.map_err(SetupError::from)?;
        // Connections open while templates and then the schema are read.
        let first_connections = store.clone();
        let _opening = AbortOnDropHandle::new(tokio::spawn(async move { first_connections.warm_up().await }));
        self.run_app(App::on(store, config, clock)?).await
    }

    /// [`Serve::run`] once everything is put together.
    pub async fn run_app(self, app: App) -> anyhow::Result<()> {
        let stop = shutdown::on_signal()?;
        let migrated = stop.run_until_cancelled(migrate_when_there(&app)).await;
        if migrated.transpose()?.is_none() {
            return Ok(());
        }
        let config = Arc::clone(&app.config);
        let service = Service::start(app, self.role).await?;
        greet(&service, &config);
        stop.cancelled().await;
        service.stop().await;
        Ok(())
    }
}

/// A database that is away is waited for: the process may have been started before it.
async fn migrate_when_there(app: &App) -> Result<(), MigrationError> {
    loop {
        match app.store.migrate(&app.config.rules()).await {
            Err(error) if error.is_temporary() => {
                tracing::warn!(error = %error, "the database can't be used yet; retrying");
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            outcome => return outcome,
        }
    }
}

/// Says where it serves.
fn greet(service: &Service, config: &Config) {
    if let Some(address) = service.address() {
        tracing::info!("serving on http://{address}");
    }
    tracing::info!("health on http://{}/readyz", service.admin_address());
    tracing::info!("metrics on http://{}/metrics", service.admin_address());
    tracing::info!("the board on http://{}/board", service.admin_address());
    if config.environment == Environment::Development {
        eprintln!("{}", in_development(service, config));
    }
}

/// What there is to open and to try.
fn in_development(service: &Service, config: &Config) -> String {
    let links = service.address().map(|public| {
        let private = service.admin_address();
        let links = home::links(config, &format!("http://{public}"), private);
        let lines = links.iter().map(|link| match link.name {
            "board" => format!("  {:<13}{}\n", link.name, board_link(config, private)),
            name => format!("  {name:<13}{}\n", link.url),
        });
        lines.collect::<String>()
    });
    let mails = home::mail_folder(config).map(|folder| format!("  {:<13}{}/\n", "mails", folder.display()));
    format!(
        "\n{}{}{DEVELOPMENT}",
        links.unwrap_or_default(),
        mails.unwrap_or_default()
    )
}

const DEVELOPMENT: &str = "
  Development settings: secrets are generated under var/. The link to the board may change everything there; it ends
  with this process.

  Send a first event      usher simulate user.created --email ada@example.com
  See an invite's way     usher demo
  See what is in force    usher config

  Under cargo, `usher …` is `cargo run -- …`.
";
