//! When the jobs about an event or a delivery can have been enqueued: a payload has no index, and ids of jobs sort by time.

use chrono::{DateTime, TimeDelta, Utc};
use ulid::Ulid;
use uuid::Uuid;

use super::{JobFilter, JobState};
use crate::store::rows::{IdRow, Row as _, TextRow, ids_json, sql, texts_json};
use crate::store::{Result, Tx, on_conn};

/// How far the clocks of two processes may differ.
const MARGIN: TimeDelta = TimeDelta::minutes(10);

impl Tx {
    /// The same filter, with the ids between which jobs about its subjects can be. Of subjects that are gone, or never were, only
    /// dead jobs are left.
    pub async fn narrowed(&mut self, mut filter: JobFilter) -> Result<JobFilter> {
        let Some(about) = &filter.about else {
            return Ok(filter);
        };
        match self.lifetime(about).await? {
            (None, _) if filter.states.is_empty() => filter.states = vec![JobState::Dead],
            (None, _) => {}
            (Some(began), ended) => {
                let from = id_at(began - MARGIN);
                filter.beyond = Some(filter.beyond.map_or(from.clone(), |beyond| beyond.max(from)));
                if let Some(ended) = ended {
                    let to = id_at(ended + MARGIN);
                    filter.through = Some(filter.through.map_or(to.clone(), |through| through.min(to)));
                }
            }
        }
        Ok(filter)
    }

    /// When the first of these events and deliveries came, and when the last was done with, if all are.
    async fn lifetime(&mut self, about: &[String]) -> Result<(Option<DateTime<Utc>>, Option<DateTime<Utc>>)> {
        let uuids: Vec<Uuid> = about.iter().filter_map(|id| id.parse().ok()).collect();
        let dialect = self.dialect();
        let (text_rows, uuid_rows) = (TextRow::unfold(dialect), IdRow::unfold_from(dialect, "$2"));
        let text = format!(
            "select min(began), case when count(*) = count(ended) then max(ended) end from (
                 select received_at as began, processed_at as ended from usher_events
                 where svix_id in (select r.text from {text_rows})
                 union all
                 select queued_at, case when status <> 'queued' then coalesce(sent_at, attempted_at) end from usher_deliveries
                 where id in (select r.id from {uuid_rows})
                 union all
                 select at, null from usher_outgoing_events where id in (select r.id from {uuid_rows})) as subjects"
        );
        let (texts, uuids) = (texts_json(about)?, ids_json(&uuids)?);
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(texts)
            .bind(uuids)
            .fetch_one(conn)
            .await)?)
    }
}

/// The lowest id of a time.
fn id_at(at: DateTime<Utc>) -> String {
    Ulid::from_parts(at.timestamp_millis().unsigned_abs(), 0).to_string()
}
