//! `usher webhooks`: the inbox of Clerk's events.

use anyhow::bail;

use crate::clock::Clock;
use crate::config::Config;
use crate::store::Store;

/// The inbox of Clerk's events.
#[derive(Debug, clap::Subcommand)]
pub enum Webhooks {
    /// Run an event again that could not be processed.
    Replay {
        /// Its id: `msg_…`.
        svix_id: String,
    },
}

impl Webhooks {
    pub(super) async fn run(self, config: Config) -> anyhow::Result<()> {
        let Self::Replay { svix_id } = self;
        let store = Store::open(config.database_url.expose(), Clock::System).await?;
        let mut tx = store.begin().await?;
        if !tx.replay_event(&svix_id).await? {
            bail!("no unprocessed event has the id {svix_id}");
        }
        tx.commit().await?;
        store.close().await;
        println!("{svix_id} is queued again.");
        Ok(())
    }
}
