//! Breaks everything around the running usher while it works, and looks whether it kept its word.
//!
//! Real processes on a real database, with a real mail server and a network that can be cut. Many clients invite, sign
//! up, change, accept and revoke; meanwhile processes are killed, the database is stopped and starved, the disk is full.
//! At the end all is healed, and what usher said is compared with what is true. docs/reliability.md says more.

mod check;
mod database;
mod faults;
mod fleet;
mod journal;
mod load;
mod model;
mod neighbour;
mod postgres;
mod proxy;
mod slow_clients;
mod told;
mod watch;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::time::Instant;
use usher_clerk::DevSigner;
use usher_testkit::database::Database;
use usher_testkit::smtp::SmtpServer;

use faults::Victims;
use fleet::{Fleet, Settings};
use journal::Journal;
use postgres::Postgres;
use proxy::Proxy;
use watch::{HOME, probe};
use world::World;

/// How long webhooks took is judged in runs of these minutes and more: short ones run in CI, on whichever machine.
const TIMED_MINUTES: f64 = 5.0;

/// Breaks everything around the running usher while it works, and looks whether it kept its word.
#[derive(Parser)]
struct Options {
    /// How long things are broken. The end takes a minute or two more.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// On which database; a Postgres server is made for it.
    #[arg(long, value_enum)]
    database: Kind,
    /// Chooses the faults and the load: the same number, the same plan. Drawn by chance if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How many clients are busy at once.
    #[arg(long, default_value_t = 12)]
    clients: usize,
    /// The usher to break. Built if not given.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Print the plan and do nothing.
    #[arg(long)]
    plan: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Postgres,
    Sqlite,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let is_postgres = options.database == Kind::Postgres;
    let plan = faults::plan(seed, is_postgres, Duration::from_secs_f64(options.minutes * 60.0));
    println!("seed {seed}: {} faults in {} minutes", plan.len(), options.minutes);
    if options.plan {
        plan.iter().for_each(|step| println!("  {}", step.fault));
        return Ok(ExitCode::SUCCESS);
    }

    raise_the_limit_of_open_files();
    let folder = tempfile::Builder::new().prefix("usher-chaos-").tempdir()?;
    let journal = Arc::new(Journal::begin());
    let smtp = SmtpServer::start().await;
    let signer = DevSigner::generate()?;
    let (database_url, version, postgres, file) = if is_postgres {
        let postgres = Postgres::start().await?;
        let version = postgres.version().await?;
        let proxy = Proxy::start(postgres.address()).await?;
        (Postgres::url_by(proxy.address), version, Some((postgres, proxy)), None)
    } else {
        let url = Database::sqlite(folder.path()).url;
        (url.clone(), "SQLite".to_owned(), None, Some(url))
    };
    journal.say(&version);
    let receiver = told::failing_receiver(seed).await;
    let settings = Settings {
        program: match options.program {
            Some(program) => std::path::absolute(program)?,
            None => fleet::program().await?,
        },
        folder: folder.path().to_owned(),
        database_url,
        smtp_url: smtp.url(),
        events_url: receiver.url.clone(),
        jwt_key: signer.public_pem()?,
    };
    let fleet = Fleet::new(settings, Arc::clone(&journal));
    let world = Arc::new(World::new(fleet, smtp, receiver, Arc::clone(&journal), signer)?);
    let victims = Victims { world, postgres, file };
    let outcome = run(&victims, &plan, seed, options.clients).await;
    for process in victims.world.fleet.all() {
        process.kill().await;
    }
    if let Err(error) = &outcome {
        journal.violation(format!("the run was not finished: {error:#}"));
    }
    if options.minutes >= TIMED_MINUTES {
        journal.check_latencies();
    }
    journal.summary();
    println!("\n{}", journal.row(&version, seed, options.minutes));
    let is_well = journal.violations() == 0;
    if is_well {
        folder.close()?;
    } else {
        keep(folder, &victims).await;
        println!("\nseed {seed} brings the same faults again.");
    }
    if let Some((postgres, _)) = victims.postgres {
        postgres.remove().await?;
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn run(victims: &Victims, plan: &[faults::Step], seed: u64, clients: usize) -> anyhow::Result<()> {
    let world = &victims.world;
    let roles: &[&'static str] = if victims.postgres.is_some() {
        &["all", "all", "api", "worker"]
    } else {
        &["all", "all"]
    };
    // All at once: they migrate the empty database together.
    for &role in roles {
        world.fleet.start(role)?;
    }
    for process in world.fleet.all() {
        process.ready(Duration::from_secs(60)).await?;
    }
    let neighbours = neighbour::move_in(&victims.database().await?).await?;
    let mut rng = StdRng::seed_from_u64(seed);
    load::found(world, &mut rng).await;
    let watching = tokio::spawn(watch::watch(Arc::clone(world)));
    world.journal.say("the load begins");
    let stop = tokio::sync::watch::Sender::new(false);
    let mut load = load::start(world, clients, seed, &stop);
    victims.suffer(plan, seed).await?;
    stop.send_replace(true);
    while load.join_next().await.is_some() {}
    world.receiver.always(None);
    world.journal.say("healed, and the load has ended");
    let since = Instant::now();
    if probe(world, &mut rng, HOME).await {
        world.journal.recovered("the end", since.elapsed());
    }
    let database = victims.database().await?;
    check::settle(world, &database, &mut rng).await?;
    watching.abort();
    check::check(world, &database).await?;
    told::check(world, &database).await?;
    neighbour::is_untouched(&database, &neighbours, &world.journal).await?;
    for process in world.fleet.all() {
        let status = process.terminate().await;
        world.journal.insist(status.is_some_and(|status| status.success()), || {
            format!("{} did not end well when asked to: {status:?}", process.name)
        });
        world.fleet.forget(&process);
    }
    Ok(())
}

/// Slow clients have a connection each.
fn raise_the_limit_of_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        println!("the limit of open files could not be raised: {error}");
    }
}

/// Leaves what helps to understand.
async fn keep(folder: TempDir, victims: &Victims) {
    let path = folder.keep();
    if let Some((postgres, _)) = &victims.postgres {
        dump(postgres, &path).await;
    }
    println!("\nLogs and data are kept in {}", path.display());
}

async fn dump(postgres: &Postgres, folder: &Path) {
    if let Err(error) = postgres.dump(&folder.join("postgres.sql")).await {
        println!("the database could not be written out: {error:#}");
    }
}
