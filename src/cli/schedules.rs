//! `usher schedules`: shows periodic work, and runs it now.

use super::{command_line, report};
use crate::repair;
use crate::store::Store;

/// Show periodic work, and run it now.
#[derive(Debug, clap::Subcommand)]
pub enum Schedules {
    /// List schedules, with their last and next run.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a schedule now, besides its usual times.
    Run {
        /// Its name.
        schedule: String,
    },
}

impl Schedules {
    pub(super) async fn run(self, store: Store) -> anyhow::Result<()> {
        match self {
            Self::List { json } => list(&store, json).await?,
            Self::Run { schedule } => {
                repair::run_schedule(&store, command_line(), &schedule).await?;
                println!("{schedule} runs as soon as a worker is free.");
            }
        }
        store.close().await;
        Ok(())
    }
}

async fn list(store: &Store, as_json: bool) -> anyhow::Result<()> {
    let schedules = repair::schedules(store).await?;
    if as_json {
        return report::json(&schedules);
    }
    let now = store.now();
    let distance = |at: Option<chrono::DateTime<chrono::Utc>>| at.map(|at| report::distance(at, now));
    let rows: Vec<[String; 4]> = schedules
        .iter()
        .map(|schedule| {
            [
                schedule.name.to_owned(),
                distance(schedule.last_at).unwrap_or_else(|| "never".to_owned()),
                distance(schedule.due_at).unwrap_or_else(|| "at the start".to_owned()),
                schedule.last_error.as_deref().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    report::table(["SCHEDULE", "LAST", "NEXT", "LAST ERROR"], &rows);
    Ok(())
}
