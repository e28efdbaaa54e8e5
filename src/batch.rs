//! Group commit: what arrives while a group is being committed becomes the next group.
//!
//! One transaction then serves many callers, each answered after the commit that holds its item. Where callers wait for
//! their answer, nobody waits for a timer: an item that finds a free worker is a group of its own.
//!
//! A group that the database refuses, or that meets a lock, is halved until what is to blame stands alone. That happens in
//! a worker of its own, while the others go on with the next groups. Items that met a lock before go there at once
//! ([`Batcher::submit_apart`]): in company they would hold up a group again and again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::store::StoreError;

/// How many items may wait for a worker. More callers than that wait to hand theirs over, so memory stays bounded.
const QUEUE_CAPACITY: usize = 4096;

/// How long a group may take: less than whoever waits for it does, and a worker that waits for a lost connection would
/// never take another group.
pub const BATCH_TIMEOUT: Duration = Duration::from_secs(8);

/// How a group is tried first: others wait behind it.
const FIRST_TRY: Locks = Locks {
    wait: Duration::from_millis(50),
    skip: false,
};
/// The same for parts of a group that met a lock: of two hundred, all may be locked.
const LOCK_WAIT_APART: Duration = Duration::from_millis(10);
/// The same for an item alone: usher's own transactions are shorter.
const LOCK_WAIT_ALONE: Duration = Duration::from_millis(200);
/// How long what is locked is searched for. Items that have not been tried by then are deferred.
const SEARCH_LIMIT: Duration = Duration::from_secs(2);

/// How a batch treats locks of other transactions.
#[derive(Debug, Clone, Copy)]
pub struct Locks {
    /// Wait no longer than this for any of them.
    pub wait: Duration,
    /// Leave out items whose rows are known to be locked, instead of waiting for them.
    pub skip: bool,
}

/// What is done with a group: one transaction, within [`BATCH_TIMEOUT`].
pub trait BatchHandler<T, R>: Send + Sync + 'static {
    /// Commits the items together and answers each, in order, with locks treated as told. May be called again with some
    /// of the same items.
    fn commit(&self, items: &[T], locks: Locks) -> impl Future<Output = Result<Vec<R>, StoreError>> + Send;
}

/// Why an item has no answer. Whether it was committed is unknown, so it must be safe to hand it over again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BatchError {
    /// The store refused it, or is away.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// Something in its group is locked, and it had no turn by itself.
    #[error("another item of its batch is locked; it will be retried soon")]
    Deferred,
    /// Its group panicked.
    #[error("the batch ended without an answer")]
    Lost,
}

type Answer<R> = oneshot::Sender<Result<R, BatchError>>;
type Queue<T, R> = mpsc::Receiver<(T, Answer<R>)>;

/// Hands items to workers that commit groups of them.
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
    /// Starts `workers` workers that each commit one batch of at most `max_batch_size` items at a time. They end when the last handle
    /// is dropped.
    pub fn start(workers: usize, max_batch_size: usize, group: impl BatchHandler<T, R>) -> Self {
        Self::start_with_linger(workers, max_batch_size, Duration::ZERO, group)
    }

    /// [`Batcher::start`] with workers that let an item wait so long for company: larger groups, for callers in no hurry.
    /// One worker at a time collects.
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

    /// Hands over one item and waits for its answer.
    pub async fn submit(&self, item: T) -> Result<R, BatchError> {
        hand_over(&self.items, item).await
    }

    /// The same for an item that met a lock the last time: it is done beside the others.
    pub async fn submit_apart(&self, item: T) -> Result<R, BatchError> {
        hand_over(&self.apart, item).await
    }
}

async fn hand_over<T, R>(worker: &mpsc::Sender<(T, Answer<R>)>, item: T) -> Result<R, BatchError> {
    let (answer, answered) = oneshot::channel();
    worker.send((item, answer)).await.map_err(|_| BatchError::Lost)?;
    answered.await.map_err(|_| BatchError::Lost)?
}

/// Items, and whoever waits for their answers, side by side.
struct Items<T, R> {
    items: Vec<T>,
    answers: Vec<Answer<R>>,
}

impl<T, R> Items<T, R> {
    /// Those that somebody still waits for. An item whose caller has given up may have been handed over once more.
    fn wanted(taken: impl IntoIterator<Item = (T, Answer<R>)>) -> Self {
        let (items, answers) = taken.into_iter().filter(|(_, answer)| !answer.is_closed()).unzip();
        Self { items, answers }
    }

    fn into_wanted(self) -> Self {
        Self::wanted(self.items.into_iter().zip(self.answers))
    }

    fn answer(self, results: Vec<R>) {
        for (answer, result) in self.answers.into_iter().zip(results) {
            // A caller that has gone away needs no answer.
            let _ = answer.send(Ok(result));
        }
    }

    fn refuse(self, error: &Arc<StoreError>) {
        for answer in self.answers {
            let _ = answer.send(Err(Arc::clone(error).into()));
        }
    }

    /// Where there is no room, they come again soon by themselves.
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

/// What the workers of one batcher share.
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
                if error.is_away() || (is_alone && !error.is_busy()) {
                    items.refuse(&error);
                } else {
                    items.move_to(&apart);
                }
            }
        }
    }

    /// The worker for items among which one is to blame.
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

    /// Commits items together and answers them; gives them back where the database did not take them. A panic loses these
    /// answers, never the worker.
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

    /// Commits a group, and halves it where it was not taken, until what is to blame stands alone: it must not take the
    /// others down with it.
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
            if error.is_away() {
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

/// Whoever waits, and whoever is about to: the runtime is let around at least once, so that a burst becomes one group.
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

    /// Doubles numbers; 13 panics, 14 is refused by the database, 15 finds it away, 16 is locked.
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
        // Polled once: it is handed over, and its caller is gone before a worker takes it.
        let mut given_up = Box::pin(batcher.submit(5));
        assert!(futures::poll!(&mut given_up).is_pending());
        drop(given_up);
        assert_eq!(batcher.submit(2).await.unwrap(), 4);
        assert_eq!(*doubling.0.lock().unwrap(), [1], "the other one alone");
    }
}
