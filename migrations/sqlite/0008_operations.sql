-- Every failed attempt at a job: apalis keeps the last one's error only.
create table usher_job_failures (
    -- The job.
    job_id text not null,
    -- Which attempt it was, counted from 1; a job that is retried by hand begins again.
    attempt integer not null,
    -- When it failed.
    failed_at text not null,
    -- Why, without addresses.
    error text not null,
    -- What the job carries: the id of an event or of a delivery.
    about text,
    primary key (job_id, failed_at, attempt)
) strict;
create index usher_job_failures_about on usher_job_failures (about) where about is not null;

-- What happened to each invite, and what caused it.
create table usher_invite_history (
    -- UUIDv7: sorted by time.
    id blob primary key,
    -- The invite.
    invite_id blob not null references invites (id),
    -- created, refreshed, resent, flagged, dismissed, accepted, declined, revoked or expired.
    event text not null,
    -- When.
    at text not null,
    -- The id of Clerk's event or of the request that caused it.
    cause text
) strict;
create index usher_invite_history_invite on usher_invite_history (invite_id, id);

-- What retention looks for: processed events that still have their payload, and those that have none any more.
create index usher_events_with_payload on usher_events (processed_at) where processed_at is not null and payload is not null;
create index usher_events_cleared on usher_events (processed_at) where processed_at is not null and payload is null;
