//! The contract of the store: every method of `Tx`, on both databases.

use std::collections::HashSet;

use chrono::TimeDelta;
use serde_json::json;
use usher::invites::accept::Obstacle;
use usher::invites::email::EmailAddress;
use usher::invites::limits::{MailHold, RecentMails};
use usher::invites::matching;
use usher::invites::roles::Roles;
use usher::invites::{Acceptance, Invite, InviteDetails, InviteFilter, PersonRef, Status, Target, TargetKind};
use usher::store::{
    Address, Conflict as _, CountScope, DeliveryKind, DeliveryNote, DeliveryStatus, DueTick, Finished, Grant,
    IdempotencyState, KeptAnswer, MailDemand, MemberPage, NewAdmin, NewDelivery, NewEvent, NewInvite, Profile, Put,
    PutRefusal, Queue, QueuedMail, Refresh, ReminderPlan, SessionStart, Tx,
};
use uuid::Uuid;

use crate::support::{TestApp, jobs, stories};

async fn begin(app: &TestApp) -> Tx {
    app.app.store.begin().await.unwrap()
}

fn address(email: &str, verified: bool, primary: bool) -> Address {
    let parsed = EmailAddress::parse(email).unwrap();
    Address {
        email: email.to_owned(),
        key: parsed.key().clone(),
        verified,
        primary,
    }
}

fn profile(app: &TestApp, id: &str, addresses: Vec<Address>) -> Profile {
    Profile {
        clerk_user_id: id.to_owned(),
        addresses,
        first_name: Some("Ada".to_owned()),
        last_name: None,
        image_url: None,
        locale: Some("de".to_owned()),
        banned: false,
        locked: false,
        created_at: app.now() - TimeDelta::days(1),
        updated_at: app.now(),
    }
}

fn new_invite(tx: &Tx, organization_id: Uuid, project_id: Option<Uuid>, email: &str) -> NewInvite {
    NewInvite {
        id: tx.new_id(),
        organization_id,
        project_id,
        email: EmailAddress::parse(email).unwrap(),
        role: "member".to_owned(),
        acceptance: Acceptance::Ask,
        invited_by: None,
        details: InviteDetails {
            locale: Some("fr".to_owned()),
            message: Some("Ça va ?\n\"'; drop table invites; --".to_owned()),
            redirect_url: None,
        },
        expires_at: tx.now() + TimeDelta::days(1) + TimeDelta::microseconds(7),
    }
}

/// An organization, a project in it, and a person with one verified and one unverified address.
async fn set_up(app: &TestApp, tx: &mut Tx) -> (Uuid, Uuid, Uuid) {
    let (organization, project) = (tx.new_id(), tx.new_id());
    tx.put_organization(&organization.into(), "Acme").await.unwrap();
    let put = tx
        .put_project(&project.into(), organization, "Apollo", None)
        .await
        .unwrap();
    assert!(matches!(put, Put::Made(_)));
    let ada = profile(
        app,
        "user_ada",
        vec![
            address("ada@example.com", true, true),
            address("ada@unverified.example", false, false),
        ],
    );
    let people = tx.save_people(&[&ada]).await.unwrap();
    assert_eq!(
        people[0].admin_id,
        Some(people[0].id),
        "what the row in admins will have"
    );
    tx.add_to_admins(&[NewAdmin {
        person_id: people[0].id,
        organization_id: organization,
        role: "member".to_owned(),
    }])
    .await
    .unwrap();
    (organization, project, people[0].id)
}

fn person(app: &TestApp, id: Uuid) -> matching::Person {
    matching::Person {
        id,
        admin_id: id,
        clerk_created_at: app.now(),
        blocked: false,
    }
}

stories! {
    async fn what_is_not_committed_is_not_there(app) {
        let mut tx = begin(app).await;
        let (organization, _, _) = set_up(app, &mut tx).await;
        tx.enqueue(Queue::SendMail, &[json!({ "delivery_id": tx.new_id() })]).await.unwrap();
        drop(tx);
        let mut tx = app.app.store.read().await.unwrap();
        assert!(tx.organizations(&[organization]).await.unwrap().is_empty());
        assert!(jobs::all(&app.pool).await.is_empty());
    }

    async fn a_read_only_transaction_writes_nothing(app) {
        let mut tx = app.app.store.read().await.unwrap();
        let id = tx.new_id();
        assert!(tx.put_organization(&id.into(), "Acme").await.is_err());
    }

    async fn places(app) {
        let mut tx = begin(app).await;
        let (organization, project, _) = set_up(app, &mut tx).await;
        let found = tx.organizations(&[organization, project]).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].id, found[0].organization_id, found[0].name.as_str()), (organization, organization, "Acme"));
        let found = tx.projects(&[organization, project]).await.unwrap();
        assert_eq!((found[0].id, found[0].organization_id, found[0].name.as_str()), (project, organization, "Apollo"));
        assert_eq!(found[0].created_at, app.now());
        let refused = tx.put_project(&project.into(), project, "Apollo", None).await.unwrap();
        assert_eq!(refused, Put::Refused(PutRefusal::UnknownOrganization));
        assert_eq!(tx.lock_projects(&[organization, project]).await.unwrap(), [(project, organization)].into());
        let renamed = tx.put_organization(&organization.into(), "Acme 2").await.unwrap();
        assert!(matches!(renamed, Put::Changed(place) if place.name == "Acme 2"));
    }

    async fn grants_add_raise_and_revive_but_never_lower(app) {
        let mut tx = begin(app).await;
        let (organization, project, ada) = set_up(app, &mut tx).await;
        let roles = Roles::default();
        let grant = |target_id, role: &str| vec![Grant { target_id, admin_id: ada, role: role.to_owned() }];
        for (given, held) in [("admin", "admin"), ("member", "admin"), ("owner", "owner")] {
            tx.grant_in_organizations(&grant(organization, given), &roles.organization).await.unwrap();
            assert_eq!(tx.members(Target::Organization(organization), MemberPage::First, None, 9).await.unwrap()[0].role, held);
        }
        for (given, held) in [("client", "client"), ("support", "client"), ("admin", "admin")] {
            tx.grant_in_projects(&grant(project, given), &roles.project).await.unwrap();
            let member = &tx.members(Target::Project(project), MemberPage::First, None, 9).await.unwrap()[0];
            assert_eq!((member.role.as_str(), member.admin_id), (held, ada));
            assert_eq!(member.clerk_user_id.as_deref(), Some("user_ada"));
            assert_eq!((member.first_name.as_deref(), member.since), (Some("Ada"), app.now()));
        }
        assert_eq!(tx.organization_memberships(&[ada]).await.unwrap()[0].target_id, organization);
        assert_eq!(tx.project_memberships(&[ada]).await.unwrap()[0].role, "admin");
        tx.delete_people(&["user_ada"]).await.unwrap();
        assert!(tx.members(Target::Organization(organization), MemberPage::First, None, 9).await.unwrap().is_empty());
        assert!(tx.organization_memberships(&[ada]).await.unwrap().is_empty());
    }

    async fn people_and_their_addresses(app) {
        let mut tx = begin(app).await;
        let (_, _, ada) = set_up(app, &mut tx).await;
        let known = tx.people_by_clerk_id(&["user_ada", "user_nobody"]).await.unwrap();
        assert_eq!(known.len(), 1);
        assert_eq!(tx.lock_people(&["user_ada", "user_nobody"]).await.unwrap(), known);
        assert_eq!((known[0].admin_id, known[0].deleted_at), (Some(ada), None));
        assert_eq!(known[0].clerk_created_at, Some(app.now() - TimeDelta::days(1)));
        assert_eq!(tx.addresses_of_people(&[ada]).await.unwrap()[&ada], "ada@example.com");
        let refs = [PersonRef::Admin(ada), PersonRef::Clerk("user_ada".to_owned()), PersonRef::Clerk("user_x".to_owned())];
        let live = tx.live_people(&refs).await.unwrap();
        assert_eq!((live.get(&refs[0]), live.get(&refs[1]), live.get(&refs[2])), (Some(&ada), Some(&ada), None));
        let keys: Vec<_> = ["ada@example.com", "ada@unverified.example"].map(|email| address(email, true, true).key).into();
        let owners = tx.owners_of(&[&keys[0], &keys[1]]).await.unwrap();
        assert_eq!(owners, [(keys[0].clone(), ada)], "verified ones only");

        let mut older = profile(app, "user_ada", vec![address("old@example.com", true, true)]);
        older.updated_at -= TimeDelta::seconds(1);
        let bob = profile(app, "user_bob", vec![]);
        let saved = tx.save_people(&[&older, &bob]).await.unwrap();
        assert_eq!(saved.len(), 2, "everybody as they then stand");
        assert_eq!(tx.addresses_of_people(&[ada]).await.unwrap()[&ada], "ada@example.com", "an older one changes nothing");

        tx.delete_people(&["user_ada", "user_never_seen"]).await.unwrap();
        let gone = tx.people_by_clerk_id(&["user_ada", "user_never_seen"]).await.unwrap();
        assert!(gone.len() == 2 && gone.iter().all(|person| person.deleted_at == Some(app.now())));
        assert!(tx.live_people(&refs).await.unwrap().is_empty());
        assert!(tx.owners_of(&[&keys[0]]).await.unwrap().is_empty());
        let back = tx.save_people(&[&profile(app, "user_ada", vec![address("ada@example.com", true, true)])]).await.unwrap();
        assert!(back[0].deleted_at.is_some(), "the deleted stay deleted");
    }

    async fn a_person_whom_the_app_made_keeps_their_row(app) {
        let id = app.clock.new_id();
        app.pool.execute(&format!(
            "insert into admins (id, external_id, created_at, updated_at) values ({}, 'user_ada', '2026-01-01', '2026-01-01')",
            app.pool.literal(id)
        ))
        .await;
        let mut tx = begin(app).await;
        let saved = tx.save_people(&[&profile(app, "user_ada", vec![address("ada@example.com", true, true)])]).await.unwrap();
        assert_eq!(saved[0].admin_id, Some(id));
        assert_eq!(tx.addresses_of_people(&[id]).await.unwrap()[&id], "ada@example.com");
    }

    async fn invites_are_made_refreshed_found_and_answered_once(app) {
        let mut tx = begin(app).await;
        let (organization, project, ada) = set_up(app, &mut tx).await;
        let to_organization = new_invite(&tx, organization, None, "Ada@Example.com");
        let to_project = new_invite(&tx, organization, Some(project), "ada@example.com");
        let unverified = new_invite(&tx, organization, None, "ada@unverified.example");
        let saved = tx.save_invites(&[to_organization.clone(), to_project.clone(), unverified]).await.unwrap();
        assert_eq!(saved.len(), 3);
        let invite = tx.invite(to_organization.id).await.unwrap().unwrap();
        assert!(saved.contains(&invite), "what is read is what was saved, to the microsecond");
        assert_eq!((invite.kind, invite.project_id, invite.token_version), (TargetKind::Organization, None, 1));
        assert_eq!(invite.details, to_organization.details);
        assert_eq!(invite.expires_at, to_organization.expires_at);

        let stale = tx.invite_candidates(&[person(app, ada)]).await.unwrap();
        let again = NewInvite { id: tx.new_id(), role: "admin".to_owned(), ..to_organization.clone() };
        let held = tx.save_invites(std::slice::from_ref(&again)).await.unwrap();
        assert_eq!(held, std::slice::from_ref(&invite), "it is there already, and is left as it is");
        let refresh = |asked: &NewInvite, sends_mail| Refresh {
            invite_id: invite.id, asked: asked.clone(), sends_mail, held: (!sends_mail).then_some(MailHold::CoolDown),
        };
        let quiet = NewInvite { role: "owner".to_owned(), ..again.clone() };
        let quiet = tx.refresh_invites(&[refresh(&quiet, false)]).await.unwrap();
        assert_eq!((quiet[0].token_version, quiet[0].role.as_str()), (1, "owner"));
        let views = tx.invite_views(&[invite.id]).await.unwrap();
        assert_eq!(views[0].held(), Some(MailHold::CoolDown));
        let refreshed = tx.refresh_invites(&[refresh(&again, true)]).await.unwrap();
        assert_eq!(tx.invite_views(&[invite.id]).await.unwrap()[0].held(), None);
        assert_eq!((refreshed[0].id, refreshed[0].token_version, refreshed[0].role.as_str()), (invite.id, 2, "admin"));

        let waiting = tx.invite_candidates(&[person(app, ada)]).await.unwrap();
        let ids: HashSet<Uuid> = waiting.iter().map(|waiting| waiting.invite.id).collect();
        assert_eq!(ids, HashSet::from([to_organization.id, to_project.id]), "verified addresses only");
        assert!(waiting.iter().all(|waiting| waiting.person.admin_id == ada && waiting.target_organization_id == organization));
        assert_eq!(tx.invite_of(invite.id, ada).await.unwrap().map(|invite| invite.id), Some(invite.id));
        assert_eq!(tx.invite_of(invite.id, project).await.unwrap(), None, "somebody else");

        let refreshed = tx.invite_candidates(&[person(app, ada)]).await.unwrap();
        let to_acme: Vec<_> = refreshed.iter().filter(|waiting| waiting.invite.id == invite.id).collect();
        let outdated: Vec<_> = stale.iter().filter(|waiting| waiting.invite.id == invite.id).collect();
        tx.flag_invites(&outdated).await.unwrap();
        assert_eq!(tx.invite(invite.id).await.unwrap().unwrap().flagged_at, None, "asked again meanwhile");
        tx.flag_invites(&to_acme).await.unwrap();
        let flagged = tx.invite(invite.id).await.unwrap().unwrap();
        assert_eq!((flagged.flagged_at, flagged.flagged_for), (Some(app.now()), Some(ada)));
        assert!(tx.dismiss_invite(invite.id, ada).await.unwrap());
        let dismissed = tx.invite(invite.id).await.unwrap().unwrap();
        assert_eq!((dismissed.flagged_at, dismissed.dismissed_at), (None, Some(app.now())));

        assert!(tx.accept_invites(&outdated).await.unwrap().is_empty(), "asked again meanwhile");
        let accepted: Vec<Invite> = tx.accept_invites(&to_acme).await.unwrap();
        assert_eq!((accepted.len(), accepted[0].status, accepted[0].accepted_by), (1, Status::Accepted, Some(ada)));
        assert!(tx.accept_invites(&to_acme).await.unwrap().is_empty(), "once");
        for closed in [tx.decline_invite(invite.id).await, tx.revoke_invite(invite.id).await, tx.dismiss_invite(invite.id, ada).await] {
            assert!(!closed.unwrap(), "final");
        }
        assert!(tx.decline_invite(to_project.id).await.unwrap());
        let filter = InviteFilter { status: Some(Status::Accepted), ..InviteFilter::default() };
        assert_eq!(tx.list_invites(&filter, None, None, 10).await.unwrap(), [(invite.id, invite.created_at)]);
        assert_eq!(tx.renew_invite(invite.id, app.now()).await.unwrap(), None, "final");
        let unverified_key = address("ada@unverified.example", true, true).key;
        assert_eq!(tx.pending_invites_at(&[&unverified_key]).await.unwrap().len(), 1);
        assert!(tx.dismissed_by(ada).await.unwrap().is_empty());
        let views = tx.invite_views(&[invite.id, to_project.id, project]).await.unwrap();
        assert_eq!(views.len(), 2);
        let of_project = views.iter().find(|view| view.invite.id == to_project.id).unwrap();
        assert_eq!((of_project.organization_name.as_str(), of_project.project_name.as_deref()), ("Acme", Some("Apollo")));
        assert_eq!((of_project.target_organization_id, of_project.delivery()), (organization, None));
    }

    async fn what_a_transaction_has_made_it_can_take_back(app) {
        let mut tx = begin(app).await;
        let (organization, _, _) = set_up(app, &mut tx).await;
        let (kept, unmade) = (new_invite(&tx, organization, None, "a@example.com"), new_invite(&tx, organization, None, "b@example.com"));
        tx.save_invites(&[kept.clone(), unmade.clone()]).await.unwrap();
        tx.delete_new_invites(&[unmade.id]).await.unwrap();
        tx.record_held_mails(&[kept.id], MailHold::AddressCap).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = begin(app).await;
        assert_eq!(tx.invite(unmade.id).await.unwrap(), None);
        assert_eq!(tx.history_of(kept.id).await.unwrap().len(), 1);
        assert_eq!(app.pool.count("usher_invite_history").await, 1);
        let view = &tx.invite_views(&[kept.id]).await.unwrap()[0];
        assert_eq!(view.delivery(), Some((DeliveryKind::Invite, DeliveryStatus::Suppressed)));
    }

    async fn why_an_invite_lets_nobody_in_is_noted_until_something_else_is(app) {
        let mut tx = begin(app).await;
        let (organization, _, ada) = set_up(app, &mut tx).await;
        let invite = new_invite(&tx, organization, None, "ada@example.com");
        tx.save_invites(std::slice::from_ref(&invite)).await.unwrap();
        let waiting = tx.invite_candidates(&[person(app, ada)]).await.unwrap();
        assert_eq!(waiting[0].facts.obstacle(&Roles::default()), None);
        tx.commit().await.unwrap();
        for (obstacle, noted) in [
            (Obstacle::UnknownRole, 2), (Obstacle::UnknownRole, 2), (Obstacle::InviterBlocked, 3), (Obstacle::UnknownRole, 4),
        ] {
            app.clock.advance(TimeDelta::seconds(1));
            let mut tx = begin(app).await;
            tx.note_refusals(&[(&waiting[0], obstacle), (&waiting[0], obstacle)]).await.unwrap();
            tx.commit().await.unwrap();
            let history = begin(app).await.history_of(invite.id).await.unwrap();
            assert_eq!(history.len(), noted);
            assert_eq!(history[noted - 1].reason.as_deref(), Some(obstacle.as_str()));
        }
    }

    async fn time_alone_closes_an_invite(app) {
        let mut tx = begin(app).await;
        let (organization, _, ada) = set_up(app, &mut tx).await;
        let invite = new_invite(&tx, organization, None, "ada@example.com");
        tx.save_invites(std::slice::from_ref(&invite)).await.unwrap();
        app.clock.advance(TimeDelta::days(1) + TimeDelta::microseconds(6));
        let waiting = tx.invite_candidates(&[person(app, ada)]).await.unwrap();
        assert_eq!(waiting.len(), 1);
        app.clock.advance(TimeDelta::microseconds(1));
        assert!(tx.invite_candidates(&[person(app, ada)]).await.unwrap().is_empty());
        assert!(tx.accept_invites(&[&waiting[0]]).await.unwrap().is_empty());
        assert!(!tx.decline_invite(invite.id).await.unwrap());
        assert!(!tx.dismiss_invite(invite.id, ada).await.unwrap());
        let renewed = tx.renew_invite(invite.id, app.now() + TimeDelta::days(1)).await.unwrap().unwrap();
        assert_eq!((renewed.token_version, renewed.is_open_at(app.now())), (1, true));
        assert!(tx.revoke_invite(invite.id).await.unwrap(), "also an expired one can be taken back");
    }

    async fn the_database_itself_allows_one_open_invite_per_place_and_address(app) {
        let mut tx = begin(app).await;
        let (organization, _, _) = set_up(app, &mut tx).await;
        let invite = new_invite(&tx, organization, None, "ada@example.com");
        tx.save_invites(&[invite]).await.unwrap();
        tx.commit().await.unwrap();
        let copy = "insert into invites (id, kind, organization_id, email, email_key, role, status, acceptance, invited_at,
                        expires_at, created_at, updated_at)
                    select organization_id, kind, organization_id, email, email_key, role, status, acceptance, invited_at,
                        expires_at, created_at, updated_at from invites";
        assert!(app.pool.try_execute(copy).await.is_err());
    }

    async fn deliveries_are_queued_with_their_jobs_and_numbered(app) {
        let mut tx = begin(app).await;
        let (organization, _, _) = set_up(app, &mut tx).await;
        let invite = new_invite(&tx, organization, None, "ada@example.com");
        tx.save_invites(std::slice::from_ref(&invite)).await.unwrap();
        let mail = |kind| NewDelivery { invite_id: invite.id, kind, to_email: "ada@example.com".to_owned() };
        tx.queue_deliveries(&[mail(DeliveryKind::Invite), mail(DeliveryKind::AcceptedNotice)]).await.unwrap();
        tx.queue_deliveries(&[mail(DeliveryKind::Invite)]).await.unwrap();
        tx.commit().await.unwrap();
        let queued: Vec<String> = jobs::all(&app.pool).await.into_iter().map(|job| job.job_type).collect();
        assert_eq!(queued.iter().filter(|queue| *queue == "send-mail").count(), 3);

        let mut tx = begin(app).await;
        let mut ids: Vec<Uuid> = Vec::new();
        for job in jobs::all(&app.pool).await.iter().filter(|job| job.job_type == "send-mail") {
            let payload: serde_json::Value = serde_json::from_slice(&job.job).unwrap();
            let id = payload["delivery_id"].as_str().unwrap().parse().unwrap();
            ids.push(id);
        }
        let mut mails = tx.queued_mails(&ids).await.unwrap();
        mails.retain(|mail| mail.delivery_kind == DeliveryKind::Invite);
        mails.sort_by_key(|mail| mail.context.is_newest);
        let [first, second] = &mails[..] else { panic!("two mails to the invitee") };
        assert_ne!(first.message_id, second.message_id);
        assert!(!first.context.is_newest && second.context.is_newest);
        assert_eq!((second.context.organization_name.as_str(), &second.context.suppressed_for), ("Acme", &None));
        assert_eq!(second.invite.id, invite.id);
        let recent = tx.mails_since(&[invite.id], app.now() - TimeDelta::hours(1)).await.unwrap();
        assert_eq!(recent[&invite.id], RecentMails { count: 2, newest: Some(app.now()) });
        assert!(tx.mails_since(&[invite.id], app.now()).await.unwrap().is_empty());
        tx.suppress_address(invite.email.key(), "550").await.unwrap();
        let suppressed = tx.queued_mails(&[second.delivery_id]).await.unwrap();
        assert_eq!(suppressed[0].context.suppressed_for.as_deref(), Some("550"));
        tx.release_address(invite.email.key()).await.unwrap();
        let released = tx.queued_mails(&[second.delivery_id]).await.unwrap();
        assert_eq!(released[0].context.suppressed_for, None);
        let note = |mail: &QueuedMail, status, counts, error: Option<&str>| DeliveryNote {
            delivery_id: mail.delivery_id, status, counts, error: error.map(str::to_owned), reply: None,
        };
        app.clock.advance(TimeDelta::seconds(1));
        let superseded = note(first, DeliveryStatus::Suppressed, false, Some("a newer mail takes its place"));
        tx.note_deliveries(&[superseded, note(second, DeliveryStatus::Queued, true, Some("451 later"))]).await.unwrap();
        let notice = tx.longest_untried_mail().await.unwrap().unwrap();
        assert_ne!(notice, second.delivery_id, "tried a moment ago");
        tx.note_deliveries(&[note(second, DeliveryStatus::Sent, true, None)]).await.unwrap();
        tx.note_deliveries(&[note(second, DeliveryStatus::Failed, true, Some("too late to fail"))]).await.unwrap();
        assert!(tx.queued_mails(&[first.delivery_id, second.delivery_id]).await.unwrap().is_empty());
        let view = &tx.invite_views(&[invite.id]).await.unwrap()[0];
        assert_eq!((view.delivery(), view.delivery_sent_at), (Some((DeliveryKind::Invite, DeliveryStatus::Sent)), Some(app.now())));
        assert_eq!((view.delivery_attempts, &view.delivery_error), (Some(2), &None));
        drop(tx);
        app.pool.execute(&format!("update {} set status = 'Done'", app.pool.jobs())).await;
    }

    async fn a_tick_is_taken_once_and_moves_its_schedule_on(app) {
        let mut tx = begin(app).await;
        let next = app.now() + TimeDelta::minutes(1);
        let due = [DueTick { name: "b", next }, DueTick { name: "a", next }];
        let mut taken = tx.take_ticks(&due).await.unwrap();
        taken.sort();
        assert_eq!(taken, ["a", "b"]);
        assert!(tx.take_ticks(&due).await.unwrap().is_empty());
        let schedules = tx.schedules().await.unwrap();
        assert_eq!(schedules.get("a").map(|row| row.due_at), Some(next));
        app.clock.advance(TimeDelta::minutes(1));
        assert_eq!(tx.take_ticks(&[DueTick { name: "a", next: next + TimeDelta::minutes(1) }]).await.unwrap(), ["a"]);
    }

    async fn the_mail_circuit_opens_is_probed_and_closes_once(app) {
        let mut tx = begin(app).await;
        let soon = app.now() + TimeDelta::seconds(10);
        let later = app.now() + TimeDelta::seconds(30);
        assert_eq!(tx.circuit_opened().await.unwrap(), None);
        assert!(!tx.claim_circuit_probe(0, soon).await.unwrap(), "closed");
        assert!(tx.open_circuit("535", soon).await.unwrap());
        assert!(!tx.open_circuit("550", later).await.unwrap(), "known");
        let circuit = tx.circuit_opened().await.unwrap().unwrap();
        assert_eq!((circuit.reason.as_str(), circuit.since, circuit.probes, circuit.probe_at), ("535", app.now(), 0, soon));
        assert!(tx.claim_circuit_probe(0, later).await.unwrap());
        assert!(!tx.claim_circuit_probe(0, later).await.unwrap(), "taken");
        let circuit = tx.circuit_opened().await.unwrap().unwrap();
        assert_eq!((circuit.reason.as_str(), circuit.since, circuit.probes, circuit.probe_at), ("535", app.now(), 1, later));
        assert_eq!(tx.close_circuit().await.unwrap(), Some(circuit));
        assert_eq!(tx.close_circuit().await.unwrap(), None);
    }

    async fn reminders_are_planned_for_a_life_and_taken_once(app) {
        let mut tx = begin(app).await;
        let (organization, _, _) = set_up(app, &mut tx).await;
        let invite = new_invite(&tx, organization, None, "ada@example.com");
        tx.save_invites(std::slice::from_ref(&invite)).await.unwrap();
        assert!(tx.invites_without_plan(app.now(), 10).await.unwrap().is_empty(), "too young");
        let old_enough = app.now() + TimeDelta::days(9);
        let unplanned = tx.invites_without_plan(old_enough, 10).await.unwrap();
        assert_eq!((unplanned.len(), unplanned[0].id, unplanned[0].is_first_life), (1, invite.id, true));
        let hour = TimeDelta::hours(1);
        let plan = |remind_at, is_due| ReminderPlan {
            invite_id: invite.id, from: unplanned[0].invited_at, expires_at: invite.expires_at, remind_at, is_due,
        };
        tx.plan_reminders(&[plan(Some(app.now() + hour), false)]).await.unwrap();
        assert!(tx.invites_without_plan(old_enough, 10).await.unwrap().is_empty());
        assert!(tx.plan_reminders(&[plan(None, false)]).await.unwrap().is_empty(), "planned already");
        assert!(tx.invites_to_remind(10).await.unwrap().is_empty(), "not yet");
        app.clock.advance(hour);
        assert_eq!(tx.invites_to_remind(10).await.unwrap()[0].reminders_from, app.now() - hour);
        assert_eq!(tx.plan_reminders(&[plan(None, true)]).await.unwrap(), [invite.id]);
        assert!(tx.plan_reminders(&[plan(None, true)]).await.unwrap().is_empty(), "taken");
        assert!(tx.invites_to_remind(10).await.unwrap().is_empty());
        app.clock.advance(TimeDelta::days(2));
        assert_eq!(tx.expire_invites(10).await.unwrap(), 1);
        tx.renew_invite(invite.id, app.now() + hour).await.unwrap().unwrap();
        assert!(!tx.invites_without_plan(app.now(), 10).await.unwrap()[0].is_first_life);
    }

    async fn mails_are_counted_by_day(app) {
        let mut tx = begin(app).await;
        let (somebody, day) = (tx.new_id(), app.now().date_naive());
        let demand = |mails| MailDemand { scope: CountScope::Inviter, subject: somebody, mails, cap: 4 };
        let subject = [demand(1)];
        assert_eq!(tx.mail_counts(day, &subject).await.unwrap(), []);
        tx.count_mails(day, &[demand(3)]).await.unwrap();
        assert_eq!(tx.mail_counts(day, &subject).await.unwrap()[0].mails, 3);
        assert!(tx.count_mails(day, &[demand(2)]).await.unwrap_err().is_conflict(), "beyond the cap");
        tx.count_mails(day, &[demand(1)]).await.unwrap();
        assert_eq!(tx.mail_counts(day, &subject).await.unwrap()[0].mails, 4);
        let tomorrow = day.succ_opt().unwrap();
        tx.count_mails(tomorrow, &[demand(1)]).await.unwrap();
        tx.forget_mail_counts(tomorrow).await.unwrap();
        assert_eq!(tx.mail_counts(day, &subject).await.unwrap(), [], "forgotten");
        assert_eq!(tx.mail_counts(tomorrow, &subject).await.unwrap()[0].mails, 1);
    }

    async fn the_inbox_takes_each_id_once(app) {
        let event = |id: &str| NewEvent {
            svix_id: id.to_owned(), event_type: "user.created".to_owned(), payload: r#"{"a":"\u0000"}"#.to_owned(),
        };
        let store = &app.app.store;
        let new = store.receive_events(&[event("msg_1"), event("msg_2"), event("msg_1")]).await.unwrap();
        assert_eq!(new, HashSet::from(["msg_1".to_owned(), "msg_2".to_owned()]));
        let new = store.receive_events(&[event("msg_2"), event("msg_3")]).await.unwrap();
        assert_eq!(new, HashSet::from(["msg_3".to_owned()]));
        assert_eq!(jobs::all(&app.pool).await.len(), 3);

        let mut tx = begin(app).await;
        let waiting = tx.unprocessed_events(&["msg_3", "msg_1", "msg_9"]).await.unwrap();
        let ids: Vec<&str> = waiting.iter().map(|event| event.svix_id.as_str()).collect();
        assert_eq!(ids, ["msg_1", "msg_3"]);
        assert_eq!(waiting[0].payload.as_deref(), Some(r#"{"a":"\u0000"}"#));
        assert_eq!((waiting[0].received_at, waiting[0].event_type.as_str()), (app.now(), "user.created"));
        let finished = |id: &str, outcome| Finished { svix_id: id.to_owned(), outcome };
        tx.finish_events(&[finished("msg_1", Ok("matched")), finished("msg_2", Err("unreadable".to_owned()))]).await.unwrap();
        let left = tx.unprocessed_events(&["msg_1", "msg_2", "msg_3"]).await.unwrap();
        assert_eq!(left.len(), 2, "what failed stays");
        assert!(!tx.replay_events(&["msg_2"]).await.unwrap().is_empty());
        assert_eq!(tx.replay_events(&["msg_1", "msg_9"]).await.unwrap(), ["msg_1"], "what succeeded, too");
        drop(tx);
        app.pool.execute(&format!("update {} set status = 'Done'", app.pool.jobs())).await;
    }

    async fn sessions_end_once_and_take_the_flags_of_the_signed_out_down(app) {
        let mut tx = begin(app).await;
        let (organization, _, ada) = set_up(app, &mut tx).await;
        let invite = new_invite(&tx, organization, None, "ada@example.com");
        tx.save_invites(std::slice::from_ref(&invite)).await.unwrap();
        let waiting = tx.invite_candidates(&[person(app, ada)]).await.unwrap();
        tx.flag_invites(&[&waiting[0]]).await.unwrap();
        let start = |id: &str| SessionStart { clerk_session_id: id.to_owned(), person_id: ada, started_at: app.now() };
        tx.end_sessions(&[("sess_early", None)]).await.unwrap();
        let active = tx.start_sessions(&[start("sess_1"), start("sess_early")]).await.unwrap();
        assert_eq!(active, HashSet::from(["sess_1".to_owned()]));
        tx.lower_flags_of_the_signed_out(&[ada]).await.unwrap();
        assert!(tx.invite(invite.id).await.unwrap().unwrap().flagged_at.is_some());
        tx.end_sessions(&[("sess_1", Some(ada))]).await.unwrap();
        tx.lower_flags_of_the_signed_out(&[ada]).await.unwrap();
        assert!(tx.invite(invite.id).await.unwrap().unwrap().flagged_at.is_none());
        assert!(tx.start_sessions(&[start("sess_1")]).await.unwrap().is_empty());
    }

    async fn an_idempotency_key_belongs_to_one_request_for_a_day(app) {
        let mut tx = begin(app).await;
        assert_eq!(tx.claim_idempotency_key("app", "k", b"1").await.unwrap(), IdempotencyState::First);
        assert_eq!(tx.claim_idempotency_key("other", "k", b"2").await.unwrap(), IdempotencyState::First, "another key's own");
        let kept = KeptAnswer { status: 201, answer: Some("{}".to_owned()), outcomes: None };
        tx.keep_answer("app", "k", &kept).await.unwrap();
        assert_eq!(tx.claim_idempotency_key("app", "k", b"1").await.unwrap(), IdempotencyState::Answered(kept));
        assert_eq!(tx.claim_idempotency_key("app", "k", b"2").await.unwrap(), IdempotencyState::OtherRequest);
        app.clock.advance(TimeDelta::hours(24));
        assert_eq!(tx.claim_idempotency_key("app", "k", b"2").await.unwrap(), IdempotencyState::First);
    }

    async fn nothing_is_asked_of_the_database_for_empty_sets(app) {
        let mut tx = begin(app).await;
        let roles = Roles::default();
        assert!(tx.save_people(&[]).await.unwrap().is_empty());
        assert!(tx.save_invites(&[]).await.unwrap().is_empty());
        assert!(tx.invite_candidates(&[]).await.unwrap().is_empty());
        assert!(tx.accept_invites(&[]).await.unwrap().is_empty());
        tx.flag_invites(&[]).await.unwrap();
        tx.grant_in_organizations(&[], &roles.organization).await.unwrap();
        tx.queue_deliveries(&[]).await.unwrap();
        tx.enqueue::<serde_json::Value>(Queue::SendMail, &[]).await.unwrap();
        tx.delete_people(&[]).await.unwrap();
        tx.finish_events(&[]).await.unwrap();
        tx.commit().await.unwrap();
        assert!(app.app.store.receive_events(&[]).await.unwrap().is_empty());
    }
}
