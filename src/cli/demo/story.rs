//! The demo's story. Every line is checked before it is printed.

use anyhow::ensure;
use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::stage::{Answer, Person, Stage};
use super::timeline::Party;
use crate::cli::fake_clerk::{message_id, session_id};
use usher_clerk::EventKind;
use usher_testkit::fake_clerk::session;

const ORGANIZATION: &str = "Analytical Engines";
const PROJECT: &str = "Difference Engine";

const GRACE: Person = Person {
    first_name: "Grace",
    last_name: "Hopper",
    email: "grace@example.com",
};
const ADA: Person = Person {
    first_name: "Ada",
    last_name: "Lovelace",
    email: "ada@example.com",
};
const ALAN: Person = Person {
    first_name: "Alan",
    last_name: "Turing",
    email: "alan@example.com",
};
const KAY: Person = Person {
    first_name: "Kay",
    last_name: "McNulty",
    email: "kay@example.com",
};
const YOU: Person = Person {
    first_name: "You",
    last_name: "",
    email: "you@example.com",
};

/// Runs the whole story. Fails at the first unexpected result.
pub(super) async fn tell(stage: &Stage) -> anyhow::Result<()> {
    stage.part("The founder comes in", the_founder_comes_in(stage)).await?;
    stage
        .part("Ada is new: signing up is enough", a_new_person_is_let_in(stage))
        .await?;
    stage
        .part(
            "Alan has had his account for 30 days: he is asked",
            an_old_hand_is_asked(stage),
        )
        .await?;
    let id = stage
        .part(
            "Kay has not verified her address: nothing happens",
            the_unverified_wait(stage),
        )
        .await?;
    stage
        .part(
            "Somebody forges that she has: nothing happens",
            a_forgery_changes_nothing(stage, &id),
        )
        .await?;
    stage.part("All is well", ops_look_around(stage)).await
}

/// An invite that is left for whoever watches the demo: the link of its mail.
pub(super) async fn invites_you(stage: &Stage) -> anyhow::Result<String> {
    let id = stage
        .part("And you are invited", invite_into_organization(stage, YOU, "member"))
        .await?;
    stage.link(&id).await
}

async fn the_founder_comes_in(stage: &Stage) -> anyhow::Result<()> {
    put_places(stage).await?;
    let invitation = json!({
        "organization_id": stage.organization_id, "email": GRACE.email, "role": "owner", "acceptance": "auto",
    });
    let told = format!("{} may come in as owner", GRACE.email);
    invite(
        stage,
        GRACE,
        invitation,
        &told,
        &format!("You are invited to {ORGANIZATION}"),
    )
    .await?;
    signs_up(stage, GRACE, true).await?;
    is_member(stage, &organization(stage), GRACE, "owner").await
}

async fn a_new_person_is_let_in(stage: &Stage) -> anyhow::Result<()> {
    invite_into_organization(stage, ADA, "member").await?;
    signs_up(stage, ADA, true).await?;
    is_member(stage, &organization(stage), ADA, "member").await?;
    app_hears(stage, ADA).await?;
    inviter_hears(stage, ADA, ORGANIZATION).await
}

async fn an_old_hand_is_asked(stage: &Stage) -> anyhow::Result<()> {
    let invitation = json!({
        "project_id": stage.project_id, "email": ALAN.email, "role": "editor", "invited_by": GRACE.user_id(),
    });
    let told = format!("{} invites {} as editor of {PROJECT}", GRACE.name(), ALAN.email);
    let id = invite(
        stage,
        ALAN,
        invitation,
        &told,
        &format!("{} invites you to {PROJECT}", GRACE.name()),
    )
    .await?;
    signs_in(stage, ALAN).await?;
    sees_banner(stage, ALAN, &id).await?;
    is_no_member(stage, &project(stage), ALAN).await?;
    accepts(stage, ALAN, &id).await?;
    is_member(stage, &project(stage), ALAN, "editor").await?;
    is_member(stage, &organization(stage), ALAN, "member").await?;
    inviter_hears(stage, ALAN, PROJECT).await
}

async fn the_unverified_wait(stage: &Stage) -> anyhow::Result<String> {
    let id = invite_into_organization(stage, KAY, "admin").await?;
    signs_up(stage, KAY, false).await?;
    sees_no_banner(stage, KAY).await?;
    is_pending(stage, &id).await?;
    Ok(id)
}

async fn a_forgery_changes_nothing(stage: &Stage, invite_id: &str) -> anyhow::Result<()> {
    let svix_id = message_id(&stage.clock);
    let kay = || KAY.user(&stage.clock, TimeDelta::zero()).to_json();
    let refused = stage.forger(&svix_id, EventKind::UserUpdated, kay()).await?;
    let refused = refused.expect(StatusCode::UNAUTHORIZED)?;
    stage.answered(
        Party::Forger,
        &refused,
        &format!("{}: who says that {} is verified?", refused.text("/code"), KAY.email),
    );
    is_pending(stage, invite_id).await?;

    // If the forged event had been stored, the same message would now be a duplicate.
    let taken = stage.clerk_as(&svix_id, EventKind::UserUpdated, kay()).await?;
    let taken = taken.expect(StatusCode::ACCEPTED)?;
    ensure!(
        taken.text("/status") == "queued",
        "something of the forged event was stored: {}",
        taken.json
    );
    stage.answered(
        Party::Clerk,
        &taken,
        "queued: the same message, signed; the forged one had left no trace",
    );
    is_member(stage, &organization(stage), KAY, "admin").await?;
    inviter_hears(stage, KAY, ORGANIZATION).await
}

async fn ops_look_around(stage: &Stage) -> anyhow::Result<()> {
    let ready = stage.ops("/readyz").await?.expect(StatusCode::OK)?;
    let told = format!(
        "database {}, migrations {}, workers {}",
        ready.text("/checks/database"),
        ready.text("/checks/migrations"),
        ready.text("/checks/workers")
    );
    stage.answered(Party::Ops, &ready, &told);
    Ok(())
}

fn organization(stage: &Stage) -> String {
    format!("/v1/organizations/{}", stage.organization_id)
}

fn project(stage: &Stage) -> String {
    format!("/v1/projects/{}", stage.project_id)
}

async fn put_places(stage: &Stage) -> anyhow::Result<()> {
    let body = json!({ "name": ORGANIZATION });
    let put = stage
        .app(Method::PUT, &organization(stage), Some(body))
        .await?
        .expect(StatusCode::CREATED)?;
    stage.answered(Party::App, &put, ORGANIZATION);
    let body = json!({ "organization_id": stage.organization_id, "name": PROJECT });
    let put = stage
        .app(Method::PUT, &project(stage), Some(body))
        .await?
        .expect(StatusCode::CREATED)?;
    stage.answered(Party::App, &put, &format!("{PROJECT}, a project of {ORGANIZATION}"));
    Ok(())
}

async fn invite_into_organization(stage: &Stage, person: Person, role: &str) -> anyhow::Result<String> {
    let invitation = json!({
        "organization_id": stage.organization_id, "email": person.email, "role": role, "invited_by": GRACE.user_id(),
    });
    let told = format!("{} invites {} as {role}", GRACE.name(), person.email);
    let subject = format!("{} invites you to {ORGANIZATION}", GRACE.name());
    invite(stage, person, invitation, &told, &subject).await
}

/// Invites, and waits for the mail.
async fn invite(stage: &Stage, person: Person, invitation: Value, told: &str, subject: &str) -> anyhow::Result<String> {
    let by = invitation["invited_by"].is_string().then(|| GRACE.name());
    let invited = stage
        .app(Method::POST, "/v1/invites", Some(invitation))
        .await?
        .expect(StatusCode::CREATED)?;
    ensure!(
        invited.text("/invited_by/name") == by.unwrap_or_default(),
        "the invite names another inviter: {}",
        invited.json
    );
    stage.answered(Party::App, &invited, told);

    let id = invited.text("/id").to_owned();
    let path = format!("/v1/invites/{id}");
    stage
        .until("the mail's delivery", async || {
            let invite = stage.app(Method::GET, &path, None).await?.expect(StatusCode::OK)?;
            Ok((invite.text("/delivery/status") == "sent").then_some(()))
        })
        .await?;
    let mail = stage.mail(person.email, subject).await?;
    stage.saw(Party::Invitee, &format!("a mail: “{}”", mail.subject));
    Ok(id)
}

async fn signs_up(stage: &Stage, person: Person, verified: bool) -> anyhow::Result<()> {
    let mut user = person.user(&stage.clock, TimeDelta::zero());
    user.emails = vec![(person.email.to_owned(), verified)];
    let answer = stage
        .clerk(EventKind::UserCreated, user.to_json())
        .await?
        .expect(StatusCode::ACCEPTED)?;
    let verified = if verified { "" } else { ", not verified" };
    let told = format!(
        "{}: {} signed up, {}{verified}",
        answer.text("/status"),
        person.name(),
        person.email
    );
    stage.answered(Party::Clerk, &answer, &told);
    Ok(())
}

async fn signs_in(stage: &Stage, person: Person) -> anyhow::Result<()> {
    let user = person.user(&stage.clock, TimeDelta::days(30));
    let data = session(
        &session_id(&user.id),
        &user.id,
        "active",
        Some(&user),
        stage.clock.now(),
    );
    let answer = stage
        .clerk(EventKind::SessionCreated, data)
        .await?
        .expect(StatusCode::ACCEPTED)?;
    let told = format!(
        "{}: {} signed in, {}",
        answer.text("/status"),
        person.name(),
        person.email
    );
    stage.answered(Party::Clerk, &answer, &told);
    Ok(())
}

async fn my_invites(stage: &Stage, person: Person) -> anyhow::Result<Answer> {
    stage
        .person(&person.user_id(), Method::GET, "/v1/me/invites")
        .await?
        .expect(StatusCode::OK)
}

async fn sees_banner(stage: &Stage, person: Person, invite_id: &str) -> anyhow::Result<()> {
    let flagged = |item: &Value| item["id"] == invite_id && item["flagged"] == true;
    let banner = stage
        .until("the banner", async || {
            let mine = my_invites(stage, person).await?;
            Ok(mine.items().iter().any(flagged).then_some(mine))
        })
        .await?;
    ensure!(
        banner.items().len() == 1,
        "the banner shows more than one invite: {}",
        banner.json
    );
    let told = format!(
        "sees “{} invites you to {} as {}”",
        banner.text("/items/0/invited_by/name"),
        banner.text("/items/0/project/name"),
        banner.text("/items/0/role")
    );
    stage.answered(Party::Invitee, &banner, &told);
    Ok(())
}

/// When usher knows the person, it has also matched their invites.
async fn sees_no_banner(stage: &Stage, person: Person) -> anyhow::Result<()> {
    let banner = stage
        .until("usher to know the person", async || {
            let mine = my_invites(stage, person).await?;
            Ok((mine.json["synced"] == true).then_some(mine))
        })
        .await?;
    ensure!(banner.items().is_empty(), "the banner shows an invite: {}", banner.json);
    stage.answered(Party::Invitee, &banner, "sees no invite: the address may be anybody's");
    Ok(())
}

async fn accepts(stage: &Stage, person: Person, invite_id: &str) -> anyhow::Result<()> {
    let path = format!("/v1/me/invites/{invite_id}/accept");
    let accepted = stage
        .person(&person.user_id(), Method::POST, &path)
        .await?
        .expect(StatusCode::OK)?;
    ensure!(
        accepted.text("/status") == "accepted",
        "the invite is not accepted: {}",
        accepted.json
    );
    stage.answered(Party::Invitee, &accepted, "accepts");
    Ok(())
}

async fn is_pending(stage: &Stage, invite_id: &str) -> anyhow::Result<()> {
    let invite = stage
        .app(Method::GET, &format!("/v1/invites/{invite_id}"), None)
        .await?
        .expect(StatusCode::OK)?;
    ensure!(
        invite.text("/status") == "pending",
        "the invite is not pending any more: {}",
        invite.json
    );
    stage.answered(Party::App, &invite, "still pending");
    Ok(())
}

async fn members(stage: &Stage, place: &str) -> anyhow::Result<Answer> {
    stage
        .app(Method::GET, &format!("{place}/members"), None)
        .await?
        .expect(StatusCode::OK)
}

async fn is_member(stage: &Stage, place: &str, person: Person, role: &str) -> anyhow::Result<()> {
    let is_it = |member: &Value| member["clerk_user_id"] == person.user_id() && member["role"] == role;
    let members = stage
        .until(&format!("{} to become {role}", person.name()), async || {
            let members = members(stage, place).await?;
            Ok(members.items().iter().any(is_it).then_some(members))
        })
        .await?;
    stage.answered(Party::App, &members, &listed(&members));
    Ok(())
}

async fn is_no_member(stage: &Stage, place: &str, person: Person) -> anyhow::Result<()> {
    let members = members(stage, place).await?;
    let is_there = members
        .items()
        .iter()
        .any(|member| member["clerk_user_id"] == person.user_id());
    ensure!(
        !is_there,
        "{} is a member before they were asked: {}",
        person.name(),
        members.json
    );
    stage.answered(Party::App, &members, &listed(&members));
    Ok(())
}

/// `Grace Hopper (owner), Ada Lovelace (member)`; of more than two, only the newest.
fn listed(members: &Answer) -> String {
    let text = |member: &Value, field: &str| member[field].as_str().unwrap_or_default().to_owned();
    let members: Vec<String> = members
        .items()
        .iter()
        .map(|member| format!("{} ({})", text(member, "name"), text(member, "role")))
        .collect();
    match members.as_slice() {
        [] => "nobody yet".to_owned(),
        [others @ .., newest] if others.len() > 1 => format!("{newest} and {} more", others.len()),
        all => all.join(", "),
    }
}

/// The app hears of a new member by the feed of events.
async fn app_hears(stage: &Stage, person: Person) -> anyhow::Result<()> {
    let path = "/v1/events?type=membership.created&limit=500";
    let is_it = |event: &Value| event["data"]["clerk_user_id"] == person.user_id();
    let events = stage
        .until(&format!("the event of {}", person.name()), async || {
            let events = stage.app(Method::GET, path, None).await?.expect(StatusCode::OK)?;
            Ok(events.items().iter().any(is_it).then_some(events))
        })
        .await?;
    stage.answered(Party::App, &events, &format!("membership.created: {}", person.email));
    Ok(())
}

async fn inviter_hears(stage: &Stage, person: Person, place: &str) -> anyhow::Result<()> {
    let mail = stage
        .mail(GRACE.email, &format!("{} joined {place}", person.name()))
        .await?;
    stage.saw(Party::Inviter, &format!("a mail: “{}”", mail.subject));
    Ok(())
}
