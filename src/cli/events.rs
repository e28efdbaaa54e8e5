//! `usher events`: shows what the app was told, and tells it again.

use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use url::Url;
use uuid::Uuid;

use super::{command_line, report};
use crate::clock::Clock;
use crate::config::Config;
use crate::events::{Answer, Sender, event_id, read_event_id};
use crate::repair;
use crate::store::{
    EventDeliveryFilter, EventDeliveryKey, EventDeliveryStatus, EventDeliveryView, EventType, FeedFilter, Store,
};

/// Show what the app was told, and tell it again.
#[derive(Debug, clap::Subcommand)]
pub enum Events {
    /// List events and their deliveries, newest first.
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
    /// Show one event as it was sent, with its deliveries. It contains names and addresses.
    Show {
        /// The event's id: `evt_…`.
        #[arg(value_parser = id)]
        event: Uuid,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Send events again, whatever became of them before.
    Replay(Replay),
    /// Enable an endpoint that answered 410.
    Enable {
        /// Its name in `USHER_EVENTS`.
        endpoint: String,
    },
    #[command(flatten)]
    Sending(Sending),
}

/// The commands that send, and so need all settings.
#[derive(Debug, clap::Subcommand)]
pub enum Sending {
    /// Send a signed event of the type `test` to an endpoint, and show its answer.
    Test {
        /// Its name in `USHER_EVENTS`.
        endpoint: String,
    },
    /// Forward events to a local address from now on, for development.
    Listen {
        /// Where to, such as `http://localhost:3000/hooks`.
        #[arg(long, value_name = "URL")]
        forward: Url,
    },
}

#[derive(Debug, clap::Args)]
pub struct Replay {
    /// Ids of events: `evt_…`.
    #[arg(value_name = "EVENT", value_parser = id)]
    events: Vec<Uuid>,
    #[command(flatten)]
    selection: Selection,
    /// Don't ask for confirmation.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Selection {
    /// Only to this endpoint.
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Only events of this type, such as invite.accepted.
    #[arg(long = "type", value_name = "TYPE", value_parser = str::parse::<EventType>)]
    event_type: Option<EventType>,
    /// Only deliveries in this state: queued, delivered, dead or cancelled.
    #[arg(long, value_parser = str::parse::<EventDeliveryStatus>)]
    state: Option<EventDeliveryStatus>,
    /// Only events that happened at most this long ago, such as 90m, 36h or 7d.
    #[arg(long, value_name = "AGE", value_parser = report::age)]
    newer_than: Option<TimeDelta>,
    /// Only events that happened longer ago than this.
    #[arg(long, value_name = "AGE", value_parser = report::age)]
    older_than: Option<TimeDelta>,
}

/// Events that are replayed at most in one go.
const MAX_BATCH_SIZE: u32 = 100_000;
/// How often `listen` looks.
const LOOK: Duration = Duration::from_millis(500);

fn id(text: &str) -> Result<Uuid, String> {
    read_event_id(text).ok_or_else(|| "must be an event's id: evt_ and 32 hexadecimal digits".to_owned())
}

impl Selection {
    fn filter(&self, now: DateTime<Utc>) -> EventDeliveryFilter {
        EventDeliveryFilter {
            event_id: None,
            endpoint: self.endpoint.clone(),
            event_type: self.event_type,
            status: self.state,
            since: self.newer_than.map(|age| now - age),
            until: self.older_than.map(|age| now - age),
        }
    }

    fn is_empty(&self) -> bool {
        self.endpoint.is_none()
            && self.event_type.is_none()
            && self.state.is_none()
            && self.newer_than.is_none()
            && self.older_than.is_none()
    }
}

impl Events {
    pub(super) async fn run(self, store: Store) -> anyhow::Result<()> {
        match self {
            Self::List { selection, limit, json } => list(&store, &selection, limit, json).await?,
            Self::Show { event, json } => show(&store, event, json).await?,
            Self::Replay(replay) => replay.run(&store).await?,
            Self::Enable { endpoint } => enable(&store, &endpoint).await?,
            Self::Sending(_) => bail!("this command needs all settings"),
        }
        store.close().await;
        Ok(())
    }
}

async fn list(store: &Store, selection: &Selection, limit: u32, as_json: bool) -> anyhow::Result<()> {
    let now = store.now();
    let deliveries = store
        .read()
        .await?
        .event_deliveries(&selection.filter(now), limit)
        .await?;
    if as_json {
        return report::json(&deliveries);
    }
    let rows: Vec<[String; 6]> = deliveries
        .iter()
        .map(|delivery| {
            [
                event_id(delivery.event_id),
                delivery.event_type.to_string(),
                report::distance(delivery.at, now),
                delivery.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
                delivery
                    .status
                    .map_or_else(|| "-".to_owned(), |status| status.to_string()),
                delivery.last_error.as_deref().unwrap_or_default().to_owned(),
            ]
        })
        .collect();
    report::table(["ID", "TYPE", "HAPPENED", "ENDPOINT", "STATE", "LAST ERROR"], &rows);
    report::more(deliveries.len(), limit);
    Ok(())
}

async fn show(store: &Store, event: Uuid, as_json: bool) -> anyhow::Result<()> {
    let mut tx = store.read().await?;
    let Some(body) = tx.event_body(event).await? else {
        bail!("no event has the id {}", event_id(event));
    };
    let filter = EventDeliveryFilter {
        event_id: Some(event),
        ..EventDeliveryFilter::default()
    };
    let mut deliveries = tx.event_deliveries(&filter, u32::MAX >> 1).await?;
    deliveries.retain(|delivery| delivery.endpoint.is_some());
    let body: serde_json::Value = serde_json::from_str(&body)?;
    if as_json {
        return report::json(&json!({ "event": body, "deliveries": deliveries }));
    }
    println!("{}", serde_json::to_string_pretty(&body)?);
    for delivery in deliveries {
        println!("{}", line(&delivery));
    }
    Ok(())
}

fn line(delivery: &EventDeliveryView) -> String {
    let endpoint = delivery.endpoint.as_deref().unwrap_or_default();
    let status = delivery.status.map_or("", EventDeliveryStatus::as_str);
    let tried = delivery.tried_at.map_or_else(|| "never".to_owned(), report::time);
    let error = delivery.last_error.as_deref().map(|error| format!(": {error}"));
    format!(
        "{endpoint}  {status}, {} tries, the last {tried}{}",
        delivery.attempts.unwrap_or(0),
        error.unwrap_or_default()
    )
}

async fn enable(store: &Store, endpoint: &str) -> anyhow::Result<()> {
    repair::enable_endpoint(store, command_line(), endpoint).await?;
    println!("{endpoint} is enabled and gets events from now on; usher events replay sends earlier ones.");
    Ok(())
}

impl Replay {
    async fn run(self, store: &Store) -> anyhow::Result<()> {
        if self.events.is_empty() && self.selection.is_empty() {
            bail!("which events? Give ids, or one of --endpoint, --type, --state, --newer-than and --older-than");
        }
        let keys = self.keys(store).await?;
        report::confirm(&format!("send {} events again", keys.len()), self.yes)?;
        let filter = self.selection.filter(store.now());
        let queued = repair::send_again(store, command_line(), &self.events, &filter, &keys).await?;
        println!("{queued} events are queued again.");
        Ok(())
    }

    /// The deliveries that are wanted. Without a state, also those of events that an endpoint has never got.
    async fn keys(&self, store: &Store) -> anyhow::Result<Vec<EventDeliveryKey>> {
        let mut tx = store.read().await?;
        let mut endpoints = tx.endpoints().await?;
        if let Some(name) = &self.selection.endpoint {
            endpoints.retain(|endpoint| endpoint.name == *name);
        }
        if endpoints.is_empty() {
            bail!("no such endpoint: usher serve registers those of USHER_EVENTS when it starts");
        }
        let filter = self.selection.filter(store.now());
        let mut found = Vec::new();
        if self.events.is_empty() {
            found = tx.event_deliveries(&filter, MAX_BATCH_SIZE).await?;
        }
        for &event in &self.events {
            let filter = EventDeliveryFilter {
                event_id: Some(event),
                ..filter.clone()
            };
            let these = tx.event_deliveries(&filter, MAX_BATCH_SIZE).await?;
            if these.is_empty() {
                bail!("no event that was sent fits the id {}", event_id(event));
            }
            found.extend(these);
        }
        let mut keys = Vec::new();
        for delivery in found {
            let wanted = |name: &&str| match (&delivery.endpoint, self.selection.state) {
                (Some(endpoint), Some(_)) => endpoint == *name,
                _ => true,
            };
            let names = endpoints.iter().map(|endpoint| endpoint.name.as_str());
            keys.extend(names.filter(wanted).map(|name| EventDeliveryKey {
                event_id: delivery.event_id,
                endpoint: name.to_owned(),
            }));
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }
}

impl Sending {
    pub(super) async fn run(self, config: &Config) -> anyhow::Result<()> {
        if config.event_secrets.is_empty() {
            bail!("USHER_EVENTS_SECRET is missing; make one with: echo whsec_$(openssl rand -base64 32)");
        }
        let sender = Sender::new(&config.event_secrets)?;
        match self {
            Self::Test { endpoint } => test(config, &sender, &endpoint).await,
            Self::Listen { forward } => listen(config, &sender, &forward).await,
        }
    }
}

async fn test(config: &Config, sender: &Sender, name: &str) -> anyhow::Result<()> {
    let endpoint = config.event_endpoints.iter().find(|endpoint| endpoint.name == name);
    let endpoint = endpoint.with_context(|| format!("USHER_EVENTS names no endpoint {name}"))?;
    let (id, now) = (Clock::System.new_id(), Clock::System.now());
    let body = json!({
        "id": event_id(id), "type": "test", "timestamp": report::time(now), "data": {}, "changes": {},
    });
    match sender.send(&endpoint.url, id, &body.to_string(), now).await {
        Answer::Accepted => {
            println!("{name} took the event {}.", event_id(id));
            Ok(())
        }
        Answer::Gone => bail!("{name} answered 410: a real event would disable it"),
        Answer::Refused(refusal) => bail!("{name} did not take the event: {} {}", refusal.reason, refusal.shown),
    }
}

/// Polls the database, so that it works beside any usher of the same database.
async fn listen(config: &Config, sender: &Sender, forward: &Url) -> anyhow::Result<()> {
    let store = super::existing_database(&config.database_url, &config.layout).await?;
    let mut filter = FeedFilter {
        after: store.read().await?.last_number().await?,
        ..FeedFilter::default()
    };
    println!("Forwarding events to {forward}; stop with Ctrl-C.");
    loop {
        let events = store.read().await?.feed(&filter, 100).await?;
        for event in events {
            let answer = sender.send(forward, event.id, &event.body, store.now()).await;
            let said = match answer {
                Answer::Accepted => "taken".to_owned(),
                Answer::Gone => "it answered 410".to_owned(),
                Answer::Refused(refusal) => refusal.reason,
            };
            let body: serde_json::Value = serde_json::from_str(&event.body)?;
            println!(
                "{}  {}  {said}",
                event_id(event.id),
                body["type"].as_str().unwrap_or_default()
            );
            filter.after = event.number;
        }
        tokio::time::sleep(LOOK).await;
    }
}
