//! Watching usher and repairing it: metrics, health, and the commands that work beside a running service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Method;
use serde_json::{Value, json};
use usher::clock::Clock;
use uuid::Uuid;

use crate::ops_files::rules_and_dashboard_fit;
use crate::support::app::API_KEY;
use crate::support::db::TestPool;
use crate::support::process::{UsherProcess, eventually, signed};
use crate::support::smtp::{Behaviour, Phase, SmtpServer};
use crate::support::{TestDatabase, on_both_databases, stories};

/// usher as a process, its mail server and its database.
struct Running {
    usher: UsherProcess,
    smtp: SmtpServer,
    database: TestDatabase,
}

impl Running {
    async fn start(database: TestDatabase) -> Self {
        let (usher, smtp) = UsherProcess::with_smtp(&database).await;
        Self { usher, smtp, database }
    }

    async fn organization(&self) -> Uuid {
        self.usher.organization("Acme").await
    }

    async fn invite(&self, organization: Uuid, email: &str) -> String {
        let invite = self.usher.invite(organization, email).await;
        invite["id"].as_str().unwrap().to_owned()
    }

    async fn metrics(&self) -> Metrics {
        let (status, page) = self.usher.ask("/metrics").await;
        assert_eq!(status, 200);
        Metrics::read(page)
    }

    /// The jobs that `usher jobs list` shows, as `queue state`.
    async fn jobs(&self) -> Vec<String> {
        let jobs = self.usher.json(&["jobs", "list", "--json"]).await;
        let word = |job: &Value, name: &str| job[name].as_str().unwrap().to_owned();
        let mut jobs: Vec<String> = jobs
            .as_array()
            .unwrap()
            .iter()
            .map(|job| format!("{} {}", word(job, "queue"), word(job, "state")))
            .filter(|job| !job.starts_with("periodic"))
            .collect();
        jobs.sort();
        jobs
    }

    /// A mail that nobody ever took: its last attempt is refused like those before.
    async fn dead_mail(&self, organization: Uuid, email: &str) -> String {
        self.smtp.at(Phase::Rcpt, GREYLISTED);
        let invite = self.invite(organization, email).await;
        eventually("it was refused for now", async || {
            self.jobs().await.contains(&"send-mail scheduled".to_owned())
        })
        .await;
        self.last_attempt_of(email).await;
        let retry = [
            "jobs",
            "retry",
            "--state",
            "scheduled",
            "--error",
            "come again",
            "--yes",
        ];
        self.usher.well(&retry).await;
        eventually("it is dead", async || {
            self.jobs().await.contains(&"send-mail dead".to_owned())
        })
        .await;
        self.smtp.at(Phase::Rcpt, Behaviour::Accept);
        invite
    }

    /// The next attempt at a mail is its last, and refused.
    async fn last_attempt_of(&self, email: &str) {
        let last = format!("update usher_deliveries set attempts = 59 where to_email = '{email}'");
        self.database.pool.execute(&last).await;
        self.smtp.at(Phase::Rcpt, NO_SUCH_USER);
    }

    async fn jobs_are(&self, expected: &[&str]) {
        eventually(&format!("jobs are {expected:?}"), async || {
            self.jobs().await == expected
        })
        .await;
    }
}

/// A page of `/metrics`.
struct Metrics {
    page: String,
    values: BTreeMap<(String, BTreeMap<String, String>), f64>,
}

impl Metrics {
    fn read(page: String) -> Self {
        let mut values = BTreeMap::new();
        for line in page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap_or((series, ""));
            let labels = labels
                .split(',')
                .filter_map(|label| label.split_once('='))
                .map(|(label, value)| (label.to_owned(), value.trim_matches('"').to_owned()))
                .collect();
            values.insert((name.to_owned(), labels), value.parse().unwrap());
        }
        Self { page, values }
    }

    /// The names of the labels of each of usher's metrics.
    fn labels(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut all = BTreeMap::<String, BTreeSet<String>>::new();
        for (name, labels) in self.values.keys().filter(|(name, _)| name.starts_with("usher_")) {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end));
            let labels = labels.keys().filter(|label| *label != "le").cloned();
            all.entry(family.unwrap_or(name).to_owned()).or_default().extend(labels);
        }
        all
    }

    #[track_caller]
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: BTreeMap<String, String> = labels
            .iter()
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect();
        match self.values.get(&(name.to_owned(), labels.clone())) {
            Some(value) => *value,
            None => panic!("no {name}{labels:?} in:\n{}", self.page),
        }
    }
}

/// The same, as the runbook's table of metrics has them.
fn labels_in(runbook: &str) -> BTreeMap<String, BTreeSet<String>> {
    let quoted = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let (_, table) = runbook.split_once("| metric | labels |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| `usher_"));
    let cells = rows.map(|row| row.split('|').collect::<Vec<_>>());
    cells
        .flat_map(|cells| {
            let labels: BTreeSet<String> = quoted(cells[2]).into_iter().collect();
            quoted(cells[1]).into_iter().map(move |name| (name, labels.clone()))
        })
        .collect()
}

/// For a job that is put straight into the queue: the table, an empty payload, and the time an hour ago.
fn raw_job(pool: &TestPool) -> (&'static str, &'static str, &'static str) {
    pool.pick(
        ("apalis.jobs", "convert_to('{}', 'UTF8')", "now() - interval '1 hour'"),
        ("Jobs", "cast('{}' as blob)", "unixepoch() - 3600"),
    )
}

const REJECTED: Behaviour = Behaviour::Reply("550 5.1.1 no such user <grace@example.com>");
/// What makes a mail dead at its last attempt.
const NO_SUCH_USER: Behaviour = Behaviour::Reply("450 4.1.1 no such user <grace@example.com>");
const GREYLISTED: Behaviour = Behaviour::Reply("451 4.7.1 come again");

stories! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)] Running, Running::start, async |_| ();

    async fn metrics_tell_what_happened_on_the_private_listener_only(running) {
        let organization = running.organization().await;
        running.invite(organization, "ada@example.com").await;
        running.smtp.wait_for_mails(1).await;
        running.usher.signed_up("msg_1", "ada@example.com").await;
        running.usher.signed_up("msg_1", "ada@example.com").await;
        let ignored = json!({ "type": "email.created", "data": {} });
        assert!(!running.usher.deliver("msg_2", &ignored).await, "200, not 202");
        let of_clerk = json!({ "type": "organizationMembership.created", "data": {} });
        assert!(!running.usher.deliver("msg_org", &of_clerk).await, "200, not 202");
        assert_eq!(running.usher.send_raw(&[], "{}".to_owned()).await, 401);
        assert_eq!(running.usher.send_raw(&signed("msg_raw", "{"), "{".to_owned()).await, 400);
        running.smtp.next(1, Phase::Rcpt, REJECTED);
        running.invite(organization, "grace@example.com").await;
        running.jobs_are(&[]).await;
        running.smtp.at(Phase::Rcpt, GREYLISTED);
        running.invite(organization, "alan@example.com").await;
        running.jobs_are(&["send-mail scheduled"]).await;
        let mut seen = running.metrics().await;
        eventually("the queue is measured again", async || {
            seen = running.metrics().await;
            seen.value("usher_queue_depth", &[("queue", "send-mail"), ("state", "scheduled")]) == 1.0
                && seen.value("usher_webhook_lag_seconds_count", &[]) == 1.0
        })
        .await;

        let is = |name: &str, labels: &[(&str, &str)], value: f64| assert_eq!(seen.value(name, labels), value, "{name}{labels:?}");
        let webhooks = |event_type, outcome, count| {
            is("usher_webhooks_total", &[("type", event_type), ("outcome", outcome)], count);
        };
        webhooks("user.created", "queued", 1.0);
        webhooks("user.created", "duplicate", 1.0);
        webhooks("other", "ignored", 1.0);
        webhooks("organizationMembership.created", "ignored", 1.0);
        webhooks("unknown", "bad_signature", 1.0);
        webhooks("unknown", "unreadable", 1.0);
        webhooks("unknown", "too_large", 0.0);
        webhooks("unknown", "store_away", 0.0);
        webhooks("session.created", "queued", 0.0);
        is("usher_webhook_duration_seconds_count", &[], 6.0);
        let mails = [("queue", "send-mail")];
        for (outcome, count) in [("done", 2.0), ("dead", 0.0), ("retried", 1.0)] {
            is("usher_jobs_total", &[mails[0], ("outcome", outcome)], count);
        }
        is("usher_job_duration_seconds_count", &mails, 3.0);
        is("usher_job_wait_seconds_count", &mails, 3.0);
        assert!(seen.value("usher_job_wait_seconds_sum", &mails) < 60.0, "since it was due");
        is("usher_dead_jobs", &mails, 0.0);
        is("usher_dead_jobs", &[("queue", "process-clerk-event")], 0.0);
        is("usher_queue_depth", &[mails[0], ("state", "waiting")], 0.0);
        is("usher_queue_oldest_job_age_seconds", &mails, 0.0);
        for (outcome, count) in [("sent", 1.0), ("rejected", 1.0), ("deferred", 1.0), ("account_refused", 0.0)] {
            is("usher_emails_total", &[("template", "organization_invite"), ("outcome", outcome)], count);
        }
        for (event, count) in [("created", 3.0), ("accepted", 1.0), ("declined", 0.0)] {
            is("usher_invites_total", &[("event", event)], count);
        }
        is("usher_workers_alive", &mails, 1.0);
        is("usher_database_up", &[], 1.0);
        is("usher_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        assert!(seen.page.contains("usher_database_connections{pool=\""));
        assert_eq!(seen.value("usher_mail_account_refused", &[]), 0.0);
        assert!(seen.value("process_resident_memory_bytes", &[]) > 0.0);
        for (name, _) in seen.values.keys() {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            let help = |name: &str| seen.page.contains(&format!("# HELP {name} "));
            assert!(help(name) || help(family), "{name} has no explanation");
        }
        for private in ["@", "example.com", "Acme", "msg_1", "user_msg", &organization.to_string()] {
            assert!(!seen.page.contains(private), "{private} in:\n{}", seen.page);
        }
        assert_eq!(seen.labels(), labels_in(&runbook()), "docs/operations.md says which labels there are");

        for path in ["/metrics", "/livez", "/readyz"] {
            let public = reqwest::get(format!("{}{path}", running.usher.address)).await.unwrap();
            assert_eq!(public.status(), 404, "{path}");
            assert!(!public.text().await.unwrap().contains("usher_"), "{path}");
        }
        assert_eq!(running.usher.ask("/v1/invites").await.0, 404, "nor the other way round");
    }

    async fn mails_that_wait_for_the_account_are_measured_by_number_and_age(running) {
        let organization = running.organization().await;
        running.smtp.at(Phase::MailFrom, Behaviour::Reply("550 5.7.1 sender not yours"));
        running.invite(organization, "ada@example.com").await;
        eventually("all mails wait", async || running.database.pool.count("usher_mail_circuit").await == 1).await;
        let (table, payload, hour_ago) = raw_job(&running.database.pool);
        running.database.pool.execute(&format!(
            "insert into {table} (id, job_type, job, max_attempts, run_at, priority, status, attempts)
             values ('01JDABCDEFGHJKMNPQRSTVWXY2', 'usher:send-mail', {payload}, 60, {hour_ago}, 0, 'Pending', 0)"
        )).await;
        let mails = ("queue", "send-mail");
        let mut seen = running.metrics().await;
        eventually("the queue is measured again", async || {
            seen = running.metrics().await;
            seen.value("usher_queue_depth", &[mails, ("state", "waiting")]) >= 1.0
        })
        .await;
        let age = seen.value("usher_queue_oldest_job_age_seconds", &[mails]);
        assert!((3600.0..3700.0).contains(&age), "{age}");
        let refused = [("template", "organization_invite"), ("outcome", "account_refused")];
        assert!(seen.value("usher_emails_total", &refused) >= 1.0, "{}", seen.page);
        assert_eq!(seen.value("usher_mail_account_refused", &[]), 1.0);
        assert_eq!(seen.value("usher_workers_alive", &[mails]), 1.0, "waiting is no failure");
    }

    async fn only_queues_that_the_code_knows_are_measured(running) {
        let (table, payload, hour_ago) = raw_job(&running.database.pool);
        // Held by nobody whom anybody hears of: it stays as it is.
        running.database.pool.execute(&format!(
            "insert into {table} (id, job_type, job, max_attempts, run_at, priority, status, attempts)
             values ('01JDABCDEFGHJKMNPQRSTVWXYZ', 'unknown-to-this-version', {payload}, 60, {hour_ago}, 0, 'Pending', 0),
                    ('01JDABCDEFGHJKMNPQRSTVWXY1', 'usher:send-mail', {payload}, 60, {hour_ago}, 0, 'Running', 0)"
        )).await;
        let running_jobs = [("queue", "send-mail"), ("state", "running")];
        eventually("the queue is measured again", async || {
            running.metrics().await.value("usher_queue_depth", &running_jobs) == 1.0
        })
        .await;
        let page = running.metrics().await.page;
        assert!(!page.contains("unknown-to-this-version"), "labels come from the code");
    }

    async fn health_names_each_check_and_what_is_wrong(running) {
        let (status, body) = running.usher.ask("/readyz").await;
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body, json!({ "status": "ok", "checks": { "database": "ok", "migrations": "ok", "workers": "ok" } }));
        running.database.pool.execute("delete from usher_migrations where version = 1").await;
        let (status, body) = running.usher.ask("/readyz").await;
        assert_eq!(status, 503);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["checks"], json!({ "database": "ok", "migrations": "failing", "workers": "ok" }));
        assert!(body["problems"][0].as_str().unwrap().ends_with("run: usher migrate"), "{body}");
        assert_eq!(running.usher.ask("/livez").await.0, 200);
        let nobody = ["invite", "ada@example.com", "--organization", &Uuid::nil().to_string(), "--role", "member"];
        let (well, said) = running.usher.usher(&nobody).await;
        assert!(!well && said.contains("run usher migrate"), "{said}");
    }

    async fn a_dead_mail_keeps_its_history_and_is_sent_after_a_retry(running) {
        let organization = running.organization().await;
        let invite = running.dead_mail(organization, "grace@example.com").await;

        let list = running.usher.json(&["jobs", "list", "--state", "dead", "--error", "NO SUCH user", "--json"]).await;
        let id = list[0]["id"].as_str().unwrap();
        let shown = running.usher.well(&["jobs", "show", id]).await;
        assert!(shown.contains("state       dead"), "{shown}");
        assert!(shown.contains("450 4.1.1 no such user"), "{shown}");
        assert!(!shown.contains("grace@example.com"), "addresses are masked: {shown}");
        let shown = running.usher.json(&["jobs", "show", id, "--json"]).await;
        assert_eq!(shown["failed_attempts"].as_array().unwrap().len(), 2, "{shown}");

        for wrong in [&["jobs", "retry"][..], &["jobs", "retry", "--queue", "nonsense"], &["jobs", "cancel", id], &["jobs", "show", "x"]] {
            assert!(!running.usher.usher(wrong).await.0, "{wrong:?}");
        }
        let (well, said) = running.usher.usher(&["jobs", "retry", "--queue", "send-mail"]).await;
        assert!(!well && said.contains("1 job: 1 send-mail") && said.contains("--yes"), "{said}");
        assert!(running.smtp.mails().is_empty(), "not before it is confirmed");
        let said = running.usher.well(&["jobs", "retry", "--queue", "send-mail", "--yes"]).await;
        assert!(said.contains("1 job queued again."), "{said}");
        running.smtp.wait_for_mails(1).await;
        running.jobs_are(&[]).await;

        let story = running.usher.well(&["invites", "show", &invite]).await;
        let facts = ["created", "mail 1 to grace@example.com: queued", "attempt 1 failed: not sent for now: ", "no attempts are left", "sent, Message-ID", ", answer 250 "];
        let mut rest = story.as_str();
        for fact in facts {
            let found = rest.find(fact).unwrap_or_else(|| panic!("no “{fact}” in its place:\n{story}"));
            rest = &rest[found..];
        }
    }

    async fn jobs_that_wait_are_cancelled_and_dead_ones_purged(running) {
        let organization = running.organization().await;
        running.smtp.at(Phase::Rcpt, GREYLISTED);
        running.invite(organization, "alan@example.com").await;
        running.jobs_are(&["send-mail scheduled"]).await;
        let said = running.usher.well(&["jobs", "cancel", "--state", "scheduled", "--yes"]).await;
        assert!(said.contains("1 job cancelled."), "{said}");
        running.jobs_are(&[]).await;
        let list = running.usher.json(&["invites", "list", "--email", "alan@example.com", "--json"]).await;
        assert_eq!(list[0]["mail"], "suppressed");

        running.smtp.at(Phase::Rcpt, Behaviour::Accept);
        running.dead_mail(organization, "grace@example.com").await;
        running.jobs_are(&["send-mail dead"]).await;
        let (well, _) = running.usher.usher(&["jobs", "purge", "--state", "waiting", "--yes"]).await;
        assert!(!well, "what is still to be done is not deleted");
        running.usher.well(&["jobs", "purge", "--state", "dead", "--yes"]).await;
        running.jobs_are(&[]).await;
        assert_eq!(running.database.pool.count("usher_job_failures").await, 1, "the cancelled one's");
    }

    async fn jobs_are_found_and_changed_by_id_queue_state_age_and_error(running) {
        let organization = running.organization().await;
        let broken = json!({ "type": "user.created", "data": { "id": "user_1" } });
        assert!(running.usher.deliver("msg_1", &broken).await);
        running.smtp.next(1, Phase::Rcpt, GREYLISTED);
        running.invite(organization, "grace@example.com").await;
        running.jobs_are(&["process-clerk-event dead", "send-mail scheduled"]).await;
        // Dead after two attempts with different words.
        running.last_attempt_of("grace@example.com").await;
        running.usher.well(&["jobs", "retry", "--error", "come AGAIN", "--yes"]).await;
        running.jobs_are(&["process-clerk-event dead", "send-mail dead"]).await;
        running.smtp.at(Phase::Rcpt, GREYLISTED);
        running.invite(organization, "alan@example.com").await;
        running.usher.signed_up("msg_2", "ada@example.com").await;
        let (table, payload, hour_ago) = raw_job(&running.database.pool);
        let old = "01JDABCDEFGHJKMNPQRSTVWXY3";
        running.database.pool.execute(&format!(
            "insert into {table} (id, job_type, job, max_attempts, run_at, priority, status, attempts)
             values ('{old}', 'usher:process-clerk-event', {payload}, 60, {hour_ago}, 0, 'Killed', 1)"
        )).await;
        running.jobs_are(&[
            "process-clerk-event dead", "process-clerk-event dead", "send-mail dead", "send-mail scheduled",
        ]).await;
        let list = async |arguments: &[&str]| -> Vec<String> {
            let jobs = running.usher.json(&[&["jobs", "list", "--json"], arguments].concat()).await;
            let id = |job: &Value| job["id"].as_str().unwrap().to_owned();
            let jobs = jobs.as_array().unwrap().iter();
            jobs.filter(|job| job["queue"] != "periodic").map(id).collect()
        };
        let one = async |arguments: &[&str]| -> String {
            let [id] = &list(arguments).await[..] else { panic!("not one of {arguments:?}") };
            id.clone()
        };
        let mail = one(&["--queue", "send-mail", "--state", "dead"]).await;
        let later = one(&["--state", "scheduled", "--queue", "send-mail"]).await;
        let events = list(&["--queue", "process-clerk-event"]).await;
        let event = events.into_iter().find(|id| id != old).expect("the one that failed");
        let done = one(&["--state", "done", "--queue", "process-clerk-event"]).await;
        for (arguments, expected) in [
            (&[mail.as_str(), &event][..], &[&mail, &event][..]),
            (&[&done], &[&done]),
            (&["--state", "waiting"], &[]),
            (&["--state", "running"], &[]),
            (&["--state", "dead"], &[&mail, &event, &old.to_owned()]),
            (&["--older-than", "1h"], &[&old.to_owned()]),
            (&["--older-than", "1h", "--queue", "send-mail"], &[]),
            (&["--error", "NO such user"], &[&mail]),
            (&["--error", "100%"], &[]),
            (&["--error", "come again"], &[&later]),
            (&["--limit", "1", "--queue", "send-mail"], &[&later]),
        ] {
            let found: BTreeSet<String> = list(arguments).await.into_iter().collect();
            assert_eq!(found, expected.iter().map(|id| (*id).clone()).collect(), "{arguments:?}");
        }
        let table = running.usher.well(&["jobs", "list", "--state", "dead"]).await;
        assert!(table.contains(&mail) && table.contains("450 4.1.1 no such user"), "{table}");

        // A dead job keeps its error and its history.
        let shown = running.usher.json(&["jobs", "show", &mail, "--json"]).await;
        assert!(shown["job"]["error"].as_str().unwrap().contains("no such user"), "{shown}");
        let history = shown["failed_attempts"].as_array().unwrap();
        let errors: Vec<&str> = history.iter().map(|failure| failure["error"].as_str().unwrap()).collect();
        assert!(matches!(errors[..], [first, last] if first.contains("451") && last.contains("450")), "{errors:?}");

        // Many at once: first how many, and nothing before it is confirmed.
        for (arguments, count) in [
            (&["retry", "--state", "dead"][..], "3 jobs: 2 process-clerk-event, 1 send-mail"),
            (&["cancel", "--queue", "send-mail"], "1 job: 1 send-mail"),
            (&["purge", "--error", "no such user"], "1 job: 1 send-mail"),
            (&["purge", "--older-than", "1h"], "1 job: 1 process-clerk-event"),
        ] {
            let (well, said) = running.usher.usher(&[&["jobs"], arguments].concat()).await;
            assert!(!well && said.contains(count) && said.contains("--yes"), "{arguments:?}: {said}");
        }
        assert_eq!(list(&[]).await.len(), 4, "nothing was changed");
        let said = running.usher.well(&["jobs", "purge", "--older-than", "1h", "--yes"]).await;
        assert!(said.contains("1 job deleted."), "{said}");
        let said = running.usher.well(&["jobs", "purge", &mail, &event]).await;
        assert!(said.contains("2 jobs deleted."), "whoever names them means them: {said}");
        let said = running.usher.well(&["jobs", "cancel", &later]).await;
        assert!(said.contains("1 job cancelled."), "{said}");
        assert_eq!(list(&[]).await, [""; 0]);
    }

    async fn invites_and_events_are_found_by_each_of_their_filters(running) {
        let (acme, zeta) = (running.organization().await, running.organization().await);
        let project = Clock::System.new_id();
        let body = json!({ "name": "Apollo", "organization_id": acme });
        running.usher.call(Method::PUT, &format!("/v1/projects/{project}"), body).await;
        let ada = running.invite(acme, "ada@example.com").await;
        let grace = running.invite(zeta, "grace@example.com").await;
        let body = json!({ "project_id": project, "email": "ada@example.com", "role": "editor" });
        let apollo = running.usher.call(Method::POST, "/v1/invites", body).await["id"].as_str().unwrap().to_owned();
        running.usher.call(Method::POST, &format!("/v1/invites/{grace}/revoke"), json!({})).await;
        let (acme, zeta, project) = (acme.to_string(), zeta.to_string(), project.to_string());
        for (arguments, expected) in [
            (&[][..], &[&apollo, &grace, &ada][..]),
            (&["--email", "ADA@example.com"], &[&apollo, &ada]),
            (&["--status", "revoked"], &[&grace]),
            (&["--organization", &acme], &[&apollo, &ada]),
            (&["--organization", &zeta], &[&grace]),
            (&["--project", &project], &[&apollo]),
            (&["--project", &project, "--status", "revoked"], &[]),
            (&["--limit", "1"], &[&apollo]),
        ] {
            let list = running.usher.json(&[&["invites", "list", "--json"], arguments].concat()).await;
            let found: Vec<&str> = list.as_array().unwrap().iter().map(|line| line["id"].as_str().unwrap()).collect();
            assert_eq!(found, expected, "{arguments:?}");
        }
        let unknown = Uuid::nil().to_string();
        assert!(!running.usher.usher(&["invites", "show", &unknown]).await.0);

        running.usher.signed_up("msg_1", "ada@example.com").await;
        let broken = json!({ "type": "user.updated", "data": { "id": "user_1" } });
        assert!(running.usher.deliver("msg_2", &broken).await);
        let events = async |arguments: &[&str]| -> Vec<String> {
            let list = running.usher.json(&[&["webhooks", "list", "--json"], arguments].concat()).await;
            let mut ids: Vec<String> =
                list.as_array().unwrap().iter().map(|event| event["svix_id"].as_str().unwrap().to_owned()).collect();
            ids.sort();
            ids
        };
        eventually("one is processed and one has failed", async || {
            events(&["--state", "processed"]).await == ["msg_1"] && events(&["--state", "failed"]).await == ["msg_2"]
        })
        .await;
        for (arguments, expected) in [
            (&[][..], &["msg_1", "msg_2"][..]),
            (&["--state", "waiting"], &[]),
            (&["--type", "user.updated"], &["msg_2"]),
            (&["--type", "user.updated", "--state", "processed"], &[]),
            (&["--older-than", "1h"], &[]),
        ] {
            assert_eq!(events(arguments).await, expected, "{arguments:?}");
        }
        let (well, said) = running.usher.usher(&["webhooks", "replay", "--failed"]).await;
        assert!(!well && said.contains("1 failed") && said.contains("--yes"), "{said}");
    }

    async fn processed_events_of_a_time_range_are_replayed(running) {
        for name in ["ada", "bob"] {
            running.usher.signed_up(&format!("msg_{name}"), &format!("{name}@example.com")).await;
        }
        let processed = async || {
            let listed = running.usher.json(&["webhooks", "list", "--state", "processed", "--json"]).await;
            listed.as_array().unwrap().len()
        };
        eventually("both are processed", async || processed().await == 2).await;
        running.database.pool.execute("update usher_events set payload = null where svix_id = 'msg_bob'").await;
        let (well, said) = running.usher.usher(&["webhooks", "replay"]).await;
        assert!(!well && said.contains("which events?"), "{said}");
        let said = running.usher.well(&["webhooks", "replay", "--older-than", "1h", "--yes"]).await;
        assert!(said.contains("0 events are queued again"), "{said}");
        let (well, said) = running.usher.usher(&["webhooks", "replay", "--state", "waiting", "--yes"]).await;
        assert!(!well && said.contains("replay is for events that are failed or processed"), "{said}");
        let said = running.usher.well(&["webhooks", "replay", "--newer-than", "1h", "--yes"]).await;
        assert!(said.contains("1 processed") && said.contains("1 events are queued again"), "{said}");
        eventually("it is processed again", async || processed().await == 2).await;
        running.jobs_are(&[]).await;
        let audit = running.usher.json(&["audit", "--json"]).await;
        assert_eq!((&audit[0]["action"], &audit[0]["changed"]), (&json!("replay events"), &json!(1)));
    }

    async fn an_invite_tells_its_whole_story_with_what_caused_it(running) {
        let organization = running.organization().await.to_string();
        let said = running.usher.well(&["invite", "ada@example.com", "--organization", &organization, "--role", "member"]).await;
        let invite = said.split_whitespace().last().unwrap();
        running.smtp.wait_for_mails(1).await;
        running.usher.signed_up("msg_7", "ada@example.com").await;
        eventually("she is in", async || {
            running.usher.json(&["invites", "show", invite, "--json"]).await["invite"]["status"] == "accepted"
        })
        .await;
        let told = running.usher.json(&["invites", "show", invite, "--json"]).await;
        let story = told["story"].as_array().unwrap();
        let accepted = story.iter().find(|fact| fact["what"] == "accepted").unwrap();
        assert_eq!(accepted["cause"], "msg_7");
        let list = running.usher.well(&["invites", "list", "--organization", &organization, "--status", "accepted"]).await;
        assert!(list.contains("ada@example.com") && list.contains("Acme"), "{list}");
        let (well, said) = running.usher.usher(&["invite", "ada@example.com", "--organization", &organization, "--role", "member"]).await;
        assert!(!well && said.contains("already_member"), "{said}");
    }

    async fn the_inbox_is_looked_at_and_failed_events_are_replayed(running) {
        running.usher.signed_up("msg_1", "ada@example.com").await;
        let broken = json!({ "type": "user.created", "data": { "id": "user_1" } });
        assert!(running.usher.deliver("msg_2", &broken).await);
        let failed = async || running.usher.json(&["webhooks", "list", "--state", "failed", "--json"]).await;
        eventually("it has failed", async || failed().await[0]["svix_id"] == "msg_2").await;
        // An event has failed before its job is dead, and a replay meanwhile would be a second job.
        running.jobs_are(&["process-clerk-event dead"]).await;
        let list = running.usher.well(&["webhooks", "list", "--type", "user.created"]).await;
        assert!(list.contains("msg_1") && list.contains("msg_2") && list.contains("failed"), "{list}");
        let shown = running.usher.well(&["webhooks", "show", "msg_1"]).await;
        assert!(!shown.contains("ada@example.com"), "only when asked for: {shown}");
        let shown = running.usher.well(&["webhooks", "show", "msg_1", "--payload"]).await;
        assert!(shown.contains("ada@example.com"), "{shown}");
        running.usher.well(&["webhooks", "replay", "msg_2"]).await;
        eventually("it has failed again", async || {
            let shown = running.usher.json(&["webhooks", "show", "msg_2", "--json"]).await;
            shown["failed_attempts"].as_array().unwrap().len() == 2
        })
        .await;
        running.jobs_are(&["process-clerk-event dead"]).await;
        running.usher.well(&["webhooks", "replay", "--failed", "--yes"]).await;
        eventually("it has failed once more", async || failed().await[0]["svix_id"] == "msg_2").await;
        running.jobs_are(&["process-clerk-event dead"]).await;
        let failed_events = async || running.metrics().await.value("usher_failed_events", &[]);
        eventually("the failed event is told of", async || failed_events().await == 1.0).await;
        let said = running.usher.well(&["jobs", "purge", "--state", "dead", "--yes"]).await;
        assert!(said.contains("Events that failed stay in the inbox, 1 now"), "{said}");
        running.jobs_are(&[]).await;
        let (well, said) = running.usher.usher(&["webhooks", "discard", "msg_1"]).await;
        assert!(!well && said.contains("event msg_1 is not there, or has not failed"), "{said}");
        assert_eq!(failed().await[0]["svix_id"], "msg_2", "its job is gone, not the event");
        running.usher.well(&["webhooks", "discard", "--failed", "--yes"]).await;
        assert_eq!(failed().await, json!([]));
        let (well, said) = running.usher.usher(&["webhooks", "replay", "msg_2x"]).await;
        assert!(!well && said.contains("event msg_2x is not there, was discarded, or its payload is no longer kept"), "{said}");
        assert!(!running.usher.usher(&["webhooks", "show", "msg_9"]).await.0);
    }
}

stories! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)] Running, Running::start, async |_| ();

    async fn everything_is_checked_before_a_start_and_a_failure_ends_with_1(running) {
        let said = running.usher.well(&["check"]).await;
        for line in [
            "ok    configuration  production",
            "ok    templates ",
            "ok    database ",
            "ok    schema         up to date",
            "ok    mail server    connected and logged in",
            "ok    sender         Acme <no-reply@acme.example>",
            "ok    session keys   CLERK_JWT_KEY is a key",
            "warn  Clerk's API ",
        ] {
            assert!(said.contains(line), "no “{line}” in:\n{said}");
        }
        running.smtp.at(Phase::MailFrom, Behaviour::Reply("550 5.7.1 sender not yours"));
        let (well, said) = running.usher.usher(&["check"]).await;
        assert!(!well && said.contains("one check failed"), "{said}");
        assert!(said.contains("FAIL  sender         MAIL_FROM: ") && said.contains("sender not yours"), "{said}");
        running.smtp.at(Phase::Greeting, Behaviour::Drop);
        let (_, said) = running.usher.usher(&["check", "--app-name", "x", "--mail-from", "nobody"]).await;
        assert!(said.contains("FAIL  configuration  MAIL_FROM"), "{said}");
        let (_, said) = running.usher.usher(&["check"]).await;
        assert!(said.contains("FAIL  mail server    SMTP_URL: "), "{said}");
    }

    async fn the_runbook_s_commands_run_as_written(running) {
        let organization = running.organization().await;
        let invite = running.dead_mail(organization, "grace@example.com").await;
        let broken = json!({ "type": "user.created", "data": { "id": "user_1" } });
        assert!(running.usher.deliver("msg_1", &broken).await);
        let job = running.usher.json(&["jobs", "list", "--json"]).await[0]["id"].as_str().unwrap().to_owned();
        let mut commands = 0;
        for line in runbook().lines().filter(|line| line.starts_with("usher ")) {
            let line = line
                .replace("$JOB", &job)
                .replace("$EVENT", "msg_1")
                .replace("$INVITE", &invite)
                .replace("$ADDRESS", "grace@example.com");
            let words: Vec<String> = line.split(' ').skip(1).map(|word| word.trim_matches('"').to_owned()).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let (well, said) = running.usher.usher(&words).await;
            assert!(well || said.contains("no job that can be"), "{line}: {said}");
            commands += 1;
        }
        assert!(commands > 20, "{commands}");
    }

    async fn rules_and_dashboard_ask_for_what_there_is_and_for_all_of_it(running) {
        running.usher.signed_up("msg_1", "ada@example.com").await;
        let organization = running.organization().await;
        running.invite(organization, "grace@example.com").await;
        running.smtp.wait_for_mails(1).await;
        running.jobs_are(&[]).await;
        let Metrics { page, values } = running.metrics().await;
        let series: Vec<_> = values.keys().map(|(name, labels)| (name.as_str(), labels)).collect();
        rules_and_dashboard_fit(&series);
        for name in page.lines().filter_map(|line| line.strip_prefix("# TYPE usher_")) {
            let name = format!("`usher_{}`", name.split(' ').next().unwrap());
            assert!(runbook().contains(&name), "docs/operations.md says nothing of {name}");
        }
    }
}

#[test]
fn every_alert_has_its_page_in_the_runbook() {
    let rules = read("ops/prometheus/alerts.yml");
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let runbook = runbook();
    let alerts_part = runbook.split_once("## Alerts").unwrap().1;
    let pages: Vec<&str> = alerts_part
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    assert_eq!(alerts, pages);
    for alert in alerts {
        let link = format!("runbook: docs/operations.md#{}", alert.to_lowercase());
        assert!(rules.contains(&link), "{link}");
    }
}

/// One process takes, another works: each is ready for its part, and says what it can know.
async fn an_api_and_a_worker_are_each_ready_for_their_part(database: TestDatabase) {
    let smtp = SmtpServer::start().await;
    let checks = async |usher: &UsherProcess| -> Value {
        let (status, body) = usher.ask("/readyz").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["checks"].clone()
    };
    let usher = UsherProcess::start_role("api", &database, &smtp.url(), &[]).await;
    let api = Running { usher, smtp, database };
    let expected = json!({ "database": "ok", "migrations": "ok" });
    assert_eq!(checks(&api.usher).await, expected, "workers are others' business");
    let organization = api.organization().await;
    api.invite(organization, "ada@example.com").await;
    let waiting = [("queue", "send-mail"), ("state", "waiting")];
    let mut seen = api.metrics().await;
    eventually("the queue is measured again", async || {
        seen = api.metrics().await;
        seen.value("usher_queue_depth", &waiting) == 1.0
    })
    .await;
    assert!(!seen.page.contains("usher_workers_alive{"), "{}", seen.page);
    assert!(api.smtp.mails().is_empty());

    let worker = UsherProcess::start_role("worker", &api.database, &api.smtp.url(), &[]).await;
    api.smtp.wait_for_mails(1).await;
    let expected = json!({ "database": "ok", "migrations": "ok", "workers": "ok" });
    assert_eq!(checks(&worker).await, expected);
    let alive = Metrics::read(worker.ask("/metrics").await.1);
    let is_fixed = |queue: &&usher::store::Queue| !usher::store::Queue::DELIVERIES.contains(queue);
    for queue in usher::store::Queue::ALL.iter().filter(is_fixed) {
        assert_eq!(alive.value("usher_workers_alive", &[("queue", queue.as_str())]), 1.0);
    }
    assert!(worker.address.is_empty(), "it says of no other");
    assert_eq!(worker.ask("/v1/invites").await.0, 404);
    assert!(worker.terminate().await);
    assert!(api.usher.terminate().await);
}

on_both_databases!(multi_thread an_api_and_a_worker_are_each_ready_for_their_part);

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn runbook() -> String {
    read("docs/operations.md")
}

/// A collector of traces: takes OTLP over HTTP, and remembers every span.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    async fn start() -> Self {
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let kept = Arc::clone(&spans);
        let take = async move |body: axum::body::Bytes| {
            let request = ExportTraceServiceRequest::decode(body).expect("OTLP");
            let resources = request.resource_spans.into_iter();
            let new = resources
                .flat_map(|resource| resource.scope_spans)
                .flat_map(|scope| scope.spans);
            kept.lock().unwrap().extend(new);
        };
        let router = axum::Router::new().route("/v1/traces", axum::routing::post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, spans }
    }

    /// The names of the spans whose attribute `name` is `value`, with their traces.
    fn traces_with(&self, name: &str, value: &str) -> BTreeMap<String, Vec<u8>> {
        let spans = self.spans.lock().unwrap();
        spans
            .iter()
            .filter(|span| has_attribute(span, name, value))
            .map(|span| (span.name.clone(), span.trace_id.clone()))
            .collect()
    }

    fn has_in_trace(&self, trace: &[u8], name: &str, value: &str) -> bool {
        let spans = self.spans.lock().unwrap();
        spans
            .iter()
            .any(|span| span.trace_id == trace && has_attribute(span, name, value))
    }
}

fn has_attribute(span: &Span, name: &str, value: &str) -> bool {
    span.attributes
        .iter()
        .any(|attribute| attribute.key == name && format!("{:?}", attribute.value).contains(value))
}

on_both_databases!(multi_thread one_cause_joins_a_webhook_its_jobs_and_its_mails_in_log_and_traces);

async fn one_cause_joins_a_webhook_its_jobs_and_its_mails_in_log_and_traces(database: TestDatabase) {
    let (collector, smtp) = (Collector::start().await, SmtpServer::start().await);
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
    ];
    let usher = UsherProcess::start_with(&database, &smtp.url(), &settings).await;
    let running = Running { usher, smtp, database };
    let organization = running.organization().await;
    let body = json!({ "organization_id": organization, "email": "ada@example.com", "role": "owner" });
    running.usher.call(Method::POST, "/v1/invites", body).await;
    running.usher.signed_up("msg_ada", "ada@example.com").await;
    running.jobs_are(&[]).await;
    let body = json!({
        "organization_id": organization, "email": "grace@example.com", "role": "member", "invited_by": "user_msg_ada",
    });
    let asked = reqwest::Client::new()
        .post(format!("{}/v1/invites", running.usher.address))
        .bearer_auth(API_KEY)
        .header("x-request-id", "checkout-7")
        .json(&body);
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["x-request-id"], "checkout-7");
    eventually("the invite is mailed", async || {
        running.smtp.mails().iter().any(|mail| mail.to == ["grace@example.com"])
    })
    .await;
    running.usher.signed_up("msg_grace", "grace@example.com").await;
    eventually("the inviter is told", async || {
        let mails = running.smtp.mails();
        mails
            .iter()
            .any(|mail| mail.to == ["ada@example.com"] && mail.text().contains("grace@example.com"))
    })
    .await;

    eventually("the spans have arrived", async || {
        collector.traces_with("cause", "msg_grace").contains_key("job")
            && collector
                .traces_with("svix.id", "msg_grace")
                .get("webhook")
                .is_some_and(|webhook| collector.has_in_trace(webhook, "job.queue", "send-mail"))
    })
    .await;
    let webhook = collector.traces_with("svix.id", "msg_grace")["webhook"].clone();
    assert_eq!(collector.traces_with("cause", "msg_grace")["job"], webhook);
    assert_ne!(collector.traces_with("svix.id", "msg_ada")["webhook"], webhook);

    let log = running.usher.log().join("\n");
    for (cause, mail) in [("msg_grace", "the notice"), ("checkout-7", "the invite")] {
        let sent = log
            .lines()
            .filter(|line| line.contains("mail sent") && line.contains(cause));
        assert_eq!(sent.count(), 1, "{mail}, by {cause}, and no other:\n{log}");
    }
    for private in ["ada@example.com", "grace@example.com", API_KEY] {
        assert!(!log.contains(private), "{private} in:\n{log}");
    }
}
