//! The end: everything is healed, all work is done, and then what usher said is compared with what is true.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use chrono::DurationRound as _;
use chrono::TimeDelta;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};
use usher_testkit::database::Pool;
use uuid::Uuid;

use crate::database::{
    AddressRow, DeliveryRow, EventRow, InviteRow, MemberRow, OpenJobs, PersonRow, SessionRow, hasten_jobs, open_jobs,
};
use crate::journal::Journal;
use crate::load::repeat_what_was_not_taken;
use crate::model::{Model, Person, key};
use crate::told;
use crate::world::World;

/// How long work that is due may take when nothing is broken any more.
const TIME_TO_QUIET: Duration = Duration::from_secs(60);
/// Memory that a process may use at most, in MiB.
const MEMORY: u64 = 512;

/// Waits until all is done, has every person told of once more, and waits again.
pub async fn settle(world: &World, pool: &Pool, rng: &mut StdRng) -> anyhow::Result<()> {
    while repeat_what_was_not_taken(world, rng).await > 0 {}
    wait_for_quiet(world, pool).await?;
    // Whoever was told of before their invite was made is matched with it now.
    let events: Vec<usize> = {
        let mut model = world.model();
        let live: Vec<usize> = (0..model.people.len())
            .filter(|&number| !model.people[number].is_deleted)
            .collect();
        live.into_iter()
            .map(|number| {
                model.change(number, 0, World::now());
                model.tell_user("user.updated", number, World::now())
            })
            .collect()
    };
    for event in events {
        world.insist_on(event, rng).await;
    }
    wait_for_quiet(world, pool).await
}

/// Until no job is due and none waits for a later attempt; these are not waited for, but made due.
async fn wait_for_quiet(world: &World, pool: &Pool) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let open = open_jobs(pool).await?;
        let alive: Vec<&OpenJobs> = open.iter().filter(|jobs| jobs.status != "Killed").collect();
        let unnumbered = told::unnumbered(pool).await?;
        if alive.is_empty() && unnumbered == 0 {
            world
                .journal
                .say(format!("all quiet after {:.1} s", since.elapsed().as_secs_f64()));
            return Ok(());
        }
        if since.elapsed() > TIME_TO_QUIET {
            let stuck: Vec<_> = alive
                .iter()
                .map(|jobs| {
                    format!(
                        "{} {} {} (due: {})",
                        jobs.count, jobs.job_type, jobs.status, jobs.is_due
                    )
                })
                .collect();
            world.journal.violation(format!(
                "jobs are stuck: {}; events without a number: {unnumbered}",
                stuck.join(", ")
            ));
            return Ok(());
        }
        if !alive.is_empty() && alive.iter().all(|jobs| !jobs.is_due) {
            let hastened = hasten_jobs(pool).await?;
            world
                .journal
                .say(format!("{hastened} jobs wait for a later attempt; they are made due"));
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// Compares.
pub async fn check(world: &World, pool: &Pool) -> anyhow::Result<()> {
    let truth = Truth::read(pool).await?;
    let model = world.model();
    let (journal, model) = (&*world.journal, &*model);
    truth.events(journal, model);
    truth.people(journal, model);
    truth.sessions(journal, model);
    truth.memberships(journal, model);
    truth.invites(journal, model);
    truth.deliveries(journal, world);
    truth.jobs(journal);
    for role in ["all", "api", "worker"] {
        let most = journal.largest(&format!("MiB of memory of a process ({role})"));
        journal.insist(most <= MEMORY, || format!("a process used {most} MiB"));
    }
    Ok(())
}

struct Truth {
    events: Vec<EventRow>,
    people: HashMap<String, PersonRow>,
    addresses: Vec<AddressRow>,
    members: Vec<MemberRow>,
    invites: Vec<InviteRow>,
    deliveries: Vec<DeliveryRow>,
    sessions: HashMap<String, String>,
    jobs: Vec<OpenJobs>,
}

impl Truth {
    async fn read(pool: &Pool) -> sqlx::Result<Self> {
        let people: Vec<PersonRow> = pool
            .rows("select clerk_user_id, clerk_updated_at, deleted_at from usher_people")
            .await?;
        let sessions: Vec<SessionRow> = pool.rows("select clerk_session_id, status from usher_sessions").await?;
        Ok(Self {
            events: pool
                .rows("select svix_id, processed_at, error from usher_events")
                .await?,
            people: people.into_iter().map(|row| (row.clerk_user_id.clone(), row)).collect(),
            addresses: pool
                .rows(
                    "select p.clerk_user_id, a.email_key, a.verified
                     from usher_addresses a join usher_people p on p.id = a.person_id",
                )
                .await?,
            members: pool
                .rows(
                    "select a.external_id as clerk_user_id, m.organization_id as place_id, m.organization_id,
                         a.deleted_at is not null as is_of_the_deleted
                     from organization_users m join admins a on a.id = m.admin_id where m.deleted_at is null
                     union all
                     select a.external_id, m.project_id, p.organization_id, a.deleted_at is not null
                     from project_admins m join admins a on a.id = m.admin_id join projects p on p.id = m.project_id
                     where m.deleted_at is null",
                )
                .await?,
            invites: pool
                .rows(
                    "select i.id, i.organization_id, i.project_id, i.email_key, i.status, i.acceptance, i.invited_at,
                         a.external_id as accepted_by, i.invited_by is not null as has_inviter
                     from invites i left join admins a on a.id = i.accepted_by",
                )
                .await?,
            deliveries: pool
                .rows("select invite_id, kind, to_email, status, message_id, last_error from usher_deliveries")
                .await?,
            sessions: sessions
                .into_iter()
                .map(|row| (row.clerk_session_id, row.status))
                .collect(),
            jobs: open_jobs(pool).await?,
        })
    }

    /// Every acknowledged event has its row and its effect; and by now every event is acknowledged.
    fn events(&self, journal: &Journal, model: &Model) {
        let rows: HashMap<&str, &EventRow> = self.events.iter().map(|row| (row.svix_id.as_str(), row)).collect();
        for told in &model.events {
            match rows.get(told.svix_id.as_str()) {
                None => journal.violation(format!("{} was taken and is lost", told.svix_id)),
                Some(row) => journal.insist(row.processed_at.is_some() && row.error.is_none(), || {
                    format!("{} was taken and has no effect: {:?}", told.svix_id, row.error)
                }),
            }
        }
        journal.insist(rows.len() == model.events.len(), || {
            "there are events that nobody told".to_owned()
        });
    }

    /// The newest version of everybody is stored, with all addresses; the deleted are gone.
    fn people(&self, journal: &Journal, model: &Model) {
        let mut stored: HashMap<&str, HashSet<(&str, bool)>> = HashMap::new();
        for row in &self.addresses {
            let addresses = stored.entry(row.clerk_user_id.as_str()).or_default();
            addresses.insert((row.email_key.as_str(), row.verified));
        }
        for person in &model.people {
            let id = person.user.id.as_str();
            let Some(row) = self.people.get(id) else {
                journal.violation(format!("{id} is unknown"));
                continue;
            };
            if person.is_deleted {
                journal.insist(row.deleted_at.is_some(), || {
                    format!("{id} lives on after their deletion")
                });
                continue;
            }
            let newest = person.user.updated_at;
            journal.insist(row.deleted_at.is_none() && row.clerk_updated_at == Some(newest), || {
                format!("{id} is stored as of {:?} instead of {newest}", row.clerk_updated_at)
            });
            let expected: HashSet<(String, bool)> = person
                .user
                .emails
                .iter()
                .map(|(email, verified)| (key(email), *verified))
                .collect();
            let expected: HashSet<(&str, bool)> = expected
                .iter()
                .map(|(key, verified)| (key.as_str(), *verified))
                .collect();
            journal.insist(stored.get(id) == Some(&expected), || {
                format!("{id} is stored with other addresses")
            });
        }
    }

    fn sessions(&self, journal: &Journal, model: &Model) {
        for person in model.people.iter().filter(|person| !person.is_deleted) {
            for (id, has_ended) in &person.sessions {
                let expected = if *has_ended { "ended" } else { "active" };
                let stored = self.sessions.get(id).map(String::as_str);
                journal.insist(stored == Some(expected), || {
                    format!("{id} is {stored:?} instead of {expected}")
                });
            }
        }
    }

    /// Nobody is anywhere without an invite to a verified address of theirs, nobody twice, none of the deleted at all.
    fn memberships(&self, journal: &Journal, model: &Model) {
        let people: HashMap<&str, &Person> = model
            .people
            .iter()
            .map(|person| (person.user.id.as_str(), person))
            .collect();
        // Whoever is invited into a project comes into its organization.
        let mut ways_in: HashSet<(Uuid, &str)> = HashSet::new();
        let home: HashMap<Uuid, Uuid> = self
            .members
            .iter()
            .map(|row| (row.place_id, row.organization_id))
            .collect();
        for (target, key) in &model.sent_off {
            ways_in.insert((*target, key.as_str()));
            if let Some(&organization) = home.get(target) {
                ways_in.insert((organization, key.as_str()));
            }
        }
        let mut seen = HashSet::new();
        for row in &self.members {
            let (id, place) = (row.clerk_user_id.as_str(), row.place_id);
            journal.insist(seen.insert((id, place)), || format!("{id} is twice in {place}"));
            journal.insist(!row.is_of_the_deleted, || {
                format!("{id} is deleted and still in {place}")
            });
            let has_a_way = people.get(id).is_some_and(|person| {
                person
                    .ever_verified
                    .iter()
                    .any(|key| ways_in.contains(&(place, key.as_str())))
            });
            journal.insist(has_a_way, || format!("{id} is in {place} without an invite"));
        }
    }

    fn invites(&self, journal: &Journal, model: &Model) {
        let rows: HashMap<Uuid, &InviteRow> = self.invites.iter().map(|row| (row.id, row)).collect();
        for (id, asked) in &model.invites {
            let Some(row) = rows.get(id) else {
                journal.violation(format!("invite {id} was answered and is lost"));
                continue;
            };
            let is_same = row.email_key == asked.key && row.project_id.unwrap_or(row.organization_id) == asked.target;
            journal.insist(is_same, || format!("invite {id} is another's"));
            journal.insist(asked.is_final.is_none_or(|status| row.status == status), || {
                format!(
                    "invite {id} is {} after it was said to be {:?}",
                    row.status, asked.is_final
                )
            });
        }
        let live: HashMap<&str, &Person> = model
            .people
            .iter()
            .filter(|person| !person.is_deleted)
            .map(|person| (person.user.id.as_str(), person))
            .collect();
        let in_place: HashSet<(&str, Uuid)> = self
            .members
            .iter()
            .map(|row| (row.clerk_user_id.as_str(), row.place_id))
            .collect();
        let mut open = HashSet::new();
        for row in &self.invites {
            let target = row.project_id.unwrap_or(row.organization_id);
            if row.status == "pending" {
                let is_only = open.insert((target, row.email_key.as_str()));
                journal.insist(is_only, || format!("{target} has two open invites for one address"));
                self.is_rightly_open(journal, model, row);
            }
            // Accepted by somebody who lives: then they are in.
            if let Some(id) = row.accepted_by.as_deref().filter(|id| live.contains_key(id)) {
                journal.insist(in_place.contains(&(id, target)), || {
                    format!("{id} accepted {} and is not in", row.id)
                });
                journal.insist(in_place.contains(&(id, row.organization_id)), || {
                    format!("{id} accepted {} and is not in its organization", row.id)
                });
            }
        }
    }

    /// By now everybody was told of after the last invite was made: what lets somebody in has let them in.
    fn is_rightly_open(&self, journal: &Journal, model: &Model, row: &InviteRow) {
        let owner = model.owners.get(&row.email_key).map(|&number| &model.people[number]);
        let Some(owner) = owner.filter(|owner| !owner.is_deleted) else {
            return;
        };
        let is_verified = owner
            .user
            .emails
            .iter()
            .any(|(email, verified)| *verified && key(email) == row.email_key);
        let asked_at = row
            .invited_at
            .duration_trunc(TimeDelta::milliseconds(1))
            .unwrap_or(row.invited_at);
        let is_new_user = row.acceptance == "default" && owner.user.created_at >= asked_at;
        journal.insist(!(is_verified && (row.acceptance == "auto" || is_new_user)), || {
            format!(
                "{} still waits for {}, who should have been let in",
                row.id, owner.user.id
            )
        });
    }

    /// Every mail that was sent has arrived, none arrived that nobody sent, and what arrived twice is the same mail.
    fn deliveries(&self, journal: &Journal, world: &World) {
        let mut arrived: HashMap<String, Vec<String>> = HashMap::new();
        for mail in world.smtp.mails() {
            arrived.entry(mail.message_id()).or_default().extend(mail.to);
        }
        let mut notices: HashMap<Uuid, usize> = HashMap::new();
        let mut by_status: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &self.deliveries {
            *by_status.entry(row.status.as_str()).or_default() += 1;
            let id = row.message_id.trim_matches(['<', '>']);
            let copies = arrived.remove(id).unwrap_or_default();
            for _ in 1..copies.len() {
                journal.count("mails that arrived once more, with the same Message-ID");
            }
            journal.insist(copies.iter().all(|to| *to == row.to_email), || {
                format!("mail {id} went elsewhere")
            });
            match row.status.as_str() {
                "sent" => journal.insist(!copies.is_empty(), || {
                    format!("mail {id} is said to be sent, and never arrived")
                }),
                // It may have arrived, and its invite been answered before that was noted.
                "suppressed" => {}
                status => journal.violation(format!("mail {id} is {status}: {:?}", row.last_error)),
            }
            if row.kind == "accepted_notice" {
                *notices.entry(row.invite_id).or_default() += 1;
            }
        }
        for (status, count) in by_status {
            journal.size(&format!("deliveries {status}"), count as u64);
        }
        journal.insist(arrived.is_empty(), || {
            format!("{} mails arrived that nobody sent", arrived.len())
        });
        for row in &self.invites {
            let expected = usize::from(row.status == "accepted" && row.has_inviter);
            let found = notices.get(&row.id).copied().unwrap_or_default();
            journal.insist(found == expected, || {
                format!("of invite {} {found} notices tell, not {expected}", row.id)
            });
        }
    }

    fn jobs(&self, journal: &Journal) {
        for jobs in &self.jobs {
            journal.violation(format!(
                "{} jobs of {} are left {}",
                jobs.count, jobs.job_type, jobs.status
            ));
        }
    }
}
