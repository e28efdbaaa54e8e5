//! `usher migrate`: brings the schema up to date.

use crate::clock::Clock;
use crate::config::Config;
use crate::store::Store;

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let store = Store::open(config.database_url.expose(), Clock::System).await?;
    store.migrate().await?;
    store.close().await;
    println!("The schema is up to date.");
    Ok(())
}
