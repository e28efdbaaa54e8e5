//! Looking on from beside: does `/readyz` tell the truth, how large do the processes grow, how soon is work done again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::fleet::Process;
use crate::journal::{GoesOn, RECOVERY};
use crate::model::key;
use crate::world::World;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long an answer about health may take: what asks for it waits about as long.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a probe waits for work to be done again before it gives up.
const GIVE_UP: Duration = Duration::from_secs(120);

/// Looks at all processes again and again; never ends.
pub async fn watch(world: Arc<World>) {
    loop {
        for process in world.fleet.all() {
            if let Ok(memory) = process.peak_memory() {
                world
                    .journal
                    .size(&format!("MiB of memory of a process ({})", process.role), memory as u64);
            }
            tokio::spawn(look(Arc::clone(&world), process));
        }
        sleep(INTERVAL).await;
    }
}

async fn look(world: Arc<World>, process: Arc<Process>) {
    let Some(address) = process.private() else { return };
    let (journal, sent) = (&world.journal, Instant::now());
    let answer = timeout(TIMEOUT, world.http.get(format!("{address}/readyz")).send()).await;
    let answered = Instant::now();
    if process.was_disturbed_since(sent) {
        return;
    }
    let name = &process.name;
    match answer {
        Err(_) => journal.violation(format!("{name} did not say whether it is ready")),
        Ok(Err(_)) => journal.violation(format!("{name} would not say whether it is ready")),
        Ok(Ok(answer)) if answer.status() == 200 => {
            journal.count("looks that found a process ready");
            process.unready.store(0, Ordering::Relaxed);
            journal.insist(!journal.took_no_writes(sent, answered), || {
                format!("{name} said that it was ready while nothing could be written")
            });
        }
        Ok(Ok(answer)) => {
            journal.count("looks that found a process not ready");
            let status = answer.status().as_u16();
            let problems = answer.text().await.unwrap_or_default();
            journal.insist(status == 503, || {
                format!("{name} answered {status} about its readiness")
            });
            let had_time = process.started() + RECOVERY < sent;
            journal.insist(!(journal.was_calm(sent) && had_time), || {
                format!("{name} said that it was not ready although all was well: {problems}")
            });
            // Once may be the machine's fault: what a look asks has three seconds.
            let times = process.unready.fetch_add(1, Ordering::Relaxed) + 1;
            journal.insist(times < 2 || !journal.had_to_go_on(GoesOn::Webhooks, sent), || {
                format!("{name} said again that it was not ready because of something else: {problems}")
            });
        }
    }
}

/// Where it is tried whether work goes on, unless it is elsewhere on purpose.
pub const HOME: usize = 0;

/// Invites somebody new into a place and tells that they signed up; `true` once they are in. `false`: never.
pub async fn probe(world: &World, rng: &mut StdRng, place: usize) -> bool {
    let done = timeout(GIVE_UP, async {
        let Some(place) = world.places.get(place) else { return };
        let organization = place.organization;
        let email = {
            let mut model = world.model();
            let email = model.new_address();
            model.sent_off.insert((organization, key(&email)));
            email
        };
        let body = json!({ "organization_id": organization, "email": email, "role": "member", "acceptance": "auto" });
        world
            .call_until_answered(rng, Method::POST, "/v1/invites", Some(&body))
            .await;
        let (user_id, event) = {
            let mut model = world.model();
            // Nobody else may have claimed it: it was not among the unclaimed.
            model.unclaimed.push(email);
            let last = model.unclaimed.len() - 1;
            let number = model.sign_up(last, true, World::now());
            model.people[number].is_probe = true;
            let event = model.tell_user("user.created", number, World::now());
            (model.people[number].user.id.clone(), event)
        };
        world.insist_on(event, rng).await;
        while !world.is_member(rng, organization, &user_id).await {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let is_done = done.await.is_ok();
    world
        .journal
        .insist(is_done, || format!("no work was done for {} s", GIVE_UP.as_secs()));
    is_done
}
