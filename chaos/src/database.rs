//! What the database holds, to see what is true.

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use usher_testkit::database::Pool;
use uuid::Uuid;

/// An event of the inbox.
#[derive(FromRow)]
pub struct EventRow {
    /// The message id.
    pub svix_id: String,
    /// When its effect was committed.
    pub processed_at: Option<DateTime<Utc>>,
    /// Why it could not be processed.
    pub error: Option<String>,
}

/// What is stored of a person.
#[derive(FromRow)]
pub struct PersonRow {
    /// `user_…`
    pub clerk_user_id: String,
    /// The version that is stored.
    pub clerk_updated_at: Option<DateTime<Utc>>,
    /// Deleted in Clerk.
    pub deleted_at: Option<DateTime<Utc>>,
}

/// An address of a person.
#[derive(FromRow)]
pub struct AddressRow {
    /// Whose.
    pub clerk_user_id: String,
    /// What addresses are compared by.
    pub email_key: String,
    /// Verified.
    pub verified: bool,
}

/// A live membership.
#[derive(FromRow)]
pub struct MemberRow {
    /// Whose.
    pub clerk_user_id: String,
    /// Of which organization or project.
    pub place_id: Uuid,
    /// Of which organization in the end.
    pub organization_id: Uuid,
    /// Whether the person is deleted.
    pub is_of_the_deleted: bool,
}

/// An invite.
#[derive(FromRow)]
pub struct InviteRow {
    /// Its id.
    pub id: Uuid,
    /// Where it leads.
    pub organization_id: Uuid,
    /// Where it leads, for a project.
    pub project_id: Option<Uuid>,
    /// Whom it is for.
    pub email_key: String,
    /// Where it stands.
    pub status: String,
    /// `auto`, `ask` or `default`.
    pub acceptance: String,
    /// When it was made or made fresh.
    pub invited_at: DateTime<Utc>,
    /// Who accepted.
    pub accepted_by: Option<String>,
    /// Whether somebody invited who can be told.
    pub has_inviter: bool,
}

/// A mail, sent or to be sent.
#[derive(FromRow)]
pub struct DeliveryRow {
    /// Of which invite.
    pub invite_id: Uuid,
    /// `invite`, `reminder` or `accepted_notice`.
    pub kind: String,
    /// Where it goes.
    pub to_email: String,
    /// Where it stands.
    pub status: String,
    /// What it is known by.
    pub message_id: String,
    /// The last trouble.
    pub last_error: Option<String>,
}

/// A sign-in.
#[derive(FromRow)]
pub struct SessionRow {
    /// `sess_…`
    pub clerk_session_id: String,
    /// `active` or `ended`.
    pub status: String,
}

/// Jobs of one kind that are not done.
#[derive(FromRow)]
pub struct OpenJobs {
    /// Their queue.
    pub job_type: String,
    /// Where they stand.
    pub status: String,
    /// Whether their time has come.
    pub is_due: bool,
    /// How many.
    pub count: i64,
}

/// Jobs of usher's that are not done.
pub async fn open_jobs(pool: &Pool) -> sqlx::Result<Vec<OpenJobs>> {
    let now = pool.pick("now()", "unixepoch()");
    let text = format!(
        "select job_type, status, run_at <= {now} as is_due, count(*) as count from {}
         where status <> 'Done' and job_type not like 'app-%' group by 1, 2, 3 order by 1, 2, 3",
        pool.jobs()
    );
    pool.rows(&text).await
}

/// Makes jobs due that wait for their next attempt; how many there were.
pub async fn hasten_jobs(pool: &Pool) -> sqlx::Result<u64> {
    let now = pool.pick("now()", "unixepoch()");
    let text = format!(
        "update {} set run_at = {now} where status in ('Pending', 'Failed') and run_at > {now}
         and job_type not like 'app-%'",
        pool.jobs()
    );
    pool.execute(&text).await
}
