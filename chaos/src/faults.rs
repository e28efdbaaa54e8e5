//! What is broken, when, and for how long: all chosen by the seed before the run begins.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use usher_testkit::database::Pool;
use usher_testkit::smtp::{Behaviour, Phase, ReceivedMail};

use crate::fleet::Process;
use crate::journal::GoesOn;
use crate::postgres::{Postgres, Stop};
use crate::proxy::{Network, Proxy};
use crate::slow_clients::SlowClients;
use crate::watch::{HOME, probe};
use crate::world::World;

/// A look at every process, none of which has to be waited for, takes no longer.
const ONE_ROUND: Duration = Duration::from_millis(500);
/// How long a process may take from its start until it is ready.
const TIME_TO_START: Duration = Duration::from_secs(30);
/// How long letting somebody in may take while the app holds something of others.
const ELSEWHERE: Duration = Duration::from_secs(10);
/// Between the end of a killed process and the start of its successor at most.
const TIME_TO_NOTICE_MS: u64 = 2000;

/// What the app holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The row of an organization.
    Organization,
    /// The row of a project.
    Project,
    /// The row of an organization's owner.
    Owner,
    /// The tables of memberships, for everybody.
    Tables,
}

impl Held {
    const ALL: [Self; 4] = [Self::Organization, Self::Project, Self::Owner, Self::Tables];
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// `kill -9` of one process, or of all at once.
    KillUsher { all: bool },
    /// SIGSTOP, and SIGCONT.
    Pause(Duration),
    /// Every process is replaced, the new one started before the old one is asked to end.
    RollingDeploy,
    /// The mail server hangs up on everybody.
    MailAway(Duration),
    /// The database server is stopped, and started again.
    StopDatabase(Stop, Duration),
    /// The database server dies, and a standby takes its place; so long it can only be read.
    FailOver(Duration),
    /// The connections to the database are ended by its side; by `kill -9` of one the server restarts them all.
    EndBackends { by_kill: bool },
    /// The server has no connection left for usher.
    OutOfConnections(Duration),
    /// The network between usher and the database.
    Network(Network, Duration),
    /// The app holds something for itself in a transaction of its own.
    AppLock(Held, Duration),
    /// Clients that are silent, slow, or stop in the middle.
    SlowClients { clients: usize, time: Duration },
    /// SQLite: no file may grow.
    DiskFull(Duration),
    /// SQLite: another process writes all the time.
    Locked(Duration),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| format!("{:.1} s", time.as_secs_f64());
        match self {
            Self::KillUsher { all: true } => write!(f, "kill -9 of all"),
            Self::KillUsher { all: false } => write!(f, "kill -9 of one"),
            Self::Pause(time) => write!(f, "one paused for {}", seconds(time)),
            Self::RollingDeploy => write!(f, "a rolling deploy"),
            Self::MailAway(time) => write!(f, "the mail server away for {}", seconds(time)),
            Self::StopDatabase(how, time) => write!(f, "the database stopped ({how:?}) for {}", seconds(time)),
            Self::FailOver(time) => write!(f, "the database failing over for {}", seconds(time)),
            Self::EndBackends { by_kill: true } => write!(f, "kill -9 of a Postgres backend"),
            Self::EndBackends { by_kill: false } => write!(f, "all connections ended by Postgres"),
            Self::OutOfConnections(time) => write!(f, "no connections left for {}", seconds(time)),
            Self::Network(network, time) => write!(f, "the network {network:?} for {}", seconds(time)),
            Self::AppLock(Held::Tables, time) => write!(f, "the app holding tables for {}", seconds(time)),
            Self::AppLock(held, time) => write!(f, "the app holding one {held:?} for {}", seconds(time)),
            Self::SlowClients { clients, time } => {
                write!(f, "{clients} slow and half-open clients for {}", seconds(time))
            }
            Self::DiskFull(time) => write!(f, "the disk full for {}", seconds(time)),
            Self::Locked(time) => write!(f, "the file locked for {}", seconds(time)),
        }
    }
}

impl Fault {
    /// Whether nobody can reach the database while it lasts.
    fn takes_the_database_away(self) -> bool {
        match self {
            Self::StopDatabase(..) | Self::OutOfConnections(_) => true,
            Self::Network(network, _) => !matches!(network, Network::Slow(_) | Network::Fine),
            _ => false,
        }
    }
}

impl Fault {
    /// What it must not hold up.
    fn leaves_alone(self) -> Option<GoesOn> {
        match self {
            Self::AppLock(..) => Some(GoesOn::Webhooks),
            Self::SlowClients { .. } => Some(GoesOn::Everything),
            Self::Locked(_) => Some(GoesOn::Workers),
            _ => None,
        }
    }
}

/// A fault, and the time before it.
pub struct Step {
    /// How long nothing new is broken before.
    pub wait: Duration,
    /// What is broken.
    pub fault: Fault,
}

/// The plan for so long a run: every fault that there is time for comes once, in an order drawn by chance, before one
/// comes again.
pub fn plan(seed: u64, is_postgres: bool, total: Duration) -> Vec<Step> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut steps = Vec::new();
    let mut planned = Duration::ZERO;
    loop {
        let mut deck = deck(&mut rng, is_postgres);
        deck.shuffle(&mut rng);
        let before = steps.len();
        for (fault, lasts) in deck {
            let wait = Duration::from_millis(rng.random_range(500..5000));
            let takes = wait + lasts + Duration::from_secs(1);
            if planned + takes <= total {
                planned += takes;
                steps.push(Step { wait, fault });
            }
        }
        if steps.len() == before {
            return steps;
        }
    }
}

/// Each fault once, with about how long it lasts.
fn deck(rng: &mut StdRng, is_postgres: bool) -> Vec<(Fault, Duration)> {
    let mut time = |from: u64, to: u64| Duration::from_millis(rng.random_range(from * 1000..to * 1000));
    let mut deck = Vec::new();
    let mut lasting = |fault: fn(Duration) -> Fault, time: Duration| deck.push((fault(time), time));
    lasting(Fault::Pause, time(1, 5));
    // Longer than a worker may be silent: its jobs run elsewhere, and then it comes back.
    lasting(Fault::Pause, time(22, 28));
    lasting(Fault::MailAway, time(1, 6));
    if is_postgres {
        lasting(|time| Fault::StopDatabase(Stop::Fast, time), time(0, 8));
        lasting(|time| Fault::StopDatabase(Stop::Immediate, time), time(0, 8));
        lasting(|time| Fault::StopDatabase(Stop::Kill, time), time(0, 4));
        lasting(Fault::FailOver, time(1, 6));
        lasting(Fault::OutOfConnections, time(2, 10));
        lasting(|time| Fault::Network(Network::Cut, time), time(1, 10));
        lasting(|time| Fault::Network(Network::Frozen, time), time(1, 12));
        lasting(|time| Fault::Network(Network::Lost, time), time(2, 10));
        let slow = Network::Slow(Duration::from_millis(rng.random_range(20..200)));
        let slow_for = Duration::from_millis(rng.random_range(3000..10_000));
        deck.push((Fault::Network(slow, slow_for), slow_for));
        let mut held = Held::ALL;
        held.shuffle(rng);
        for (held, (from, to)) in held.into_iter().zip([(3, 8), (3, 8), (8, 15), (20, 30)]) {
            let time = Duration::from_millis(rng.random_range(from * 1000..to * 1000));
            deck.push((Fault::AppLock(held, time), time));
        }
        for by_kill in [false, true] {
            deck.push((Fault::EndBackends { by_kill }, Duration::from_secs(1)));
        }
    } else {
        lasting(Fault::DiskFull, time(2, 10));
        lasting(Fault::DiskFull, time(2, 10));
        lasting(Fault::Locked, time(1, 4));
        lasting(Fault::Locked, time(6, 14));
    }
    let time = Duration::from_millis(rng.random_range(5000..12_000));
    let clients = rng.random_range(1000..3000);
    deck.push((Fault::SlowClients { clients, time }, time));
    for all in [false, false, true] {
        deck.push((Fault::KillUsher { all }, Duration::from_secs(2)));
    }
    deck.push((Fault::RollingDeploy, Duration::from_secs(5)));
    deck
}

/// What faults are done to.
pub struct Victims {
    /// The processes, and everybody who uses them.
    pub world: Arc<World>,
    /// On Postgres: the server, and the network to it.
    pub postgres: Option<(Postgres, Proxy)>,
    /// On SQLite: the file's address.
    pub file: Option<String>,
}

impl Victims {
    /// A way into the database past usher, wherever it is now.
    pub async fn database(&self) -> anyhow::Result<Pool> {
        let url = self.postgres.as_ref().map(|(postgres, _)| postgres.url());
        let url = url.or_else(|| self.file.clone()).context("no database")?;
        Ok(Pool::connect(&url).await?)
    }

    /// Goes through the plan. After each fault the time is taken until work goes on, unless the next one is faster.
    pub async fn suffer(&self, plan: &[Step], seed: u64) -> anyhow::Result<()> {
        let mut rng = StdRng::seed_from_u64(seed ^ 0x5eed);
        let journal = &self.world.journal;
        let mut probes = JoinSet::new();
        for Step { wait, fault } in plan {
            sleep(*wait).await;
            let goes_on = fault.leaves_alone();
            if goes_on.is_some() {
                // What went wrong before is no excuse: it is waited for.
                while probes.join_next().await.is_some() {}
                self.all_ready().await?;
            }
            // Whoever is still waiting is disturbed by what comes now.
            probes.abort_all();
            journal.say(format!("fault: {fault}"));
            journal.count(format!("fault: {}", kind(fault)));
            journal.fault_begins(fault.takes_the_database_away());
            if let Some(goes_on) = goes_on {
                journal.gentle_begins(goes_on);
            }
            let inflicted = self.inflict(*fault, &mut rng).await;
            if let Some(since) = goes_on.and_then(|_| journal.gentle_ends()) {
                for id in repeated(&self.world.smtp.mails(), since) {
                    journal.violation(format!("mail {id} was sent twice because of {fault}"));
                }
            }
            journal.database_comes_back();
            journal.fault_ends();
            inflicted.with_context(|| format!("{fault} could not be done"))?;
            let (world, fault, seed) = (Arc::clone(&self.world), fault.to_string(), rng.random());
            probes.spawn(async move {
                let since = Instant::now();
                if probe(&world, &mut StdRng::seed_from_u64(seed), HOME).await {
                    world.journal.recovered(&fault, since.elapsed());
                }
            });
        }
        // The last one is nobody's to disturb.
        while probes.join_next().await.is_some() {}
        Ok(())
    }

    async fn inflict(&self, fault: Fault, rng: &mut StdRng) -> anyhow::Result<()> {
        let fleet = &self.world.fleet;
        match fault {
            Fault::KillUsher { all } => {
                let mut doomed = fleet.all();
                if !all {
                    doomed = doomed.choose(rng).cloned().into_iter().collect();
                }
                self.kill_and_replace(doomed, rng).await?;
            }
            Fault::Pause(time) => {
                if let Some(process) = fleet.all().choose(rng) {
                    process.pause();
                    sleep(time).await;
                    process.go_on();
                }
            }
            Fault::RollingDeploy => self.deploy().await?,
            Fault::MailAway(time) => {
                let smtp = &self.world.smtp;
                let going_down = Behaviour::Reply("421 4.3.2 going down");
                Phase::COMMANDS.iter().for_each(|&phase| smtp.at(phase, going_down));
                sleep(time).await;
                Phase::COMMANDS
                    .iter()
                    .for_each(|&phase| smtp.at(phase, Behaviour::Accept));
            }
            Fault::DiskFull(time) => {
                fleet.all().iter().for_each(|process| process.limit_files(Some(0)));
                self.world.journal.disk_fills();
                sleep(time).await;
                self.world.journal.database_comes_back();
                fleet.all().iter().for_each(|process| process.limit_files(None));
            }
            Fault::SlowClients { clients, time } => {
                let clients = SlowClients::connect(clients, &fleet.all());
                sleep(time).await;
                clients.leave(&self.world.journal).await?;
            }
            Fault::Locked(time) => lock(self.database().await?, time).await?,
            _ => {
                let (postgres, proxy) = self.postgres.as_ref().context("no Postgres")?;
                self.inflict_on_postgres(fault, postgres, proxy, rng).await?;
            }
        }
        Ok(())
    }

    async fn inflict_on_postgres(
        &self,
        fault: Fault,
        postgres: &Postgres,
        proxy: &Proxy,
        rng: &mut StdRng,
    ) -> anyhow::Result<()> {
        match fault {
            Fault::StopDatabase(how, time) => {
                postgres.stop(how).await?;
                sleep(time).await;
                self.world.journal.database_comes_back();
                postgres.start_again().await?;
            }
            Fault::FailOver(time) => {
                let standby = postgres.prepare_standby().await?;
                self.world.journal.database_goes_away();
                postgres.fail_over(standby).await?;
                proxy.lead_to(postgres.address());
                sleep(time).await;
                self.world.journal.database_comes_back();
                postgres.promote().await?;
            }
            Fault::EndBackends { by_kill } => postgres.end_backends(by_kill).await?,
            Fault::OutOfConnections(time) => {
                postgres.limit_connections(0).await?;
                postgres.end_backends(false).await?;
                sleep(time).await;
                self.world.journal.database_comes_back();
                postgres.limit_connections(-1).await?;
            }
            Fault::AppLock(held, time) => self.hold(held, time, &postgres.url(), rng).await?,
            Fault::Network(network, time) => {
                proxy.set(network);
                sleep(time).await;
                self.world.journal.database_comes_back();
                proxy.set(Network::Fine);
            }
            _ => {}
        }
        Ok(())
    }

    /// Waits until all are ready in one round: while one is waited for, another may notice what it has lost.
    async fn all_ready(&self) -> anyhow::Result<()> {
        let fleet = &self.world.fleet;
        loop {
            let since = Instant::now();
            for process in fleet.all() {
                process.ready(TIME_TO_START).await?;
            }
            if since.elapsed() < ONE_ROUND {
                return Ok(());
            }
        }
    }

    /// The app holds something of one organization, and elsewhere people come and go as always.
    async fn hold(&self, held: Held, time: Duration, url: &str, rng: &mut StdRng) -> anyhow::Result<()> {
        let place = self.world.places.get(HOME).context("no organization")?;
        let mut app = PgConnection::connect(url).await?;
        let mut transaction = app.begin().await?;
        let statement = match held {
            Held::Organization => format!(
                "select from organizations where id = '{}' for update",
                place.organization
            ),
            Held::Project => {
                let project = place.projects.first().context("no project")?;
                format!("select from projects where id = '{project}' for update")
            }
            Held::Owner => format!("select from admins where external_id = '{}' for update", place.founder),
            Held::Tables => "lock table organization_users, project_admins in exclusive mode".to_owned(),
        };
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
        let until = Instant::now() + time;
        while held != Held::Tables && Instant::now() < until {
            let (since, mut rng) = (Instant::now(), StdRng::seed_from_u64(rng.random()));
            let elsewhere = probe(&self.world, &mut rng, HOME + 1);
            match timeout_at(until.max(since + ELSEWHERE), elsewhere).await {
                Ok(true) => self
                    .world
                    .journal
                    .took("times that somebody was let in elsewhere meanwhile", since.elapsed()),
                _ => self
                    .world
                    .journal
                    .violation(format!("nobody could be let in elsewhere because of one {held:?}")),
            }
        }
        sleep_until(until).await;
        transaction.rollback().await?;
        Ok(())
    }

    /// As an orchestrator does.
    async fn kill_and_replace(&self, doomed: Vec<Arc<Process>>, rng: &mut StdRng) -> anyhow::Result<()> {
        let fleet = &self.world.fleet;
        for process in &doomed {
            process.kill().await;
            fleet.forget(process);
        }
        sleep(Duration::from_millis(rng.random_range(0..TIME_TO_NOTICE_MS))).await;
        for process in doomed {
            let successor = fleet.start(process.role)?;
            successor.ready(TIME_TO_START).await?;
        }
        Ok(())
    }

    async fn deploy(&self) -> anyhow::Result<()> {
        let fleet = &self.world.fleet;
        for old in fleet.all() {
            let new = fleet.start(old.role)?;
            new.ready(TIME_TO_START).await?;
            let status = old.terminate().await;
            fleet.forget(&old);
            self.world
                .journal
                .insist(status.is_some_and(|status| status.success()), || {
                    format!("{} did not end well when asked to: {status:?}", old.name)
                });
        }
        Ok(())
    }
}

/// Holds SQLite's write lock from outside.
async fn lock(database: Pool, time: Duration) -> anyhow::Result<()> {
    let Pool::Sqlite(pool) = database else {
        bail!("Postgres has no such lock");
    };
    let lock = pool.begin_with("begin immediate").await?;
    sleep(time).await;
    Ok(lock.rollback().await?)
}

/// The ids of mails that have come more than once since then.
fn repeated(mails: &[ReceivedMail], then: Instant) -> Vec<String> {
    let mut seen = HashSet::new();
    let since = mails.iter().filter(|mail| mail.at >= then);
    since
        .map(ReceivedMail::message_id)
        .filter(|id| !seen.insert(id.clone()))
        .collect()
}

fn kind(fault: &Fault) -> String {
    let text = fault.to_string();
    text.split_once(" for ")
        .map_or(text.clone(), |(kind, _)| kind.to_owned())
}
