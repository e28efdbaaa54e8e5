//! The figures, for people and for machines.

use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::Serialize;
use usher::clock::Clock;

use crate::board::{Board, Watched};
use crate::database::Kind;
use crate::drain::{Drain, Effect};
use crate::events::{Deliveries, Lag, Told};
use crate::growth::Growth;
use crate::import::Import;
use crate::intake::Intake;
use crate::load::Latencies;
use crate::locked::Locked;
use crate::mails::Mails;
use crate::retention::Retention;
use crate::silent::Silent;
use crate::soak::Soak;

/// Everything that was measured, in the order in which it was.
#[derive(Serialize)]
pub struct Report {
    pub machine: Machine,
    pub measures: Vec<Measure>,
}

/// Where and when.
#[derive(Serialize)]
pub struct Machine {
    started_at: DateTime<Utc>,
    cores: usize,
    cpu: String,
    system: String,
    kernel: String,
    load_average: String,
}

/// One line of the table.
#[derive(Serialize)]
#[serde(tag = "measure", rename_all = "snake_case")]
pub enum Measure {
    Database {
        database: Kind,
        version: String,
    },
    Responder {
        connections: usize,
        #[serde(flatten)]
        latencies: Latencies,
    },
    MailServer {
        #[serde(flatten)]
        latencies: Latencies,
    },
    DurableInserts {
        database: Kind,
        #[serde(flatten)]
        latencies: Latencies,
    },
    EventsAlone {
        database: Kind,
        #[serde(flatten)]
        latencies: Latencies,
    },
    FirstAnswer {
        database: Kind,
        ms: f64,
    },
    Intake(Intake),
    Drain(Drain),
    Effect(Effect),
    Deliveries(Deliveries),
    Told(Told),
    Lag(Lag),
    Mails(Mails),
    Kill {
        database: Kind,
        seconds: f64,
    },
    Growth(Growth),
    Import(Import),
    Retention(Retention),
    Board(Board),
    Watched(Watched),
    Silent(Silent),
    Locked(Locked),
    Soak(Soak),
}

impl Machine {
    /// This one.
    pub fn here() -> anyhow::Result<Self> {
        Ok(Self {
            started_at: Clock::System.now(),
            cores: std::thread::available_parallelism()?.get(),
            cpu: line("/proc/cpuinfo", "model name\t: ")?,
            system: line("/etc/os-release", "PRETTY_NAME=")?.trim_matches('"').to_owned(),
            kernel: line("/proc/sys/kernel/osrelease", "")?,
            load_average: line("/proc/loadavg", "")?,
        })
    }
}

/// The rest of the first line that begins so.
fn line(file: &str, begin: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| file.to_owned())?;
    let found = text.lines().find_map(|line| line.strip_prefix(begin));
    Ok(found.unwrap_or_default().to_owned())
}

const COLUMNS: [&str; 5] = ["", "per second", "p50 ms", "p99 ms", "max ms"];

impl Report {
    /// Begins one, and says where.
    pub fn begin() -> anyhow::Result<Self> {
        let machine = Machine::here()?;
        println!(
            "{} cores ({}), {}, Linux {}, load {}\n",
            machine.cores, machine.cpu, machine.system, machine.kernel, machine.load_average
        );
        let [what, columns @ ..] = COLUMNS;
        println!("{what:<44}{}", columns.map(|name| format!("{name:>11}")).concat());
        Ok(Self {
            machine,
            measures: Vec::new(),
        })
    }

    /// Adds a measure, and prints it at once.
    pub fn add(&mut self, measure: Measure) {
        measure.print();
        self.measures.push(measure);
    }

    /// Writes everything as JSON.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?).with_context(|| path.display().to_string())
    }
}

impl Measure {
    fn print(&self) {
        match self {
            Self::Database { version, .. } => println!("\n{version}"),
            Self::Responder { connections, latencies } => {
                row(
                    &format!("yardstick: 200 and nothing else, {connections} conn."),
                    latencies,
                    "",
                );
            }
            Self::MailServer { latencies } => row("yardstick: the mail server alone, 4 conn.", latencies, ""),
            Self::DurableInserts { latencies, .. } => row("yardstick: durable inserts, one by one", latencies, ""),
            Self::EventsAlone { latencies, .. } => {
                row("yardstick: events without requests, one by one", latencies, "");
            }
            Self::FirstAnswer { ms, .. } => println!("start to first 202: {ms:.0} ms"),
            Self::Intake(intake) => {
                let offered = intake.rate.map(|rate| format!(", open at {rate}/s"));
                let what = format!(
                    "intake, role {}, {} conn.{}",
                    intake.role,
                    intake.connections,
                    offered.unwrap_or_default()
                );
                let cost = format!(
                    "  cpu/event {:.0} µs + load {:.0} µs, memory {:.0} → {:.0} MB",
                    intake.service_cpu_us, intake.load_cpu_us, intake.memory_idle_mb, intake.memory_mb
                );
                row(&what, &intake.latencies, &cost);
            }
            Self::Drain(drain) => println!(
                "{:<44}{:>11.0}   ({:.0} with all jobs marked done), cpu/event {:.0} µs, memory {:.0} MB",
                format!("drain of {} events", drain.events),
                drain.per_second,
                drain.acknowledged_per_second,
                drain.worker_cpu_us,
                drain.memory_mb
            ),
            Self::Effect(effect) => {
                let begun = format!("  begun within{}", parts(&effect.begun));
                row("from 202 to its effect, idle, role all", &effect.latencies, &begun);
            }
            Self::Deliveries(Deliveries {
                deliveries,
                per_second,
                worker_cpu_us,
                memory_mb,
                ..
            }) => println!(
                "{:<44}{per_second:>11.0}   cpu/delivery {worker_cpu_us:.0} µs, memory {memory_mb:.0} MB",
                format!("{deliveries} events to one endpoint"),
            ),
            Self::Told(told) => println!(
                "{:<44}{:>11.0}   ({:.0} without an endpoint: {:.0} %)",
                format!("drain of {} events, all told", told.with.events),
                told.with.per_second,
                told.without.per_second,
                told.ratio * 100.0
            ),
            Self::Lag(lag) => {
                let what = match lag.open_seconds {
                    Some(seconds) => format!("the same beside one open for {seconds:.0} s"),
                    None => "from 201 to the endpoint, idle, role all".to_owned(),
                };
                row(&what, &lag.heard, &format!("  numbered within{}", parts(&lag.numbered)));
            }
            Self::Mails(mails) => println!(
                "{:<44}{:>11.0}   cpu/mail {:.0} µs, memory {:.0} MB",
                format!("{} mails", mails.mails),
                mails.per_second,
                mails.worker_cpu_us,
                mails.memory_mb
            ),
            Self::Kill { seconds, .. } => println!("what a killed process held was done after {seconds:.1} s"),
            Self::Growth(growth) => growth.print(),
            Self::Import(import) => println!(
                "{:<44}{:>11.0}   the same file again {:.0}",
                format!("import of {} memberships", import.memberships),
                import.per_second,
                import.again_per_second
            ),
            Self::Retention(retention) => {
                let gauges = format!("  the queue's gauges {:.1} ms", retention.gauges_ms);
                let what = format!("lets go of {} rows, by 500 and 500", retention.rows);
                row(&what, &retention.batches, &gauges);
            }
            Self::Board(board) => {
                println!("the board beside {} jobs and events:", board.rows);
                for page in &board.pages {
                    let kb = page.bytes / 1_000;
                    let slow = if page.is_slow() { "  SLOWER THAN IT MAY BE" } else { "" };
                    row(
                        &format!("  {}", page.path),
                        &page.latencies,
                        &format!("  {kb} kB{slow}"),
                    );
                }
            }
            Self::Watched(watched) => {
                let change = |with: f64, without: f64| (with / without - 1.0) * 100.0;
                println!(
                    "{:<44}{:>11.0}   ({:+.1} %), drain {:.0} ({:+.1} %)",
                    format!("intake with {} open boards", watched.boards),
                    watched.intake_watched,
                    change(watched.intake_watched, watched.intake),
                    watched.drain_watched,
                    change(watched.drain_watched, watched.drain),
                );
            }
            Self::Silent(silent) => {
                let Silent {
                    connections,
                    fewest,
                    reopened,
                    ..
                } = silent;
                println!(
                    "beside {connections} connections that say nothing or not all ({fewest} at least, {reopened} came again):"
                );
                let memory = format!("  memory {:.0} MB", silent.memory_mb);
                row("  webhooks, each on a new connection", &silent.webhooks, &memory);
                row("  /readyz, each on a new connection", &silent.ready, "");
            }
            Self::Locked(locked) => {
                println!(
                    "beside one organization that is locked for {:.0} s ({:.1} s after it until all are in):",
                    locked.seconds, locked.caught_up_seconds
                );
                println!(
                    "{:<44}{:>11.0}   (before the lock {:.0})",
                    "  sign-ups elsewhere", locked.beside_per_second, locked.usual_per_second
                );
                row("  webhooks, each on a new connection", &locked.webhooks, "");
                row("  /readyz, each on a new connection", &locked.ready, "");
            }
            Self::Soak(soak) => {
                let memory: Vec<_> = soak.memory_mb.iter().map(|mb| format!("{mb:.0}")).collect();
                let what = format!("soak at {}/s, {} events", soak.rate, soak.events);
                row(&what, &soak.latencies, &format!("  memory {} MB", memory.join(" ")));
            }
        }
    }
}

impl Growth {
    fn print(&self) {
        let Self { before, .. } = self;
        println!(
            "after {} invites, {} finished and {} pending jobs, {} organizations:",
            before.invites, before.finished_jobs, before.pending_jobs, before.organizations
        );
        row("  intake, role api, 32 conn.", &self.intake, "");
        println!("{:<44}{:>11.0}", "  drain", self.drain_per_second);
        row("  a person's banner", &self.banner, "");
        row("  a page of an organization's invites", &self.list, "");
        row("  the metrics", &self.metrics, "");
    }
}

/// Which part took no longer than so many milliseconds.
fn parts(buckets: &[(f64, f64)]) -> String {
    let parts = buckets
        .iter()
        .map(|(ms, part)| format!(" {ms} ms {:.1} %", part * 100.0));
    parts.collect::<Vec<_>>().join(",")
}

fn row(what: &str, latencies: &Latencies, more: &str) {
    let Latencies {
        per_second,
        p50_ms,
        p99_ms,
        max_ms,
    } = latencies;
    println!("{what:<44}{per_second:>11.0}{p50_ms:>11.2}{p99_ms:>11.2}{max_ms:>11.2}{more}");
}
