//! Where one transaction meets another: it is rolled back and tried again, in this one place, a few times.

use std::time::Duration;

use futures::future::BoxFuture;

use super::{Result, Store, StoreError, Tx};

/// How often a transaction that met another one is tried, the first time included.
const TRIES: u32 = 8;
/// The longest wait before the second try; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(8);

/// An error that may say: the database rolled this transaction back because of another one, and the same again may well
/// succeed.
pub trait Conflict {
    /// Whether it was a deadlock or a serialization failure.
    fn is_conflict(&self) -> bool;
}

impl Conflict for StoreError {
    fn is_conflict(&self) -> bool {
        // Postgres: `serialization_failure`, and `deadlock_detected`.
        matches!(&self.0, sqlx::Error::Database(error)
            if error.code().is_some_and(|code| matches!(&*code, "40001" | "40P01")))
    }
}

impl Conflict for anyhow::Error {
    fn is_conflict(&self) -> bool {
        self.downcast_ref::<StoreError>().is_some_and(Conflict::is_conflict)
    }
}

impl Store {
    /// Does `work` in a transaction that writes, and commits it. Where it meets another transaction, all of it is rolled
    /// back and done again: so `work` keeps to the transaction, and whatever else it does is safe to do twice. After an
    /// error nothing is left behind. What `work` needs is handed to it in `with`.
    ///
    /// # Errors
    /// What `work` says, or [`StoreError`].
    pub async fn transaction<C, T, E>(
        &self,
        with: C,
        work: impl for<'t> Fn(&'t mut Tx, &'t C) -> BoxFuture<'t, Result<T, E>>,
    ) -> Result<T, E>
    where
        E: From<StoreError> + Conflict,
    {
        self.again_on_conflict(|| async {
            let mut tx = self.begin().await?;
            let done = work(&mut tx, &with).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    /// Does `work`, which begins and commits a transaction itself, again where that met another one.
    ///
    /// # Errors
    /// What `work` says.
    pub async fn again_on_conflict<T, E, F>(&self, work: impl Fn() -> F) -> Result<T, E>
    where
        E: Conflict,
        F: Future<Output = Result<T, E>>,
    {
        let mut tries = 1;
        loop {
            match work().await {
                Err(error) if error.is_conflict() && tries < TRIES => {
                    tracing::debug!(tries, "a transaction met another one; trying it again");
                    tokio::time::sleep(wait_after(tries, rand::random())).await;
                    tries += 1;
                }
                outcome => {
                    if outcome.as_ref().is_err_and(Conflict::is_conflict) {
                        tracing::warn!("a transaction met others {tries} times; it is given up");
                    }
                    return outcome;
                }
            }
        }
    }
}

/// Somewhere between nothing and the longest wait, so that those who met do not meet again. `luck` is from 0 to 1.
fn wait_after(tries: u32, luck: f64) -> Duration {
    (FIRST_WAIT * 2_u32.saturating_pow(tries - 1)).mul_f64(luck)
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
