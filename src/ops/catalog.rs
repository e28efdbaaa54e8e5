//! Looks twice a minute whether the database's catalog is still as usher needs it, makes again what is usher's own, and keeps the
//! rest for `/readyz` and the metrics.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::metrics;
use crate::store::{AppShape, Difference, PoolName, Rules, Store};

const INTERVAL: Duration = Duration::from_secs(30);

/// What differed at the last look; the looks end with it.
#[derive(Clone)]
pub struct CatalogWatch {
    found: Arc<Mutex<Vec<Difference>>>,
    _looks: Arc<AbortOnDropHandle<()>>,
}

impl CatalogWatch {
    /// Looks at once, and then again and again.
    #[must_use]
    pub fn start(store: &Store, rules: Rules) -> Self {
        let found = Arc::new(Mutex::new(Vec::new()));
        let store = store.with_pool(PoolName::Health);
        let kept = Arc::clone(&found);
        let looks = tokio::spawn(async move {
            let mut shape = AppShape::default();
            let mut ticks = tokio::time::interval(INTERVAL);
            loop {
                ticks.tick().await;
                if let Some(differences) = look(&store, &rules, &mut shape).await {
                    tell(&kept.lock().unwrap_or_else(PoisonError::into_inner), &differences);
                    metrics::catalog_differences(differences.len());
                    *kept.lock().unwrap_or_else(PoisonError::into_inner) = differences;
                }
            }
        });
        Self {
            found,
            _looks: Arc::new(AbortOnDropHandle::new(looks)),
        }
    }

    /// A sentence for each difference.
    pub(super) fn sentences(&self) -> Vec<String> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.iter().map(|found| found.says.clone()).collect()
    }
}

/// What differs and can't be put back; `None` if the database can't be read.
async fn look(store: &Store, rules: &Rules, shape: &mut AppShape) -> Option<Vec<Difference>> {
    let found = differences(store, rules, shape).await?;
    if !found.iter().any(Difference::can_be_put_back) {
        return Some(found);
    }
    match store.put_back(&found).await {
        Ok(made) => {
            for object in made {
                tracing::warn!(%object, "was missing or changed in the database; usher made it again");
            }
        }
        Err(error) => {
            tracing::warn!(%error, "could not make again what is missing in the database; it is tried again")
        }
    }
    differences(store, rules, shape).await
}

async fn differences(store: &Store, rules: &Rules, shape: &mut AppShape) -> Option<Vec<Difference>> {
    let found = store.differences(rules, shape).await;
    found
        .inspect_err(|error| tracing::warn!(%error, "could not compare the database's catalog; it is tried again"))
        .ok()
}

/// Logs what is new, and what is gone.
fn tell(before: &[Difference], now: &[Difference]) {
    for found in now.iter().filter(|found| !before.contains(found)) {
        if found.is_needed {
            tracing::error!(object = %found.object, "the database has changed: {}", found.says);
        } else {
            tracing::warn!(object = %found.object, "the database has changed: {}", found.says);
        }
    }
    for found in before.iter().filter(|found| !now.contains(found)) {
        tracing::info!(object = %found.object, "the database is as usher needs it again");
    }
}
