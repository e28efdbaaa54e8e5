//! Retries of transactions that conflict with others, all in this one place and a few times each. A lock that another
//! transaction holds for long is waited for briefly, and by few requests at once.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Dialect, PoolName, Result, Store, StoreError, Tx};

/// The maximum number of attempts at a transaction.
const TRIES: u32 = 8;
/// The maximum wait before the second attempt; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(8);
/// A request's first lock timeout. It occupies one of few connections while it waits.
const LOCK_WAIT: Duration = Duration::from_millis(150);
/// How many requests at once may wait longer than that, up to the connection's lock timeout.
pub(super) const MAX_LONG_WAITS: usize = 2;
/// How long a request waits for that permit, without a connection.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(1);

/// An error that may come from a conflict with another transaction.
pub trait Conflict {
    /// Whether it was a deadlock, a serialization failure or a stale read: a retry may succeed at once.
    fn is_conflict(&self) -> bool;

    /// Whether it was a lock timeout.
    fn is_busy(&self) -> bool;
}

impl Conflict for StoreError {
    fn is_conflict(&self) -> bool {
        let is_overtaken = matches!(&self.0, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::Interrupted);
        // Postgres: `serialization_failure`, `deadlock_detected`.
        is_overtaken || super::code_of(&self.0).is_some_and(|code| matches!(&*code, "40001" | "40P01"))
    }

    fn is_busy(&self) -> bool {
        Self::is_busy(self)
    }
}

impl Conflict for anyhow::Error {
    fn is_conflict(&self) -> bool {
        self.downcast_ref::<StoreError>().is_some_and(Conflict::is_conflict)
    }

    fn is_busy(&self) -> bool {
        self.downcast_ref::<StoreError>().is_some_and(Conflict::is_busy)
    }
}

impl Store {
    /// Runs `work` in a transaction that writes, and commits it. After a conflict with another transaction it is rolled
    /// back and run again: so `work` must keep to the transaction, and any other effect must be safe to repeat. An
    /// error rolls everything back. `with` is what `work` needs.
    pub async fn transaction<C, T, E>(
        &self,
        with: C,
        work: impl for<'t> Fn(&'t mut Tx, &'t C) -> BoxFuture<'t, Result<T, E>>,
    ) -> Result<T, E>
    where
        E: From<StoreError> + Conflict,
    {
        let (with, work) = (&with, &work);
        self.again_on_conflict(move |store| async move {
            let mut tx = store.begin().await?;
            let done = work(&mut tx, with).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    /// Runs `work`, which begins and commits a transaction on the given store, again after a conflict.
    pub async fn again_on_conflict<T, E, F>(&self, work: impl Fn(Self) -> F) -> Result<T, E>
    where
        E: Conflict,
        F: Future<Output = Result<T, E>>,
    {
        if self.pool_name != PoolName::Requests || self.dialect() == Dialect::Sqlite {
            return self.try_often(work).await;
        }
        let permit = match &self.share {
            Some((share, weight)) => share.acquire_many(*weight).await.ok(),
            None => None,
        };
        let outcome = self.with_lock_wait(LOCK_WAIT).try_often(&work).await;
        // Released before a long wait, so that other requests can work.
        drop(permit);
        if !outcome.as_ref().is_err_and(Conflict::is_busy) {
            return outcome;
        }
        match tokio::time::timeout(PERMIT_TIMEOUT, self.long_waits.acquire()).await {
            Ok(Ok(_permit)) => self.try_often(work).await,
            _ => outcome,
        }
    }

    async fn try_often<T, E, F>(&self, work: impl Fn(Self) -> F) -> Result<T, E>
    where
        E: Conflict,
        F: Future<Output = Result<T, E>>,
    {
        let mut tries = 1;
        loop {
            match work(self.clone()).await {
                Err(error) if error.is_conflict() && tries < TRIES => {
                    tracing::debug!(
                        tries,
                        "transaction conflict (deadlock or serialization failure); retrying"
                    );
                    tokio::time::sleep(wait_after(tries, rand::random())).await;
                    tries += 1;
                }
                outcome => {
                    if outcome.as_ref().is_err_and(Conflict::is_conflict) {
                        tracing::warn!("transaction conflict: giving up after {tries} attempts");
                    }
                    return outcome;
                }
            }
        }
    }
}

/// A random part of the longest wait, so that transactions that conflicted don't conflict again. `random` is from 0 to 1.
fn wait_after(tries: u32, random: f64) -> Duration {
    (FIRST_WAIT * 2_u32.saturating_pow(tries - 1)).mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_short_grows_and_differs() {
        assert_eq!(wait_after(1, 1.0), Duration::from_millis(8));
        assert_eq!(wait_after(1, 0.5), Duration::from_millis(4));
        assert_eq!(wait_after(TRIES - 1, 1.0), Duration::from_millis(512));
    }
}
