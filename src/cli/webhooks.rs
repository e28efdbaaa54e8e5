//! `usher webhooks`: shows and repairs the inbox of Clerk's events.

use anyhow::bail;
use chrono::{DateTime, Utc};
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
    /// Process events again: failed ones, and also processed ones as long as their payload is kept.
    Replay {
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        selection: Selection,
    },
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
    /// Only events received at most this long ago.
    #[arg(long, value_name = "AGE", value_parser = report::age)]
    newer_than: Option<chrono::TimeDelta>,
}

impl Selection {
    fn filter(self, now: DateTime<Utc>) -> EventFilter {
        EventFilter {
            state: self.state,
            event_type: self.event_type,
            since: self.newer_than.map(|age| now - age),
            before: self.older_than.map(|age| now - age),
            ..EventFilter::default()
        }
    }

    fn is_empty(&self) -> bool {
        self.state.is_none() && self.event_type.is_none() && self.older_than.is_none() && self.newer_than.is_none()
    }
}

impl Webhooks {
    pub(super) async fn run(self, store: Store) -> anyhow::Result<()> {
        match self {
            Self::List { selection, limit, json } => list(&store, selection, limit, json).await?,
            Self::Show { svix_id, payload, json } => show(&store, &svix_id, payload, json).await?,
            Self::Replay { change, selection } => change.replay(&store, selection).await?,
            Self::Discard(change) => change.run(&store, EventAction::Discard).await?,
        }
        store.close().await;
        Ok(())
    }
}

async fn list(store: &Store, selection: Selection, limit: u32, as_json: bool) -> anyhow::Result<()> {
    let now = store.now();
    let events = store.read().await?.events(&selection.filter(now), limit).await?;
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
                told.unwrap_or_default().to_owned(),
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
        if self.failed {
            let failed = EventFilter {
                state: Some(EventState::Failed),
                ..EventFilter::default()
            };
            return change_selected(store, action, vec![failed], self.yes).await;
        }
        if self.svix_ids.is_empty() {
            bail!("which events? Give ids or --failed");
        }
        let done = action.done();
        let changed = action.change_all(store, command_line(), &self.svix_ids).await?;
        match changed.as_slice() {
            [svix_id] => println!("{svix_id} is {done}."),
            all => println!("{} events are {done}.", all.len()),
        }
        Ok(())
    }

    /// With a selection, whatever became of them: only what still waits for its first attempt is left alone.
    async fn replay(self, store: &Store, selection: Selection) -> anyhow::Result<()> {
        if selection.is_empty() {
            if self.svix_ids.is_empty() && !self.failed {
                bail!("which events? Give ids, --failed, or one of --state, --type, --newer-than and --older-than");
            }
            return self.run(store, EventAction::Replay).await;
        }
        if !self.svix_ids.is_empty() {
            bail!("give ids or a selection, not both");
        }
        let mut filter = selection.filter(store.now());
        if self.failed {
            filter.state = Some(EventState::Failed);
        }
        let states = match filter.state {
            Some(state) => vec![state],
            None => vec![EventState::Failed, EventState::Processed],
        };
        let of_state = |state| EventFilter {
            state: Some(state),
            ..filter.clone()
        };
        let filters = states.into_iter().map(of_state).collect();
        change_selected(store, EventAction::Replay, filters, self.yes).await
    }
}

/// Counts first, asks, and changes in batches what was counted.
async fn change_selected(
    store: &Store,
    action: EventAction,
    filters: Vec<EventFilter>,
    yes: bool,
) -> anyhow::Result<()> {
    let mut changes = Vec::new();
    for filter in filters {
        match EventChange::count(store, command_line(), action, filter).await {
            Ok(change) => changes.push(change),
            Err(RepairError::Nothing { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut changed = 0;
    if !changes.is_empty() {
        changes
            .iter()
            .for_each(|change| println!("{} {}", change.counted, change.state()));
        let counted = changes.iter().map(|change| change.counted).sum();
        report::confirm(&format!("{} {counted} events", action.verb()), yes)?;
        let progress = report::progress(counted);
        for mut change in changes {
            while let Some(batch) = change.next_batch(store).await? {
                changed += batch;
                progress.set_position(changed);
            }
        }
        progress.finish_and_clear();
    }
    println!("{changed} events are {}.", action.done());
    Ok(())
}
