//! `/metrics`: what this process counted, and the state of the queue, read from the database every few seconds at most.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::{self, Recorder};
use crate::store::{Queue, Store, StoreError};
use crate::worker::Alive;
use usher_clerk::EventKind;
use usher_mail::MailKind;

/// Between two questions to the database, however many scrape.
const FRESH: Duration = Duration::from_secs(5);
/// A scraper gives up after ten seconds.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Between two times that measurements are summed up.
const UPKEEP: Duration = Duration::from_secs(5);

/// The page and its upkeep task, which ends with it.
pub struct Scrape {
    recorder: Arc<Recorder>,
    asked: Mutex<Option<Instant>>,
    _upkeep: AbortOnDropHandle<()>,
}

impl Scrape {
    /// Starts to record. Fails if something else in this process already does.
    pub fn start() -> anyhow::Result<Self> {
        let recorder = Arc::new(Recorder::install()?);
        let queues: Vec<&str> = Queue::ALL.iter().map(|queue| queue.as_str()).collect();
        let types: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        let templates: Vec<&str> = MailKind::ALL.iter().map(|kind| kind.as_str()).collect();
        metrics::begin_at_zero(&types, &queues, &templates);
        let kept = Arc::clone(&recorder);
        let upkeep = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(UPKEEP);
            loop {
                ticks.tick().await;
                kept.upkeep();
            }
        });
        Ok(Self {
            recorder,
            asked: Mutex::new(None),
            _upkeep: AbortOnDropHandle::new(upkeep),
        })
    }

    /// The page. Without the database it says so, with the last known state of the queue.
    pub(super) async fn page(&self, store: &Store, workers: Option<&Alive>) -> String {
        self.ask(store).await;
        for stats in store.pool_stats() {
            metrics::database_connections(stats.pool, stats.in_use, stats.idle);
        }
        if let Some(workers) = workers {
            for (queue, alive) in workers.all_queues() {
                metrics::worker_alive(queue.as_str(), alive);
            }
        }
        self.recorder.render()
    }

    async fn ask(&self, store: &Store) {
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|asked| asked.elapsed() < FRESH) {
            return;
        }
        let look = async {
            let depths = store.queue_depths().await?;
            let mut tx = store.read().await?;
            let (circuit, failed_events) = (tx.circuit_opened().await?, tx.count_failed_events().await?);
            let paused = tx.paused_queues().await?;
            Ok::<_, StoreError>((depths, circuit, failed_events, paused, tx.events_state().await?))
        };
        let answer = tokio::time::timeout(MAX_WAIT, look).await;
        *asked = Some(Instant::now());
        let answered = match answer {
            Ok(Ok((depths, circuit, failed_events, paused, events))) => {
                for &queue in Queue::ALL {
                    metrics::queue_paused(queue.as_str(), paused.iter().any(|row| row.queue == queue));
                }
                metrics::events_state(&events);
                metrics::failed_events(failed_events);
                metrics::mails_wait(circuit.is_some());
                depths.iter().for_each(metrics::queue_depth);
                true
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "could not read the queue depth");
                false
            }
            Err(_) => {
                tracing::warn!("could not read the queue depth within {} s", MAX_WAIT.as_secs());
                false
            }
        };
        metrics::database_up(answered);
    }
}
