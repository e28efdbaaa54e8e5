//! Group commit: items that arrive while a batch is being committed form the next batch.
//!
//! One transaction serves many callers; each gets its answer after the commit that contains its item. Without a linger
//! no caller waits for a timer: an item that finds a free worker is a batch of its own.
//!
//! A batch that the database rejects, or that hits a lock, is halved until the item that causes it is alone. A separate
//! worker does that, while the others continue with the next batches. Items that hit a lock before go there at once
//! ([`Batcher::submit_apart`]), because they would delay one batch of other items after another.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::store::StoreError;

/// How many items may wait for a worker. Further callers wait until there is room, so memory is bounded.
const QUEUE_CAPACITY: usize = 4096;

/// The timeout of a batch. It is shorter than its callers' timeouts, and it frees a worker that waits for a lost
/// connection.
pub const BATCH_TIMEOUT: Duration = Duration::from_secs(8);

/// The first attempt at a batch, with a short timeout because other batches wait behind it.
const FIRST_TRY: Locks = Locks {
    wait: Duration::from_millis(50),
    skip: false,
};
/// The lock timeout for parts of a batch that hit a lock: of two hundred items, all may be locked.
const LOCK_WAIT_APART: Duration = Duration::from_millis(10);
/// The lock timeout for a single item: usher's own transactions are shorter.
const LOCK_WAIT_ALONE: Duration = Duration::from_millis(200);
/// How long the search for locked items may take. Items that were not tried by then are deferred.
const SEARCH_LIMIT: Duration = Duration::from_secs(2);

/// How a batch treats locks of other transactions.
#[derive(Debug, Clone, Copy)]
pub struct Locks {
    /// The lock timeout.
    pub wait: Duration,
    /// Skip items whose rows are known to be locked, instead of waiting for them.
    pub skip: bool,
}

/// What is done with a batch: one transaction, within [`BATCH_TIMEOUT`].
pub trait BatchHandler<T, R>: Send + Sync + 'static {
    /// Commits the items together and answers each, in order. May be called again with some of the same items.
    fn commit(&self, items: &[T], locks: Locks) -> impl Future<Output = Result<Vec<R>, StoreError>> + Send;
}

/// Why an item has no answer. It is unknown whether it was committed, so submitting it again must be safe.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BatchError {
    /// The database rejected it or is unavailable.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// Another item of its batch is locked, and this one was not tried alone.
    #[error("another item of its batch is locked; it will be retried soon")]
    Deferred,
    /// Its batch panicked.
    #[error("the batch ended without an answer")]
    Lost,
}

type Answer<R> = oneshot::Sender<Result<R, BatchError>>;
type Queue<T, R> = mpsc::Receiver<(T, Answer<R>)>;

/// Passes items to workers that commit them in batches.
pub struct Batcher<T, R> {
    items: mpsc::Sender<(T, Answer<R>)>,
    apart: mpsc::Sender<(T, Answer<R>)>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self {
            items: self.items.clone(),
            apart: self.apart.clone(),
        }
    }
}

impl<T: Send + Sync + 'static, R: Send + 'static> Batcher<T, R> {
    /// Starts `workers` workers that each commit one batch of at most `max_batch_size` items at a time. They end when
    /// the last handle is dropped.
    pub fn start(workers: usize, max_batch_size: usize, group: impl BatchHandler<T, R>) -> Self {
        Self::start_with_linger(workers, max_batch_size, Duration::ZERO, group)
    }

    /// [`Batcher::start`] with workers that wait for more items during `linger`: larger batches, for callers that are
    /// not in a hurry. One worker at a time collects items.
    pub fn start_with_linger(
        workers: usize,
        max_batch_size: usize,
        linger: Duration,
        group: impl BatchHandler<T, R>,
    ) -> Self {
        let (items, queue) = mpsc::channel(QUEUE_CAPACITY);
        let (apart, queue_apart) = mpsc::channel(QUEUE_CAPACITY);
        let queue = Arc::new(Mutex::new(queue));
        let worker = Worker { group: Arc::new(group) };
        for _ in 0..workers {
            tokio::spawn(
                worker
                    .clone()
                    .run(Arc::clone(&queue), apart.clone(), max_batch_size, linger),
            );
        }
        tokio::spawn(worker.run_apart(queue_apart, max_batch_size));
        Self { items, apart }
    }

    /// Submits one item and waits for its answer.
    pub async fn submit(&self, item: T) -> Result<R, BatchError> {
        hand_over(&self.items, item).await
    }

    /// The same for an item that hit a lock the last time: a separate worker commits it.
    pub async fn submit_apart(&self, item: T) -> Result<R, BatchError> {
        hand_over(&self.apart, item).await
    }
}

async fn hand_over<T, R>(worker: &mpsc::Sender<(T, Answer<R>)>, item: T) -> Result<R, BatchError> {
    let (answer, answered) = oneshot::channel();
    worker.send((item, answer)).await.map_err(|_| BatchError::Lost)?;
    answered.await.map_err(|_| BatchError::Lost)?
}

/// Items and the channels for their answers, by index.
struct Items<T, R> {
    items: Vec<T>,
    answers: Vec<Answer<R>>,
}

impl<T, R> Items<T, R> {
    /// Keeps the items whose caller still waits. A caller that gave up may have submitted its item again.
    fn wanted(taken: impl IntoIterator<Item = (T, Answer<R>)>) -> Self {
        let (items, answers) = taken.into_iter().filter(|(_, answer)| !answer.is_closed()).unzip();
        Self { items, answers }
    }

    fn into_wanted(self) -> Self {
        Self::wanted(self.items.into_iter().zip(self.answers))
    }

    fn answer(self, results: Vec<R>) {
        for (answer, result) in self.answers.into_iter().zip(results) {
            // The caller may have given up.
            let _ = answer.send(Ok(result));
        }
    }

    fn refuse(self, error: &Arc<StoreError>) {
        for answer in self.answers {
            let _ = answer.send(Err(Arc::clone(error).into()));
        }
    }

    /// Items without room in the queue are deferred; their callers retry soon.
    fn move_to(self, worker: &mpsc::Sender<(T, Answer<R>)>) {
        for (item, answer) in self.items.into_iter().zip(self.answers) {
            if let Err(mpsc::error::TrySendError::Full((_, answer)) | mpsc::error::TrySendError::Closed((_, answer))) =
                worker.try_send((item, answer))
            {
                let _ = answer.send(Err(BatchError::Deferred));
            }
        }
    }

    fn defer(self) {
        for answer in self.answers {
            let _ = answer.send(Err(BatchError::Deferred));
        }
    }

    fn halve(mut self) -> (Self, Self) {
        let half = self.items.len().div_ceil(2);
        let second = Self {
            items: self.items.split_off(half),
            answers: self.answers.split_off(half),
        };
        (self, second)
    }
}

struct Worker<G> {
    group: Arc<G>,
}

impl<G> Clone for Worker<G> {
    fn clone(&self) -> Self {
        Self {
            group: Arc::clone(&self.group),
        }
    }
}

impl<G> Worker<G> {
    async fn run<T, R>(
        self,
        queue: Arc<Mutex<Queue<T, R>>>,
        apart: mpsc::Sender<(T, Answer<R>)>,
        max_batch_size: usize,
        linger: Duration,
    ) where
        T: Send + Sync + 'static,
        R: Send + 'static,
        G: BatchHandler<T, R>,
    {
        loop {
            let taken = next_group(&mut *queue.lock().await, max_batch_size, linger).await;
            if taken.is_empty() {
                return;
            }
            let items = Items::wanted(taken);
            if let Some((items, error)) = self.commit(items, FIRST_TRY).await {
                let is_alone = items.items.len() == 1;
                if error.is_unavailable() || (is_alone && !error.is_busy()) {
                    items.refuse(&error);
                } else {
                    items.move_to(&apart);
                }
            }
        }
    }

    /// The worker for batches in which one item causes the failure.
    async fn run_apart<T, R>(self, mut queue: Queue<T, R>, max_batch_size: usize)
    where
        T: Send + Sync,
        R: Send,
        G: BatchHandler<T, R>,
    {
        loop {
            let taken = next_group(&mut queue, max_batch_size, Duration::ZERO).await;
            if taken.is_empty() {
                return;
            }
            self.search(Items::wanted(taken)).await;
        }
    }

    /// Commits items together and answers them; returns them if the database rejected them. A panic loses these
    /// answers, but not the worker.
    async fn commit<T, R>(&self, items: Items<T, R>, locks: Locks) -> Option<(Items<T, R>, Arc<StoreError>)>
    where
        T: Send + Sync,
        R: Send,
        G: BatchHandler<T, R>,
    {
        if items.items.is_empty() {
            return None;
        }
        let commit = AssertUnwindSafe(self.group.commit(&items.items, locks)).catch_unwind();
        match commit.await {
            Ok(Ok(results)) => items.answer(results),
            Ok(Err(error)) => return Some((items, Arc::new(error))),
            Err(_) => tracing::error!("a batch panicked; its callers are told to retry"),
        }
        None
    }

    /// Commits a batch, and halves it after a failure until the item that causes it is alone, so that it can't fail the
    /// others.
    async fn search<T, R>(&self, items: Items<T, R>)
    where
        T: Send + Sync,
        R: Send,
        G: BatchHandler<T, R>,
    {
        let began = Instant::now();
        let mut away: Option<Arc<StoreError>> = None;
        let mut parts = vec![items];
        while let Some(part) = parts.pop() {
            if let Some(error) = &away {
                part.refuse(error);
                continue;
            }
            if began.elapsed() > SEARCH_LIMIT {
                part.defer();
                continue;
            }
            let wait = match part.items.len() {
                1 => LOCK_WAIT_ALONE,
                _ => LOCK_WAIT_APART,
            };
            let locks = Locks { wait, skip: true };
            let Some((part, error)) = self.commit(part.into_wanted(), locks).await else {
                continue;
            };
            if error.is_unavailable() {
                part.refuse(&error);
                away = Some(error);
            } else if part.items.len() == 1 {
                part.refuse(&error);
            } else {
                let (first, second) = part.halve();
                parts.extend([second, first]);
            }
        }
    }
}

/// Takes the waiting items, and those that arrive soon: it yields to the runtime at least once, so that a burst becomes
/// one batch.
async fn next_group<T, R>(queue: &mut Queue<T, R>, max_batch_size: usize, linger: Duration) -> Vec<(T, Answer<R>)> {
    let mut taken = Vec::new();
    queue.recv_many(&mut taken, max_batch_size).await;
    if taken.is_empty() || taken.len() == max_batch_size {
        return taken;
    }
    if linger.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(linger).await;
    }
    while taken.len() < max_batch_size
        && let Ok(item) = queue.try_recv()
    {
        taken.push(item);
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use futures::future::join_all;

    use super::*;

    /// Doubles numbers; 13 panics, 14 is rejected, 15 finds the database unavailable, 16 is locked.
    #[derive(Default, Clone)]
    struct Doubling(Arc<StdMutex<Vec<usize>>>);

    impl BatchHandler<u32, u32> for Doubling {
        async fn commit(&self, items: &[u32], _: Locks) -> Result<Vec<u32>, StoreError> {
            self.0.lock().unwrap().push(items.len());
            tokio::task::yield_now().await;
            assert!(!items.contains(&13), "unlucky");
            if items.contains(&14) {
                return Err(sqlx::Error::RowNotFound.into());
            }
            if items.contains(&15) {
                return Err(sqlx::Error::PoolTimedOut.into());
            }
            if items.contains(&16) {
                return Err(StoreError::busy());
            }
            Ok(items.iter().map(|n| n * 2).collect())
        }
    }

    #[tokio::test]
    async fn concurrent_items_share_groups_and_each_gets_its_own_answer() {
        let doubling = Doubling::default();
        let batcher = Batcher::start(1, 8, doubling.clone());
        let answers = join_all((100..200).map(|n| batcher.submit(n))).await;
        let answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, (100..200).map(|n| n * 2).collect::<Vec<_>>());
        let sizes = doubling.0.lock().unwrap().clone();
        assert!(sizes.len() < 100, "100 items took {} groups", sizes.len());
        assert!(sizes.iter().all(|&size| size <= 8), "{sizes:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_patient_lane_waits_for_company() {
        let doubling = Doubling::default();
        let batcher = Batcher::start_with_linger(1, 8, Duration::from_millis(10), doubling.clone());
        let late = async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            batcher.submit(2).await
        };
        let (early, late) = tokio::join!(batcher.submit(1), late);
        assert_eq!((early.unwrap(), late.unwrap()), (2, 4));
        assert_eq!(*doubling.0.lock().unwrap(), [2], "one group of two");
    }

    #[tokio::test]
    async fn a_panic_loses_one_group_and_not_the_lane() {
        let batcher = Batcher::start(1, 1, Doubling::default());
        assert!(matches!(batcher.submit(13).await, Err(BatchError::Lost)));
        assert_eq!(batcher.submit(2).await.unwrap(), 4);
    }

    #[tokio::test]
    async fn an_item_that_the_database_refuses_spoils_no_other() {
        let batcher = Batcher::start(1, 8, Doubling::default());
        let results = join_all([1, 14, 3].map(|n| batcher.submit(n))).await;
        assert!(matches!(results[..], [Ok(2), Err(BatchError::Store(_)), Ok(6)]));
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_not_asked_again_for_each_item() {
        let doubling = Doubling::default();
        let batcher = Batcher::start(1, 8, doubling.clone());
        let results = join_all([1, 15, 3].map(|n| batcher.submit(n))).await;
        assert!(results.iter().all(Result::is_err));
        assert_eq!(*doubling.0.lock().unwrap(), [3]);
    }

    #[tokio::test]
    async fn what_is_locked_is_found_by_halving_and_waits_alone() {
        let doubling = Doubling::default();
        let batcher = Batcher::start(1, 256, doubling.clone());
        let items = (1000..1255).chain([16]);
        let results = join_all(items.map(|n| batcher.submit(n))).await;
        let locked: Vec<_> = results.iter().filter(|result| result.is_err()).collect();
        assert!(matches!(locked[..], [Err(BatchError::Store(error))] if error.is_busy()));
        let groups = doubling.0.lock().unwrap().len();
        assert!(
            groups <= 18,
            "one group, the same apart, and two halves for each of eight steps: {groups}"
        );
    }

    #[tokio::test]
    async fn an_item_that_met_a_lock_before_keeps_out_of_the_groups_of_others() {
        let doubling = Doubling::default();
        let batcher = Batcher::start(1, 8, doubling.clone());
        let (locked, others) = tokio::join!(
            batcher.submit_apart(16),
            join_all((100..108).map(|n| batcher.submit(n)))
        );
        assert!(matches!(locked, Err(BatchError::Store(error)) if error.is_busy()));
        assert!(others.iter().all(Result::is_ok));
        let mut sizes = doubling.0.lock().unwrap().clone();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 8], "the locked one alone, and the others at once");
    }

    #[tokio::test]
    async fn an_item_whose_caller_has_given_up_is_not_done() {
        let doubling = Doubling::default();
        let batcher = Batcher::start(1, 8, doubling.clone());
        // Polled once: it is submitted, and its caller gives up before a worker takes it.
        let mut given_up = Box::pin(batcher.submit(5));
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        assert_eq!(batcher.submit(2).await.unwrap(), 4);
        assert_eq!(*doubling.0.lock().unwrap(), [1], "the other one alone");
    }
}
