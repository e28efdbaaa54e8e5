//! The number of invite mails per day, by inviter, organization and address.

use chrono::NaiveDate;
use uuid::Uuid;

use super::rows::{Row as _, row, sql, to_json};
use super::{Result, Tx, on_conn};
use crate::names::named;

named! {
    /// What mails are counted by.
    CountScope("scope") {
        /// Mails by an inviter.
        Inviter = "inviter",
        /// Mails for an organization and its projects.
        Organization = "organization",
        /// Mails to one address.
        Address = "address",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct MailCount {
    #[sqlx(try_from = "String")]
    pub scope: CountScope,
    /// The `admins.id`, the `organizations.id`, or the address's [`EmailKey::digest`].
    ///
    /// [`EmailKey::digest`]: crate::invites::email::EmailKey::digest
    pub subject: Uuid,
    pub mails: i32,
}

row! {
    /// A number of mails to add to a count, and the count's limit.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct MailDemand {
        /// Inviter or organization.
        pub scope: CountScope,
        pub subject: Uuid,
        pub mails: i32,
        /// The highest count that is allowed.
        pub cap: i32,
    }
}

impl Tx {
    /// The counts of these subjects on a day; subjects without a count are left out.
    pub async fn mail_counts(&mut self, day: NaiveDate, subjects: &[MailDemand]) -> Result<Vec<MailCount>> {
        if subjects.is_empty() {
            return Ok(Vec::new());
        }
        let source = MailDemand::unfold(self.dialect());
        let text = format!(
            "select c.scope, c.subject, c.mails from {source}
             join usher_mail_counts c on c.scope = r.scope and c.subject = r.subject and c.day = $2"
        );
        let rows = to_json(subjects)?;
        Ok(on_conn!(self, |conn| sqlx::query_as(sql(text))
            .bind(rows)
            .bind(day.to_string())
            .fetch_all(conn)
            .await)?)
    }

    /// Adds to the counts of a day, each subject once in a call. The counts are locked until the transaction ends, so
    /// this is its last statement.
    ///
    /// # Errors
    /// If other transactions counted in the meantime and a count would pass its cap, a conflict: the transaction has to
    /// run again.
    pub async fn count_mails(&mut self, day: NaiveDate, demand: &[MailDemand]) -> Result<()> {
        if demand.is_empty() {
            return Ok(());
        }
        let source = MailDemand::unfold(self.dialect());
        let text = format!(
            "insert into usher_mail_counts (scope, subject, day, mails)
             select r.scope, r.subject, $2, r.mails from {source} where true
             on conflict (scope, subject, day) do update set mails = usher_mail_counts.mails + excluded.mails
             where usher_mail_counts.mails + excluded.mails
                 <= (select r.cap from {source} where r.scope = excluded.scope and r.subject = excluded.subject)"
        );
        let mut demand = demand.to_vec();
        // Always in this order, because each row is locked.
        demand.sort_by_key(|demand| (demand.scope.as_str(), demand.subject));
        let rows = to_json(&demand)?;
        let counted = on_conn!(self, |conn| sqlx::query(sql(text))
            .bind(rows)
            .bind(day.to_string())
            .execute(conn)
            .await?
            .rows_affected());
        if counted == demand.len() as u64 {
            Ok(())
        } else {
            Err(super::overtaken().into())
        }
    }

    /// Deletes the counts of the days before `day`.
    pub async fn forget_mail_counts(&mut self, day: NaiveDate) -> Result<()> {
        on_conn!(self, |conn| sqlx::query("delete from usher_mail_counts where day < $1")
            .bind(day.to_string())
            .execute(conn)
            .await
            .map(drop))?;
        Ok(())
    }
}
