-- The same tables as on Postgres: ids as 16-byte blobs, times as RFC 3339 text in UTC, which sorts by time.

-- The app's organizations.
create table organizations (
    -- Chosen by the app.
    id blob primary key,
    -- What people call it; shown in mails.
    name text not null,
    -- When the row was made.
    created_at text not null,
    -- When the row last changed.
    updated_at text not null,
    -- Soft deletion: set means gone.
    deleted_at text
) strict;

-- People who are, or were, members.
create table admins (
    -- The app's id of the person.
    id blob primary key,
    -- Deprecated: membership lives in organization_users.
    organization_id blob,
    -- The Clerk user id.
    external_id text,
    -- The primary address, as Clerk shows it.
    email text,
    -- As Clerk shows it.
    first_name text,
    -- As Clerk shows it.
    last_name text,
    -- As Clerk shows it.
    image_url text,
    -- Deprecated: roles live with the memberships.
    role text,
    -- When the row was made.
    created_at text not null,
    -- When the row last changed.
    updated_at text not null,
    -- Soft deletion: set means gone.
    deleted_at text
) strict;
create index usher_admins_external_id on admins (external_id);

-- Who is in which organization: many to many.
create table organization_users (
    -- The membership.
    id blob primary key,
    -- The organization.
    organization_id blob not null references organizations (id),
    -- The person.
    admin_id blob not null references admins (id),
    -- One of the configured organization roles.
    role text not null,
    -- When the row was made.
    created_at text not null,
    -- When the row last changed.
    updated_at text not null,
    -- Soft deletion: set means removed; an accepted invite revives it.
    deleted_at text,
    unique (organization_id, admin_id)
) strict;
create index usher_organization_users_admin on organization_users (admin_id);

-- The app's projects.
create table projects (
    -- Chosen by the app.
    id blob primary key,
    -- Where the project belongs.
    organization_id blob not null references organizations (id),
    -- What people call it; shown in mails.
    name text not null,
    -- When the row was made.
    created_at text not null,
    -- When the row last changed.
    updated_at text not null,
    -- Soft deletion: set means gone.
    deleted_at text
) strict;

-- Who is in which project: many to many.
create table project_admins (
    -- The membership.
    id blob primary key,
    -- The project; it may belong to any organization.
    project_id blob not null references projects (id),
    -- The person.
    admin_id blob not null references admins (id),
    -- One of the configured project roles.
    role text not null,
    -- When the row was made.
    created_at text not null,
    -- When the row last changed.
    updated_at text not null,
    -- Soft deletion: set means removed; an accepted invite revives it.
    deleted_at text,
    unique (project_id, admin_id)
) strict;
create index usher_project_admins_admin on project_admins (admin_id);

-- What Clerk last said of each person, and the tombstones of the deleted. Not all are members.
create table usher_people (
    -- user_…
    clerk_user_id text primary key,
    -- UUIDv7; a new row in admins gets it, too.
    id blob not null unique,
    -- The row in admins that was theirs when Clerk last told of them, if there was one. Which one is theirs now,
    -- admins.external_id tells.
    admin_id blob,
    -- Their primary address if it is verified, or else another verified one.
    email text,
    -- As Clerk shows it.
    first_name text,
    -- As Clerk shows it.
    last_name text,
    -- As Clerk shows it.
    image_url text,
    -- When Clerk created them.
    clerk_created_at text,
    -- The version of what is stored: an older one never overwrites a newer one.
    clerk_updated_at text,
    -- Banned in Clerk: no invite is for them.
    banned integer not null default 0 check (banned in (0, 1)),
    -- Locked in Clerk: no invite is for them.
    locked integer not null default 0 check (locked in (0, 1)),
    -- Their language (BCP 47).
    locale text,
    -- When Clerk last told of them.
    seen_at text,
    -- Deleted in Clerk; a late or replayed event never revives them.
    deleted_at text
) strict;

-- What usher reads instead of the three tables that an app on Postgres may keep; there it is not the same.
create view usher_organizations as select id, name, created_at, updated_at, deleted_at from organizations;
create view usher_projects as select id, organization_id, name, created_at, updated_at, deleted_at from projects;
create view usher_admins as select id, external_id, email, first_name, last_name, created_at, deleted_at from admins;
create index usher_people_admin on usher_people (admin_id) where admin_id is not null;

-- Every address that Clerk knows of a person.
create table usher_addresses (
    -- The person, a usher_people.id.
    person_id blob not null,
    -- What addresses are compared by.
    email_key text not null,
    -- As Clerk shows it.
    email text not null,
    -- Clerk verified it; only such an address matches invites.
    verified integer not null check (verified in (0, 1)),
    -- Their main address.
    is_primary integer not null check (is_primary in (0, 1)),
    primary key (person_id, email_key)
) strict;
create index usher_addresses_verified on usher_addresses (email_key) where verified;

-- Who is signed in, as far as the webhooks tell.
create table usher_sessions (
    -- sess_…
    clerk_session_id text primary key,
    -- The person, a usher_people.id; null if they were unknown when the session ended.
    person_id blob,
    -- active or ended; an ended session is never revived by a late event.
    status text not null check (status in ('active', 'ended')),
    -- When Clerk says it began.
    started_at text,
    -- When usher learnt of its end.
    ended_at text
) strict;
create index usher_sessions_active on usher_sessions (person_id) where status = 'active';
create index usher_sessions_age on usher_sessions (coalesce(ended_at, started_at));

-- Addresses invited into an organization or a project.
create table invites (
    -- UUIDv7: sorted by the time of creation.
    id blob primary key,
    -- organization or project.
    kind text not null check (kind in ('organization', 'project')),
    -- The organization; for a project, the one it belonged to when the invite was made.
    organization_id blob not null references organizations (id),
    -- The project, for kind project only.
    project_id blob references projects (id),
    -- The project or else the organization: one column for the uniqueness of open invites.
    target_id blob not null generated always as (coalesce(project_id, organization_id)) stored,
    -- The address as it was written.
    email text not null,
    -- What addresses are compared by.
    email_key text not null,
    -- The role it gives.
    role text not null,
    -- pending, accepted, declined, revoked or expired; pending past expires_at counts as expired.
    status text not null check (status in ('pending', 'accepted', 'declined', 'revoked', 'expired')),
    -- auto lets in, ask shows the banner, default follows AUTO_ACCEPT.
    acceptance text not null check (acceptance in ('auto', 'ask', 'default')),
    -- The inviter, an admins.id.
    invited_by blob,
    -- The Clerk user id that the inviter had: known also when the app has deleted the row.
    invited_by_clerk_id text,
    -- Who accepted, an admins.id.
    accepted_by blob,
    -- The Clerk user id of who accepted.
    accepted_by_clerk_id text,
    -- The language for the mail (BCP 47).
    locale text,
    -- A few words from the inviter.
    message text,
    -- Where the invitee goes after accepting: an origin of REDIRECT_URLS when it was asked.
    redirect_url text,
    -- The version that the link is derived from; raised to make older links void.
    token_version integer not null default 1,
    -- When the address was asked, or last asked again.
    invited_at text not null,
    -- From then on it is expired.
    expires_at text not null,
    -- Since when the banner shows it.
    flagged_at text,
    -- The person whose banner shows it, a usher_people.id.
    flagged_for blob,
    -- When that person put the banner away, until their next sign-in.
    dismissed_at text,
    -- When it was accepted.
    accepted_at text,
    -- When it was declined.
    declined_at text,
    -- When it was revoked.
    revoked_at text,
    -- When it expired, once the sweep has noted it.
    expired_at text,
    -- When the life began that reminders are planned for.
    reminders_from text,
    -- The expires_at that remind_at was planned for; another one means that the invite has a new life, to be planned anew.
    reminders_until text,
    -- When the next reminder is due; null for none.
    remind_at text,
    -- Why the address was last asked without a mail: cool_down, daily_cap or address_cap; null where a mail was queued.
    mail_held text check (mail_held in ('cool_down', 'daily_cap', 'address_cap')),
    -- When the row was made.
    created_at text not null,
    -- When the row last changed.
    updated_at text not null,
    check ((kind = 'project') = (project_id is not null)),
    check ((status = 'accepted') = (accepted_at is not null and accepted_by is not null))
) strict;
-- One open invite per target and address. Expired ones count: inviting again renews them, swept or not.
create unique index invites_open on invites (kind, target_id, email_key) where status in ('pending', 'expired');
create index invites_waiting on invites (email_key) where status = 'pending';
create index invites_flagged on invites (flagged_for) where flagged_for is not null and status = 'pending';
create index invites_by_organization on invites (organization_id, created_at, id);
create index invites_by_project on invites (project_id, created_at, id) where project_id is not null;
-- Lists go by creation, newest first, within one filter; email_key and status narrow further.
create index invites_by_creation on invites (created_at, id);
create index invites_by_email on invites (email_key, created_at, id);
create index invites_by_inviter on invites (invited_by, created_at, id) where invited_by is not null;
create index invites_expiring on invites (expires_at) where status = 'pending';
create index invites_to_plan on invites (id)
    where status = 'pending' and (reminders_until is null or reminders_until <> expires_at);
create index invites_to_remind on invites (remind_at) where status = 'pending' and remind_at is not null;

-- Mails that belong to invites, sent or to be sent.
create table usher_deliveries (
    -- What the job carries.
    id blob primary key,
    -- The invite it speaks of.
    invite_id blob not null references invites (id),
    -- invite and reminder go to the invited address, accepted_notice to the inviter.
    kind text not null check (kind in ('invite', 'reminder', 'accepted_notice')),
    -- Counts the mails of one kind for one invite.
    generation integer not null,
    -- Where it goes.
    to_email text not null,
    -- queued, sent, failed (for good) or suppressed (no longer wanted, or its address refuses
    -- mail).
    status text not null check (status in ('queued', 'sent', 'failed', 'suppressed')),
    -- How often sending was tried.
    attempts integer not null default 0,
    -- The last refusal, addresses masked.
    last_error text,
    -- What the mail server said when it took the mail.
    reply text,
    -- Fixed per delivery, so that a second copy after a crash is recognised as the same mail.
    message_id text not null,
    -- When it was asked for.
    queued_at text not null,
    -- When sending was last tried.
    attempted_at text,
    -- When the server took it.
    sent_at text,
    unique (invite_id, kind, generation)
) strict;

-- The inbox: every event that Clerk was told usher has taken.
create table usher_events (
    -- The message id, the same over retries and replays.
    svix_id text primary key,
    -- user.created and so on.
    event_type text not null,
    -- The body as it was signed; cleared some days after processing.
    payload text,
    -- When it was stored.
    received_at text not null,
    -- When its effect was committed.
    processed_at text,
    -- What came of it, in a few words.
    outcome text,
    -- Why it could not be processed so far.
    error text
) strict;
-- Lists begin with the newest.
create index usher_events_by_time on usher_events (received_at, svix_id);
-- The newest of a type that is rare. The frequent ones are found without it, and so cost nothing more to receive.
create index usher_events_of_rare_types on usher_events (event_type, received_at, svix_id)
    where event_type not in ('session.created', 'user.created', 'user.updated');
create index usher_events_unprocessed on usher_events (received_at, svix_id) where processed_at is null;
-- The few events that failed, among all that wait while there is much to do.
create index usher_events_failed on usher_events (received_at, svix_id) where processed_at is null and error is not null;
-- What retention looks for: processed events that still have their payload, and those that have none any more.
create index usher_events_with_payload on usher_events (processed_at) where processed_at is not null and payload is not null;
create index usher_events_cleared on usher_events (processed_at) where processed_at is not null and payload is null;

-- Answers that are given again when a caller repeats a request with the same Idempotency-Key.
create table usher_idempotency_keys (
    -- The name of the key that called.
    api_key text not null,
    -- What the caller sent as Idempotency-Key.
    idempotency_key text not null,
    -- SHA-256 of path and body: the same key with another request is a mistake.
    request_hash blob not null,
    -- The status that was answered; null only inside the transaction that makes the answer.
    status integer,
    -- The body that was answered; null where it was too long to be kept.
    answer text,
    -- What became of each item that was asked for: its status, and the invite's id or the problem's code. JSON.
    outcomes text,
    -- Kept for 24 hours.
    created_at text not null,
    primary key (api_key, idempotency_key)
) strict;
create index usher_idempotency_keys_age on usher_idempotency_keys (created_at);

-- Periodic work: one row per schedule decides, in one guarded update, which process a tick belongs to.
create table usher_schedules (
    -- What is done.
    name text primary key,
    -- When its next tick is due; whoever moves it on runs the tick.
    due_at text not null,
    -- When a run ended last.
    last_at text,
    -- Why that run failed, if it did.
    last_error text
) strict;

-- Addresses that a mail server refused for good: not written to until somebody resends.
create table usher_suppressions (
    -- The address, as addresses are compared.
    email_key text primary key,
    -- The server's words, addresses masked.
    reason text not null,
    -- When it was refused.
    suppressed_at text not null
) strict;

-- The mail circuit breaker: a row is there while it is open, because the mail server refuses the account; all mails
-- wait.
create table usher_mail_circuit (
    -- Always 1.
    id integer primary key check (id = 1),
    -- The server's words, addresses masked.
    reason text not null,
    -- When it began.
    since text not null,
    -- How many mails were tried since.
    probes integer not null default 0,
    -- When the next one is tried; whoever moves it on sends it.
    probe_at text not null
) strict;

-- Invite mails asked for on a day, for the daily caps.
create table usher_mail_counts (
    -- Who is counted: an inviter, an organization or an address.
    scope text not null check (scope in ('inviter', 'organization', 'address')),
    -- The admins.id, the organizations.id, or the first half of the SHA-256 of the address's email_key.
    subject blob not null,
    -- The day in UTC, such as 2026-11-22.
    day text not null,
    -- How many mails.
    mails integer not null,
    primary key (scope, subject, day)
) strict;

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
    -- created, refreshed, resent, flagged, dismissed, accepted, refused, declined, revoked or expired.
    event text not null,
    -- When.
    at text not null,
    -- The id of Clerk's event or of the request that caused it.
    cause text,
    -- Of a refusal: target_deleted, unknown_role, inviter_blocked, inviter_lost_rights or app_refuses.
    reason text
) strict;
create index usher_invite_history_invite on usher_invite_history (invite_id, id);

-- How the app spells those of its ids that are no UUIDs; elsewhere they are what is computed from them.
create table usher_app_ids (
    -- What the organization or project has as its id.
    key blob primary key,
    -- As the app spells it.
    app_id text not null
) strict, without rowid;

-- What the app is told, one row for each event, written in the transaction that makes it true.
create table usher_outgoing_events (
    -- The order of writing; what follows from an event is written after it.
    seq integer primary key autoincrement,
    -- UUIDv7; evt_ and its digits are what receivers see.
    id blob not null unique,
    -- The place in the feed, without gaps; null until the numberer has seen the commit.
    number integer unique,
    -- invite.created and so on.
    type text not null,
    -- When it happened.
    at text not null,
    -- The invite, if it is about one.
    invite_id blob,
    -- The organization; of an invite or a project, the one at numbering.
    organization_id blob,
    -- The project, if it is about one or a membership in one.
    project_id blob,
    -- The person of a membership, an admins.id.
    admin_id blob,
    -- What happened, as a JSON object.
    changes text not null,
    -- The JSON that is sent, written once when it gets its number.
    body text,
    check ((number is null) = (body is null))
) strict;
create index usher_outgoing_events_unnumbered on usher_outgoing_events (seq) where number is null;

-- The last number of the feed: one row, which the numberer holds locked.
create table usher_event_feed (
    -- Always 1.
    only_row integer primary key check (only_row = 1),
    -- The number of the newest event.
    last_number integer not null
) strict;
insert into usher_event_feed (only_row, last_number) values (1, 0);

-- The endpoints of USHER_EVENTS, as of the last start.
create table usher_event_endpoints (
    -- The name in USHER_EVENTS.
    name text primary key,
    -- Which of the queues deliver-event-1 and so on is its own.
    slot integer not null unique,
    -- Since when nothing is sent to it; null while it is enabled.
    disabled_at text,
    -- What disabled it.
    disabled_reason text
) strict;

-- An event on its way to an endpoint.
create table usher_event_deliveries (
    -- The event, by its id.
    event_id blob not null references usher_outgoing_events (id) on delete cascade,
    -- The endpoint, by its name.
    endpoint text not null,
    -- queued, delivered, dead (no tries are left) or cancelled (the endpoint is disabled or no longer configured).
    status text not null check (status in ('queued', 'delivered', 'dead', 'cancelled')),
    -- How often it was tried since it was queued.
    attempts integer not null default 0,
    -- When it was queued, or last queued again.
    queued_at text not null,
    -- When it was first tried since then.
    first_tried_at text,
    -- When it was last tried.
    tried_at text,
    -- What the receiver answered, or why there was no answer.
    last_error text,
    primary key (event_id, endpoint)
) strict;
create index usher_event_deliveries_open on usher_event_deliveries (endpoint, event_id) where status in ('queued', 'dead');

-- How many jobs of each queue ended in each minute of the last day.
create table usher_ended_jobs (
    -- Since the Unix epoch.
    minute integer not null,
    -- The queue's name.
    queue text not null,
    -- Attempts that ended well.
    done integer not null,
    -- Attempts that failed.
    failed integer not null,
    primary key (minute, queue)
) strict;

-- Paused queues; their jobs wait.
create table usher_paused_queues (
    -- The queue's name.
    queue text primary key,
    -- Why; all operators see it.
    reason text not null,
    -- Who paused it.
    paused_by text not null,
    -- When.
    since text not null
) strict;

-- What was changed by hand, on the board or the command line, and what was refused. Ids, no addresses.
create table usher_audit (
    -- UUIDv7: sorted by time.
    id blob primary key,
    -- When it began.
    at text not null,
    -- The name of the ops key, or of the account that ran the command.
    who text not null,
    -- board or command line.
    door text not null check (door in ('board', 'command line')),
    -- Such as `retry jobs`.
    action text not null,
    -- What was chosen: ids, or a filter.
    subject text not null,
    -- How many were changed.
    changed integer not null default 0,
    -- Why nothing was changed, if it was refused.
    refused text
) strict;

-- What statements need to know of the configuration: one row, written when usher starts.
create table usher_settings (
    -- There is no second one.
    only_row integer primary key check (only_row = 1),
    -- The domain of MAIL_FROM, in which mails have their Message-IDs.
    mail_domain text not null
) strict;

-- apalis's table of jobs.

-- With many finished rows the planner takes one of these two for acks and locks and walks the history of the queue;
-- without them it takes the primary key.
drop index if exists LIdx;
drop index if exists idx_jobs_status_run_at;
-- Each change of a job's status is written to every index that knows of it. Of apalis's, these two help nobody; whoever
-- looks for a silent worker's jobs wants the held ones only.
drop index if exists idx_jobs_claimable;
drop index if exists idx_jobs_running;
create index usher_jobs_held on Jobs (lock_by) where status in ('Running', 'Queued');
-- Nobody gives jobs a key of this kind, yet each job had an entry for none.
create unique index usher_jobs_idempotency_key on Jobs (job_type, idempotency_key) where idempotency_key is not null;
drop index if exists idx_jobs_idempotency_key;

-- Whoever counts or lists jobs by their state asks for those that are not done; a finished job needs no place in this.
create index usher_jobs_unfinished on Jobs (job_type, status, run_at) where status <> 'Done';
drop index if exists idx_jobs_job_type_status_run_at;
-- The finished jobs of one queue, newest first, however many others have.
create index usher_jobs_done on Jobs (job_type, id) where status = 'Done';
-- The few dead jobs, likewise.
create index usher_jobs_dead on Jobs (job_type, id)
    where status = 'Killed' or (status = 'Failed' and attempts >= max_attempts);
-- Unfinished jobs with an error, for a search for its words, which reads nothing but the index.
create index usher_jobs_with_error on Jobs (job_type, id, last_result, status, run_at, attempts, max_attempts)
    where status <> 'Done' and last_result is not null;
drop index if exists idx_jobs_completed_done_at;

-- What the last migration left: tables, indexes and triggers.
create table usher_catalog (
    -- table, index, trigger or view.
    kind text not null,
    -- Its name.
    name text not null,
    -- The table that it belongs to.
    of_table text,
    -- Changes if the object changes.
    fingerprint text not null,
    -- Always true; Postgres has more.
    is_needed integer not null,
    -- The statement that makes it.
    definition text,
    primary key (kind, name)
) strict;

-- Set while the file is moved to Postgres, and afterwards: `usher move`.
create table usher_move (
    -- Always 1.
    only_row integer primary key check (only_row = 1),
    -- What the Postgres database knows this file by.
    source text not null,
    -- When it was done; null while it is not.
    finished_at text
) strict;
