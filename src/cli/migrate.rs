//! `usher migrate`: brings the schema up to date, or shows what it would change.

use anyhow::Context as _;

use crate::clock::Clock;
use crate::config::Config;
use crate::store::Store;

/// Bring the database's schema up to date. Existing tables of the app are used as they are; nothing in them is dropped.
#[derive(Debug, clap::Args)]
pub(super) struct Migrate {
    /// Only print what would be done.
    #[arg(long)]
    dry_run: bool,
}

impl Migrate {
    pub(super) async fn run(self, config: Config) -> anyhow::Result<()> {
        let url = config.database_url.expose();
        if self.dry_run && !Store::file_exists(url)? {
            println!("Would make the database file with the whole schema. Nothing was changed.");
            return Ok(());
        }
        let store = Store::open_with(url, &config.layout, Clock::System)
            .await
            .context("USHER_DATABASE_URL can't be used")?;
        if self.dry_run {
            let steps = store.plan_changes(&config.rules()).await?;
            for step in &steps {
                println!("Would {step}.");
            }
            if steps.is_empty() {
                println!("There is nothing to do.");
            } else {
                println!("Nothing was changed. Without --dry-run it will be done.");
            }
        } else {
            store.migrate(&config.rules()).await?;
            println!("The schema is up to date.");
        }
        store.close().await;
        Ok(())
    }
}
