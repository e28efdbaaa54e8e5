//! `usher move`: takes a SQLite file over to Postgres.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;

use crate::clock::Clock;
use crate::config::Config;
use crate::store::Store;

/// On no terminal, one line after this many rows of a table.
const SAY_EVERY: usize = 50_000;

/// Move everything from the SQLite file to a Postgres database: queue, history, caps and all. Links in mails go on working.
#[derive(Debug, clap::Args)]
pub(super) struct Move {
    /// The Postgres database, which must be empty: `postgres://…`
    #[arg(long, value_name = "URL")]
    to: String,
}

impl Move {
    pub(super) async fn run(self, config: Config) -> anyhow::Result<()> {
        let from = config.database_url.expose();
        if !from.starts_with("sqlite:") {
            bail!("USHER_DATABASE_URL names no SQLite file; nothing else can be moved");
        }
        if !Store::file_exists(from)? {
            bail!("USHER_DATABASE_URL names a file that is not there; there is nothing to move");
        }
        let file = Store::open_with(from, &config.layout, Clock::System)
            .await
            .context("USHER_DATABASE_URL can't be used")?;
        let target = Store::open_with(&self.to, &config.layout, Clock::System)
            .await
            .context("--to can't be used")?;
        let bar = if io::stderr().is_terminal() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        let counts = file
            .move_to(&target, &config.rules(), &|table, rows| {
                bar.set_message(format!("{table}: {rows} rows"));
                bar.tick();
                if bar.is_hidden() && rows % SAY_EVERY == 0 {
                    eprintln!("{table}: {rows} rows");
                }
            })
            .await?;
        bar.finish_and_clear();
        for (table, rows) in counts.iter().filter(|(_, rows)| *rows > 0) {
            println!("{rows:>12}  {table}");
        }
        println!("All rows are in Postgres. Set USHER_DATABASE_URL to it and start usher; keep the other settings.");
        file.close().await;
        target.close().await;
        Ok(())
    }
}
