-- Every failed attempt at a job: apalis keeps the last one's error only.
create table usher_job_failures (
    job_id text not null,
    attempt integer not null,
    failed_at timestamptz not null,
    error text not null,
    about text,
    primary key (job_id, failed_at, attempt)
);
create index usher_job_failures_about on usher_job_failures (about) where about is not null;
comment on table usher_job_failures is 'Every failed attempt at a job: apalis keeps the last one''s error only.';
comment on column usher_job_failures.job_id is 'The job.';
comment on column usher_job_failures.attempt is 'Which attempt it was, counted from 1; a job that is retried by hand begins again.';
comment on column usher_job_failures.failed_at is 'When it failed.';
comment on column usher_job_failures.error is 'Why, without addresses.';
comment on column usher_job_failures.about is 'What the job carries: the id of an event or of a delivery.';

create table usher_invite_history (
    id uuid primary key,
    invite_id uuid not null references invites (id),
    event text not null,
    at timestamptz not null,
    cause text
);
create index usher_invite_history_invite on usher_invite_history (invite_id, id);
comment on table usher_invite_history is 'What happened to each invite, and what caused it.';
comment on column usher_invite_history.id is 'UUIDv7: sorted by time.';
comment on column usher_invite_history.invite_id is 'The invite.';
comment on column usher_invite_history.event is 'created, refreshed, resent, flagged, dismissed, accepted, declined, revoked or expired.';
comment on column usher_invite_history.at is 'When.';
comment on column usher_invite_history.cause is 'The id of Clerk''s event or of the request that caused it.';

-- What retention looks for: processed events that still have their payload, and those that have none any more.
create index usher_events_with_payload on usher_events (processed_at) where processed_at is not null and payload is not null;
create index usher_events_cleared on usher_events (processed_at) where processed_at is not null and payload is null;

-- The few dead jobs among all that are finished; SQLite has an index by queue and status already.
create index usher_jobs_dead on apalis.jobs (job_type)
    where status = 'Killed' or (status = 'Failed' and attempts >= max_attempts);
