//! `usher audit`: who changed what by hand.

use super::report;
use crate::store::Store;

/// Show what was changed by hand, on the board or by commands, newest first.
#[derive(Debug, clap::Args)]
pub struct Audit {
    /// The maximum number.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub(super) async fn run(self, store: Store) -> anyhow::Result<()> {
        let entries = store.read().await?.audit(None, self.limit).await?;
        if self.json {
            report::json(&entries)?;
        } else if entries.is_empty() {
            println!("Nothing was changed by hand.");
        } else {
            let now = store.now();
            let rows: Vec<[String; 6]> = entries
                .iter()
                .map(|entry| {
                    [
                        report::distance(entry.at, now),
                        entry.who.clone(),
                        entry.door.to_string(),
                        entry.action.clone(),
                        match &entry.refused {
                            Some(_) => "refused".to_owned(),
                            None => entry.changed.to_string(),
                        },
                        entry.refused.as_ref().unwrap_or(&entry.subject).clone(),
                    ]
                })
                .collect();
            report::table(["WHEN", "WHO", "WHERE", "WHAT", "CHANGED", "WHICH"], &rows);
            report::more(entries.len(), self.limit);
        }
        store.close().await;
        Ok(())
    }
}
