//! Invite mails asked for on a day, by who asked and where.

use chrono::NaiveDate;
use serde::Serialize;
use uuid::Uuid;

use super::rows::{Type, sql, to_json, unfold};
use super::{Result, Tx, on_conn};
use crate::names::named;

named! {
    /// Whose mails are counted.
    CountScope("scope") {
        /// An inviter's.
        Inviter = "inviter",
        /// Those into an organization and its projects.
        Organization = "organization",
    }
}

/// A number of mails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct MailCount {
    /// Inviter or organization.
    #[sqlx(try_from = "String")]
    pub scope: CountScope,
    /// Which: an `admins.id` or an `organizations.id`.
    pub subject: Uuid,
    /// How many.
    pub mails: i32,
}

impl Tx {
    /// Adds to the counts of a day, each subject once in a call; returns where they stand then. Until the transaction
    /// ends, nobody else can count for these subjects.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn count_mails(&mut self, day: NaiveDate, counts: &[MailCount]) -> Result<Vec<MailCount>> {
        if counts.is_empty() {
            return Ok(Vec::new());
        }
        let source = unfold(
            self.dialect(),
            &[("scope", Type::Text), ("subject", Type::Uuid), ("mails", Type::Int)],
        );
        let text = format!(
            "insert into usher_mail_counts (scope, subject, day, mails)
             select r.scope, r.subject, $2, r.mails from {source} where true
             on conflict (scope, subject, day) do update set mails = usher_mail_counts.mails + excluded.mails
             returning scope, subject, mails"
        );
        let mut counts = counts.to_vec();
        // In one order for everybody: each row is locked.
        counts.sort_by_key(|count| (count.scope.as_str(), count.subject));
        let rows = to_json(&counts)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .bind(day.to_string())
            .fetch_all(conn)
            .await)?)
    }

    /// Forgets the counts of the days before `day`.
    ///
    /// # Errors
    /// [`super::StoreError`].
    pub async fn forget_mail_counts(&mut self, day: NaiveDate) -> Result<()> {
        on_conn!(self, |conn| sqlx::query("delete from usher_mail_counts where day < $1")
            .bind(day.to_string())
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }
}
