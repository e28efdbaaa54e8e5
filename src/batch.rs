//! Group commit: what arrives while a group is being committed becomes the next group.
//!
//! One transaction then serves many callers, each answered after the commit that holds its item. Where callers wait for
//! their answer, nobody waits for a timer: an item that finds a free lane is a group of its own.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::store::StoreError;

/// How many items may wait for a lane. More callers than that wait to hand theirs over, so memory stays bounded.
const WAITING: usize = 4096;

/// How long a group may take: less than whoever waits for it does, and a lane that waits for a lost connection would
/// never take another group.
pub const TIME_LIMIT: Duration = Duration::from_secs(8);

/// What is done with a group: one transaction, within [`TIME_LIMIT`].
pub trait Group<T, R>: Send + Sync + 'static {
    /// Commits the items together and answers each, in order. May be called again with the same items one by one.
    fn commit(&self, items: &[T]) -> impl Future<Output = Result<Vec<R>, StoreError>> + Send;
}

/// Why an item has no answer. Whether it was committed is unknown, so it must be safe to hand it over again.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BatchError {
    /// The store refused it, or is away.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// Its group panicked.
    #[error("the group came to grief without an answer")]
    Lost,
}

type Answer<R> = oneshot::Sender<Result<R, BatchError>>;
type Waiting<T, R> = mpsc::Receiver<(T, Answer<R>)>;

/// Hands items to lanes that commit groups of them.
pub struct Batcher<T, R> {
    items: mpsc::Sender<(T, Answer<R>)>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self {
            items: self.items.clone(),
        }
    }
}

impl<T: Send + Sync + 'static, R: Send + 'static> Batcher<T, R> {
    /// Starts `lanes` lanes that each commit one group of at most `most` items at a time. They end when the last handle
    /// is dropped.
    pub fn start(lanes: usize, most: usize, group: impl Group<T, R>) -> Self {
        Self::start_patient(lanes, most, Duration::ZERO, group)
    }

    /// [`Batcher::start`] with lanes that let an item wait so long for company: larger groups, for callers in no hurry.
    /// One lane at a time collects.
    pub fn start_patient(lanes: usize, most: usize, patience: Duration, group: impl Group<T, R>) -> Self {
        let (items, waiting) = mpsc::channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let group = Arc::new(group);
        for _ in 0..lanes {
            tokio::spawn(lane(Arc::clone(&waiting), most, patience, Arc::clone(&group)));
        }
        Self { items }
    }

    /// Hands over one item and waits for its answer.
    ///
    /// # Errors
    /// [`BatchError`].
    pub async fn submit(&self, item: T) -> Result<R, BatchError> {
        let (answer, answered) = oneshot::channel();
        self.items.send((item, answer)).await.map_err(|_| BatchError::Lost)?;
        answered.await.map_err(|_| BatchError::Lost)?
    }
}

async fn lane<T: Send + Sync, R: Send>(
    waiting: Arc<Mutex<Waiting<T, R>>>,
    most: usize,
    patience: Duration,
    group: Arc<impl Group<T, R>>,
) {
    loop {
        let taken = next_group(&mut *waiting.lock().await, most, patience).await;
        if taken.is_empty() {
            return;
        }
        let (items, answers): (Vec<T>, Vec<Answer<R>>) = taken.into_iter().unzip();
        // A panic loses this group's answers, never the lane.
        let results = AssertUnwindSafe(commit(&*group, &items)).catch_unwind().await;
        let Ok(results) = results else {
            tracing::error!("a group panicked; its callers are told to come again");
            continue;
        };
        for (answer, result) in answers.into_iter().zip(results) {
            // A caller that has gone away needs no answer.
            let _ = answer.send(result);
        }
    }
}

/// Whoever waits, and whoever is about to: the runtime is let around at least once, so that a burst becomes one group.
async fn next_group<T, R>(waiting: &mut Waiting<T, R>, most: usize, patience: Duration) -> Vec<(T, Answer<R>)> {
    let mut taken = Vec::new();
    waiting.recv_many(&mut taken, most).await;
    if taken.is_empty() || taken.len() == most {
        return taken;
    }
    if patience.is_zero() {
        tokio::task::yield_now().await;
    } else {
        tokio::time::sleep(patience).await;
    }
    while taken.len() < most
        && let Ok(item) = waiting.try_recv()
    {
        taken.push(item);
    }
    taken
}

/// All together; and if the database refuses that, one by one: a bad item must not take the others down with it.
async fn commit<T: Send + Sync, R: Send>(group: &impl Group<T, R>, items: &[T]) -> Vec<Result<R, BatchError>> {
    match group.commit(items).await {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(error) if error.is_away() || items.len() == 1 => {
            let error = Arc::new(error);
            items
                .iter()
                .map(|_| Err(BatchError::Store(Arc::clone(&error))))
                .collect()
        }
        Err(_) => {
            let mut results = Vec::with_capacity(items.len());
            let mut away: Option<Arc<StoreError>> = None;
            for item in items {
                if let Some(error) = &away {
                    results.push(Err(Arc::clone(error).into()));
                    continue;
                }
                let result = group.commit(std::slice::from_ref(item)).await;
                results.push(match result.map(|mut one| one.pop()) {
                    Ok(result) => result.ok_or(BatchError::Lost),
                    Err(error) => {
                        let error = Arc::new(error);
                        if error.is_away() {
                            away = Some(Arc::clone(&error));
                        }
                        Err(error.into())
                    }
                });
            }
            results
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use futures::future::join_all;

    use super::*;

    /// Doubles numbers; 13 panics, 14 is refused by the database, 15 finds it away.
    #[derive(Default, Clone)]
    struct Doubling(Arc<StdMutex<Vec<usize>>>);

    impl Group<u32, u32> for Doubling {
        async fn commit(&self, items: &[u32]) -> Result<Vec<u32>, StoreError> {
            self.0.lock().unwrap().push(items.len());
            tokio::task::yield_now().await;
            assert!(!items.contains(&13), "unlucky");
            if items.contains(&14) {
                return Err(sqlx::Error::RowNotFound.into());
            }
            if items.contains(&15) {
                return Err(sqlx::Error::PoolTimedOut.into());
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
        let batcher = Batcher::start_patient(1, 8, Duration::from_millis(10), doubling.clone());
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
        let results = commit(&Doubling::default(), &[1, 14, 3]).await;
        assert!(matches!(results[..], [Ok(2), Err(BatchError::Store(_)), Ok(6)]));
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_not_asked_again_for_each_item() {
        let doubling = Doubling::default();
        let results = commit(&doubling, &[1, 15, 3]).await;
        assert!(results.iter().all(Result::is_err));
        assert_eq!(*doubling.0.lock().unwrap(), [3]);
    }
}
