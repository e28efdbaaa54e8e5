//! Measures `usher serve` from outside: what it takes in, how fast that takes effect, and what it costs.
//!
//! The service is the program that was built beside this one, run with production's settings on databases that are made
//! for each measure and removed afterwards. Load, service and database share the machine's cores.

mod board;
mod database;
mod drain;
mod events;
mod growth;
mod import;
mod intake;
mod load;
mod locked;
mod mails;
mod neighbour;
mod report;
mod retention;
mod service;
mod silent;
mod soak;
mod webhooks;
mod yardstick;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::runtime::{Builder, Handle, Runtime};
use usher_testkit::process;
use usher_testkit::smtp::SmtpServer;

use database::{Database, Home, Kind};
use growth::Size;
use report::{Measure, Report};

/// Measures the running usher.
#[derive(Parser)]
struct Options {
    /// Which database; `all` leaves Postgres out where there is none.
    #[arg(long, value_enum, default_value_t = Databases::All)]
    database: Databases,
    /// Seconds for each measure of intake.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Connections of the closed loops; the last number is used for the open loop and beside a drain, too.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 32, 128])]
    connections: Vec<usize>,
    /// Requests a second in the open loop.
    #[arg(long, default_value_t = 5000)]
    rate: u32,
    /// Events in the backlog that is drained.
    #[arg(long, default_value_t = 10_000)]
    events: usize,
    /// Mails in the backlog that is sent.
    #[arg(long, default_value_t = 5_000)]
    mails: usize,
    /// Connections that say nothing, or not all of it, beside the webhooks of others.
    #[arg(long, default_value_t = 10_000)]
    silent: usize,
    /// Seconds for which one organization is locked while people sign up elsewhere, and for which a transaction of the
    /// app's is open while others' events are sent.
    #[arg(long, default_value_t = 60.0)]
    locked: f64,
    /// Minutes of steady load at 1000 events a second, to see whether memory creeps; nothing else is then measured.
    #[arg(long, value_name = "MINUTES")]
    soak: Option<f64>,
    /// Only these measures.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// A glance at everything, to see that it works; the figures mean nothing.
    #[arg(long)]
    quick: bool,
    /// Write the figures to this file, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// A Postgres server on which databases can be created, as `scripts/with-postgres` has one.
    #[arg(long, env = "USHER_TEST_POSTGRES_URL", hide_env_values = true, value_name = "URL")]
    postgres: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Databases {
    Sqlite,
    Postgres,
    All,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What the machine can do at this hour.
    Yardstick,
    /// From the start of the process to its first 202.
    Start,
    /// Closed loops against `--role api`.
    Intake,
    /// A closed loop against `--role all`, with the drain beside it.
    Both,
    /// An open loop against `--role api`.
    Open,
    /// A backlog worked off by `--role worker`.
    Drain,
    /// Single events on an idle service.
    Effect,
    /// What the app is told: deliveries to one receiver, the drain beside them, and the lag of single events.
    Events,
    /// A backlog of mails sent by `--role worker`.
    Mails,
    /// What a killed process held, done by another.
    Kill,
    /// The same on a small and on a full database.
    Growth,
    /// Memberships from a file, by `usher members import`.
    Import,
    /// A long past that is let go.
    Retention,
    /// Each page of the board, beside a million jobs and events.
    Board,
    /// Thousands of connections that say nothing, or not all of it, beside the webhooks of others.
    Silent,
    /// An open transaction that holds one organization, beside sign-ups elsewhere; Postgres only.
    Locked,
}

/// Events a second of the soak.
const SOAK_RATE: u32 = 1000;

/// Drains with an endpoint, and without: single ones differ by a fifth.
const ROUNDS: usize = 3;

/// What every measure is given.
pub struct Bench {
    program: PathBuf,
    home: Home,
    smtp: SmtpServer,
    /// Where the mail server and receivers of events run.
    servers: Handle,
    warm_up: Duration,
    time: Duration,
}

/// One thread for the load, one for the mail server and receivers of events: the other cores are the service's.
fn main() -> anyhow::Result<()> {
    // Outside of what is awaited: a runtime that is dropped inside another panics, and an error would not be seen.
    let mail_server = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let load = Builder::new_current_thread().enable_all().build()?;
    load.block_on(run(&Options::parse(), &mail_server))
}

async fn run(options: &Options, mail_server: &Runtime) -> anyhow::Result<()> {
    let program = process::program()?;
    // Beside the programs: a folder for temporary files may be in memory, which would make every commit free.
    let folder = tempfile::Builder::new()
        .prefix("bench-")
        .tempdir_in(program.parent().unwrap_or(&program))?;
    let seconds = if options.quick { 0.3 } else { options.seconds };
    let bench = Bench {
        home: Home {
            folder: folder.path().to_owned(),
            postgres: options.postgres.clone(),
        },
        program,
        smtp: mail_server.spawn(SmtpServer::start()).await?,
        servers: mail_server.handle().clone(),
        warm_up: Duration::from_secs_f64((seconds / 5.0).min(2.0)),
        time: Duration::from_secs_f64(seconds),
    };
    let mut report = Report::begin()?;
    if options.wants(Part::Yardstick) && options.soak.is_none() {
        for &connections in &options.connections {
            let latencies = yardstick::responder(&bench, connections).await?;
            report.add(Measure::Responder { connections, latencies });
        }
        let latencies = mails::server_alone(&bench, options.mails()).await?;
        report.add(Measure::MailServer { latencies });
    }
    for database in options.databases() {
        measure(&bench, options, database, &mut report).await?;
    }
    if let Some(path) = &options.json {
        report.write(path)?;
    }
    folder.close()?;
    Ok(())
}

async fn measure(bench: &Bench, options: &Options, database: Kind, report: &mut Report) -> anyhow::Result<()> {
    let (events, singles) = if options.quick {
        (500, 10)
    } else {
        (options.events, 200)
    };
    let most = options.connections.last().copied().unwrap_or(1);
    let empty = Database::create(database, &bench.home).await?;
    let version = empty.connect().await?.version().await?;
    empty.remove().await?;
    report.add(Measure::Database { database, version });
    if let Some(minutes) = options.soak {
        report.add(Measure::Soak(soak::measure(bench, database, SOAK_RATE, minutes).await?));
        return Ok(());
    }
    if options.wants(Part::Yardstick) {
        let latencies = yardstick::durable_inserts(bench, database).await?;
        report.add(Measure::DurableInserts { database, latencies });
        let latencies = yardstick::events(bench, database).await?;
        report.add(Measure::EventsAlone { database, latencies });
    }
    if options.wants(Part::Start) {
        let ms = intake::first_answer(bench, database).await?.as_secs_f64() * 1000.0;
        report.add(Measure::FirstAnswer { database, ms });
    }
    if options.wants(Part::Intake) {
        for &connections in &options.connections {
            let intake = intake::measure(bench, database, "api", connections, None, 0).await?;
            report.add(Measure::Intake(intake));
        }
    }
    if options.wants(Part::Both) {
        let intake = intake::measure(bench, database, "all", most, None, 0).await?;
        report.add(Measure::Intake(intake));
    }
    if options.wants(Part::Open) {
        let intake = intake::measure(bench, database, "api", most, Some(options.rate), 0).await?;
        report.add(Measure::Intake(intake));
    }
    if options.wants(Part::Drain) {
        report.add(Measure::Drain(drain::measure(bench, database, events, None, 0).await?));
    }
    if options.wants(Part::Effect) {
        report.add(Measure::Effect(drain::effect(bench, database, singles).await?));
    }
    if options.wants(Part::Events) {
        told_of(bench, options, database, report, (events, singles)).await?;
    }
    if options.wants(Part::Mails) {
        report.add(Measure::Mails(mails::measure(bench, database, options.mails()).await?));
    }
    if options.wants(Part::Kill) && !options.quick {
        let seconds = mails::after_a_kill(bench, database).await?.as_secs_f64();
        report.add(Measure::Kill { database, seconds });
    }
    if options.wants(Part::Growth) {
        let sizes = if options.quick {
            &[Size::SMALL][..]
        } else {
            &[Size::SMALL, Size::LARGE]
        };
        for &size in sizes {
            report.add(Measure::Growth(growth::measure(bench, database, size, events).await?));
        }
    }
    if options.wants(Part::Import) {
        let memberships = if options.quick { 1_000 } else { 50_000 };
        report.add(Measure::Import(import::measure(bench, database, memberships).await?));
    }
    if options.wants(Part::Retention) {
        let rows = if options.quick { 1_000 } else { 1_000_000 };
        report.add(Measure::Retention(retention::measure(bench, database, rows).await?));
    }
    if options.wants(Part::Board) {
        let (rows, rounds) = if options.quick { (2_000, 1) } else { (1_000_000, ROUNDS) };
        report.add(Measure::Board(
            board::measure(bench, database, rows, options.quick).await?,
        ));
        report.add(Measure::Watched(
            board::watched(bench, database, most, events, rounds).await?,
        ));
    }
    if options.wants(Part::Silent) {
        let connections = if options.quick { 500 } else { options.silent };
        report.add(Measure::Silent(silent::measure(bench, database, connections).await?));
    }
    // SQLite locks its whole file or nothing.
    if options.wants(Part::Locked) && database == Kind::Postgres {
        let time = Duration::from_secs_f64(if options.quick { 2.0 } else { options.locked });
        report.add(Measure::Locked(locked::measure(bench, database, time).await?));
    }
    Ok(())
}

async fn told_of(
    bench: &Bench,
    options: &Options,
    database: Kind,
    report: &mut Report,
    (events, singles): (usize, usize),
) -> anyhow::Result<()> {
    let rounds = if options.quick { 1 } else { ROUNDS };
    report.add(Measure::Deliveries(events::deliveries(bench, database, events).await?));
    report.add(Measure::Told(events::told(bench, database, events, rounds).await?));
    report.add(Measure::Lag(events::lag(bench, database, singles).await?));
    // In SQLite the open transaction of the app would keep out all others.
    if database == Kind::Postgres {
        let time = Duration::from_secs_f64(if options.quick { 2.0 } else { options.locked });
        report.add(Measure::Lag(events::lag_beside_open(bench, singles, time).await?));
    }
    Ok(())
}

impl Options {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn mails(&self) -> usize {
        if self.quick { 200 } else { self.mails }
    }

    fn databases(&self) -> Vec<Kind> {
        match self.database {
            Databases::Sqlite => vec![Kind::Sqlite],
            Databases::Postgres => vec![Kind::Postgres],
            Databases::All if self.postgres.is_none() => {
                println!("Postgres is left out: run this by scripts/with-postgres, or set USHER_TEST_POSTGRES_URL");
                vec![Kind::Sqlite]
            }
            Databases::All => vec![Kind::Sqlite, Kind::Postgres],
        }
    }
}
