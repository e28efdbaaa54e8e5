//! How fast queued invites become mails, and how soon what a killed process held is done by another.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::ensure;
use chrono::TimeDelta;
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use usher::clock::Clock;
use usher::flows::{self, InviteRules, ReadRequest};
use usher::invites::limits::MailCaps;
use usher::invites::roles::Roles;
use usher::invites::{InviteRequest, RedirectOrigins};
use usher::store::Store;
use usher_testkit::smtp::{Behaviour, Phase};

use crate::Bench;
use crate::database::{Database, Kind};
use crate::drain::{TIMEOUT, wait_for_none};
use crate::load::Latencies;
use crate::service::{POLL_INTERVAL, Service};
use crate::webhooks;

const NO_CAPS: MailCaps = MailCaps {
    inviter: None,
    organization: None,
    address: None,
};

/// A backlog of invites, each mailed by one worker.
#[derive(Serialize)]
pub struct Mails {
    pub database: Kind,
    pub mails: usize,
    /// From the worker's readiness to the last mail.
    pub seconds: f64,
    pub per_second: f64,
    pub worker_cpu_us: f64,
    pub memory_mb: f64,
}

/// Invites everybody with no worker about, then starts one, and checks that everybody got one mail.
pub async fn measure(bench: &Bench, kind: Kind, mails: usize) -> anyhow::Result<Mails> {
    let database = Database::create(kind, &bench.home).await?;
    invite(&database, mails).await?;
    bench.smtp.take_mails();
    let worker = Service::start(bench, "worker", &database).await?;
    let (ready, cpu) = (Instant::now(), worker.cpu()?);
    while bench.smtp.mail_count() < mails {
        ensure!(ready.elapsed() < TIMEOUT, "only {} mails came", bench.smtp.mail_count());
        sleep(Duration::from_millis(10)).await;
    }
    let connection = database.connect().await?;
    let open_jobs = format!("{} where status <> 'Done'", connection.jobs());
    wait_for_none(&connection, &open_jobs).await?;
    let worker_cpu_us = (worker.cpu()? - cpu).as_secs_f64() * 1e6 / mails as f64;
    let memory_mb = worker.memory()?;
    worker.stop().await?;

    let taken = bench.smtp.take_mails();
    let recipients: HashSet<_> = taken.iter().map(|mail| &mail.to).collect();
    ensure!(
        taken.len() == mails && recipients.len() == mails,
        "some got no mail, or two"
    );
    ensure!(connection.count("usher_deliveries where status = 'sent'").await? == mails);
    let last = taken.iter().map(|mail| mail.at).max().unwrap_or(ready);
    drop(connection);
    database.remove().await?;
    let seconds = (last - ready).as_secs_f64();
    Ok(Mails {
        database: kind,
        mails,
        seconds,
        per_second: mails as f64 / seconds,
        worker_cpu_us,
        memory_mb,
    })
}

/// How long after the end of a process that was killed over a mail another one has sent it.
pub async fn after_a_kill(bench: &Bench, kind: Kind) -> anyhow::Result<Duration> {
    let database = Database::create(kind, &bench.home).await?;
    invite(&database, 1).await?;
    bench.smtp.take_mails();
    let stalls = bench.smtp.stalls();
    bench.smtp.at(Phase::EndOfData, Behaviour::Stall);
    let killed = Service::start(bench, "worker", &database).await?;
    let started = Instant::now();
    while bench.smtp.stalls() == stalls {
        ensure!(started.elapsed() < TIMEOUT, "no mail came");
        sleep(POLL_INTERVAL).await;
    }
    bench.smtp.at(Phase::EndOfData, Behaviour::Accept);
    let other = Service::start(bench, "worker", &database).await?;
    killed.kill().await;
    let killed_at = Instant::now();
    while bench.smtp.mail_count() == 0 {
        ensure!(killed_at.elapsed() < TIMEOUT, "no other process sent it");
        sleep(POLL_INTERVAL).await;
    }
    let time = killed_at.elapsed();
    bench.smtp.take_mails();
    other.stop().await?;
    database.remove().await?;
    Ok(time)
}

/// The mail server alone: the same conversation over as many connections as usher keeps, without anything behind it.
pub async fn server_alone(bench: &Bench, mails: usize) -> anyhow::Result<Latencies> {
    const CONNECTIONS: usize = 4;
    let content = format!("{}\r\n.\r\n", "A line of a mail as long as most.\r\n".repeat(200));
    let mut histogram = hdrhistogram::Histogram::new(3)?;
    let start = Instant::now();
    let senders = (0..CONNECTIONS).map(async |_| {
        let mut stream = TcpStream::connect(bench.smtp.address()).await?;
        stream.set_nodelay(true)?;
        let mut answer = vec![0; 4096];
        ensure!(stream.read(&mut answer).await? > 0);
        let mut times = Vec::with_capacity(mails / CONNECTIONS);
        for _ in 0..mails / CONNECTIONS {
            let begin = Instant::now();
            for said in [
                "MAIL FROM:<a@example.com>\r\n",
                "RCPT TO:<b@example.com>\r\n",
                "DATA\r\n",
                &content,
            ] {
                stream.write_all(said.as_bytes()).await?;
                ensure!(stream.read(&mut answer).await? > 0);
            }
            times.push(begin.elapsed());
        }
        anyhow::Ok(times)
    });
    for times in futures::future::try_join_all(senders).await? {
        for time in times {
            histogram.record(u64::try_from(time.as_micros())?)?;
        }
    }
    let time = start.elapsed();
    bench.smtp.take_mails();
    Ok(Latencies::of(&histogram, time))
}

/// Invites everybody into one organization, each with a mail to be sent.
async fn invite(database: &Database, count: usize) -> anyhow::Result<()> {
    let store = Store::open(&database.url, Clock::System).await?;
    let mut tx = store.begin().await?;
    let organization = tx.new_id();
    tx.put_organization(&organization.into(), "Bench").await?;
    let roles = Roles::default();
    let rules = InviteRules {
        roles: &roles,
        caps: NO_CAPS,
        ttl: TimeDelta::days(7),
    };
    let requests: Vec<ReadRequest> = (0..count)
        .map(|number| {
            let body = json!({ "organization_id": organization, "email": webhooks::email(number), "role": "member" });
            InviteRequest::parse(body, &roles, &RedirectOrigins::default())
        })
        .collect();
    for some in requests.chunks(500) {
        let answers = flows::invite(&mut tx, some, &rules, None).await?;
        ensure!(answers.iter().all(Result::is_ok), "an invite was refused");
    }
    tx.commit().await?;
    store.close().await;
    Ok(())
}
