//! `usher queues`: pauses and resumes queues.

use super::{command_line, report};
use crate::repair;
use crate::store::{Queue, Store};

/// Show, pause and resume queues. The service may be running, and follows within seconds.
#[derive(Debug, clap::Subcommand)]
pub enum Queues {
    /// List queues, with what waits in them.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Pause a queue: what runs ends, and nothing new is started.
    Pause {
        #[arg(value_parser = str::parse::<Queue>)]
        queue: Queue,
        /// Why; all operators see it.
        #[arg(long)]
        reason: String,
    },
    /// Resume a paused queue.
    Resume {
        #[arg(value_parser = str::parse::<Queue>)]
        queue: Queue,
    },
}

impl Queues {
    pub(super) async fn run(self, store: Store) -> anyhow::Result<()> {
        match self {
            Self::List { json } => list(&store, json).await?,
            Self::Pause { queue, reason } => {
                repair::pause_queue(&store, command_line(), queue, &reason).await?;
                println!("{queue} is paused. `usher queues resume {queue}` resumes it.");
            }
            Self::Resume { queue } => {
                repair::resume_queue(&store, command_line(), queue).await?;
                println!("{queue} is resumed.");
            }
        }
        store.close().await;
        Ok(())
    }
}

async fn list(store: &Store, as_json: bool) -> anyhow::Result<()> {
    let paused = store.read().await?.paused_queues().await?;
    if as_json {
        return report::json(&serde_json::json!({ "paused": paused }));
    }
    let depths = store.queue_depths().await?;
    let now = store.now();
    let rows: Vec<[String; 6]> = depths
        .iter()
        .map(|depth| {
            let pause = paused.iter().find(|row| row.queue.as_str() == depth.queue);
            [
                depth.queue.to_owned(),
                depth.waiting.to_string(),
                depth.scheduled.to_string(),
                depth.running.to_string(),
                depth.dead.to_string(),
                pause.map_or(String::new(), |row| {
                    format!(
                        "{} by {}: {}",
                        report::distance(row.since, now),
                        row.paused_by,
                        row.reason
                    )
                }),
            ]
        })
        .collect();
    report::table(["QUEUE", "WAITING", "SCHEDULED", "RUNNING", "DEAD", "PAUSED"], &rows);
    Ok(())
}
