//! `usher webhooks`: the inbox of Clerk's events.

use anstream::println;
use anyhow::bail;
use futures::FutureExt as _;
use serde_json::json;

use super::report;
use crate::store::{EventFilter, EventState, Store, Tx};

/// The inbox of Clerk's events.
#[derive(Debug, clap::Subcommand)]
pub enum Webhooks {
    /// List events, newest first.
    List {
        #[command(flatten)]
        selection: Selection,
        /// How many at most.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one event and every attempt at it that failed.
    Show {
        /// Its id: `msg_…`.
        svix_id: String,
        /// Print what Clerk sent, too. It holds names and addresses.
        #[arg(long)]
        payload: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run events again that could not be processed.
    Replay {
        /// Their ids: `msg_…`.
        #[arg(value_name = "SVIX_ID")]
        svix_ids: Vec<String>,
        /// All that failed.
        #[arg(long, conflicts_with = "svix_ids")]
        failed: bool,
        /// Don't ask.
        #[arg(long)]
        yes: bool,
    },
}

/// Which events.
#[derive(Debug, Clone, clap::Args)]
pub struct Selection {
    /// In this state: waiting, failed or processed.
    #[arg(long, value_parser = str::parse::<EventState>)]
    state: Option<EventState>,
    /// Of this type, such as user.created.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Received longer ago than this, such as 90m, 36h or 7d.
    #[arg(long, value_name = "AGE", value_parser = report::age)]
    older_than: Option<chrono::TimeDelta>,
}

/// Events that are replayed at most in one go.
const MOST: u32 = 10_000;

impl Webhooks {
    pub(super) async fn run(self, store: Store) -> anyhow::Result<()> {
        match self {
            Self::List { selection, limit, json } => list(&store, selection, limit, json).await?,
            Self::Show { svix_id, payload, json } => show(&store, &svix_id, payload, json).await?,
            Self::Replay { svix_ids, failed, yes } => replay(&store, svix_ids, failed, yes).await?,
        }
        store.close().await;
        Ok(())
    }
}

async fn list(store: &Store, selection: Selection, limit: u32, as_json: bool) -> anyhow::Result<()> {
    let now = store.now();
    let filter = EventFilter {
        state: selection.state,
        event_type: selection.event_type,
        before: selection.older_than.map(|age| now - age),
    };
    let events = store.read().await?.events(&filter, limit).await?;
    if as_json {
        return report::json(&events);
    }
    let rows: Vec<[String; 5]> = events
        .iter()
        .map(|event| {
            let told = event.outcome.as_deref().or(event.error.as_deref());
            [
                event.svix_id.clone(),
                event.event_type.clone(),
                event.state.to_string(),
                report::distance(event.received_at, now),
                report::short(told.unwrap_or_default()),
            ]
        })
        .collect();
    report::table(["ID", "TYPE", "STATE", "RECEIVED", "OUTCOME"], &rows);
    report::more(events.len(), limit);
    Ok(())
}

async fn show(store: &Store, svix_id: &str, with_payload: bool, as_json: bool) -> anyhow::Result<()> {
    let mut tx = store.read().await?;
    let Some(event) = tx.event(svix_id).await? else {
        bail!("no event has the id {svix_id}");
    };
    let failures = tx.failures_about(svix_id).await?;
    let payload = if with_payload {
        tx.event_payload(svix_id).await?
    } else {
        None
    };
    if as_json {
        let payload: Option<serde_json::Value> = payload.and_then(|text| serde_json::from_str(&text).ok());
        return report::json(&json!({ "event": event, "failed_attempts": failures, "payload": payload }));
    }
    for (name, value) in [
        ("id", Some(event.svix_id)),
        ("type", Some(event.event_type)),
        ("state", Some(event.state.to_string())),
        ("received", Some(report::time(event.received_at))),
        ("processed", event.processed_at.map(report::time)),
        ("outcome", event.outcome),
        ("error", event.error),
        ("payload", payload),
    ] {
        if let Some(value) = value {
            println!("{name:<10} {value}");
        }
    }
    for failure in failures {
        println!(
            "{}  attempt {} of job {}: {}",
            report::time(failure.failed_at),
            failure.attempt,
            failure.job_id,
            failure.error
        );
    }
    Ok(())
}

/// All or none, unless they are those that have `failed` when it is looked: another may have replayed one meanwhile.
async fn replay_all(tx: &mut Tx, svix_ids: &[String], failed: bool) -> anyhow::Result<()> {
    for svix_id in svix_ids {
        if !tx.replay_event(svix_id).await? && !failed {
            bail!("no unprocessed event has the id {svix_id}");
        }
    }
    Ok(())
}

async fn replay(store: &Store, mut svix_ids: Vec<String>, failed: bool, yes: bool) -> anyhow::Result<()> {
    if failed {
        let filter = EventFilter {
            state: Some(EventState::Failed),
            ..EventFilter::default()
        };
        let events = store.read().await?.events(&filter, MOST).await?;
        svix_ids = events.into_iter().map(|event| event.svix_id).collect();
        println!("{} failed", svix_ids.len());
        report::confirm(&format!("replay {} events", svix_ids.len()), yes)?;
    } else if svix_ids.is_empty() {
        bail!("which events? Give ids or --failed");
    }
    store
        .transaction(&svix_ids, |tx, svix_ids| replay_all(tx, svix_ids, failed).boxed())
        .await?;
    match svix_ids.as_slice() {
        [svix_id] => println!("{svix_id} is queued again."),
        all => println!("{} events are queued again.", all.len()),
    }
    Ok(())
}
