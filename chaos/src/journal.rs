//! What happened, and what must not have.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long after a change an answer may still tell of the time before.
const BLUR: Duration = Duration::from_millis(700);
/// How soon after a fault everything must work again.
pub const RECOVERY: Duration = Duration::from_secs(30);
/// What the times of webhooks are called that came while something else was held up.
pub const WEBHOOKS_MEANWHILE: &str = "webhooks while something else was held up";
/// What half of them may take, in milliseconds.
const MOST_MS: f64 = 1000.0;
/// More than so many are not told one by one.
const TOLD: usize = 40;

/// Everything that is noted during a run.
pub struct Journal {
    began: Instant,
    state: Mutex<State>,
}

/// From when to when; without an end it lasts.
type Window = (Instant, Option<Instant>);

/// What must go on while something else is held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoesOn {
    /// No worker may be started again.
    Workers,
    /// Nor may a webhook be refused or a process be unready.
    Webhooks,
    /// Nor may any request be refused.
    Everything,
}

struct Gentle {
    from: Instant,
    to: Option<Instant>,
    goes_on: GoesOn,
}

#[derive(Default)]
struct State {
    violations: Vec<String>,
    counts: BTreeMap<String, usize>,
    /// When the database could not be had by anybody.
    away: Vec<Window>,
    /// When it could only be read, because the disk was full.
    full: Vec<Window>,
    /// When something went on that must disturb nobody else.
    gentle: Vec<Gentle>,
    latencies: BTreeMap<&'static str, Vec<Duration>>,
    /// Faults in force, and since when there has been none.
    faults: usize,
    calm_since: Option<Instant>,
    recoveries: Vec<(String, Duration)>,
    largest: BTreeMap<String, u64>,
}

impl Journal {
    /// Begins.
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells what happens.
    pub fn say(&self, what: impl AsRef<str>) {
        println!("{:7.1} s  {}", self.began.elapsed().as_secs_f64(), what.as_ref());
    }

    /// Notes a promise that was not kept.
    pub fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        let mut state = self.state();
        if state.violations.len() < TOLD {
            self.say(format!("VIOLATION: {what}"));
        }
        state.violations.push(what);
    }

    /// Notes a violation unless it is so.
    pub fn insist(&self, is_so: bool, what: impl FnOnce() -> String) {
        if !is_so {
            self.violation(what());
        }
    }

    /// Counts one.
    pub fn count(&self, what: impl Into<String>) {
        *self.state().counts.entry(what.into()).or_default() += 1;
    }

    /// Counts many.
    pub fn count_many(&self, what: impl Into<String>, count: usize) {
        *self.state().counts.entry(what.into()).or_default() += count;
    }

    /// How long something took.
    pub fn took(&self, what: &'static str, time: Duration) {
        self.state().latencies.entry(what).or_default().push(time);
    }

    /// From now on something is held up that must not hold up this.
    pub fn gentle_begins(&self, goes_on: GoesOn) {
        let (from, to) = (Instant::now(), None);
        self.state().gentle.push(Gentle { from, to, goes_on });
    }

    /// It is over; since when it lasted.
    pub fn gentle_ends(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state();
        let last = state.gentle.last_mut()?;
        last.to.get_or_insert(now);
        Some(last.from)
    }

    /// Whether this had to go on at that time.
    pub fn had_to_go_on(&self, what: GoesOn, sent: Instant) -> bool {
        let state = self.state();
        state.gentle.iter().any(|gentle| {
            let is_meant = match gentle.goes_on {
                GoesOn::Everything => true,
                GoesOn::Webhooks => what != GoesOn::Everything,
                GoesOn::Workers => what == GoesOn::Workers,
            };
            is_meant && gentle.from <= sent && gentle.to.is_none_or(|to| sent <= to)
        })
    }

    /// Webhooks must not have waited for what was none of theirs. Half of them, because the machine may be busy: whoever
    /// waits for a lock or a connection waits for seconds.
    pub fn check_latencies(&self) {
        let times = self
            .state()
            .latencies
            .get(WEBHOOKS_MEANWHILE)
            .cloned()
            .unwrap_or_default();
        let half = percentile(&times, 50);
        self.insist(half <= MOST_MS, || {
            format!("half of the webhooks took {half:.0} ms and more while something else was held up")
        });
    }

    /// How many violations there are.
    pub fn violations(&self) -> usize {
        self.state().violations.len()
    }

    /// A fault begins; from now on the database may be out of everybody's reach.
    pub fn fault_begins(&self, database_is_away: bool) {
        let mut state = self.state();
        state.faults += 1;
        state.calm_since = None;
        drop(state);
        if database_is_away {
            self.database_goes_away();
        }
    }

    /// From now on nobody can work with the database.
    pub fn database_goes_away(&self) {
        self.state().away.push((Instant::now(), None));
    }

    /// From now on nothing can be written. What is known already can still be read, and said to be so.
    pub fn disk_fills(&self) {
        self.state().full.push((Instant::now(), None));
    }

    /// The fault is about to be healed.
    pub fn database_comes_back(&self) {
        let now = Instant::now();
        let mut state = self.state();
        let state = &mut *state;
        for window in state.away.iter_mut().chain(&mut state.full) {
            window.1.get_or_insert(now);
        }
    }

    /// The fault is healed.
    pub fn fault_ends(&self) {
        let mut state = self.state();
        state.faults -= 1;
        if state.faults == 0 {
            state.calm_since = Some(Instant::now());
        }
    }

    /// Whether the database was out of reach for the whole of a request.
    pub fn was_away(&self, sent: Instant, answered: Instant) -> bool {
        covered(&self.state().away, sent, answered)
    }

    /// Whether nothing could be written to it for the whole of a request.
    pub fn took_no_writes(&self, sent: Instant, answered: Instant) -> bool {
        let state = self.state();
        covered(&state.away, sent, answered) || covered(&state.full, sent, answered)
    }

    /// Whether everything has been well for so long that nothing is excused.
    pub fn was_calm(&self, sent: Instant) -> bool {
        let state = self.state();
        state.calm_since.is_some_and(|since| since + RECOVERY <= sent)
    }

    /// Notes how long it took until work was done again.
    pub fn recovered(&self, after: &str, took: Duration) {
        self.say(format!("work goes on {:.1} s after {after}", took.as_secs_f64()));
        self.insist(took <= RECOVERY, || {
            format!("after {after}, work went on only after {:.1} s", took.as_secs_f64())
        });
        self.state().recoveries.push((after.to_owned(), took));
    }

    /// Notes the size of something that must stay small.
    pub fn size(&self, of: &str, size: u64) {
        let mut state = self.state();
        let largest = state.largest.entry(of.to_owned()).or_default();
        *largest = size.max(*largest);
    }

    /// The largest that something has been.
    pub fn largest(&self, of: &str) -> u64 {
        self.state().largest.get(of).copied().unwrap_or_default()
    }

    /// A line for the table of results.
    pub fn row(&self, database: &str, seed: u64, minutes: f64) -> String {
        let state = self.state();
        let count = |what: &str| state.counts.get(what).copied().unwrap_or_default();
        let faults: usize = state
            .counts
            .iter()
            .filter(|(what, _)| what.starts_with("fault: "))
            .map(|(_, count)| count)
            .sum();
        let longest = state.recoveries.iter().map(|(_, took)| *took).max().unwrap_or_default();
        let memory = state.largest.iter().filter(|(of, _)| of.starts_with("MiB of memory"));
        let held = state
            .largest
            .iter()
            .filter(|(of, _)| of.starts_with("connections held"));
        let webhooks = state.latencies.get(WEBHOOKS_MEANWHILE).cloned().unwrap_or_default();
        format!(
            "| {database} | {seed} | {minutes} | {faults} | {} | {} | {:.1} s | {} | {:.0} / {:.0} ms | {} MiB | {} |",
            count("webhooks taken"),
            count("invites answered 201"),
            longest.as_secs_f64(),
            held.map(|(_, size)| *size).sum::<u64>(),
            percentile(&webhooks, 50),
            percentile(&webhooks, 99),
            memory.map(|(_, size)| *size).max().unwrap_or_default(),
            state.violations.len()
        )
    }

    /// Tells all.
    pub fn summary(&self) {
        let state = self.state();
        println!("\nWhat was done");
        for (what, count) in &state.counts {
            println!("  {count:>7}  {what}");
        }
        println!("\nLargest");
        for (what, size) in &state.largest {
            println!("  {size:>7}  {what}");
        }
        if !state.latencies.is_empty() {
            println!("\nHow long it took");
        }
        for (what, times) in &state.latencies {
            println!(
                "  p50 {:.1} ms, p99 {:.1} ms, at most {:.1} ms: {} {what}",
                percentile(times, 50),
                percentile(times, 99),
                percentile(times, 100),
                times.len()
            );
        }
        let worst = state.recoveries.iter().max_by_key(|(_, took)| *took);
        if let Some((after, took)) = worst {
            println!(
                "\nWork went on after each of {} faults that could be timed; at the latest {:.1} s after {after}",
                state.recoveries.len(),
                took.as_secs_f64()
            );
        }
        if state.violations.is_empty() {
            println!("\nEvery promise was kept.");
        } else {
            println!("\n{} VIOLATIONS", state.violations.len());
            for violation in state.violations.iter().take(TOLD) {
                println!("  - {violation}");
            }
        }
    }
}

/// In milliseconds.
fn percentile(times: &[Duration], part: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort();
    let at = times.len().saturating_sub(1) * part / 100;
    times.get(at).copied().unwrap_or_default().as_secs_f64() * 1000.0
}

fn covered(windows: &[Window], sent: Instant, answered: Instant) -> bool {
    windows
        .iter()
        .any(|(from, to)| *from + BLUR <= sent && to.is_none_or(|to| answered <= to))
}
