//! The connections of one listener, and which of them are closed when there are too many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use futures::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::limits::Limits;
use super::progress::{Late, Progress};
use usher_base::Throttle;

/// Between two looks for a connection that can be closed, where all are being worked on.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A connection that has never been answered is taken for one that never will be after so long.
const OLD: Duration = Duration::from_secs(1);
/// One in so many connections that were never answered is closed at once, so that a crowd is taken in as fast as it
/// comes: whoever is honest stands behind it.
const SHARE_OF_STRANGERS: usize = 16;
/// The same of those that were answered and rest. They are closed more sparingly: some client counts on each.
const SHARE_OF_ANSWERED: usize = 128;
/// Between two searches for those that hold too much memory.
const SHED_INTERVAL: Duration = Duration::from_millis(50);

/// The listener's order to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
#[repr(u8)]
enum Order {
    GoOn = 0,
    Finish = 1,
    Close = 2,
}

/// One connection, shared by its task and the listener.
pub(super) struct Connection {
    accepted: Instant,
    progress: Mutex<Progress>,
    order: AtomicU8,
    task: AtomicWaker,
    /// The handler that waits for the body.
    reader: AtomicWaker,
    all: Arc<Connections>,
}

impl Connection {
    fn new(all: Arc<Connections>, now: Instant) -> Self {
        Self {
            accepted: now,
            progress: Mutex::new(Progress::new(now)),
            order: AtomicU8::new(Order::GoOn as u8),
            task: AtomicWaker::new(),
            reader: AtomicWaker::new(),
            all,
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.all.limits
    }

    /// Notes progress, and what it means for the memory that is held.
    pub(super) fn note<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        let mut progress = lock(&self.progress);
        let before = progress.held();
        let changed = change(&mut progress);
        let after = progress.held();
        drop(progress);
        if after > before {
            self.all.hold(after - before);
        } else if before > after {
            self.all.held.fetch_sub(before - after, Ordering::Relaxed);
        }
        changed
    }

    pub(super) fn deadline(&self) -> Option<(Instant, Late)> {
        lock(&self.progress).deadline(&self.all.limits)
    }

    /// Wakes the body's reader when its time is over.
    pub(super) fn wake_reader_when_late(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// The deadline has passed.
    pub(super) fn is_late(&self, late: Late) {
        lock(&self.progress).is_late(late);
        self.reader.wake();
    }

    /// The next order wakes the task.
    pub(super) fn listen_for_orders(&self, cx: &Context<'_>) {
        self.task.register(cx.waker());
    }

    /// Whether it must end after the current request.
    pub(super) fn is_to_finish(&self) -> bool {
        self.order.load(Ordering::Acquire) >= Order::Finish as u8
    }

    /// Whether it must end now.
    pub(super) fn is_to_close(&self) -> bool {
        self.order.load(Ordering::Acquire) == Order::Close as u8
    }

    fn ask_for_room(&self) {
        lock(&self.progress).ask_for_room(Instant::now());
        self.task.wake();
    }

    fn makes_room(&self) -> bool {
        lock(&self.progress).makes_room_at().is_some()
    }

    fn tell(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.task.wake();
    }
}

/// All connections of a listener.
pub(super) struct Connections {
    /// `public` or `private`.
    listener: &'static str,
    limits: Limits,
    open: Mutex<Open>,
    /// Notified when one ends.
    ended: Notify,
    /// Bytes of unfinished requests.
    held: AtomicUsize,
    shed_at: Mutex<Option<Instant>>,
    full: Throttle,
    heavy: Throttle,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Arc<Connection>>,
}

/// A connection that counts as open until this is dropped.
pub(super) struct OpenConnection {
    pub connection: Arc<Connection>,
    number: u64,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let all = &self.connection.all;
        let held = lock(&self.connection.progress).held();
        all.held.fetch_sub(held, Ordering::Relaxed);
        lock(&all.open).connections.remove(&self.number);
        all.ended.notify_one();
    }
}

impl Connections {
    pub(super) fn new(listener: &'static str, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            listener,
            limits,
            open: Mutex::default(),
            ended: Notify::new(),
            held: AtomicUsize::new(0),
            shed_at: Mutex::default(),
            full: Throttle::per_minute(),
            heavy: Throttle::per_minute(),
        })
    }

    /// Counts one more connection, once there is room for it. For one task at a time.
    pub(super) async fn accept(self: &Arc<Self>) -> OpenConnection {
        loop {
            if let Some(open) = self.try_accept() {
                return open;
            }
            self.make_room();
            // Where all are being worked on, one will be done soon.
            let _ = tokio::time::timeout(POLL_INTERVAL, self.ended.notified()).await;
        }
    }

    fn try_accept(self: &Arc<Self>) -> Option<OpenConnection> {
        let mut open = lock(&self.open);
        if open.connections.len() >= self.limits.connections {
            return None;
        }
        open.next += 1;
        let number = open.next;
        let connection = Arc::new(Connection::new(Arc::clone(self), Instant::now()));
        open.connections.insert(number, Arc::clone(&connection));
        Some(OpenConnection { connection, number })
    }

    /// Asks some of the connections that keep us waiting to make room. Does nothing while earlier ones have yet to close.
    pub(super) fn make_room(&self) {
        let open = lock(&self.open);
        if open.connections.values().any(|connection| connection.makes_room()) {
            return;
        }
        let candidates: Vec<Candidate> = open.connections.iter().filter_map(Candidate::of).collect();
        let chosen = choose(candidates, Instant::now(), self.limits.connections);
        for number in &chosen {
            if let Some(connection) = open.connections.get(number) {
                connection.ask_for_room();
            }
        }
        drop(open);
        if !chosen.is_empty()
            && let Some(suppressed) = self.full.admit()
        {
            tracing::warn!(
                suppressed,
                "the {} listener has no room for more than {} connections; those that keep it waiting are closed, first \
                 the oldest that have sent no whole request",
                self.listener,
                self.limits.connections
            );
        }
    }

    /// Counts bytes of unfinished requests in memory. Beyond the limit, the slowest are closed.
    fn hold(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if held > self.limits.unfinished {
            self.shed(held - self.limits.unfinished);
        }
    }

    fn shed(&self, mut excess: usize) {
        let now = Instant::now();
        {
            let mut shed_at = lock(&self.shed_at);
            if shed_at.is_some_and(|last| now - last < SHED_INTERVAL) {
                return;
            }
            *shed_at = Some(now);
        }
        let mut slowest: Vec<(Instant, usize, Arc<Connection>)> = Vec::new();
        for connection in lock(&self.open).connections.values() {
            let progress = lock(&connection.progress);
            if let Some(since) = progress.waiting_since().filter(|since| now - *since > OLD)
                && progress.held() > 0
            {
                slowest.push((since, progress.held(), Arc::clone(connection)));
            }
        }
        slowest.sort_by_key(|(since, ..)| *since);
        let mut closed = 0;
        for (_, held, connection) in slowest {
            connection.ask_for_room();
            closed += 1;
            excess = excess.saturating_sub(held);
            if excess == 0 {
                break;
            }
        }
        if closed > 0
            && let Some(suppressed) = self.heavy.admit()
        {
            tracing::warn!(
                suppressed,
                "unfinished requests to the {} listener hold more than {} MiB; the slowest {closed} were closed",
                self.listener,
                self.limits.unfinished >> 20
            );
        }
    }

    /// Lets all finish their current requests within [`Limits::stop`], then closes them.
    pub(super) async fn finish(&self) {
        self.tell_all(Order::Finish);
        if tokio::time::timeout(self.limits.stop, self.all_ended()).await.is_err() {
            self.tell_all(Order::Close);
            let _ = tokio::time::timeout(Duration::from_secs(1), self.all_ended()).await;
        }
    }

    async fn all_ended(&self) {
        while !lock(&self.open).connections.is_empty() {
            let _ = tokio::time::timeout(POLL_INTERVAL, self.ended.notified()).await;
        }
    }

    fn tell_all(&self, order: Order) {
        for connection in lock(&self.open).connections.values() {
            connection.tell(order);
        }
    }
}

/// A connection that keeps us waiting.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    number: u64,
    accepted: Instant,
    waiting_since: Instant,
    was_answered: bool,
}

impl Candidate {
    fn of((number, connection): (&u64, &Arc<Connection>)) -> Option<Self> {
        let progress = lock(&connection.progress);
        Some(Self {
            number: *number,
            accepted: connection.accepted,
            waiting_since: progress.waiting_since()?,
            was_answered: progress.was_answered(),
        })
    }
}

/// Which of the connections that keep us waiting are closed to make room.
///
/// The oldest of those without any answer, because closing them interrupts no client in use. Unless these are few and young:
/// then most connections are idle ones, and the few may be honest clients that connect now.
fn choose(candidates: Vec<Candidate>, now: Instant, limit: usize) -> Vec<u64> {
    let (mut answered, mut strangers): (Vec<_>, Vec<_>) =
        candidates.into_iter().partition(|candidate| candidate.was_answered);
    answered.sort_by_key(|candidate| candidate.waiting_since);
    strangers.sort_by_key(|candidate| candidate.accepted);
    let are_few = strangers.len().saturating_mul(8) <= limit;
    let young = strangers.partition_point(|candidate| now - candidate.accepted > OLD);
    let spared = if are_few {
        strangers.split_off(young)
    } else {
        Vec::new()
    };
    let in_order = [
        (strangers, SHARE_OF_STRANGERS),
        (answered, SHARE_OF_ANSWERED),
        (spared, SHARE_OF_STRANGERS),
    ];
    let first = in_order.into_iter().find(|(some, _)| !some.is_empty());
    let (some, share) = first.unwrap_or_default();
    let count = limit.checked_div(share).unwrap_or_default().max(1);
    some.into_iter().take(count).map(|candidate| candidate.number).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(number, opened so many milliseconds ago, waiting for so many, answered before)`.
    type Case = (u64, u64, u64, bool);

    fn chosen(cases: &[Case], limit: usize) -> Vec<u64> {
        let now = Instant::now() + Duration::from_secs(100);
        let ago = |millis| now - Duration::from_millis(millis);
        let candidates = cases.iter().map(|&(number, opened, waiting, was_answered)| Candidate {
            number,
            accepted: ago(opened),
            waiting_since: ago(waiting),
            was_answered,
        });
        choose(candidates.collect(), now, limit)
    }

    #[test]
    fn the_oldest_that_was_never_answered_goes_first() {
        let all = [
            (1, 9000, 5000, true),
            (4, 9000, 6000, true),
            (2, 700, 700, false),
            (3, 800, 10, false),
        ];
        assert_eq!(chosen(&all, 4), [3]);
        assert_eq!(chosen(&all, 1600), [4, 1], "those two are few, and young");
        assert_eq!(chosen(&all[..3], 4), [2]);
        assert_eq!(chosen(&all[..2], 4), [4], "then those that rest");
        assert_eq!(chosen(&[], 4), [0; 0], "never one that is being worked on");
    }

    #[test]
    fn many_of_a_crowd_go_at_once_and_few_of_those_that_rest() {
        let silent = (0..1600).map(|n| (n, 1600 - n, 10, false));
        assert_eq!(chosen(&silent.collect::<Vec<_>>(), 1600), (0..100).collect::<Vec<_>>());
        let resting = (0..1600).map(|n| (n, 60_000, 9000 - n, true));
        assert_eq!(chosen(&resting.collect::<Vec<_>>(), 1600), (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn a_crowd_that_was_answered_and_rests_does_not_drive_out_those_who_come() {
        let resting = (0..99).map(|n| (n, 60_000, 10_000 + n, true));
        let mut all: Vec<Case> = resting.collect();
        all.push((99, 20, 20, false));
        assert_eq!(chosen(&all, 100), [98], "the one that rests longest");
        all[99] = (99, 2000, 20, false);
        assert_eq!(chosen(&all, 100), [99], "nobody honest takes two seconds");
    }
}
