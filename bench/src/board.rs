//! The pages of the board beside a million jobs and a million events: every list, with every filter.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use ulid::Ulid;
use usher::clock::Clock;

use crate::Bench;
use crate::database::{Connection as Sql, Database, Kind};
use crate::load::{Connection, Latencies};
use crate::service::Service;
use crate::{drain, intake};

/// What a page may take.
const OVERVIEW_MS: f64 = 20.0;
const LIST_MS: f64 = 50.0;
/// Longer than the overview's figures are kept.
const FRESH: Duration = Duration::from_millis(5_100);
/// Looks at each page.
const LOOKS: usize = 40;

/// How long each page took, and how long it is.
#[derive(Serialize)]
pub struct Board {
    pub database: Kind,
    pub rows: u32,
    pub pages: Vec<Page>,
}

#[derive(Serialize)]
pub struct Page {
    pub path: String,
    pub bytes: usize,
    pub limit_ms: f64,
    #[serde(flatten)]
    pub latencies: Latencies,
}

impl Page {
    /// Half of the looks took longer than a page may.
    pub fn is_slow(&self) -> bool {
        self.latencies.p50_ms > self.limit_ms
    }
}

pub async fn measure(bench: &Bench, kind: Kind, rows: u32, quick: bool) -> anyhow::Result<Board> {
    let database = Database::create(kind, &bench.home).await?;
    let sql = database.connect().await?;
    for text in past(&sql, rows) {
        sql.execute(&text).await?;
    }
    // Without workers: what waits shall go on waiting.
    let service = Service::start(bench, "api", &database).await?;
    let mut http = Connection::open(service.private).await?;
    let looks = if quick { 1 } else { LOOKS };
    let mut pages = Vec::new();
    pages.push(look(&mut http, "/board", OVERVIEW_MS, looks.min(6), FRESH).await?);
    for path in paths(rows) {
        pages.push(look(&mut http, &path, LIST_MS, looks, Duration::ZERO).await?);
    }
    service.stop().await?;
    drop(sql);
    database.remove().await?;
    Ok(Board {
        database: kind,
        rows,
        pages,
    })
}

/// Intake and drain with boards open and without, in turns: single runs differ by more than the boards cost.
#[derive(Serialize)]
pub struct Watched {
    pub database: Kind,
    pub boards: usize,
    pub intake: f64,
    pub intake_watched: f64,
    pub drain: f64,
    pub drain_watched: f64,
}

/// Open boards.
const BOARDS: usize = 10;
/// How often the page refreshes itself.
const REFRESH: Duration = Duration::from_secs(2);

pub async fn watched(
    bench: &Bench,
    kind: Kind,
    connections: usize,
    events: usize,
    rounds: usize,
) -> anyhow::Result<Watched> {
    let mut all = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        for (column, boards) in [0, BOARDS].into_iter().enumerate() {
            let intake = intake::measure(bench, kind, "api", connections, None, boards).await?;
            all[column].push(intake.latencies.per_second);
            let drain = drain::measure(bench, kind, events, None, boards).await?;
            all[2 + column].push(drain.per_second);
        }
    }
    let [intake, intake_watched, drain, drain_watched] = all.map(median);
    Ok(Watched {
        database: kind,
        boards: BOARDS,
        intake,
        intake_watched,
        drain,
        drain_watched,
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Boards that refresh themselves until this is dropped.
pub fn onlookers(bench: &Bench, address: SocketAddr, count: usize) -> JoinSet<()> {
    let mut boards = JoinSet::new();
    for _ in 0..count {
        let board = async move {
            let Ok(mut http) = Connection::open(address).await else {
                return;
            };
            while http
                .call(b"GET /board HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await
                .is_ok()
            {
                sleep(REFRESH).await;
            }
        };
        boards.spawn_on(board, &bench.servers);
    }
    boards
}

fn paths(rows: u32) -> Vec<String> {
    let about = format!("msg_{}", rows / 2);
    let middle = format!("{}{:06}{:016}", prefix(), rows / 20, rows / 2);
    let jobs = [
        "",
        "?state=waiting",
        "?state=scheduled",
        "?state=running",
        "?state=dead",
        "?state=done",
        "?queue=process-clerk-event",
        "?queue=send-mail",
        "?queue=periodic",
        "?queue=deliver-event-8",
        "?queue=send-mail&state=waiting",
        "?queue=process-clerk-event&state=dead",
        "?queue=process-clerk-event&state=done",
        "?queue=periodic&state=done",
        "?queue=deliver-event-8&state=done",
        "?state=dead&error=unreadable",
        "?state=dead&error=no+such+words",
        "?error=refused",
        "?error=no+such+words",
        "?older=1h",
        "?state=done&older=1h",
        "?state=dead&older=1h",
    ];
    let inbox = [
        "",
        "?state=waiting",
        "?state=failed",
        "?state=processed",
        "?type=session.created",
        "?type=user.created",
        "?type=user.deleted",
        "?type=session.revoked",
        "?state=failed&type=user.created",
        "?state=failed&type=user.deleted",
        "?state=processed&type=user.deleted",
        "?since=1h",
        "?before=1h",
        "?type=user.deleted&since=36h",
    ];
    let mut paths: Vec<String> = jobs.iter().map(|query| format!("/board/jobs{query}")).collect();
    paths.push(format!("/board/jobs?about={about}"));
    paths.push(format!("/board/jobs?about=msg_{}", rows / 2 + 1));
    paths.push("/board/jobs?about=msg_unknown".to_owned());
    paths.push(format!("/board/jobs?state=dead&about={about}"));
    paths.push(format!("/board/jobs?state=done&below={middle}"));
    paths.push(format!("/board/jobs/{middle}"));
    paths.extend(inbox.iter().map(|query| format!("/board/inbox{query}")));
    paths.push(format!("/board/inbox/{about}"));
    paths.extend(["queues", "schedules", "audit"].map(|page| format!("/board/{page}")));
    paths
}

async fn look(http: &mut Connection, path: &str, limit_ms: f64, looks: usize, pause: Duration) -> anyhow::Result<Page> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut histogram = Histogram::new(3)?;
    let started = Instant::now();
    // The first look is not counted: it compiles the statement.
    for number in 0..=looks {
        sleep(pause).await;
        let begun = Instant::now();
        let status = http.call(request.as_bytes()).await?;
        ensure!(status == 200, "{path}: {}", http.last_answer());
        if number > 0 {
            histogram.record(u64::try_from(begun.elapsed().as_micros())?)?;
        }
    }
    Ok(Page {
        path: path.to_owned(),
        bytes: http.last_answer().len(),
        limit_ms,
        latencies: Latencies::of(&histogram, started.elapsed()),
    })
}

/// The beginning of all ids of these days: ids sort by time.
fn prefix() -> String {
    let now = Clock::System.now().timestamp_millis().unsigned_abs();
    Ulid::from_parts(now, 0).to_string().chars().take(4).collect()
}

/// Most jobs are done, a tenth waits or is scheduled, and a few are dead, old and new; most events are of one type, and some
/// types are rare and old.
fn past(sql: &Sql, rows: u32) -> Vec<String> {
    let prefix = prefix();
    let (job_id, dead_id, numbers, jobs, result, moment, time) = sql.pick(
        (
            "'{prefix}' || lpad((n / 10)::text, 6, '0') || lpad(n::text, 16, '0')",
            "'{prefix}' || lpad((n / 10)::text, 6, '0') || lpad(n::text, 15, '0') || 'D'",
            "generate_series({from}, {to}) as numbers (n)",
            "apalis.jobs (job, id, job_type, max_attempts, priority, status, attempts, run_at, done_at, last_result)
             select convert_to({job}, 'UTF8')",
            "{text}::jsonb",
            "now() + ({seconds}) * interval '1 second'",
            "now() + ({seconds}) * interval '1 second'",
        ),
        (
            "'{prefix}' || printf('%06d', n / 10) || printf('%016d', n)",
            "'{prefix}' || printf('%06d', n / 10) || printf('%015d', n) || 'D'",
            "(with recursive numbers (n) as (select {from} union all select n + 1 from numbers where n < {to})
              select n from numbers)",
            "Jobs (job, id, job_type, max_attempts, priority, status, attempts, run_at, done_at, last_result)
             select cast({job} as blob)",
            "{text}",
            "unixepoch() + ({seconds})",
            "strftime('%Y-%m-%dT%H:%M:%S+00:00', 'now', ({seconds}) || ' seconds')",
        ),
    );
    let numbers = |from: u32, to: u32| {
        let numbers = numbers.replace("{from}", &from.to_string());
        numbers.replace("{to}", &to.max(from).to_string())
    };
    let jobs = |field: &str| jobs.replace("{job}", &format!("'{{\"{field}\":\"msg_' || n || '\"}}'"));
    let job_id = job_id.replace("{prefix}", &prefix);
    let dead_id = dead_id.replace("{prefix}", &prefix);
    let failed = |words: &str| result.replace("{text}", &format!("'{{\"Err\": \"{words}\"}}'"));
    let moment = |seconds: &str| moment.replace("{seconds}", seconds);
    let time = |seconds: &str| time.replace("{seconds}", seconds);
    let (open, dead, rare) = (rows / 10, rows / 1_000, 30);
    let mut texts = vec![
        format!(
            "insert into {}, {job_id}, case when n <= {rare} then 'usher:periodic' else 'usher:process-clerk-event' end,
                 60, 0, 'Done', 1, {at}, {at}, null from {}",
            jobs("svix_id"),
            numbers(1, rows),
            at = moment("-60"),
        ),
        format!(
            "insert into {}, {job_id}, 'usher:send-mail', 60, 0, 'Pending', 0, {}, null, null from {}",
            jobs("delivery_id"),
            moment("-n / 1000"),
            numbers(rows + 1, rows + open / 2),
        ),
        format!(
            "insert into {}, {job_id}, 'usher:send-mail', 60, 0, 'Failed', 3, {}, null, {} from {}",
            jobs("delivery_id"),
            moment("n"),
            failed("connection refused"),
            numbers(rows + open / 2 + 1, rows + open),
        ),
        format!(
            "insert into {}, {dead_id}, 'usher:process-clerk-event', 60, 0, 'Killed', 1, {at}, {at}, {}
             from (select n * 1000 as n from {}) as dead",
            jobs("svix_id"),
            failed("its payload is unreadable"),
            numbers(1, dead),
            at = moment("-60"),
        ),
        format!(
            "insert into usher_events (svix_id, event_type, payload, received_at, processed_at, outcome, error)
             select 'msg_' || n, case when n <= {rare} then 'user.deleted' when n % 20 = 0 then 'user.created'
                     else 'session.created' end,
                 '{{}}', {at}, case when n % 1000 > 0 then {at} end, case when n % 1000 > 0 then 'matched' end,
                 case when n % 1000 = 0 and n % 10000 > 0 then 'it is unreadable' end from {}",
            numbers(1, rows),
            at = time(&format!("(n - {rows}) / 10")),
        ),
    ];
    // As after a night: Postgres knows its tables.
    if let Some(analyze) = sql.pick(Some("vacuum analyze"), None) {
        texts.push(analyze.to_owned());
    }
    texts
}
