//! Stored answers for requests that are repeated with the same idempotency key.

use chrono::TimeDelta;

use super::{Result, Tx, on_conn};

/// How long an answer is kept.
const KEPT_FOR: TimeDelta = TimeDelta::hours(24);

/// The state of a request's idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotencyState {
    /// Unused until now; this transaction holds it.
    First,
    /// The same request was answered before.
    Answered(KeptAnswer),
    /// The key was used for a different request.
    OtherRequest,
}

#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct KeptAnswer {
    pub status: i32,
    /// The body, unless it was too long to store.
    pub answer: Option<String>,
    /// The outcome of each item of the request, as JSON. It is used to check again whether the caller may see the
    /// answer. Absent for answers of earlier versions.
    pub outcomes: Option<String>,
}

impl Tx {
    /// Claims an idempotency key for this transaction, or returns the answer that was stored for it. Of two concurrent
    /// requests, the second waits for the first to commit.
    pub async fn claim_idempotency_key(
        &mut self,
        api_key: &str,
        key: &str,
        request_hash: &[u8],
    ) -> Result<IdempotencyState> {
        let now = self.clock.now();
        let claimed = on_conn!(self, |conn| sqlx::query(
            "insert into usher_idempotency_keys (api_key, idempotency_key, request_hash, created_at)
             values ($1, $2, $3, $4)
             on conflict (api_key, idempotency_key) do update set request_hash = excluded.request_hash,
                 status = null, answer = null, outcomes = null, created_at = excluded.created_at
             where usher_idempotency_keys.created_at <= $5"
        )
        .bind(api_key)
        .bind(key)
        .bind(request_hash)
        .bind(now)
        .bind(now - KEPT_FOR)
        .execute(conn)
        .await?
        .rows_affected());
        if claimed == 1 {
            return Ok(IdempotencyState::First);
        }
        let answered: Option<KeptAnswer> = on_conn!(self, |conn| sqlx::query_as(
            "select status, answer, outcomes from usher_idempotency_keys
             where api_key = $1 and idempotency_key = $2 and request_hash = $3 and status is not null"
        )
        .bind(api_key)
        .bind(key)
        .bind(request_hash)
        .fetch_optional(conn)
        .await)?;
        Ok(answered.map_or(IdempotencyState::OtherRequest, IdempotencyState::Answered))
    }

    /// Stores the answer to the request whose key this transaction claimed.
    pub async fn keep_answer(&mut self, api_key: &str, key: &str, kept: &KeptAnswer) -> Result<()> {
        on_conn!(self, |conn| sqlx::query(
            "update usher_idempotency_keys set status = $3, answer = $4, outcomes = $5
             where api_key = $1 and idempotency_key = $2"
        )
        .bind(api_key)
        .bind(key)
        .bind(kept.status)
        .bind(&kept.answer)
        .bind(&kept.outcomes)
        .execute(conn)
        .await
        .map(drop))?;
        Ok(())
    }
}
