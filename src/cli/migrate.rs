//! `usher migrate`: brings the schema up to date, or takes usher out again; shows before what it would change.

use std::io::{self, IsTerminal as _};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::clock::Clock;
use crate::config::Config;
use crate::store::{AppShape, Difference, Planned, Store};

/// On no terminal, one line after this many rows.
const SAY_EVERY: u64 = 50_000;

/// Bring the database's schema up to date. Existing tables of the app are used as they are; nothing in them is dropped.
#[derive(Debug, clap::Args)]
pub(super) struct Migrate {
    /// Only print what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Only print the statements that would be run.
    #[arg(long)]
    sql: bool,
    /// Take usher out of the database, with all that it stored; the app's tables become what they were before usher.
    #[arg(long)]
    remove: bool,
}

impl Migrate {
    pub(super) async fn run(self, config: Config) -> anyhow::Result<()> {
        let url = config.database_url.expose();
        let only_shows = self.dry_run || self.sql;
        if (only_shows || self.remove) && !Store::file_exists(url)? {
            println!(
                "{}",
                if self.remove {
                    "There is no database file, so there is nothing to remove."
                } else {
                    "There is no database file. Without --dry-run, usher migrate makes it with the whole schema."
                }
            );
            return Ok(());
        }
        let store = Store::open_with(url, &config.layout, Clock::System)
            .await
            .context("USHER_DATABASE_URL can't be used")?;
        match (self.remove, only_shows) {
            (true, true) => self.show(&store.plan_removal().await?),
            (true, false) => {
                for step in store.remove().await? {
                    println!("Did {}.", step.says);
                }
                println!("usher is no longer in the database.");
            }
            (false, true) => {
                self.show(&store.plan_changes(&config.rules()).await?);
                if store.is_migrated().await.is_ok() {
                    differences(&store, &config)
                        .await?
                        .iter()
                        .for_each(|found| println!("Note: {}.", found.says));
                }
            }
            (false, false) => migrate(&store, &config).await?,
        }
        store.close().await;
        Ok(())
    }

    fn show(&self, steps: &[Planned]) {
        if self.sql {
            for step in steps {
                println!("-- {}", step.says);
                if !step.sql.is_empty() {
                    println!("{};\n", step.sql.trim_end().trim_end_matches(';'));
                }
            }
            return;
        }
        for step in steps {
            println!("Would {}.", step.says);
        }
        if steps.is_empty() {
            println!("There is nothing to do.");
        } else {
            println!("Nothing was changed. Without --dry-run it will be done.");
        }
    }
}

async fn differences(store: &Store, config: &Config) -> anyhow::Result<Vec<Difference>> {
    Ok(store.differences(&config.rules(), &mut AppShape::default()).await?)
}

async fn migrate(store: &Store, config: &Config) -> anyhow::Result<()> {
    let bar = if io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{msg} {bar:30} {pos}/{len} {eta}")?;
        ProgressBar::no_length().with_style(style)
    } else {
        ProgressBar::hidden()
    };
    store
        .migrate_with(&config.rules(), &|what, done, total| {
            bar.set_message(what.to_owned());
            bar.set_length(total);
            bar.set_position(done);
            if bar.is_hidden() && done > 0 && done % SAY_EVERY == 0 {
                eprintln!("{what}: {done} of {total}");
            }
        })
        .await?;
    bar.finish_and_clear();
    let found = differences(store, config).await?;
    for object in store.put_back(&found).await? {
        println!("Made the {object} again.");
    }
    store.forget(&found).await?;
    let left = differences(store, config).await?;
    if left.is_empty() {
        println!("The schema is up to date.");
        return Ok(());
    }
    for found in &left {
        println!("The database has changed: {}.", found.says);
    }
    bail!("the migrations have run, but the database is not as usher needs it")
}
