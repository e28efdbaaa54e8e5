//! `usher webhooks`: shows and repairs the inbox of Clerk's events.

use anstream::println;
use anyhow::bail;
use futures::FutureExt as _;
use serde_json::json;

use super::report;
use crate::store::{EventFilter, EventState, Store, Tx};

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

#[derive(Clone, Copy)]
enum Action {
    Replay,
    Discard,
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

/// Events that are changed at most in one go.
const MAX_BATCH_SIZE: u32 = 10_000;
/// Events that one transaction changes.
const BATCH: usize = 500;

impl Webhooks {
    pub(super) async fn run(self, store: Store) -> anyhow::Result<()> {
        match self {
            Self::List { selection, limit, json } => list(&store, selection, limit, json).await?,
            Self::Show { svix_id, payload, json } => show(&store, &svix_id, payload, json).await?,
            Self::Replay(change) => change.run(&store, Action::Replay).await?,
            Self::Discard(change) => change.run(&store, Action::Discard).await?,
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

impl Action {
    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Replay => ("replay", "queued again"),
            Self::Discard => ("discard", "discarded"),
        }
    }

    /// The events that this can be done to.
    fn fits(self) -> &'static str {
        match self {
            Self::Replay => "unprocessed",
            Self::Discard => "failed",
        }
    }

    /// With `all_or_none`, fails unless all of them can be changed. Not for `--failed`: another command may have replayed one of
    /// them meanwhile.
    async fn apply(self, tx: &mut Tx, svix_ids: &[&str], all_or_none: bool) -> anyhow::Result<Vec<String>> {
        let changed = match self {
            Self::Replay => tx.replay_events(svix_ids).await?,
            Self::Discard => tx.discard_events(svix_ids).await?,
        };
        match svix_ids.iter().find(|id| !changed.iter().any(|this| this == *id)) {
            Some(svix_id) if all_or_none => bail!("no {} event has the id {svix_id}", self.fits()),
            _ => Ok(changed),
        }
    }
}

impl Change {
    async fn run(self, store: &Store, action: Action) -> anyhow::Result<()> {
        let (verb, done) = action.labels();
        let mut svix_ids = self.svix_ids;
        if self.failed {
            let filter = EventFilter {
                state: Some(EventState::Failed),
                ..EventFilter::default()
            };
            let events = store.read().await?.events(&filter, MAX_BATCH_SIZE).await?;
            svix_ids = events.into_iter().map(|event| event.svix_id).collect();
            println!("{} failed", svix_ids.len());
            report::confirm(&format!("{verb} {} events", svix_ids.len()), self.yes)?;
        } else if svix_ids.is_empty() {
            bail!("which events? Give ids or --failed");
        }
        let mut changed = Vec::new();
        for ids in svix_ids.chunks(BATCH) {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            let all_or_none = !self.failed;
            let these = store
                .transaction(ids, |tx, ids| action.apply(tx, ids, all_or_none).boxed())
                .await?;
            changed.extend(these);
        }
        match changed.as_slice() {
            [svix_id] => println!("{svix_id} is {done}."),
            all => println!("{} events are {done}.", all.len()),
        }
        Ok(())
    }
}
