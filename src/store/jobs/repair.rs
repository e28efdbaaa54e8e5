//! Jobs that an operator retries, cancels or deletes, with the mails and events that they are about.

use uuid::Uuid;

use super::state::{DONE, RELEASE};
use super::{DialectSql, JobState, dialect_sql, event_in};
use crate::store::rows::{IdRow, Row as _, TextRow, ids_json, sql, texts_json};
use crate::store::{Queue, Result, Tx, on_conn};

#[derive(sqlx::FromRow)]
struct Changed {
    id: String,
    job: Vec<u8>,
}

impl Changed {
    fn delivery(&self) -> Option<Uuid> {
        let payload: serde_json::Value = serde_json::from_slice(&self.job).ok()?;
        payload["delivery_id"].as_str()?.parse().ok()
    }

    fn event(&self) -> Option<String> {
        event_in(&self.job)
    }
}

impl Tx {
    /// Makes jobs that are dead or wait for a retry due now, with their attempts reset. A failed event is waiting
    /// again; a failed mail is queued again and its address is no longer suppressed. Returns the ids of the retried
    /// jobs.
    pub async fn retry_jobs(&mut self, ids: &[String]) -> Result<Vec<String>> {
        let retried = self
            .change_jobs(ids, &[JobState::Dead, JobState::Scheduled], |dialect| {
                format!("{RELEASE}, attempts = 0, run_at = {}, done_at = null", dialect.now)
            })
            .await?;
        self.move_deliveries(&retried, "failed", "status = 'queued', attempts = 0")
            .await?;
        self.release_addresses_of(&retried).await?;
        self.reopen_events(&retried).await?;
        for queue in Queue::ALL {
            self.enqueued.push(*queue);
        }
        Ok(retried.into_iter().map(|job| job.id).collect())
    }

    /// Cancels jobs that no worker holds: their mails are suppressed, their events have failed. Returns the ids of the
    /// cancelled jobs.
    pub async fn cancel_jobs(&mut self, ids: &[String]) -> Result<Vec<String>> {
        let open = [JobState::Waiting, JobState::Scheduled];
        let cancelled = self
            .change_jobs(ids, &open, |dialect| {
                format!(
                    "{DONE}, done_at = {}, last_result = '{{\"Err\": \"cancelled by hand\"}}'",
                    dialect.now
                )
            })
            .await?;
        self.move_deliveries(&cancelled, "queued", "status = 'suppressed'")
            .await?;
        self.fail_events(&cancelled, "cancelled by hand").await?;
        Ok(cancelled.into_iter().map(|job| job.id).collect())
    }

    /// Ends dead jobs that are no longer needed. They keep their last error.
    pub(in crate::store) async fn end_dead_jobs(&mut self, ids: &[String]) -> Result<()> {
        self.change_jobs(ids, &[JobState::Dead], |dialect| {
            format!("{DONE}, done_at = {}", dialect.now)
        })
        .await
        .map(drop)
    }

    /// Deletes jobs that are dead or done, with their failed attempts; returns how many. An event whose job is dead
    /// stays in the inbox, failed.
    pub async fn purge_jobs(&mut self, ids: &[String]) -> Result<u64> {
        let dialect = dialect_sql(self.dialect());
        let rows = TextRow::unfold(self.dialect());
        let is_dead = JobState::Dead.condition(dialect.now);
        let jobs = format!(
            "delete from {} where id in (select r.text from {rows}) and ({is_dead} or {})
             returning id, job, {is_dead}",
            dialect.table,
            JobState::Done.condition(dialect.now),
        );
        let failures = format!(
            "delete from usher_job_failures where job_id in (select r.text from {rows})
               and not exists (select 1 from {} j where j.id = usher_job_failures.job_id)",
            dialect.table
        );
        let ids = texts_json(ids)?;
        let purged: Vec<(String, Vec<u8>, bool)> =
            on_conn!(self, |conn| sqlx::query_as(sql(jobs)).bind(&ids).fetch_all(conn).await)?;
        let count = purged.len() as u64;
        let dead = purged.into_iter().filter(|(_, _, is_dead)| *is_dead);
        let dead: Vec<Changed> = dead.map(|(id, job, _)| Changed { id, job }).collect();
        self.fail_events(&dead, "its job was deleted").await?;
        on_conn!(self, |conn| sqlx::query(sql(failures))
            .bind(ids)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(count)
    }

    async fn change_jobs(
        &mut self,
        ids: &[String],
        states: &[JobState],
        set: impl Fn(&DialectSql) -> String,
    ) -> Result<Vec<Changed>> {
        let dialect = dialect_sql(self.dialect());
        let states: Vec<String> = states.iter().map(|&state| state.condition(dialect.now)).collect();
        let text = format!(
            "update {} set {} where id in (select r.text from {}) and ({}) returning id, job",
            dialect.table,
            set(&dialect),
            TextRow::unfold(self.dialect()),
            states.join(" or "),
        );
        let ids = texts_json(ids)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(ids)
            .fetch_all(conn)
            .await)?)
    }

    /// Updates the deliveries of these jobs, if their status is `from`.
    async fn move_deliveries(&mut self, jobs: &[Changed], from: &str, set: &str) -> Result<()> {
        let these = format!("select r.id from {}", IdRow::unfold(self.dialect()));
        let text = format!("update usher_deliveries set {set} where status = '{from}' and id in ({these})");
        self.execute_for(jobs, text).await
    }

    /// Retrying a mail means that it should be sent, as resending it does.
    async fn release_addresses_of(&mut self, jobs: &[Changed]) -> Result<()> {
        let these = format!("select r.id from {}", IdRow::unfold(self.dialect()));
        let text = format!(
            "delete from usher_suppressions where email_key in (
                 select case d.kind
                     when 'accepted_notice' then (select x.email_key from usher_admins m join usher_people u on u.clerk_user_id = m.external_id
                         join usher_addresses x on x.person_id = u.id
                         where m.id = i.invited_by and x.email = d.to_email limit 1)
                     else i.email_key end
                 from usher_deliveries d join invites i on i.id = d.invite_id where d.id in ({these}))"
        );
        self.execute_for(jobs, text).await
    }

    /// Executes a statement over the deliveries of these jobs.
    async fn execute_for(&mut self, jobs: &[Changed], text: String) -> Result<()> {
        let deliveries: Vec<Uuid> = jobs.iter().filter_map(Changed::delivery).collect();
        if deliveries.is_empty() {
            return Ok(());
        }
        let ids = ids_json(&deliveries)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(ids)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }

    /// Marks the events of these jobs as waiting again.
    async fn reopen_events(&mut self, jobs: &[Changed]) -> Result<()> {
        self.set_error_of_events(jobs, None).await
    }

    /// Marks the events of these jobs as failed, if they were still waiting.
    async fn fail_events(&mut self, jobs: &[Changed], why: &str) -> Result<()> {
        self.set_error_of_events(jobs, Some(why)).await
    }

    async fn set_error_of_events(&mut self, jobs: &[Changed], error: Option<&str>) -> Result<()> {
        let events: Vec<String> = jobs.iter().filter_map(Changed::event).collect();
        if events.is_empty() {
            return Ok(());
        }
        // A failed event keeps its first error.
        let from = if error.is_some() {
            "error is null"
        } else {
            "error is not null"
        };
        let these = format!("select r.text from {}", TextRow::unfold(self.dialect()));
        let text = format!(
            "update usher_events set error = $2 where processed_at is null and {from} and svix_id in ({these})"
        );
        let ids = texts_json(&events)?;
        on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(ids)
            .bind(error)
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }
}
