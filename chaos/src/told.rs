//! What the app is told, by a receiver that fails at random: everything at least once, and nothing of what was rolled back.

use std::collections::{HashMap, HashSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::FromRow;
use usher_testkit::database::Pool;
use usher_testkit::receiver::{Behave, Heard, Receiver};
use uuid::Uuid;

use crate::journal::Journal;
use crate::world::World;

/// What events are signed with.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How a receiver fails. 410 is not among it: it would hear no more.
const FAILURES: [Behave; 6] = [
    Behave::Answer(500, ""),
    Behave::Answer(503, "Retry-After: 1\r\n"),
    Behave::Answer(302, "Location: /elsewhere\r\n"),
    Behave::Reset,
    Behave::Reset,
    Behave::Hang,
];
/// Which part of the requests fails.
const FAILING: f64 = 0.2;

/// A receiver that fails at random until it is healed.
pub async fn failing_receiver(seed: u64) -> Receiver {
    let receiver = Receiver::start().await;
    let mut rng = StdRng::seed_from_u64(seed);
    receiver.choose(move || {
        let failure = FAILURES.choose(&mut rng).copied();
        failure
            .filter(|_| rng.random_bool(FAILING))
            .unwrap_or(Behave::Answer(200, ""))
    });
    receiver
}

/// How many events still have no number.
pub async fn unnumbered(pool: &Pool) -> sqlx::Result<i64> {
    pool.count("usher_outgoing_events where number is null").await
}

#[derive(FromRow)]
struct EventRow {
    event_type: String,
    number: i64,
    invite_id: Option<Uuid>,
    body: String,
}

#[derive(FromRow)]
struct InviteRow {
    id: Uuid,
    status: String,
}

/// Compares what was heard with what is true.
pub async fn check(world: &World, pool: &Pool) -> sqlx::Result<()> {
    let journal = &*world.journal;
    let events: Vec<EventRow> = pool
        .rows("select type as event_type, number, invite_id, body from usher_outgoing_events order by number")
        .await?;
    let heard = world.receiver.heard();
    journal.count_many("events recorded for the app", events.len());
    journal.count_many("events received by the app, repetitions included", heard.len());

    let are_in_order = (1..).zip(&events).all(|(place, event)| event.number == place);
    journal.insist(are_in_order, || "the numbers of the feed have gaps".to_owned());
    each_is_heard(journal, &events, &heard);
    nothing_else_is_heard(journal, &events, &heard);
    let invites = pool.rows("select id, status from invites").await?;
    each_invite_is_told_of(journal, &events, &invites);
    let open = pool.count("usher_event_deliveries where status <> 'delivered'").await?;
    journal.insist(open == 0, || {
        format!("{open} deliveries of events are not noted as delivered")
    });
    Ok(())
}

fn each_is_heard(journal: &Journal, events: &[EventRow], heard: &[Heard]) {
    let taken = heard.iter().filter(|heard| heard.is_taken());
    let taken: HashSet<&str> = taken.map(|heard| heard.body.as_str()).collect();
    for event in events {
        journal.insist(taken.contains(event.body.as_str()), || {
            format!("event {} ({}) was never taken", event.number, event.event_type)
        });
    }
}

/// What was rolled back has left no row.
fn nothing_else_is_heard(journal: &Journal, events: &[EventRow], heard: &[Heard]) {
    let committed: HashSet<&str> = events.iter().map(|event| event.body.as_str()).collect();
    for heard in heard {
        journal.insist(committed.contains(heard.body.as_str()), || {
            format!("the app heard {}, which never happened", heard.header("webhook-id"))
        });
        let id = heard.json()["id"].as_str().unwrap_or_default().to_owned();
        journal.insist(id == heard.header("webhook-id") && heard.is_signed_with(SECRET), || {
            format!("event {id} was not signed as itself")
        });
    }
}

/// With [`each_is_heard`]: whatever became of an invite was heard.
fn each_invite_is_told_of(journal: &Journal, events: &[EventRow], invites: &[InviteRow]) {
    let mut told: HashMap<Uuid, HashSet<&str>> = HashMap::new();
    for event in events {
        if let Some(invite_id) = event.invite_id {
            told.entry(invite_id).or_default().insert(&event.event_type);
        }
    }
    for invite in invites {
        let told = told.remove(&invite.id).unwrap_or_default();
        let end = format!("invite.{}", invite.status);
        for expected in ["invite.created", end.as_str()] {
            let is_told = expected == "invite.pending" || told.contains(expected);
            journal.insist(is_told, || {
                format!("of invite {} the app heard no {expected}", invite.id)
            });
        }
    }
    let others = told.len();
    journal.insist(others == 0, || {
        format!("the app heard of {others} invites that do not exist")
    });
}
