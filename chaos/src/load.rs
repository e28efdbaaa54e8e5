//! What many clients do at once, chosen by chance.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use usher_testkit::process::LINK;
use uuid::Uuid;

use crate::model::{Asked, FOUNDERS, key};
use crate::world::{Reply, World};

/// Between two acts of one client at most.
const PAUSE_MS: u64 = 120;
/// Between two rounds of repeating what was not taken. Svix waits longer.
const REPEAT: Duration = Duration::from_secs(1);
/// Events repeated in a round.
const REPEATED: usize = 64;

/// Starts clients; they end when told to.
pub fn start(world: &Arc<World>, clients: usize, seed: u64, stop: &watch::Sender<bool>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (world, stop) = (Arc::clone(world), stop.subscribe());
        // Numbers after the plan's own.
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(1 + client as u64));
        tasks.spawn(async move {
            while !*stop.borrow() {
                act(&world, &mut rng).await;
                let pause = rng.random_range(0..PAUSE_MS);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        });
    }
    let (world, stop) = (Arc::clone(world), stop.subscribe());
    let mut rng = StdRng::seed_from_u64(seed.wrapping_sub(1));
    tasks.spawn(async move {
        while !*stop.borrow() {
            repeat_what_was_not_taken(&world, &mut rng).await;
            tokio::time::sleep(REPEAT).await;
        }
    });
    tasks
}

/// Svix repeats what it got no answer for; returns how many there still are.
pub async fn repeat_what_was_not_taken(world: &World, rng: &mut StdRng) -> usize {
    let open: Vec<usize> = {
        let model = world.model();
        let open = model
            .events
            .iter()
            .enumerate()
            .filter(|(_, told)| !told.is_acknowledged);
        open.map(|(number, _)| number).collect()
    };
    for &number in open.iter().take(REPEATED) {
        if !world.deliver(number, rng).await {
            break;
        }
    }
    open.len()
}

/// Makes the places and their owners.
pub async fn found(world: &World, rng: &mut StdRng) {
    for place in &world.places {
        let organization = place.organization;
        let path = format!("/v1/organizations/{organization}");
        world
            .call_until_answered(rng, Method::PUT, &path, Some(&json!({ "name": "Acme" })))
            .await;
        for project in &place.projects {
            let body = json!({ "name": "Apollo", "organization_id": organization });
            let path = format!("/v1/projects/{project}");
            world.call_until_answered(rng, Method::PUT, &path, Some(&body)).await;
        }
        let email = world.model().address_to_ask(true, 0);
        world.model().sent_off.insert((organization, key(&email)));
        let body = json!({ "organization_id": organization, "email": email, "role": "owner", "acceptance": "auto" });
        let answer = world
            .call_until_answered(rng, Method::POST, "/v1/invites", Some(&body))
            .await;
        note_invite(world, organization, &email, answer);
        let event = {
            let mut model = world.model();
            let number = model.sign_up(0, true, World::now());
            model.tell_user("user.created", number, World::now())
        };
        world.insist_on(event, rng).await;
        // Whoever is not known yet can't invite.
        let path = format!("/v1/organizations/{organization}/members");
        while !has_member(&world.call(rng, Method::GET, &path, None, None).await) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn has_member(reply: &Reply) -> bool {
    matches!(reply, Reply::Answer(200, answer) if answer["items"].as_array().is_some_and(|items| !items.is_empty()))
}

async fn act(world: &World, rng: &mut StdRng) {
    match rng.random_range(0..100) {
        0..28 => invite(world, rng).await,
        28..32 => invite_many(world, rng).await,
        32..52 => sign_up(world, rng).await,
        52..62 => change(world, rng).await,
        62..70 => sign_in_or_out(world, rng).await,
        70..73 => delete(world, rng).await,
        73..80 => repeat(world, rng).await,
        80..84 => resend_or_revoke(world, rng).await,
        84..94 => answer_banner(world, rng).await,
        _ => follow_link(world, rng).await,
    }
}

struct Invitation {
    target: Uuid,
    email: String,
    body: Value,
}

fn invitation(world: &World, rng: &mut StdRng) -> Option<Invitation> {
    let place = world.places.choose(rng)?;
    let into_project = rng.random_bool(0.4);
    let email = world
        .model()
        .address_to_ask(rng.random_bool(0.7), rng.random_range(0..1 << 20));
    let mut body = json!({});
    body["acceptance"] = json!(*["auto", "ask", "default"].choose(rng)?);
    // Addresses are compared without regard to case.
    body["email"] = if rng.random_bool(0.2) {
        email.to_uppercase().into()
    } else {
        email.clone().into()
    };
    let target = if into_project {
        let project = *place.projects.choose(rng)?;
        body["project_id"] = json!(project);
        body["role"] = json!(*["support", "client", "editor", "admin"].choose(rng)?);
        project
    } else {
        body["organization_id"] = json!(place.organization);
        body["role"] = json!(*["member", "admin"].choose(rng)?);
        place.organization
    };
    if rng.random_bool(0.5) {
        body["invited_by"] = json!(place.founder);
    }
    // Before it is sent: whether it took effect may never be told.
    world.model().sent_off.insert((target, key(&email)));
    Some(Invitation { target, email, body })
}

fn note_invite(world: &World, target: Uuid, email: &str, (status, answer): (u16, Value)) {
    world.journal.count(format!("invites answered {status}"));
    world.journal.insist(matches!(status, 200 | 201 | 409), || {
        format!("an invite was answered {status}: {answer}")
    });
    let Some(id) = answer["id"].as_str().and_then(|id| id.parse().ok()) else {
        return;
    };
    let asked = Asked {
        target,
        key: key(email),
        is_final: None,
    };
    world.model().invites.entry(id).or_insert(asked);
}

async fn invite(world: &World, rng: &mut StdRng) {
    if let Some(Invitation { target, email, body }) = invitation(world, rng) {
        let answer = world
            .call_until_answered(rng, Method::POST, "/v1/invites", Some(&body))
            .await;
        note_invite(world, target, &email, answer);
    }
}

async fn invite_many(world: &World, rng: &mut StdRng) {
    let count = rng.random_range(2..20);
    let invitations: Vec<_> = (0..count).filter_map(|_| invitation(world, rng)).collect();
    let bodies: Vec<_> = invitations.iter().map(|invitation| &invitation.body).collect();
    let body = json!({ "invites": bodies });
    let (status, answer) = world
        .call_until_answered(rng, Method::POST, "/v1/invites/batch", Some(&body))
        .await;
    world
        .journal
        .insist(status == 200, || format!("a batch was answered {status}: {answer}"));
    let results = answer["results"].as_array().cloned().unwrap_or_default();
    for (Invitation { target, email, .. }, result) in invitations.into_iter().zip(results) {
        let status = result["status"]
            .as_u64()
            .and_then(|status| status.try_into().ok())
            .unwrap_or_default();
        let what = if status < 300 { "invite" } else { "problem" };
        note_invite(world, target, &email, (status, result[what].clone()));
    }
}

async fn sign_up(world: &World, rng: &mut StdRng) {
    let (chance, is_verified) = (rng.random_range(0..1 << 20), rng.random_bool(0.85));
    let signs_in_first = rng.random_bool(0.15);
    let events = {
        let mut model = world.model();
        let now = World::now();
        let number = model.sign_up(chance, is_verified, now);
        let mut events = Vec::new();
        if signs_in_first {
            events.push(model.tell_sign_in(number, chance % 2 == 0, now));
        }
        events.push(model.tell_user("user.created", number, now));
        if chance % 5 == 0 {
            // The change is told before the beginning.
            model.change(number, chance, now);
            events.insert(0, model.tell_user("user.updated", number, now));
        }
        events
    };
    for event in events {
        world.deliver(event, rng).await;
    }
}

async fn change(world: &World, rng: &mut StdRng) {
    let chance = rng.random_range(0..1 << 20);
    let event = {
        let mut model = world.model();
        let Some(number) = model.live_person(chance) else {
            return;
        };
        // Founders get no new addresses: an invite to one of their own, by themselves, would be refused.
        if number < FOUNDERS {
            return;
        }
        model.change(number, chance, World::now());
        model.tell_user("user.updated", number, World::now())
    };
    world.deliver(event, rng).await;
}

async fn sign_in_or_out(world: &World, rng: &mut StdRng) {
    let chance = rng.random_range(0..1 << 20);
    let events = {
        let mut model = world.model();
        let Some(number) = model.live_person(chance) else {
            return;
        };
        let now = World::now();
        match chance % 4 {
            0 | 1 => vec![model.tell_sign_in(number, chance % 8 == 0, now)],
            2 => model.tell_sign_out(number, now).into_iter().collect(),
            // The end is told before the beginning.
            _ => {
                let begin = model.tell_sign_in(number, false, now);
                let end = model.tell_sign_out(number, now);
                end.into_iter().chain([begin]).collect()
            }
        }
    };
    for event in events {
        world.deliver(event, rng).await;
    }
}

async fn delete(world: &World, rng: &mut StdRng) {
    let chance = rng.random_range(0..1 << 20);
    let event = {
        let mut model = world.model();
        let Some(number) = model.live_person(chance) else {
            return;
        };
        if number < FOUNDERS {
            return;
        }
        model.tell_deletion(number, World::now())
    };
    world.deliver(event, rng).await;
}

/// The same event once more, and another time at the same moment.
async fn repeat(world: &World, rng: &mut StdRng) {
    let count = world.model().events.len();
    if count > 0 {
        let number = rng.random_range(0..count);
        let mut other = StdRng::seed_from_u64(rng.random());
        tokio::join!(world.deliver(number, rng), world.deliver(number, &mut other));
    }
}

async fn resend_or_revoke(world: &World, rng: &mut StdRng) {
    let mut ids: Vec<Uuid> = world.model().invites.keys().copied().collect();
    ids.sort();
    let Some(id) = ids.choose(rng) else { return };
    if rng.random_bool(0.5) {
        let reply = world
            .call(rng, Method::POST, &format!("/v1/invites/{id}/resend"), None, None)
            .await;
        if let Reply::Answer(status, answer) = reply {
            world.journal.count(format!("resends answered {status}"));
            world.journal.insist(matches!(status, 202 | 429 | 409), || {
                format!("a resend was answered {status}: {answer}")
            });
        }
    } else {
        let reply = world
            .call(rng, Method::POST, &format!("/v1/invites/{id}/revoke"), None, None)
            .await;
        note_final(world, *id, "revoked", "revokes", &reply, &[200, 409]);
    }
}

fn note_final(world: &World, id: Uuid, status: &'static str, what: &str, reply: &Reply, expected: &[u16]) {
    let Reply::Answer(answered, body) = reply else { return };
    world.journal.count(format!("{what} answered {answered}"));
    world.journal.insist(expected.contains(answered), || {
        format!("{what}: answered {answered}: {body}")
    });
    if *answered == 200 {
        let agrees = world.model().settle(id, status);
        world.journal.insist(agrees, || {
            format!("invite {id} became {status}, after it was said to be final")
        });
    }
}

async fn answer_banner(world: &World, rng: &mut StdRng) {
    let chance = rng.random_range(0..1 << 20);
    let (user_id, known) = {
        let model = world.model();
        let Some(number) = model.live_person(chance) else {
            return;
        };
        let person = &model.people[number];
        (person.user.id.clone(), person.ever_verified.clone())
    };
    let reply = world.call_as(rng, &user_id, Method::GET, "/v1/me/invites", None).await;
    let Reply::Answer(status, banner) = reply else { return };
    world
        .journal
        .insist(status == 200, || format!("a banner was answered {status}: {banner}"));
    let items = banner["items"].as_array().cloned().unwrap_or_default();
    for item in &items {
        let email = key(item["email"].as_str().unwrap_or_default());
        world.journal.insist(known.contains(&email), || {
            format!("{user_id} is shown an invite for an address that was never theirs")
        });
    }
    let Some(item) = items.choose(rng) else { return };
    let Some(id) = item["id"].as_str().and_then(|id| id.parse::<Uuid>().ok()) else {
        return;
    };
    let verb = *["accept", "accept", "decline", "dismiss"]
        .choose(rng)
        .unwrap_or(&"accept");
    let path = format!("/v1/me/invites/{id}/{verb}");
    let reply = world.call_as(rng, &user_id, Method::POST, &path, None).await;
    let status = match verb {
        "accept" => "accepted",
        "decline" => "declined",
        // Final or not, it may have been answered elsewhere meanwhile.
        _ => return,
    };
    note_final(world, id, status, verb, &reply, &[200, 404, 409]);
}

/// Somebody opens the link of a mail: mostly whom it was for, sometimes another.
async fn follow_link(world: &World, rng: &mut StdRng) {
    let mails = world.smtp.mail_count();
    let chosen = rng.random_range(0..mails.max(1));
    let Some(mail) = world.smtp.mail(chosen) else { return };
    let Some(token) = mail.token(LINK) else { return };
    let address = key(&mail.to.concat());
    let is_thief = rng.random_bool(0.25);
    let chance = rng.random_range(0..1 << 20);
    let (user_id, may) = {
        let model = world.model();
        let owner = model.owners.get(&address).copied();
        let Some(number) = (if is_thief { model.live_person(chance) } else { owner }) else {
            return;
        };
        let person = &model.people[number];
        (person.user.id.clone(), person.ever_verified.contains(&address))
    };
    let body = json!({ "token": token });
    let reply = world
        .call_as(rng, &user_id, Method::POST, "/v1/me/invites/accept", Some(&body))
        .await;
    let Reply::Answer(status, answer) = &reply else { return };
    world.journal.insist(may || *status != 200, || {
        format!("{user_id} accepted by a link to an address that was never theirs")
    });
    if let Some(id) = answer["id"].as_str().and_then(|id| id.parse().ok()) {
        // Its id may be news: the answer to its making may have been lost.
        note_final(world, id, "accepted", "links", &reply, &[200]);
    } else {
        world.journal.count(format!("links answered {status}"));
        world.journal.insist(matches!(status, 403 | 404 | 409 | 410), || {
            format!("a link was answered {status}: {answer}")
        });
    }
}
