//! `usher webhooks`: shows and repairs the inbox of Clerk's events.

use anstream::println;
use anyhow::bail;
use serde_json::json;

use super::{command_line, report};
use crate::repair::{EventAction, EventChange, RepairError};
use crate::store::{EventFilter, EventState, Store};

/// Show and repair the inbox of Clerk's events.
#[derive(Debug, clap::Subcommand)]
pub enum Webhooks {
    /// List events, newest first.
    List {
        #[command(flatten)]
        selection: Selection,
        /// The maximum number.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show one event with its failed attempts.
    Show {
        /// The event's id: `msg_…`.
        svix_id: String,
        /// Also print the payload. It contains names and addresses.
        #[arg(long)]
        payload: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Process failed events again.
    Replay(Change),
    /// Discard failed events. They have no effect.
    Discard(Change),
}

#[derive(Debug, clap::Args)]
pub struct Change {
    /// Ids of events: `msg_…`.
    #[arg(value_name = "SVIX_ID")]
    svix_ids: Vec<String>,
    /// All failed events.
    #[arg(long, conflicts_with = "svix_ids")]
    failed: bool,
    /// Don't ask for confirmation.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Selection {
    /// Only events in this state: waiting, failed or processed.
    #[arg(long, value_parser = str::parse::<EventState>)]
    state: Option<EventState>,
    /// Only events of this type, such as user.created.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Only events received longer ago than this, such as 90m, 36h or 7d.
    #[arg(long, value_name = "AGE", value_parser = report::age)]
    older_than: Option<chrono::TimeDelta>,
}

impl Webhooks {
    pub(super) async fn run(self, store: Store) -> anyhow::Result<()> {
        match self {
            Self::List { selection, limit, json } => list(&store, selection, limit, json).await?,
            Self::Show { svix_id, payload, json } => show(&store, &svix_id, payload, json).await?,
            Self::Replay(change) => change.run(&store, EventAction::Replay).await?,
            Self::Discard(change) => change.run(&store, EventAction::Discard).await?,
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
        ..EventFilter::default()
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

impl Change {
    async fn run(self, store: &Store, action: EventAction) -> anyhow::Result<()> {
        let done = action.done();
        if self.failed {
            let changed = change_failed(store, action, self.yes).await?;
            println!("{changed} events are {done}.");
            return Ok(());
        }
        if self.svix_ids.is_empty() {
            bail!("which events? Give ids or --failed");
        }
        let changed = action.change_all(store, command_line(), &self.svix_ids).await?;
        match changed.as_slice() {
            [svix_id] => println!("{svix_id} is {done}."),
            all => println!("{} events are {done}.", all.len()),
        }
        Ok(())
    }
}

async fn change_failed(store: &Store, action: EventAction, yes: bool) -> anyhow::Result<u64> {
    let mut change = match EventChange::count(store, command_line(), action, EventFilter::default()).await {
        Ok(change) => change,
        Err(RepairError::Nothing { .. }) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    println!("{} failed", change.counted);
    report::confirm(&format!("{} {} events", action.verb(), change.counted), yes)?;
    let (mut changed, progress) = (0, report::progress(change.counted));
    while let Some(batch) = change.next_batch(store).await? {
        changed += batch;
        progress.set_position(changed);
    }
    progress.finish_and_clear();
    Ok(changed)
}
