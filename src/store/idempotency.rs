//! Answers that are given again when a caller repeats a request.

use chrono::TimeDelta;

use super::{Result, Tx, on_conn};

/// How long an answer is kept.
const KEPT_FOR: TimeDelta = TimeDelta::hours(24);

/// What is known of a request's idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repetition {
    /// Nothing: the key is now this transaction's to answer.
    First,
    /// The same request was answered so.
    Answered {
        /// The HTTP status.
        status: i32,
        /// The body.
        answer: String,
    },
    /// The key belongs to another request.
    OtherRequest,
}

#[derive(sqlx::FromRow)]
struct Known {
    request_hash: Vec<u8>,
    status: Option<i32>,
    answer: Option<String>,
}

impl Tx {
    /// Claims an idempotency key for this transaction, or says what was answered under it. Of two requests at once the
    /// second waits for the first to commit.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn claim_idempotency_key(&mut self, api_key: &str, key: &str, request_hash: &[u8]) -> Result<Repetition> {
        let now = self.clock.now();
        let claimed = on_conn!(self, |conn| sqlx::query(
            "insert into usher_idempotency_keys (api_key, idempotency_key, request_hash, created_at)
             values ($1, $2, $3, $4)
             on conflict (api_key, idempotency_key) do update set request_hash = excluded.request_hash,
                 status = null, answer = null, created_at = excluded.created_at
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
            return Ok(Repetition::First);
        }
        let known: Known = on_conn!(self, |conn| sqlx::query_as(
            "select request_hash, status, answer from usher_idempotency_keys
             where api_key = $1 and idempotency_key = $2"
        )
        .bind(api_key)
        .bind(key)
        .fetch_one(conn)
        .await)?;
        Ok(match known {
            Known {
                request_hash: known,
                status: Some(status),
                answer: Some(answer),
            } if known == request_hash => Repetition::Answered { status, answer },
            _ => Repetition::OtherRequest,
        })
    }

    /// Keeps the answer to the request whose key this transaction claimed.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn keep_answer(&mut self, api_key: &str, key: &str, status: i32, answer: &str) -> Result<()> {
        on_conn!(self, |conn| sqlx::query(
            "update usher_idempotency_keys set status = $3, answer = $4 where api_key = $1 and idempotency_key = $2"
        )
        .bind(api_key)
        .bind(key)
        .bind(status)
        .bind(answer)
        .execute(conn)
        .await
        .map(drop))?;
        Ok(())
    }
}
