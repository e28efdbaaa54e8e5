-- The tables that the app and usher share come first, in the app's schema if they are the app's. They may be there already, with
-- more columns and with rows: what is there stays as it is, what is missing is added.
select set_config('search_path', quote_ident(coalesce(nullif(current_setting('usher.app_schema', true), ''), 'usher')), true);

create table if not exists organizations (
    id uuid primary key,
    name text not null
);
alter table organizations add column if not exists name text;
alter table organizations add column if not exists created_at timestamptz not null default now();
alter table organizations add column if not exists updated_at timestamptz not null default now();
alter table organizations add column if not exists deleted_at timestamptz;
comment on table organizations is 'The app''s organizations.';
comment on column organizations.id is 'Chosen by the app.';
comment on column organizations.name is 'What people call it; shown in mails.';
comment on column organizations.created_at is 'When the row was made.';
comment on column organizations.updated_at is 'When the row last changed.';
comment on column organizations.deleted_at is 'Soft deletion: set means gone.';

create table if not exists admins (
    id uuid primary key
);
alter table admins add column if not exists organization_id uuid;
alter table admins add column if not exists external_id text;
alter table admins add column if not exists email text;
alter table admins add column if not exists first_name text;
alter table admins add column if not exists last_name text;
alter table admins add column if not exists image_url text;
alter table admins add column if not exists role text;
alter table admins add column if not exists created_at timestamptz not null default now();
alter table admins add column if not exists updated_at timestamptz not null default now();
alter table admins add column if not exists deleted_at timestamptz;
create index if not exists usher_admins_external_id on admins (external_id);
comment on table admins is 'People who are, or were, members.';
comment on column admins.id is 'The app''s id of the person.';
comment on column admins.organization_id is 'Deprecated: membership lives in organization_users.';
comment on column admins.external_id is 'The Clerk user id.';
comment on column admins.email is 'The primary address, as Clerk shows it.';
comment on column admins.first_name is 'As Clerk shows it.';
comment on column admins.last_name is 'As Clerk shows it.';
comment on column admins.image_url is 'As Clerk shows it.';
comment on column admins.role is 'Deprecated: roles live with the memberships.';
comment on column admins.created_at is 'When the row was made.';
comment on column admins.updated_at is 'When the row last changed.';
comment on column admins.deleted_at is 'Soft deletion: set means gone.';

create table if not exists organization_users (
    id uuid primary key default gen_random_uuid(),
    organization_id uuid not null references organizations (id) on delete cascade,
    admin_id uuid not null references admins (id) on delete cascade,
    role text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    unique (organization_id, admin_id)
);
alter table organization_users alter column id set default gen_random_uuid();
create index if not exists usher_organization_users_admin on organization_users (admin_id);
comment on table organization_users is 'Who is in which organization: many to many.';
comment on column organization_users.id is 'The membership.';
comment on column organization_users.organization_id is 'The organization.';
comment on column organization_users.admin_id is 'The person.';
comment on column organization_users.role is 'One of the configured organization roles.';
comment on column organization_users.created_at is 'When the row was made.';
comment on column organization_users.updated_at is 'When the row last changed.';
comment on column organization_users.deleted_at is 'Soft deletion: set means removed; an accepted invite revives it.';

create table if not exists projects (
    id uuid primary key,
    organization_id uuid not null references organizations (id),
    name text not null
);
alter table projects add column if not exists name text;
alter table projects add column if not exists created_at timestamptz not null default now();
alter table projects add column if not exists updated_at timestamptz not null default now();
alter table projects add column if not exists deleted_at timestamptz;
comment on table projects is 'The app''s projects.';
comment on column projects.id is 'Chosen by the app.';
comment on column projects.organization_id is 'Where the project belongs.';
comment on column projects.name is 'What people call it; shown in mails.';
comment on column projects.created_at is 'When the row was made.';
comment on column projects.updated_at is 'When the row last changed.';
comment on column projects.deleted_at is 'Soft deletion: set means gone.';

create table if not exists project_admins (
    id uuid primary key default gen_random_uuid(),
    project_id uuid not null references projects (id) on delete cascade,
    admin_id uuid not null references admins (id) on delete cascade,
    role text not null,
    unique (project_id, admin_id)
);
alter table project_admins add column if not exists created_at timestamptz not null default now();
alter table project_admins add column if not exists updated_at timestamptz not null default now();
alter table project_admins add column if not exists deleted_at timestamptz;
create index if not exists usher_project_admins_admin on project_admins (admin_id);
comment on table project_admins is 'Who is in which project: many to many.';
comment on column project_admins.id is 'The membership.';
comment on column project_admins.project_id is 'The project; it may belong to any organization.';
comment on column project_admins.admin_id is 'The person.';
comment on column project_admins.role is 'One of the configured project roles.';
comment on column project_admins.created_at is 'When the row was made.';
comment on column project_admins.updated_at is 'When the row last changed.';
comment on column project_admins.deleted_at is 'Soft deletion: set means removed; an accepted invite revives it.';

create table invites (
    id uuid primary key,
    kind text not null check (kind in ('organization', 'project')),
    organization_id uuid not null references organizations (id) on delete cascade,
    project_id uuid references projects (id) on delete cascade,
    target_id uuid not null generated always as (coalesce(project_id, organization_id)) stored,
    email text not null,
    email_key text not null,
    role text not null,
    status text not null check (status in ('pending', 'accepted', 'declined', 'revoked', 'expired')),
    acceptance text not null check (acceptance in ('auto', 'ask', 'default')),
    invited_by uuid,
    invited_by_clerk_id text,
    accepted_by uuid,
    accepted_by_clerk_id text,
    locale text,
    message text,
    redirect_url text,
    token_version integer not null default 1,
    invited_at timestamptz not null,
    expires_at timestamptz not null,
    flagged_at timestamptz,
    flagged_for uuid,
    dismissed_at timestamptz,
    accepted_at timestamptz,
    declined_at timestamptz,
    revoked_at timestamptz,
    expired_at timestamptz,
    reminders_from timestamptz,
    reminders_until timestamptz,
    remind_at timestamptz,
    mail_held text check (mail_held in ('cool_down', 'daily_cap', 'address_cap')),
    created_at timestamptz not null,
    updated_at timestamptz not null,
    check ((kind = 'project') = (project_id is not null)),
    check ((status = 'accepted') = (accepted_at is not null and accepted_by is not null))
);
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
comment on table invites is 'Addresses invited into an organization or a project.';
comment on column invites.id is 'UUIDv7: sorted by the time of creation.';
comment on column invites.kind is 'organization or project.';
comment on column invites.organization_id is 'The organization; for a project, the one it belonged to when the invite was made.';
comment on column invites.project_id is 'The project, for kind project only.';
comment on column invites.target_id is 'The project or else the organization: one column for the uniqueness of open invites.';
comment on column invites.email is 'The address as it was written.';
comment on column invites.email_key is 'What addresses are compared by.';
comment on column invites.role is 'The role it gives.';
comment on column invites.status is 'pending, accepted, declined, revoked or expired; pending past expires_at counts as expired.';
comment on column invites.acceptance is 'auto lets in, ask shows the banner, default follows AUTO_ACCEPT.';
comment on column invites.invited_by is 'The inviter, an admins.id.';
comment on column invites.invited_by_clerk_id is 'The Clerk user id that the inviter had: known also when the app has deleted the row.';
comment on column invites.accepted_by is 'Who accepted, an admins.id.';
comment on column invites.accepted_by_clerk_id is 'The Clerk user id of who accepted.';
comment on column invites.locale is 'The language for the mail (BCP 47).';
comment on column invites.message is 'A few words from the inviter.';
comment on column invites.redirect_url is 'Where the invitee goes after accepting: an origin of REDIRECT_URLS when it was asked.';
comment on column invites.token_version is 'The version that the link is derived from; raised to make older links void.';
comment on column invites.invited_at is 'When the address was asked, or last asked again.';
comment on column invites.expires_at is 'From then on it is expired.';
comment on column invites.flagged_at is 'Since when the banner shows it.';
comment on column invites.flagged_for is 'The person whose banner shows it, a usher_people.id.';
comment on column invites.dismissed_at is 'When that person put the banner away, until their next sign-in.';
comment on column invites.accepted_at is 'When it was accepted.';
comment on column invites.declined_at is 'When it was declined.';
comment on column invites.revoked_at is 'When it was revoked.';
comment on column invites.expired_at is 'When it expired, once the sweep has noted it.';
comment on column invites.reminders_from is 'When the life began that reminders are planned for.';
comment on column invites.reminders_until is 'The expires_at that remind_at was planned for; another one means that the invite has a new life, to be planned anew.';
comment on column invites.remind_at is 'When the next reminder is due; null for none.';
comment on column invites.mail_held is 'Why the address was last asked without a mail; null where a mail was queued.';
comment on column invites.created_at is 'When the row was made.';
comment on column invites.updated_at is 'When the row last changed.';

-- From here on all is usher's own.
select set_config('search_path', concat_ws(', ', 'usher', quote_ident(nullif(current_setting('usher.app_schema', true), ''))), true);

create table usher_layout (
    only_row integer primary key check (only_row = 1),
    app_schema text
);
insert into usher_layout (only_row, app_schema) values (1, nullif(current_setting('usher.app_schema', true), ''));
comment on table usher_layout is 'Where the tables above are: one row, written once.';
comment on column usher_layout.only_row is 'Always 1.';
comment on column usher_layout.app_schema is 'USHER_APP_SCHEMA with USHER_TABLES=shared; null where all tables are in the schema usher.';

create table usher_people (
    clerk_user_id text primary key,
    id uuid not null unique,
    admin_id uuid,
    email text,
    first_name text,
    last_name text,
    image_url text,
    clerk_created_at timestamptz,
    clerk_updated_at timestamptz,
    banned boolean not null default false,
    locked boolean not null default false,
    locale text,
    seen_at timestamptz,
    deleted_at timestamptz
);
create index usher_people_admin on usher_people (admin_id) where admin_id is not null;
comment on table usher_people is 'What Clerk last said of each person, and the tombstones of the deleted. Not all are members.';
comment on column usher_people.clerk_user_id is 'user_…';
comment on column usher_people.id is 'UUIDv7; a new row in admins gets it, too.';
comment on column usher_people.admin_id is 'The row in admins that was theirs when Clerk last told of them, if there was one. Which one is theirs now, admins.external_id tells.';
comment on column usher_people.email is 'Their primary address if it is verified, or else another verified one.';
comment on column usher_people.first_name is 'As Clerk shows it.';
comment on column usher_people.last_name is 'As Clerk shows it.';
comment on column usher_people.image_url is 'As Clerk shows it.';
comment on column usher_people.clerk_created_at is 'When Clerk created them.';
comment on column usher_people.clerk_updated_at is 'The version of what is stored: an older one never overwrites a newer one.';
comment on column usher_people.banned is 'Banned in Clerk: no invite is for them.';
comment on column usher_people.locked is 'Locked in Clerk: no invite is for them.';
comment on column usher_people.locale is 'Their language (BCP 47).';
comment on column usher_people.seen_at is 'When Clerk last told of them.';
comment on column usher_people.deleted_at is 'Deleted in Clerk; a late or replayed event never revives them.';

-- How usher reads the three tables that an app may keep. It may drop each column but the ids, at any time: a view that named
-- one would keep it from that, and a statement that named one would fail afterwards. So what is the app's is read by functions
-- whose text is parsed with each plan: a column that is not in the table is found in `missing`, where it is null. The planner
-- puts their text into the statement, so they cost nothing. The names and the address of a person are Clerk's, as far as it has
-- told of them.
do $own_views$
begin
    if exists (select from usher_layout where app_schema is not null) then
        return;
    end if;
    create view usher_organizations as select id, name, created_at, updated_at, deleted_at from organizations;
    create view usher_projects as select id, organization_id, name, created_at, updated_at, deleted_at from projects;
    create view usher_admins as select id, external_id, email, first_name, last_name, created_at, deleted_at from admins;
end
$own_views$;
do $views_of_app$
declare
    app text := (select quote_ident(l.app_schema) from usher_layout l);
begin
    if exists (select from usher_layout where app_schema is null) then
        return;
    end if;
    execute format($text$
        create function usher_read_organizations() returns table (
            id uuid, name text, created_at timestamptz, updated_at timestamptz, deleted_at timestamptz
        ) language sql stable as $body$
            select there.* from (
                select null as name, null::timestamptz as created_at, null::timestamptz as updated_at,
                    null::timestamptz as deleted_at
            ) as missing cross join lateral (
                select o.id, name::text, created_at::timestamptz, updated_at::timestamptz, deleted_at::timestamptz
                from %1$s.organizations o
            ) as there
        $body$;
        create function usher_read_projects() returns table (
            id uuid, organization_id uuid, name text, created_at timestamptz, updated_at timestamptz, deleted_at timestamptz
        ) language sql stable as $body$
            select there.* from (
                select null as name, null::timestamptz as created_at, null::timestamptz as updated_at,
                    null::timestamptz as deleted_at
            ) as missing cross join lateral (
                select p.id, p.organization_id, name::text, created_at::timestamptz, updated_at::timestamptz,
                    deleted_at::timestamptz
                from %1$s.projects p
            ) as there
        $body$;
        create function usher_read_admins() returns table (
            id uuid, external_id text, email text, first_name text, last_name text, created_at timestamptz,
            deleted_at timestamptz
        ) language sql stable as $body$
            select there.id, there.external_id, coalesce(p.email, there.email), coalesce(p.first_name, there.first_name),
                coalesce(p.last_name, there.last_name), there.created_at, there.deleted_at
            from (
                select null as external_id, null as email, null as first_name, null as last_name,
                    null::timestamptz as created_at, null::timestamptz as deleted_at
            ) as missing cross join lateral (
                select a.id, external_id::text, email::text, first_name::text, last_name::text, created_at::timestamptz,
                    deleted_at::timestamptz
                from %1$s.admins a
            ) as there left join usher.usher_people p on p.clerk_user_id = there.external_id
        $body$;
    $text$, app);
    revoke all on function usher_read_organizations(), usher_read_projects(), usher_read_admins() from public;
    create view usher_organizations as select * from usher_read_organizations();
    create view usher_projects as select * from usher_read_projects();
    create view usher_admins as select * from usher_read_admins();
end
$views_of_app$;
comment on view usher_organizations is 'The organizations as usher reads them.';
comment on view usher_projects is 'The projects as usher reads them.';
comment on view usher_admins is 'The rows in admins as usher reads them.';

create table usher_addresses (
    person_id uuid not null,
    email_key text not null,
    email text not null,
    verified boolean not null,
    is_primary boolean not null,
    primary key (person_id, email_key)
);
create index usher_addresses_verified on usher_addresses (email_key) where verified;
comment on table usher_addresses is 'Every address that Clerk knows of a person.';
comment on column usher_addresses.person_id is 'The person, a usher_people.id.';
comment on column usher_addresses.email_key is 'What addresses are compared by.';
comment on column usher_addresses.email is 'As Clerk shows it.';
comment on column usher_addresses.verified is 'Clerk verified it; only such an address matches invites.';
comment on column usher_addresses.is_primary is 'Their main address.';

create table usher_sessions (
    clerk_session_id text primary key,
    person_id uuid,
    status text not null check (status in ('active', 'ended')),
    started_at timestamptz,
    ended_at timestamptz
);
create index usher_sessions_active on usher_sessions (person_id) where status = 'active';
create index usher_sessions_age on usher_sessions (coalesce(ended_at, started_at));
comment on table usher_sessions is 'Who is signed in, as far as the webhooks tell.';
comment on column usher_sessions.clerk_session_id is 'sess_…';
comment on column usher_sessions.person_id is 'The person, a usher_people.id; null if they were unknown when the session ended.';
comment on column usher_sessions.status is 'active or ended; an ended session is never revived by a late event.';
comment on column usher_sessions.started_at is 'When Clerk says it began.';
comment on column usher_sessions.ended_at is 'When usher learnt of its end.';

create table usher_deliveries (
    id uuid primary key,
    invite_id uuid not null references invites (id) on delete cascade,
    kind text not null check (kind in ('invite', 'reminder', 'accepted_notice')),
    generation integer not null,
    to_email text not null,
    status text not null check (status in ('queued', 'sent', 'failed', 'suppressed')),
    attempts integer not null default 0,
    last_error text,
    reply text,
    message_id text not null,
    queued_at timestamptz not null,
    attempted_at timestamptz,
    sent_at timestamptz,
    unique (invite_id, kind, generation)
);
comment on table usher_deliveries is 'Mails that belong to invites, sent or to be sent.';
comment on column usher_deliveries.id is 'What the job carries.';
comment on column usher_deliveries.invite_id is 'The invite it speaks of.';
comment on column usher_deliveries.kind is 'invite and reminder go to the invited address, accepted_notice to the inviter.';
comment on column usher_deliveries.generation is 'Counts the mails of one kind for one invite.';
comment on column usher_deliveries.to_email is 'Where it goes.';
comment on column usher_deliveries.status is 'queued, sent, failed (for good) or suppressed (no longer wanted, or its address refuses mail).';
comment on column usher_deliveries.attempts is 'How often sending was tried.';
comment on column usher_deliveries.last_error is 'The last refusal, addresses masked.';
comment on column usher_deliveries.reply is 'What the mail server said when it took the mail.';
comment on column usher_deliveries.message_id is 'Fixed per delivery, so that a second copy after a crash is recognised as the same mail.';
comment on column usher_deliveries.queued_at is 'When it was asked for.';
comment on column usher_deliveries.attempted_at is 'When sending was last tried.';
comment on column usher_deliveries.sent_at is 'When the server took it.';

create table usher_events (
    svix_id text primary key,
    event_type text not null,
    payload text,
    received_at timestamptz not null,
    processed_at timestamptz,
    outcome text,
    error text
);
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
comment on table usher_events is 'The inbox: every event that Clerk was told usher has taken.';
comment on column usher_events.svix_id is 'The message id, the same over retries and replays.';
comment on column usher_events.event_type is 'user.created and so on.';
comment on column usher_events.payload is 'The body as it was signed; cleared some days after processing.';
comment on column usher_events.received_at is 'When it was stored.';
comment on column usher_events.processed_at is 'When its effect was committed.';
comment on column usher_events.outcome is 'What came of it, in a few words.';
comment on column usher_events.error is 'Why it could not be processed so far.';

-- Bodies are compressed at a third of the cost, where the server can (Postgres 14 or newer, built with lz4, as packages are).
do $$
begin
    execute 'alter table usher_events alter column payload set compression lz4';
exception
    when syntax_error or feature_not_supported then null;
end
$$;

-- Answers that are given again when a caller repeats a request with the same Idempotency-Key: beside the answer, what
-- became of each item, by which a key that was limited meanwhile is told no more than it may see now.
create table usher_idempotency_keys (
    api_key text not null,
    idempotency_key text not null,
    request_hash bytea not null,
    status integer,
    answer text,
    outcomes text,
    created_at timestamptz not null,
    primary key (api_key, idempotency_key)
);
create index usher_idempotency_keys_age on usher_idempotency_keys (created_at);
comment on table usher_idempotency_keys is 'Answers that are given again when a request is repeated.';
comment on column usher_idempotency_keys.api_key is 'The name of the key that called.';
comment on column usher_idempotency_keys.idempotency_key is 'What the caller sent as Idempotency-Key.';
comment on column usher_idempotency_keys.request_hash is 'SHA-256 of path and body: the same key with another request is a mistake.';
comment on column usher_idempotency_keys.status is 'The status that was answered; null only inside the transaction that makes the answer.';
comment on column usher_idempotency_keys.answer is 'The body that was answered; null where it was too long to be kept.';
comment on column usher_idempotency_keys.outcomes is 'What became of each item that was asked for: its status, and the invite''s id or the problem''s code. JSON.';
comment on column usher_idempotency_keys.created_at is 'Kept for 24 hours.';

-- Periodic work: one row per schedule decides, in one guarded update, which process a tick belongs to.
create table usher_schedules (
    name text primary key,
    due_at timestamptz not null,
    last_at timestamptz,
    last_error text
);
comment on column usher_schedules.last_at is 'When a run ended last.';
comment on column usher_schedules.last_error is 'Why that run failed, if it did.';
comment on table usher_schedules is 'Periodic work and when it is due next.';
comment on column usher_schedules.name is 'What is done.';
comment on column usher_schedules.due_at is 'When its next tick is due; whoever moves it on runs the tick.';

create table usher_suppressions (
    email_key text primary key,
    reason text not null,
    suppressed_at timestamptz not null
);
comment on table usher_suppressions is 'Addresses that a mail server refused for good: not written to until somebody resends.';
comment on column usher_suppressions.email_key is 'The address, as addresses are compared.';
comment on column usher_suppressions.reason is 'The server''s words, addresses masked.';
comment on column usher_suppressions.suppressed_at is 'When it was refused.';

create table usher_mail_circuit (
    id integer primary key check (id = 1),
    reason text not null,
    since timestamptz not null,
    probes integer not null default 0,
    probe_at timestamptz not null
);
comment on table usher_mail_circuit is 'The mail circuit breaker: a row is there while it is open, because the mail server refuses the account; all mails wait.';
comment on column usher_mail_circuit.id is 'Always 1.';
comment on column usher_mail_circuit.reason is 'The server''s words, addresses masked.';
comment on column usher_mail_circuit.since is 'When it began.';
comment on column usher_mail_circuit.probes is 'How many mails were tried since.';
comment on column usher_mail_circuit.probe_at is 'When the next one is tried; whoever moves it on sends it.';

create table usher_mail_counts (
    scope text not null check (scope in ('inviter', 'organization', 'address')),
    subject uuid not null,
    day text not null,
    mails integer not null,
    primary key (scope, subject, day)
);
comment on table usher_mail_counts is 'Invite mails asked for on a day, for the daily caps.';
comment on column usher_mail_counts.scope is 'Who is counted: an inviter, an organization or an address.';
comment on column usher_mail_counts.subject is 'The admins.id, the organizations.id, or the first half of the SHA-256 of the address''s email_key.';
comment on column usher_mail_counts.day is 'The day in UTC, such as 2026-11-22.';
comment on column usher_mail_counts.mails is 'How many mails.';

-- The app's transaction may stay open for long, and everybody counts in the same rows. So what it asks for is noted
-- here, in rows that nobody else sees, and counted when it commits: the counts are locked for the commit alone.
create table usher_mail_asks (
    scope text not null,
    subject uuid not null,
    day text not null
);
comment on table usher_mail_asks is 'Mails that the current transaction asks for; empty for everybody else.';
comment on column usher_mail_asks.scope is 'Who is counted: an inviter, an organization or an address.';
comment on column usher_mail_asks.subject is 'The admins.id, the organizations.id, or the first half of the SHA-256 of the address''s email_key.';
comment on column usher_mail_asks.day is 'The day in UTC, such as 2026-11-22.';

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
    invite_id uuid not null references invites (id) on delete cascade,
    event text not null,
    at timestamptz not null,
    cause text,
    reason text
);
create index usher_invite_history_invite on usher_invite_history (invite_id, id);
comment on table usher_invite_history is 'What happened to each invite, and what caused it.';
comment on column usher_invite_history.id is 'UUIDv7: sorted by time.';
comment on column usher_invite_history.invite_id is 'The invite.';
comment on column usher_invite_history.event is 'created, refreshed, resent, flagged, dismissed, accepted, refused, declined, revoked or expired.';
comment on column usher_invite_history.at is 'When.';
comment on column usher_invite_history.cause is 'The id of Clerk''s event or of the request that caused it.';
comment on column usher_invite_history.reason is 'Of a refusal: target_deleted, unknown_role, inviter_blocked, inviter_lost_rights or app_refuses.';

-- What the app is told: one row in the transaction that makes it true, and its deliveries once it has a number.

create table usher_outgoing_events (
    seq bigint generated always as identity primary key,
    id uuid not null unique,
    number bigint unique,
    type text not null,
    at timestamptz not null,
    invite_id uuid,
    organization_id uuid,
    project_id uuid,
    admin_id uuid,
    changes text not null,
    body text,
    check ((number is null) = (body is null))
);
create index usher_outgoing_events_unnumbered on usher_outgoing_events (seq) where number is null;
comment on table usher_outgoing_events is 'What the app is told, one row for each event.';
comment on column usher_outgoing_events.seq is 'The order of writing; what follows from an event is written after it.';
comment on column usher_outgoing_events.id is 'UUIDv7; evt_ and its digits are what receivers see.';
comment on column usher_outgoing_events.number is 'The place in the feed, without gaps; null until the numberer has seen the commit.';
comment on column usher_outgoing_events.type is 'invite.created and so on.';
comment on column usher_outgoing_events.at is 'When it happened.';
comment on column usher_outgoing_events.invite_id is 'The invite, if it is about one.';
comment on column usher_outgoing_events.organization_id is 'The organization; of an invite or a project, the one at numbering.';
comment on column usher_outgoing_events.project_id is 'The project, if it is about one or a membership in one.';
comment on column usher_outgoing_events.admin_id is 'The person of a membership, an admins.id.';
comment on column usher_outgoing_events.changes is 'What happened, as a JSON object.';
comment on column usher_outgoing_events.body is 'The JSON that is sent, written once when it gets its number.';

create table usher_event_feed (
    only_row integer primary key check (only_row = 1),
    last_number bigint not null
);
insert into usher_event_feed (only_row, last_number) values (1, 0);
comment on table usher_event_feed is 'The last number of the feed: one row, which the numberer holds locked.';
comment on column usher_event_feed.only_row is 'Always 1.';
comment on column usher_event_feed.last_number is 'The number of the newest event.';

create table usher_event_endpoints (
    name text primary key,
    slot integer not null unique,
    disabled_at timestamptz,
    disabled_reason text
);
comment on table usher_event_endpoints is 'The endpoints of USHER_EVENTS, as of the last start.';
comment on column usher_event_endpoints.name is 'The name in USHER_EVENTS.';
comment on column usher_event_endpoints.slot is 'Which of the queues deliver-event-1 and so on is its own.';
comment on column usher_event_endpoints.disabled_at is 'Since when nothing is sent to it; null while it is enabled.';
comment on column usher_event_endpoints.disabled_reason is 'What disabled it.';

create table usher_event_deliveries (
    event_id uuid not null references usher_outgoing_events (id) on delete cascade,
    endpoint text not null,
    status text not null check (status in ('queued', 'delivered', 'dead', 'cancelled')),
    attempts integer not null default 0,
    queued_at timestamptz not null,
    first_tried_at timestamptz,
    tried_at timestamptz,
    last_error text,
    primary key (event_id, endpoint)
);
create index usher_event_deliveries_open on usher_event_deliveries (endpoint, event_id) where status in ('queued', 'dead');
comment on table usher_event_deliveries is 'An event on its way to an endpoint.';
comment on column usher_event_deliveries.event_id is 'The event, by its id.';
comment on column usher_event_deliveries.endpoint is 'The endpoint, by its name.';
comment on column usher_event_deliveries.status is 'queued, delivered, dead (no tries are left) or cancelled (the endpoint is disabled or no longer configured).';
comment on column usher_event_deliveries.attempts is 'How often it was tried since it was queued.';
comment on column usher_event_deliveries.queued_at is 'When it was queued, or last queued again.';
comment on column usher_event_deliveries.first_tried_at is 'When it was first tried since then.';
comment on column usher_event_deliveries.tried_at is 'When it was last tried.';
comment on column usher_event_deliveries.last_error is 'What the receiver answered, or why there was no answer.';

-- One notification for each statement; sent at the commit.
create function usher_tell_of_events() returns trigger language plpgsql security definer as $$
begin
    perform pg_notify('usher_outgoing_events', '');
    return null;
end
$$;
comment on function usher_tell_of_events is 'Wakes the numberer.';
create trigger usher_tell_of_events after insert on usher_outgoing_events
    for each statement execute function usher_tell_of_events();

-- What functions and triggers in the database need to know of the configuration, and what keeps an app's own tables and
-- usher's in step.

create table usher_app_ids (
    key uuid primary key,
    app_id text not null
);
comment on table usher_app_ids is 'How the app spells those of its ids that are no UUIDs; elsewhere they are what is computed from them.';
comment on column usher_app_ids.key is 'What the organization or project has as its id.';
comment on column usher_app_ids.app_id is 'As the app spells it.';

create table usher_ended_jobs (
    minute bigint not null,
    queue text not null,
    done bigint not null,
    failed bigint not null,
    primary key (minute, queue)
);
comment on table usher_ended_jobs is 'How many jobs of each queue ended in each minute of the last day.';
comment on column usher_ended_jobs.minute is 'Since the Unix epoch.';
comment on column usher_ended_jobs.queue is 'The name of the queue.';
comment on column usher_ended_jobs.done is 'Attempts that ended well.';
comment on column usher_ended_jobs.failed is 'Attempts that failed.';

create table usher_paused_queues (
    queue text primary key,
    reason text not null,
    paused_by text not null,
    since timestamptz not null
);
comment on table usher_paused_queues is 'Paused queues; their jobs wait.';
comment on column usher_paused_queues.queue is 'The name of the queue.';
comment on column usher_paused_queues.reason is 'Why; all operators see it.';
comment on column usher_paused_queues.paused_by is 'Who paused it.';
comment on column usher_paused_queues.since is 'When.';

create table usher_audit (
    id uuid primary key,
    at timestamptz not null,
    who text not null,
    door text not null check (door in ('board', 'command line')),
    action text not null,
    subject text not null,
    changed bigint not null default 0,
    refused text
);
comment on table usher_audit is 'What was changed by hand, and what was refused. Ids, no addresses.';
comment on column usher_audit.id is 'UUIDv7: sorted by time.';
comment on column usher_audit.at is 'When it began.';
comment on column usher_audit.who is 'The name of the ops key, or of the account that ran the command.';
comment on column usher_audit.door is 'board or command line.';
comment on column usher_audit.action is 'Such as: retry jobs.';
comment on column usher_audit.subject is 'What was chosen: ids, or a filter.';
comment on column usher_audit.changed is 'How many were changed.';
comment on column usher_audit.refused is 'Why nothing was changed, if it was refused.';

create table usher_catalog (
    kind text not null,
    name text not null,
    of_table text,
    fingerprint text not null,
    is_needed boolean not null,
    definition text,
    primary key (kind, name)
);
comment on table usher_catalog is 'What the last migration left: tables, columns, constraints, indexes, triggers, functions and views.';
comment on column usher_catalog.kind is 'table, column, constraint, index, trigger, function or view.';
comment on column usher_catalog.name is 'With its schema, and its table if it belongs to one.';
comment on column usher_catalog.of_table is 'The table that it belongs to.';
comment on column usher_catalog.fingerprint is 'Changes if the object changes in a way that matters.';
comment on column usher_catalog.is_needed is 'False for columns of the app''s that usher works without.';
comment on column usher_catalog.definition is 'The statements that make it again; null for what only a backup can restore.';

create table usher_move (
    only_row integer primary key check (only_row = 1),
    source text not null,
    at timestamptz not null
);
comment on table usher_move is 'The SQLite file that was moved here, if one was: usher move.';
comment on column usher_move.only_row is 'Always 1.';
comment on column usher_move.source is 'What the file knows the move by.';
comment on column usher_move.at is 'When.';

create table usher_settings (
    only_row boolean primary key default true check (only_row),
    organization_roles text[] not null,
    project_roles text[] not null,
    invite_ttl interval not null,
    max_invite_ttl interval not null,
    max_message integer not null,
    resend_cool_down interval not null,
    resend_daily_cap integer not null,
    mail_cap_inviter bigint,
    mail_cap_organization bigint,
    mail_cap_address bigint default 20,
    repetition interval not null default '1 minute',
    redirect_origins text[] not null default '{}',
    organization_invite_role text,
    project_invite_role text,
    mail_domain text not null default 'usher',
    identity_provider text,
    identity_issuers text[],
    sync_profiles boolean not null default false,
    unique_emails text not null check (unique_emails in ('no', 'live', 'all')),
    check ((identity_provider is null) = (identity_issuers is null))
);
comment on table usher_settings is 'The configuration as functions and triggers see it: one row, written when usher starts.';
comment on column usher_settings.only_row is 'There is no second one.';
comment on column usher_settings.organization_roles is 'ORGANIZATION_ROLES, low to high.';
comment on column usher_settings.project_roles is 'PROJECT_ROLES, low to high.';
comment on column usher_settings.invite_ttl is 'INVITE_TTL.';
comment on column usher_settings.max_invite_ttl is 'The longest that an invite may live.';
comment on column usher_settings.max_message is 'The most characters that a message may have.';
comment on column usher_settings.resend_cool_down is 'The least time between two mails for one invite.';
comment on column usher_settings.resend_daily_cap is 'The most mails for one invite in 24 hours.';
comment on column usher_settings.mail_cap_inviter is 'MAIL_CAP_INVITER; null for no limit.';
comment on column usher_settings.mail_cap_organization is 'MAIL_CAP_ORGANIZATION; null for no limit.';
comment on column usher_settings.identity_provider is 'What admin_identities.provider says of Clerk users; null where identities are in admins.external_id.';
comment on column usher_settings.identity_issuers is 'What admin_identities.issuer says of Clerk users; the first is written into new rows.';
comment on column usher_settings.sync_profiles is 'USHER_SYNC_PROFILES.';
comment on column usher_settings.unique_emails is 'Whether the app lets an admins.email be there once only: no, among the live, or among all.';
comment on column usher_settings.mail_domain is 'The domain of MAIL_FROM, in which mails have their Message-IDs.';
comment on column usher_settings.organization_invite_role is 'ORGANIZATION_INVITE_ROLE; null for the highest.';
comment on column usher_settings.project_invite_role is 'PROJECT_INVITE_ROLE; null for the highest.';
comment on column usher_settings.mail_cap_address is 'MAIL_CAP_ADDRESS; null for no limit.';
comment on column usher_settings.redirect_origins is 'The origins of REDIRECT_URLS.';
comment on column usher_settings.repetition is 'How long the same request again is taken for a repetition of the first.';

create table usher_backfills (
    name text primary key,
    reached uuid,
    finished_at timestamptz
);
comment on table usher_backfills is 'How far rows that were there before usher have been taken over.';
comment on column usher_backfills.name is 'What is taken over.';
comment on column usher_backfills.reached is 'The last admins.id that is done.';
comment on column usher_backfills.finished_at is 'When all were done.';

-- apalis's table of jobs, which other programs in the database may use, too.

-- Rows of the queue are updated a few times and then lie still: room for updates in place, and a vacuum that comes
-- by the number of rows changed rather than by the size of the history.
alter table apalis.jobs set (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
-- Each change of a job's status is a new version of its row, with an entry in every index. Two of apalis's indexes say
-- what others say; and through those on lock_by the planner finds a few jobs of a worker by walking all that it ever
-- did. Whoever looks for a silent worker's jobs wants the held ones only.
drop index if exists apalis.unique_job_id;
drop index if exists apalis.lidx;
drop index if exists apalis.idx_apalis_jobs_lock_by;
create index usher_jobs_held on apalis.jobs (lock_by) where status in ('Running', 'Queued');
-- The finished jobs of one queue, newest first, however many others have.
create index usher_jobs_done on apalis.jobs (job_type, id) where status = 'Done';
-- The few dead jobs, likewise.
create index usher_jobs_dead on apalis.jobs (job_type, id)
    where status = 'Killed' or (status = 'Failed' and attempts >= max_attempts);
-- Unfinished jobs with an error, for a search for its words.
create index usher_jobs_with_error on apalis.jobs (job_type, id) where status <> 'Done' and last_result is not null;
-- Nobody gives jobs a key of this kind, yet each change of a job's status wrote an entry for none.
create unique index usher_jobs_idempotency_key on apalis.jobs (job_type, idempotency_key) where idempotency_key is not null;
drop index if exists apalis.idx_jobs_idempotency_key;

-- Of usher's jobs one notification for each queue in a statement, since nobody reads more than the queue's name; of
-- others' one for each job, as apalis tells.
create function apalis.usher_tell_of_jobs() returns trigger language plpgsql as $$
begin
    perform pg_notify('apalis::job::insert', json_build_object('job_type', job_type)::text)
    from (select distinct job_type from inserted where job_type like 'usher:%' and run_at <= now()) as due;
    return null;
end
$$;
comment on function apalis.usher_tell_of_jobs is 'Tells the workers which queues have new jobs.';
drop trigger if exists notify_workers on apalis.jobs;
create trigger usher_tell_of_jobs after insert on apalis.jobs referencing new table as inserted
    for each statement execute function apalis.usher_tell_of_jobs();
create trigger usher_leave_others_notified after insert on apalis.jobs
    for each row when (new.job_type not like 'usher:%') execute function apalis.notify_new_jobs();

-- An app that still writes admins.organization_id (or admins.role) sees the membership follow. Nothing here may make the
-- app's own statement fail, and it names no column of the app's, which may drop or change each: hence JSON.
create function usher_mirror_organization() returns trigger language plpgsql security definer as $$
declare
    was jsonb := case when tg_op = 'UPDATE' then to_jsonb(old) end;
    becomes jsonb := to_jsonb(new);
    home uuid := usher_id_in(becomes ->> 'organization_id');
    former uuid := usher_id_in(was ->> 'organization_id');
    lowest text;
begin
    -- From a dump without usher's tables, its functions may have come all the same.
    if to_regclass('usher_settings') is null or to_regclass('organization_users') is null then
        return null;
    end if;
    lowest := (select organization_roles[1] from usher_settings);
    -- usher adds the membership itself for a new member.
    if current_setting('usher.adds_members', true) = 'on' then
        return null;
    end if;
    -- Most of what is written, by usher or the app, is about other columns. And before anything is set up, the backfill, which
    -- comes after, takes this row over.
    if lowest is null or home is null or (was is not null
        and (was -> 'organization_id', was -> 'role', was -> 'deleted_at')
            is not distinct from (becomes -> 'organization_id', becomes -> 'role', becomes -> 'deleted_at'))
    then
        return null;
    end if;
    -- Who was moved has left; a column that is emptied is on its way out of the schema, and says nothing of anybody. What is
    -- noted here also keeps a backfill that read the row before from bringing back what it read.
    if former <> home then
        insert into organization_users (organization_id, admin_id, role, created_at, updated_at, deleted_at)
        select o.id, new.id, coalesce(was ->> 'role', lowest), now(), now(), now()
        from organizations o where o.id = former
        on conflict (organization_id, admin_id) do update set deleted_at = excluded.deleted_at, updated_at = excluded.updated_at
            where organization_users.deleted_at is null;
    end if;
    if becomes ->> 'deleted_at' is not null or not exists (select from organizations where id = home) then
        return null;
    end if;
    if was is null or former is distinct from home or was ->> 'deleted_at' is not null then
        insert into organization_users (organization_id, admin_id, role, created_at, updated_at)
        values (home, new.id, coalesce(becomes ->> 'role', lowest), now(), now())
        on conflict (organization_id, admin_id) do update
            set role = excluded.role, deleted_at = null, updated_at = excluded.updated_at
            where organization_users.deleted_at is not null;
    else
        insert into organization_users (organization_id, admin_id, role, created_at, updated_at)
        values (home, new.id, coalesce(becomes ->> 'role', lowest), now(), now())
        on conflict (organization_id, admin_id) do update set role = excluded.role, updated_at = excluded.updated_at
            where organization_users.deleted_at is null;
    end if;
    return null;
end
$$;
comment on function usher_mirror_organization is 'Mirrors admins.organization_id into organization_users.';

create function usher_id_in(written text) returns uuid language sql immutable parallel safe as $$
    select case when written ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' then written::uuid end
$$;
comment on function usher_id_in is 'A UUID, or null for what is none.';

create trigger usher_mirror_organization after insert or update on admins
    for each row execute function usher_mirror_organization();

-- An app that keeps identities in a table of its own (USHER_IDENTITIES) has them mirrored into admins.external_id, and
-- those that usher learns of mirrored back. `usher migrate` puts the two triggers on where they are wanted.
-- What the app has detached (deleted_at, if there is such a column) does not count.
create function usher_is_identity(identity jsonb) returns boolean language sql stable as $$
    select coalesce((select $1 ->> 'provider' = s.identity_provider and $1 ->> 'issuer' = any (s.identity_issuers)
        and $1 ->> 'deleted_at' is null from usher_settings s), false)
$$;
comment on function usher_is_identity is 'Whether a row of admin_identities links a Clerk user.';

create function usher_subject_of(admin uuid) returns text language plpgsql stable as $$
begin
    return (select i.subject from admin_identities i cross join usher_settings s
        where i.admin_id = admin and usher_is_identity(to_jsonb(i))
        order by array_position(s.identity_issuers, i.issuer::text), i.subject limit 1);
end
$$;
comment on function usher_subject_of is 'The Clerk user id in admin_identities of a row in admins.';

create function usher_mirror_identity() returns trigger language plpgsql security definer as $$
declare
    was jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) end;
    becomes jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) end;
begin
    if to_regclass('usher_settings') is null then
        return null;
    end if;
    if usher_is_identity(was) and not (usher_is_identity(becomes)
        and (was -> 'admin_id', was -> 'subject') = (becomes -> 'admin_id', becomes -> 'subject'))
    then
        -- The same person may be there under another issuer.
        update admins set external_id = usher_subject_of(id)
        where id = (was ->> 'admin_id')::uuid and external_id = was ->> 'subject'
            and external_id is distinct from usher_subject_of(id);
    end if;
    if usher_is_identity(becomes) then
        update admins set external_id = becomes ->> 'subject' where id = (becomes ->> 'admin_id')::uuid and external_id is null;
    end if;
    return null;
end
$$;
comment on function usher_mirror_identity is 'Mirrors admin_identities into admins.external_id.';

create function usher_note_identity() returns trigger language plpgsql security definer as $$
declare
    linked text := to_jsonb(new) ->> 'external_id';
begin
    if to_regclass('usher_settings') is null or linked is null or (tg_op = 'UPDATE' and linked is not distinct from to_jsonb(old) ->> 'external_id') then
        return null;
    end if;
    insert into admin_identities (admin_id, provider, issuer, subject)
    select new.id, s.identity_provider, s.identity_issuers[1], linked from usher_settings s
    where s.identity_provider is not null and not exists (
        select from admin_identities i where i.subject = linked and usher_is_identity(to_jsonb(i)))
    -- One that the app has detached stays so.
    on conflict do nothing;
    return null;
end
$$;
comment on function usher_note_identity is 'Mirrors admins.external_id into admin_identities.';

-- Inviting from SQL, in the app's own transaction: the same rules as the API's, see docs/postgres.md. What the two have
-- in common is compared by the tests case by case.

-- Refuses: SQLSTATE is US and the HTTP status that the API would answer with, DETAIL the API's code, COLUMN the field.
create function usher_refuse(http_status integer, code text, message text, field text default '', hint text default '')
    returns void language plpgsql as $$
begin
    raise exception using errcode = 'US' || http_status, message = message, detail = code, hint = hint, column = field;
end
$$;
comment on function usher_refuse is 'Ends the statement with an error that programs can tell from others.';

create function usher_refuse_field(field text, problem text, hint text default '') returns void language sql as $$
    select usher_refuse(422, 'invalid_request', field || ' ' || problem, field, hint)
$$;
comment on function usher_refuse_field is 'Refuses an argument.';

create function usher_settings_in_force() returns usher_settings language plpgsql stable as $$
declare
    settings usher_settings;
begin
    select * into settings from usher_settings;
    if not found then
        perform usher_refuse(503, 'not_set_up', 'usher has not been set up in this database', hint => 'Run: usher migrate');
    end if;
    return settings;
end
$$;
comment on function usher_settings_in_force is 'The configuration that the last start of usher has stored.';

-- Without what Unicode calls white space at both ends.
create function usher_trimmed(text) returns text language sql immutable parallel safe as $$
    select btrim($1, E'\t\n\u000b\f\r \u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000')
$$;
comment on function usher_trimmed is 'A text without white space at both ends.';

-- What addresses are compared by. IDNA is beyond SQL: a domain beyond ASCII is refused, not guessed at.
create function usher_email_key(email text) returns text language plpgsql immutable parallel safe as $$
declare
    written text := usher_trimmed(email);
    domain text := regexp_replace(written, '^.*@', '');
    mailbox text := left(written, -(length(domain) + 1));
begin
    if written is null or position('@' in written) = 0 or mailbox = '' or domain = '' then
        perform usher_refuse_field('email', 'must look like name@example.com');
    end if;
    if octet_length(mailbox) > 64 or octet_length(written) > 254 then
        perform usher_refuse_field('email', 'is longer than mail servers accept');
    end if;
    if mailbox ~ '^\.|\.\.|\.$'
        or mailbox ~ '[^A-Za-z0-9.!#$%&''*+/=?^_`{|}~\u0080-\U0010ffff-]'
        or mailbox ~ '[\u0080-\u00a0\u00ad\u061c\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]'
    then
        perform usher_refuse_field('email', 'contains a character that is not allowed before the @');
    end if;
    if octet_length(domain) <> length(domain) then
        perform usher_refuse_field('email', 'has a domain with letters beyond ASCII',
            'Pass the domain in its ASCII form (xn--…), or invite through the API.');
    end if;
    domain := lower(domain collate "C");
    if length(domain) > 253
        or domain !~ '^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'
        or domain ~ '(^|\.)(?!xn--)..--'
        or domain ~ '(^|\.)[0-9]+$'
    then
        perform usher_refuse_field('email', 'has no valid domain after the @');
    end if;
    return lower(mailbox collate "C") || '@' || domain;
end
$$;
comment on function usher_email_key is 'What addresses are compared by: ASCII letters lower-cased, nothing else touched.';

-- As origin() in src/invites/redirect.rs reads it; what is no origin is none of REDIRECT_URLS.
create function usher_origin(url text) returns text language sql immutable parallel safe as $$
    select case when $1 ~ '^[!-\[\]-~]+$'
        then regexp_replace(regexp_replace(lower(substring($1 from '^[A-Za-z]+://[^/?#]*') collate "C"),
            '^(https://.*):443$', '\1'), '^(http://.*):80$', '\1') end
$$;
comment on function usher_origin is 'Scheme, host and port of an address.';

-- RFC 9562 §5.7: 48 bits of milliseconds, then the version, then random bits.
create function usher_new_id() returns uuid language sql volatile as $$
    select encode(
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                placing substring(int8send(floor(extract(epoch from clock_timestamp()) * 1000)::bigint) from 3)
                from 1 for 6),
            52, 1), 53, 1), 'hex')::uuid
$$;
comment on function usher_new_id is 'A fresh UUIDv7: sorted by time.';

-- As Tx::record_event in src/store/history.rs: the history, and what the app is told.
create function usher_record_event(invite invites, event text) returns void language plpgsql as $$
begin
    insert into usher_invite_history (id, invite_id, event, at)
    values (usher_new_id(), invite.id, event, clock_timestamp());
    insert into usher_outgoing_events (id, type, at, invite_id, changes)
    values (usher_new_id(), 'invite.' || event, clock_timestamp(), invite.id, format('{"status":"%s"}', invite.status));
end
$$;
comment on function usher_record_event is 'Records what happened to an invite.';

-- The delivery and its job, picked up after the commit, and what they are for.
create function usher_queue_invite_email(invite invites, event text) returns uuid language plpgsql as $$
declare
    delivery uuid := usher_new_id();
begin
    insert into usher_deliveries (id, invite_id, kind, generation, to_email, status, message_id, queued_at)
    select delivery, invite.id, 'invite', coalesce(max(generation), 0) + 1, invite.email, 'queued',
        delivery || '@' || (select mail_domain from usher_settings), clock_timestamp()
    from usher_deliveries where invite_id = invite.id and kind = 'invite';
    -- As usher enqueues: its own limit of attempts counts, not that of the queue.
    insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
    values (apalis.generate_ulid(), 'usher:send-mail',
        convert_to(json_build_object('delivery_id', delivery)::text, 'UTF8'), 'Pending', 0, 2147483647, now(), 0);
    perform usher_record_event(invite, event);
    return delivery;
end
$$;
comment on function usher_queue_invite_email is 'Queues the mail for an invite.';

create function usher_count_asked_mails() returns trigger language plpgsql security definer as $$
declare
    beyond boolean;
begin
    with asked as (
        delete from usher_mail_asks returning scope, subject, day
    ), counted as (
        -- In one order for everybody.
        insert into usher_mail_counts as c (scope, subject, day, mails)
        select scope, subject, day, count(*) from asked group by scope, subject, day order by scope, subject, day
        on conflict (scope, subject, day) do update set mails = c.mails + excluded.mails
        returning scope, mails
    )
    select bool_or(counted.mails > case counted.scope
        when 'inviter' then s.mail_cap_inviter
        when 'address' then s.mail_cap_address
        else s.mail_cap_organization end)
    into beyond from counted, usher_settings s;
    if beyond then
        perform usher_refuse(429, 'daily_mail_cap', 'no invite mails are left today',
            hint => 'Come again after midnight UTC.');
    end if;
    return null;
end
$$;
comment on function usher_count_asked_mails is 'Counts what a transaction asked for; the first row of it counts all.';
create constraint trigger usher_count_asked_mails after insert on usher_mail_asks deferrable initially deferred
    for each row execute function usher_count_asked_mails();

-- Asks for a mail; false where the address had its mails today. Refuses at once what is beyond the other caps by now. Where
-- transactions meet, the one that commits last is refused then.
create function usher_reserve_mail(inviter uuid, organization uuid, address text, asked_at timestamptz) returns boolean
    language plpgsql as $$
declare
    today text := to_char(asked_at, 'YYYY-MM-DD');
    address_subject uuid := encode(substring(sha256(convert_to(address, 'UTF8')) from 1 for 16), 'hex')::uuid;
    address_beyond boolean;
    beyond boolean;
begin
    with capped as (
        select cap.scope, cap.subject, cap.most from usher_settings s cross join lateral (values
            ('address', address_subject, s.mail_cap_address),
            ('inviter', inviter, s.mail_cap_inviter),
            ('organization', organization, s.mail_cap_organization)) as cap (scope, subject, most)
        where cap.subject is not null and cap.most is not null
    ), full_by_now as (
        select capped.scope from capped where
            coalesce((select c.mails from usher_mail_counts c
                where c.scope = capped.scope and c.subject = capped.subject and c.day = today), 0)
            + (select count(*) from usher_mail_asks a
                where a.scope = capped.scope and a.subject = capped.subject and a.day = today)
            >= capped.most
    ), asked as (
        insert into usher_mail_asks (scope, subject, day)
        select scope, subject, today from capped where not exists (select from full_by_now)
    )
    select coalesce(bool_or(scope = 'address'), false), count(*) > 0 into address_beyond, beyond from full_by_now;
    if address_beyond then
        return false;
    end if;
    if beyond then
        perform usher_refuse(429, 'daily_mail_cap', 'no invite mails are left today',
            hint => 'Come again after midnight UTC.');
    end if;
    return true;
end
$$;
comment on function usher_reserve_mail is 'Asks for a mail, and refuses it beyond the daily caps; false where the address had its mails today.';

-- Who may invite and whether an invite still lets in are looked up whenever it counts, by one rule for all doors.

-- As Roles::manages_organization in src/invites/roles.rs says it.
create function usher_manages_organization(role text) returns boolean language plpgsql stable as $$
#variable_conflict use_variable
declare
    settings usher_settings;
begin
    select * into settings from usher_settings;
    return coalesce(
        array_position(settings.organization_roles, role) >= greatest(2, coalesce(
            array_position(settings.organization_roles, 'admin'),
            array_position(settings.organization_roles, settings.organization_invite_role),
            cardinality(settings.organization_roles))),
        false);
end
$$;
comment on function usher_manages_organization is 'Whether an organization role counts as the highest role in the organization''s projects.';

-- As AppId::key in src/app_id.rs says it.
create function usher_app_id_key(app_id text) returns uuid language plpgsql immutable parallel safe as $$
#variable_conflict use_variable
declare
    hash bytea := substr(sha256(convert_to('usher app id', 'UTF8') || '\x00'::bytea || convert_to(app_id, 'UTF8')), 1, 16);
begin
    if app_id ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' then
        return app_id::uuid;
    end if;
    -- Version 8 and the variant of RFC 9562.
    hash := set_byte(hash, 6, (get_byte(hash, 6) & 15) | 128);
    hash := set_byte(hash, 8, (get_byte(hash, 8) & 63) | 128);
    return encode(hash, 'hex')::uuid;
end
$$;
comment on function usher_app_id_key is 'What an id of the app''s is inside: itself if it is a UUID, else computed from it.';

-- As admin_of in src/store/people/find.rs says it.
create function usher_admin_of(clerk_user_id text) returns uuid language plpgsql stable as $$
#variable_conflict use_variable
begin
    return coalesce(
        (select a.id from usher_admins a where a.external_id = clerk_user_id and a.deleted_at is null
            order by a.created_at, a.id limit 1),
        (select p.id from usher_people p where p.clerk_user_id = clerk_user_id and p.deleted_at is null
            and not exists (select from usher_admins a where a.id in (p.id, p.admin_id))));
end
$$;

-- Rows of an app's own tables, written by src/store/app_tables.rs. It may have dropped columns and made others that can't be
-- null: what is written are the columns that are there, and what is lacking is named. Values are the texts of a JSON object, by
-- column.

-- The columns of a table that must have a value and get none.
create function usher_lacking(target regclass, fields jsonb) returns text[] language sql stable as $$
    select coalesce(array_agg(a.attname::text order by a.attnum), '{}') from pg_attribute a
    where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped and a.attnotnull and not a.atthasdef
        and a.attidentity = '' and $2 ->> a.attname is null
$$;
comment on function usher_lacking is 'The columns that must have a value, have no default, and are not among these.';

create function usher_insert(target regclass, fields jsonb) returns boolean language plpgsql as $$
declare
    lacking text[] := usher_lacking(target, fields);
    names text;
    sources text;
    is_there boolean;
    made boolean;
begin
    execute format('select exists (select from %s where id = $1)', target) using (fields ->> 'id')::uuid into is_there;
    if is_there then
        return false;
    end if;
    if lacking <> '{}' then
        perform usher_refuse(409, 'app_must_create',
            (select string_agg(format('%s.%s', target, l.name), ' and ') from unnest(lacking) as l (name)),
            hint => 'Create the row in the app.');
    end if;
    select string_agg(quote_ident(a.attname), ', '), string_agg(format('($1 ->> %L)::%s', a.attname, format_type(a.atttypid, -1)), ', ')
    into names, sources from pg_attribute a
    where a.attrelid = target and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and fields ->> a.attname is not null;
    execute format('insert into %s (%s) select %s on conflict (id) do nothing returning true', target, names, sources)
    using fields into made;
    return coalesce(made, false);
end
$$;
comment on function usher_insert is 'Makes a row of an app''s table; false if it was there.';

create function usher_update(target regclass, fields jsonb, ids uuid[]) returns void language plpgsql as $$
declare
    changes text := (
        select string_agg(format('%I = ($1 ->> %L)::%s', a.attname, a.attname, format_type(a.atttypid, -1)), ', ')
        from pg_attribute a
        where a.attrelid = target and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and fields ? a.attname);
begin
    if changes is not null then
        execute format('update %s set %s where id = any ($2)', target, changes) using fields, ids;
    end if;
end
$$;
comment on function usher_update is 'Changes rows of an app''s table, as far as it has the columns.';

-- Rows in the app's admins for new members who have none; called by Tx::add_to_admins. A person that Clerk has told of and who
-- has no name gets an empty one, where the app wants one.
create function usher_add_to_admins(people json, asked_at timestamptz) returns void language plpgsql as $$
declare
    wanted record;
    fields jsonb;
    lacking text[];
begin
    perform set_config('usher.adds_members', 'on', true);
    for wanted in
        select r.organization_id, r.role, p.* from json_to_recordset(people) as r(person_id uuid, organization_id uuid, role text)
        join usher_people p on p.id = r.person_id
        where p.deleted_at is null and not exists (select from usher_admins a where a.id in (p.id, p.admin_id))
            and not exists (select from usher_admins a where a.external_id = p.clerk_user_id and a.deleted_at is null)
        order by p.id
    loop
        fields := jsonb_build_object('id', wanted.id, 'external_id', wanted.clerk_user_id,
            'organization_id', wanted.organization_id, 'email', usher_free_email(wanted.email, wanted.id),
            'first_name', wanted.first_name, 'last_name', wanted.last_name, 'image_url', wanted.image_url,
            'created_at', asked_at, 'updated_at', asked_at);
        lacking := usher_lacking('admins', fields);
        if 'role' = any (lacking) then
            fields := fields || jsonb_build_object('role', wanted.role);
        end if;
        if wanted.seen_at is not null then
            fields := fields || coalesce((select jsonb_object_agg(l.name, '') from unnest(lacking) as l(name)
                where l.name in ('first_name', 'last_name', 'image_url')), '{}');
        elsif lacking && array['email', 'first_name', 'last_name', 'image_url'] then
            perform usher_refuse(409, 'not_synced', 'Clerk has not told of the person yet, whose name or address the app''s admins must have');
        end if;
        perform usher_insert('admins', fields);
    end loop;
    perform set_config('usher.adds_members', 'off', true);
end
$$;
comment on function usher_add_to_admins is 'Makes rows in an app''s admins for new members.';

create function usher_has_column(target regclass, name text) returns boolean language sql stable as $$
    select exists (select from pg_attribute a where a.attrelid = $1 and a.attname = $2 and not a.attisdropped)
$$;
comment on function usher_has_column is 'Whether a table has a column.';

-- Called by Tx::people_to_link.
create function usher_unlinked_at(spellings text[]) returns table (admin_id uuid, address text) language plpgsql as $$
begin
    -- A statement is parsed when it is first run: without the column, not at all.
    if usher_has_column('admins', 'email') then
        return query select a.id, a.email::text from admins a
        where a.external_id is null and to_jsonb(a) ->> 'deleted_at' is null and lower(trim(a.email)) = any (spellings)
        order by a.id for update;
    end if;
end
$$;
comment on function usher_unlinked_at is 'The rows in an app''s admins without a Clerk id that have one of these addresses; locked.';

-- A row that has the address keeps it, where the app's are unique.
create function usher_free_email(wanted text, person uuid) returns text language plpgsql stable as $$
declare
    unique_emails text := (select s.unique_emails from usher_settings s);
begin
    if wanted is not null and unique_emails <> 'no' and usher_has_column('admins', 'email') then
        if exists (select from admins o where lower(trim(o.email)) = lower(trim(wanted)) and o.id <> person
            and (unique_emails = 'all' or to_jsonb(o) ->> 'deleted_at' is null))
        then
            return null;
        end if;
    end if;
    return wanted;
end
$$;
comment on function usher_free_email is 'An address, or null where another row in admins has it and may alone have it.';

-- Called by Tx::update_admins. Returns how many rows could not be written as Clerk tells.
create function usher_sync_admins(wanted uuid[], asked_at timestamptz) returns bigint language plpgsql as $$
declare
    person record;
    free_email text;
    fields jsonb;
    left_out bigint := 0;
begin
    if not coalesce((select s.sync_profiles from usher_settings s), false) then
        return 0;
    end if;
    for person in
        select a.id, to_jsonb(a) as is_now, p.email, p.first_name, p.last_name, p.image_url
        from admins a join usher_people p on p.clerk_user_id = a.external_id and p.deleted_at is null
        where a.id = any (wanted) and to_jsonb(a) ->> 'deleted_at' is null order by a.id
    loop
        free_email := usher_free_email(person.email, person.id);
        if free_email is distinct from person.email then
            left_out := left_out + 1;
        end if;
        -- What Clerk does not know never replaces a value.
        select jsonb_object_agg(f.key, f.value) into fields from jsonb_each_text(jsonb_build_object('email', free_email,
            'first_name', person.first_name, 'last_name', person.last_name, 'image_url', person.image_url)) as f
        where f.value is not null and f.value is distinct from person.is_now ->> f.key and person.is_now ? f.key;
        if fields is not null then
            begin
                perform usher_update('admins', fields || jsonb_build_object('updated_at', asked_at), array[person.id]);
            exception
                when integrity_constraint_violation or data_exception or raise_exception then
                    left_out := left_out + 1;
            end;
        end if;
    end loop;
    return left_out;
end
$$;
comment on function usher_sync_admins is 'Writes what Clerk tells of people to an app''s admins, if USHER_SYNC_PROFILES is on.';

-- Read by Tx::live_people, too.
create function usher_inviter(named_id uuid, clerk_user_id text) returns uuid language plpgsql stable as $$
#variable_conflict use_variable
begin
    return coalesce(
        (select a.id from usher_admins a where a.id = named_id and a.deleted_at is null), usher_admin_of(clerk_user_id));
end
$$;
comment on function usher_inviter is 'Who an admin''s id or a Clerk user id means; of several members with one Clerk account the oldest.';

-- Read by Tx::people_at, too. A member that the app has with the address, and that Clerk has not told of yet, is known by it.
create function usher_people_at(email text, email_key text) returns setof uuid language plpgsql stable as $$
#variable_conflict use_variable
begin
    if exists (select from usher_addresses a where a.verified and a.email_key = $2) then
        return query select owner from (
            select usher_admin_of(p.clerk_user_id) as owner from usher_addresses a join usher_people p on p.id = a.person_id
            where a.verified and a.email_key = $2) as owners where owner is not null;
    elsif (select l.app_schema from usher_layout l) is not null and usher_has_column('admins', 'email') then
        return query select a.id from admins a
        where lower(trim(a.email)) in (lower(trim($1)), $2) and to_jsonb(a) ->> 'deleted_at' is null
            -- By ASCII case alone, as email_key compares.
            and lower(trim(a.email) collate "C") in (lower(trim($1) collate "C"), $2)
            and not exists (select from usher_people p where p.clerk_user_id = a.external_id
                and (p.seen_at is not null or p.deleted_at is not null));
    end if;
end
$$;
comment on function usher_people_at is 'The rows in admins of an address''s owners.';

-- As InviterFacts::obstacle in src/invites/accept.rs says it.
create function usher_inviter_obstacle(inviter uuid, home uuid, project uuid, wanted text) returns text language plpgsql stable as $$
#variable_conflict use_variable
declare
    settings usher_settings;
    ladder text[];
    lowest text;
    own text;
begin
    select * into settings from usher_settings;
    select m.role into own from organization_users m
    where m.organization_id = home and m.admin_id = inviter and m.deleted_at is null;
    if project is null then
        ladder := settings.organization_roles;
        lowest := settings.organization_invite_role;
    else
        ladder := settings.project_roles;
        lowest := settings.project_invite_role;
        if usher_manages_organization(own) then
            own := ladder[cardinality(ladder)];
        else
            -- Whoever was removed from the organization holds nothing in its projects either.
            own := (select m.role from project_admins m
                where m.project_id = project and m.admin_id = inviter and m.deleted_at is null and not exists (
                    select from organization_users l
                    where l.organization_id = home and l.admin_id = inviter and l.deleted_at is not null));
        end if;
    end if;
    if not coalesce(array_position(ladder, own) >= array_position(ladder, wanted)
        and array_position(ladder, own) >= coalesce(array_position(ladder, lowest), cardinality(ladder)), false)
    then
        return 'inviter_lost_rights';
    end if;
    if not coalesce((
        select a.deleted_at is null
            and not exists (select from usher_people u where u.clerk_user_id = a.external_id
                and (u.banned or u.locked or u.deleted_at is not null))
            and (a.external_id is not null or not exists (select from usher_people u where a.id in (u.id, u.admin_id)
                and (u.banned or u.locked or u.deleted_at is not null)))
        from usher_admins a where a.id = inviter), false)
    then
        return 'inviter_blocked';
    end if;
    return null;
end
$$;
comment on function usher_inviter_obstacle is 'Why somebody can''t invite with a role into an organization or a project, if it is so.';

-- As AcceptFacts::obstacle in src/invites/accept.rs says it.
create function usher_invite_obstacle(invite invites) returns text language plpgsql stable as $$
#variable_conflict use_variable
declare
    settings usher_settings;
    home uuid := invite.organization_id;
begin
    select * into settings from usher_settings;
    if invite.project_id is not null then
        home := (select p.organization_id from usher_projects p where p.id = invite.project_id and p.deleted_at is null);
    end if;
    if not exists (select from usher_organizations o where o.id = home and o.deleted_at is null) then
        return 'target_deleted';
    end if;
    if array_position(
        case when invite.project_id is null then settings.organization_roles else settings.project_roles end, invite.role) is null
    then
        return 'unknown_role';
    end if;
    if invite.invited_by is null then
        return null;
    end if;
    return usher_inviter_obstacle(invite.invited_by, home, invite.project_id, invite.role);
end
$$;
comment on function usher_invite_obstacle is 'Why an invite would let nobody in, if it is so.';

create function invite(
    email text,
    role text,
    organization_id uuid default null,
    project_id uuid default null,
    invited_by text default null,
    expires_in interval default null,
    acceptance text default 'default',
    locale text default null,
    message text default null,
    redirect_url text default null
) returns table (invite_id uuid, is_new boolean, expires_at timestamptz) language plpgsql security definer as $$
#variable_conflict use_column
declare
    asked alias for $1;
    wanted text := usher_trimmed($2);
    organization alias for $3;
    project alias for $4;
    inviter_name alias for $5;
    lifetime interval := $6;
    way text := coalesce($7, 'default');
    language_tag alias for $8;
    words alias for $9;
    onward alias for $10;
    settings usher_settings;
    asked_key text;
    home uuid;
    place text := case when $4 is null then 'organization_id' else 'project_id' end;
    ladder text[];
    inviter uuid;
    obstacle text;
    mails integer;
    newest timestamptz;
    held text;
    new_id uuid := usher_new_id();
    asked_at timestamptz := clock_timestamp();
    ends_at timestamptz;
    saved invites;
begin
    settings := usher_settings_in_force();

    if organization is null and project is null then
        perform usher_refuse_field('organization_id', 'is missing; give organization_id or project_id');
    elsif organization is not null and project is not null then
        perform usher_refuse_field('project_id', 'can''t be given together with organization_id');
    end if;
    asked_key := usher_email_key(asked);
    if wanted is null or wanted = '' then
        perform usher_refuse_field('role', 'is missing');
    end if;
    if inviter_name is not null
        and inviter_name !~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
        and (inviter_name !~ '^user_[A-Za-z0-9_]*$' or length(inviter_name) > 64)
    then
        perform usher_refuse_field('invited_by', 'must be an admin''s id or a Clerk user id');
    end if;
    lifetime := coalesce(lifetime, settings.invite_ttl);
    if lifetime <= interval '0' then
        perform usher_refuse_field('expires_in', 'must be more than nothing');
    elsif lifetime > settings.max_invite_ttl then
        perform usher_refuse_field('expires_in', 'must be at most ' || settings.max_invite_ttl);
    end if;
    if way not in ('auto', 'ask', 'default') then
        perform usher_refuse_field('acceptance', 'must be auto, ask or default');
    end if;
    if language_tag !~ '^[A-Za-z0-9]{1,8}(-[A-Za-z0-9]{1,8})*$' or length(language_tag) > 35 then
        perform usher_refuse_field('locale', 'must be a language tag such as en or pt-BR');
    end if;
    if length(words) > settings.max_message then
        perform usher_refuse_field('message', format('must have at most %s characters', settings.max_message));
    end if;
    if octet_length(onward) > 2048 then
        perform usher_refuse_field('redirect_url', 'must have at most 2048 characters');
    elsif onward is not null and coalesce(usher_origin(onward) <> all (settings.redirect_origins), true) then
        perform usher_refuse_field('redirect_url',
            'must lead to an origin of REDIRECT_URLS: ' || array_to_string(settings.redirect_origins, ', '));
    end if;

    if project is null then
        ladder := settings.organization_roles;
        select o.id into home from usher_organizations o where o.id = organization and o.deleted_at is null;
    else
        ladder := settings.project_roles;
        select o.id into home from usher_projects p join usher_organizations o on o.id = p.organization_id and o.deleted_at is null
        where p.id = project and p.deleted_at is null;
    end if;
    if home is null then
        perform usher_refuse_field(place, 'does not exist');
    end if;
    if array_position(ladder, wanted) is null then
        perform usher_refuse_field('role', 'must be one of ' || array_to_string(ladder, ', '));
    end if;

    if inviter_name is not null then
        inviter := case when inviter_name like 'user\_%' then usher_inviter(null, inviter_name)
            else usher_inviter(inviter_name::uuid, null) end;
        if inviter is null then
            perform usher_refuse_field('invited_by', 'is not a known person');
        end if;
        if inviter in (select usher_people_at(asked, asked_key)) then
            perform usher_refuse_field('email', 'is the inviter''s own address');
        end if;
        obstacle := usher_inviter_obstacle(inviter, home, project, wanted);
        if obstacle = 'inviter_blocked' then
            perform usher_refuse(403, obstacle, 'the inviter is banned or locked');
        elsif obstacle is not null then
            perform usher_refuse(403, 'role_above_inviter', 'the inviter may not give this role here');
        end if;
    end if;

    if exists (
        select from usher_people_at(asked, asked_key) as owner (id)
        left join organization_users m on m.organization_id = home and m.admin_id = owner.id and m.deleted_at is null
        left join project_admins pm on pm.project_id = project and pm.admin_id = owner.id and pm.deleted_at is null
        where case when project is null
              then array_position(ladder, m.role) >= array_position(ladder, wanted)
              else usher_manages_organization(m.role)
                  or array_position(ladder, pm.role::text) >= array_position(ladder, wanted)
              end
    ) then
        perform usher_refuse(409, 'already_member',
            'the address''s owner is a member already, with this role or a higher one');
    end if;

    -- What is decided about the invite is decided while its row is held, and the day's counts come last.
    ends_at := asked_at + make_interval(secs => extract(epoch from lifetime)::double precision);
    insert into invites as i (id, kind, organization_id, project_id, email, email_key, role, status, acceptance, invited_by,
        invited_by_clerk_id, locale, message, redirect_url, invited_at, expires_at, created_at, updated_at)
    values (new_id, case when project is null then 'organization' else 'project' end, home, project, usher_trimmed(asked),
        asked_key, wanted, 'pending', way, inviter, (select a.external_id from usher_admins a where a.id = inviter), language_tag,
        words, onward, asked_at, ends_at, asked_at, asked_at)
    on conflict (kind, target_id, email_key) where status in ('pending', 'expired') do update set updated_at = i.updated_at
    returning * into saved;
    if saved.id <> new_id then
        -- The same was asked a moment ago.
        if saved.status = 'pending' and saved.expires_at > asked_at
            and asked_at - saved.invited_at < settings.repetition and saved.invited_at - asked_at < settings.repetition
            and abs(extract(epoch from (saved.expires_at - saved.invited_at) - (ends_at - asked_at))) < 30
            and (saved.organization_id, saved.email, saved.role, saved.acceptance) = (home, usher_trimmed(asked), wanted, way)
            and saved.invited_by is not distinct from inviter and saved.locale is not distinct from language_tag
            and saved.message is not distinct from words and saved.redirect_url is not distinct from onward
        then
            return query select saved.id, false, saved.expires_at;
            return;
        end if;
        select count(*), max(d.queued_at) into mails, newest from usher_deliveries d
        where d.invite_id = saved.id and d.kind = 'invite' and d.status <> 'suppressed'
            and d.queued_at > asked_at - interval '24 hours';
        if newest + settings.resend_cool_down > asked_at then
            held := 'cool_down';
        elsif mails >= settings.resend_daily_cap then
            held := 'daily_cap';
        end if;
    end if;
    if held is null and not usher_reserve_mail(inviter, home, asked_key, asked_at) then
        held := 'address_cap';
    end if;
    if saved.id <> new_id then
        -- Without a mail, the link that the invitee has already goes on working.
        update invites i set status = 'pending', organization_id = home, email = usher_trimmed(asked), role = wanted,
            acceptance = way, invited_by = inviter,
            invited_by_clerk_id = (select a.external_id from usher_admins a where a.id = inviter), locale = language_tag,
            message = words, redirect_url = onward, invited_at = asked_at, expires_at = ends_at, expired_at = null, dismissed_at = null, mail_held = held,
            token_version = i.token_version + (held is null)::integer, updated_at = asked_at
        where i.id = saved.id returning * into saved;
    elsif held is not null then
        update invites i set mail_held = held where i.id = saved.id returning * into saved;
    end if;
    if held is null then
        perform usher_queue_invite_email(saved, case when saved.id = new_id then 'created' else 'refreshed' end);
    else
        perform usher_record_event(saved, case when saved.id = new_id then 'created' else 'refreshed' end);
    end if;
    return query select saved.id, saved.id = new_id, saved.expires_at;
end
$$;
comment on function invite is 'Invites an address in the caller''s transaction, and queues the mail.';

create function resend(invite_id uuid) returns uuid language plpgsql security definer as $$
#variable_conflict use_column
declare
    wanted alias for $1;
    settings usher_settings;
    asked_at timestamptz := clock_timestamp();
    saved invites;
    mails integer;
    newest timestamptz;
    obstacle text;
begin
    settings := usher_settings_in_force();
    update invites i set status = 'pending', expired_at = null, mail_held = null, updated_at = asked_at,
        expires_at = case when i.expires_at <= asked_at then asked_at + settings.invite_ttl else i.expires_at end
    where i.id = wanted and i.status in ('pending', 'expired') returning * into saved;
    if not found then
        select * into saved from invites i where i.id = wanted;
        if not found then
            perform usher_refuse(404, 'not_found', 'there is no such invite', 'invite_id');
        end if;
        perform usher_refuse(409, 'invite_' || saved.status, format('the invite was %s', saved.status));
    end if;
    obstacle := usher_invite_obstacle(saved);
    case obstacle
        when 'target_deleted' then perform usher_refuse(409, obstacle, 'what the invite leads into was deleted');
        when 'unknown_role' then perform usher_refuse(409, obstacle, 'the invite''s role is no longer known');
        when 'inviter_blocked', 'inviter_lost_rights' then
            perform usher_refuse(403, 'inviter_lost_rights', 'the inviter may no longer give this role');
        else null;
    end case;
    select count(*), max(d.queued_at) into mails, newest from usher_deliveries d
    where d.invite_id = wanted and d.kind = 'invite' and d.status <> 'suppressed'
        and d.queued_at > asked_at - interval '24 hours';
    if newest + settings.resend_cool_down > asked_at or mails >= settings.resend_daily_cap then
        perform usher_refuse(429, 'resend_too_soon', 'the address was written to only recently',
            hint => 'usher.invite queues the mail by itself.');
    end if;
    if not usher_reserve_mail(saved.invited_by,
        coalesce((select p.organization_id from usher_projects p where p.id = saved.project_id), saved.organization_id),
        saved.email_key, asked_at)
    then
        perform usher_refuse(429, 'daily_mail_cap', 'no invite mails are left today',
            hint => 'Come again after midnight UTC.');
    end if;
    -- Whoever resends vouches for the address.
    delete from usher_suppressions s where s.email_key = saved.email_key;
    return usher_queue_invite_email(saved, 'resent');
end
$$;
comment on function resend is 'Sends an open invite''s mail once more; an expired one is renewed.';

-- They run with the rights of usher's role, whatever the caller's search path and time zone are. Nobody may call
-- anything until it is granted.
do $$
declare
    mine regprocedure;
begin
    for mine in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = 'usher'::regnamespace and p.proname in (
            'usher_mirror_organization', 'usher_id_in', 'usher_mirror_identity', 'usher_note_identity',
            'usher_is_identity', 'usher_subject_of', 'usher_refuse', 'usher_settings_in_force',
            'usher_tell_of_events', 'usher_record_event',
            'usher_refuse_field', 'usher_trimmed', 'usher_email_key', 'usher_new_id', 'usher_queue_invite_email',
            'usher_count_asked_mails', 'usher_reserve_mail', 'usher_manages_organization', 'usher_inviter_obstacle',
            'usher_invite_obstacle', 'invite', 'resend', 'usher_inviter', 'usher_admin_of', 'usher_lacking', 'usher_insert', 'usher_update',
            'usher_add_to_admins', 'usher_has_column', 'usher_unlinked_at', 'usher_people_at', 'usher_free_email', 'usher_sync_admins', 'usher_app_id_key',
            'usher_origin')
    loop
        execute format('alter function %s set search_path = pg_catalog, %s, pg_temp', mine,
            (select concat_ws(', ', 'usher', quote_ident(app_schema)) from usher_layout));
        execute format('alter function %s set timezone = ''UTC''', mine);
        execute format('revoke all on function %s from public', mine);
    end loop;
end
$$;

-- Ids of other types, where usher keeps what they are.
do $$
declare
    id_type text;
begin
    if exists (select from usher_layout where app_schema is not null) then
        return;
    end if;
    foreach id_type in array array['text', 'bigint'] loop
        execute format($text$
            create function invite(
                email text,
                role text,
                organization_id %1$s default null,
                project_id %1$s default null,
                invited_by text default null,
                expires_in interval default null,
                acceptance text default 'default',
                locale text default null,
                message text default null,
                redirect_url text default null
            ) returns table (invite_id uuid, is_new boolean, expires_at timestamptz) language sql security definer
            set search_path = pg_catalog, usher, pg_temp set timezone = 'UTC' as $body$
                select * from invite($1, $2, usher_app_id_key($3::text), usher_app_id_key($4::text), $5, $6, $7, $8, $9, $10)
            $body$
        $text$, id_type);
        execute format('revoke all on function invite(text, text, %1$s, %1$s, text, interval, text, text, text, text) from public', id_type);
        execute format('comment on function invite(text, text, %1$s, %1$s, text, interval, text, text, text, text) is %2$L', id_type,
            'Invites an address in the caller''s transaction, and queues the mail.');
    end loop;
end
$$;

-- What PUT and DELETE of the API do, in the transaction of an app on the same Postgres.
do $door$
declare
    mine regprocedure;
    id_type text;
begin
    if exists (select from usher_layout where app_schema is not null) then
        return;
    end if;

    -- As AppId::parse in src/app_id.rs reads it.
    create function usher_read_id(app_id text, field text) returns uuid language plpgsql as $$
    begin
        if app_id is null then
            perform usher_refuse_field(field, 'is missing');
        elsif app_id !~ '^[A-Za-z0-9_.:~|=-]{1,255}$' or app_id in ('.', '..') then
            perform usher_refuse_field(field, 'must be 1 to 255 of the characters A-Z a-z 0-9 - _ . : ~ | = and not . or ..');
        end if;
        return usher_app_id_key(app_id);
    end
    $$;
    comment on function usher_read_id is 'What an id of the app''s is inside; refuses what can be none.';

    create function usher_keep_spelling(key uuid, app_id text) returns void language sql as $$
        insert into usher_app_ids (key, app_id) select $1, $2 where $1::text <> lower($2) on conflict do nothing
    $$;
    comment on function usher_keep_spelling is 'Stores how the app spells an id that is no UUID.';

    -- As fields::line in src/fields.rs reads it.
    create function usher_read_name(name text) returns text language plpgsql as $$
    declare
        line text := usher_trimmed(name);
    begin
        if line is null or line = '' then
            perform usher_refuse_field('name', 'must not be empty');
        elsif length(line) > 200 then
            perform usher_refuse_field('name', 'must have at most 200 characters');
        elsif line ~ '[\u0001-\u001f\u007f-\u009f\u2028\u2029]' then
            perform usher_refuse_field('name', 'must not contain control characters');
        elsif line !~ '[^\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffc]' then
            perform usher_refuse_field('name', 'must have a character that can be seen');
        end if;
        return line;
    end
    $$;
    comment on function usher_read_name is 'A name without white space at both ends; refuses what can be none.';

    create function put_organization(id text, name text) returns void language plpgsql security definer as $$
    #variable_conflict use_column
    declare
        key uuid := usher_read_id($1, 'id');
        wanted text := usher_read_name($2);
        asked_at timestamptz := clock_timestamp();
    begin
        perform usher_keep_spelling(key, $1);
        insert into organizations as o (id, name, created_at, updated_at) values (key, wanted, asked_at, asked_at)
        on conflict (id) do update set name = excluded.name, updated_at = excluded.updated_at where o.deleted_at is null;
        if not found then
            perform usher_refuse(409, 'organization_deleted', 'the organization is deleted', 'id');
        end if;
    end
    $$;
    comment on function put_organization(text, text) is 'Makes or renames an organization.';

    create function put_project(id text, organization_id text, name text) returns void language plpgsql security definer as $$
    #variable_conflict use_column
    declare
        key uuid := usher_read_id($1, 'id');
        home uuid := usher_read_id($2, 'organization_id');
        wanted text := usher_read_name($3);
        asked_at timestamptz := clock_timestamp();
        is_deleted boolean;
    begin
        select o.deleted_at is not null into is_deleted from organizations o where o.id = home for share;
        if not found then
            perform usher_refuse_field('organization_id', 'does not exist; call usher.put_organization first');
        elsif is_deleted then
            perform usher_refuse(409, 'organization_deleted', 'the organization is deleted', 'organization_id');
        end if;
        perform usher_keep_spelling(key, $1);
        insert into projects as p (id, organization_id, name, created_at, updated_at)
        values (key, home, wanted, asked_at, asked_at)
        on conflict (id) do update
            set organization_id = excluded.organization_id, name = excluded.name, updated_at = excluded.updated_at
        where p.deleted_at is null
            and exists (select from organizations o where o.id = p.organization_id and o.deleted_at is null);
        if not found then
            perform usher_refuse(409, 'project_deleted', 'the project is deleted', 'id');
        end if;
        perform from invites i where i.project_id = key and i.organization_id <> home order by i.id for update;
        update invites i set organization_id = home where i.project_id = key and i.organization_id <> home;
    end
    $$;
    comment on function put_project(text, text, text) is 'Makes, renames or moves a project.';

    create function usher_set_membership(organization uuid, project uuid, person uuid, wanted text) returns void
        language plpgsql as $$
    declare
        asked_at timestamptz := clock_timestamp();
        was_live boolean;
    begin
        if project is null then
            was_live := exists (select from organization_users m
                where m.organization_id = organization and m.admin_id = person and m.deleted_at is null);
            insert into organization_users (organization_id, admin_id, role, created_at, updated_at)
            values (organization, person, wanted, asked_at, asked_at)
            on conflict (organization_id, admin_id) do update
                set role = excluded.role, updated_at = excluded.updated_at, deleted_at = null;
        else
            was_live := exists (select from project_admins m
                where m.project_id = project and m.admin_id = person and m.deleted_at is null);
            insert into project_admins (project_id, admin_id, role, created_at, updated_at)
            values (project, person, wanted, asked_at, asked_at)
            on conflict (project_id, admin_id) do update
                set role = excluded.role, updated_at = excluded.updated_at, deleted_at = null;
        end if;
        perform usher_tell_of_membership(
            case when was_live then 'updated' else 'created' end,
            case when project is null then organization end, project, person, wanted);
    end
    $$;
    comment on function usher_set_membership is 'Gives a role in an organization, or in a project if one is named.';

    -- As Tx::tell_of_membership in src/store/outgoing/mod.rs.
    create function usher_tell_of_membership(event text, organization uuid, project uuid, person uuid, role text)
        returns void language sql as $$
        insert into usher_outgoing_events (id, type, at, organization_id, project_id, admin_id, changes)
        values (usher_new_id(), 'membership.' || $1, clock_timestamp(), $2, $3, $4,
            format('{"role":%s}', to_json(coalesce($5, ''))))
    $$;
    comment on function usher_tell_of_membership is 'Records what the app is told of a membership.';

    -- As Tx::holders in src/store/targets/change.rs.
    create function usher_is_last_owner(organization uuid, person uuid, highest text) returns boolean language sql stable as $$
        select array_agg(m.admin_id) = array[$2]
        from organization_users m join admins a on a.id = m.admin_id and a.deleted_at is null
        where m.organization_id = $1 and m.role = $3 and m.deleted_at is null
            and not exists (select from usher_people p where p.clerk_user_id = a.external_id and p.banned)
    $$;
    comment on function usher_is_last_owner is 'Whether this person alone has an organization''s highest role, apart from those who are banned.';

    create function usher_read_target(organization_id text, project_id text, out organization uuid, out project uuid)
        language plpgsql as $$
    begin
        if $1 is null and $2 is null then
            perform usher_refuse_field('organization_id', 'is missing; give organization_id or project_id');
        elsif $1 is not null and $2 is not null then
            perform usher_refuse_field('project_id', 'can''t be given together with organization_id');
        elsif $2 is not null then
            project := usher_read_id($2, 'project_id');
            -- Without a join: with one, a project that was moved while this waited for its lock would be missing.
            select p.organization_id into organization from projects p where p.id = project and p.deleted_at is null for share;
        else
            organization := usher_read_id($1, 'organization_id');
        end if;
        if not exists (select from organizations o where o.id = organization and o.deleted_at is null) then
            perform usher_refuse_field(case when $2 is null then 'organization_id' else 'project_id' end, 'does not exist');
        end if;
    end
    $$;
    comment on function usher_read_target is 'The organization or project that is named, which must be there; of a project its organization, too.';

    -- As set_members in src/flows/members.rs.
    create function put_member(clerk_user_id text, role text, organization_id text default null, project_id text default null)
        returns text language plpgsql security definer as $$
    #variable_conflict use_variable
    declare
        user_id alias for $1;
        wanted text := usher_trimmed($2);
        settings usher_settings := usher_settings_in_force();
        roles text[] := settings.organization_roles;
        highest text := roles[cardinality(roles)];
        place record;
        person uuid;
        held_in_organization text;
        held text;
        open invites;
        asked_at timestamptz := clock_timestamp();
    begin
        place := usher_read_target($3, $4);
        if user_id is null or user_id !~ '^user_[A-Za-z0-9_]{1,59}$' then
            perform usher_refuse_field('clerk_user_id', 'must be a Clerk user id');
        end if;
        if place.project is not null then
            roles := settings.project_roles;
        end if;
        if wanted is null or array_position(roles, wanted) is null then
            perform usher_refuse_field('role', 'must be one of ' || array_to_string(roles, ', '));
        end if;

        insert into usher_people as u (clerk_user_id, id) values (user_id, usher_new_id())
        on conflict on constraint usher_people_pkey do update set id = u.id;
        person := usher_admin_of(user_id);
        if person is null or exists (select from usher_people u
            where u.clerk_user_id = user_id and (u.banned or u.locked or u.deleted_at is not null))
        then
            perform usher_refuse(409, 'person_blocked', 'the person is banned, locked or deleted in Clerk', 'clerk_user_id');
        end if;
        insert into admins (id, external_id, email, first_name, last_name, image_url, created_at, updated_at)
        select u.id, u.clerk_user_id, u.email, u.first_name, u.last_name, u.image_url, asked_at, asked_at
        from usher_people u where u.id = person
        on conflict (id) do nothing;

        perform from organizations o where o.id = place.organization for no key update;
        select m.role into held_in_organization from organization_users m
        where m.organization_id = place.organization and m.admin_id = person and m.deleted_at is null;
        if place.project is null then
            held := held_in_organization;
            if wanted <> highest and usher_is_last_owner(place.organization, person, highest) then
                perform usher_refuse(409, 'last_owner', 'the organization would lose the last member with its highest role');
            end if;
        else
            select m.role into held from project_admins m
            where m.project_id = place.project and m.admin_id = person and m.deleted_at is null;
        end if;
        if held = wanted then
            return 'unchanged';
        end if;
        for open in
            select i.* from invites i
            where i.target_id = coalesce(place.project, place.organization) and i.status in ('pending', 'expired')
                and i.kind = case when place.project is null then 'organization' else 'project' end
                and i.email_key in (select a.email_key from usher_addresses a join usher_people u on u.id = a.person_id
                    where u.clerk_user_id = user_id and a.verified)
            order by i.id for update
        loop
            perform usher_revoke_invite(open.id);
        end loop;
        if place.project is not null and held_in_organization is null then
            perform usher_set_membership(place.organization, null, person, settings.organization_roles[1]);
        end if;
        perform usher_set_membership(place.organization, place.project, person, wanted);
        return case when held is null then 'added' else 'changed' end;
    end
    $$;
    comment on function put_member(text, text, text, text) is 'Gives a person a role: added, changed or unchanged.';

    -- As remove_member in src/flows/members.rs.
    create function remove_member(
        clerk_user_id text, organization_id text default null, project_id text default null, force boolean default false
    ) returns boolean language plpgsql security definer as $$
    #variable_conflict use_variable
    declare
        place record;
        person uuid := usher_inviter(null, $1);
        roles text[];
        highest text;
        ended record;
        asked_at timestamptz := clock_timestamp();
    begin
        roles := (usher_settings_in_force()).organization_roles;
        highest := roles[cardinality(roles)];
        place := usher_read_target($2, $3);
        if place.project is null then
            perform from organizations o where o.id = place.organization for no key update;
            if not coalesce($4, false) and usher_is_last_owner(place.organization, person, highest) then
                perform usher_refuse(409, 'last_owner', 'the organization would lose the last member with its highest role');
            end if;
        end if;
        for ended in
            update project_admins m set deleted_at = asked_at, updated_at = asked_at
            where m.admin_id = person and m.deleted_at is null and m.project_id in (select p.id from projects p
                where case when place.project is null then p.organization_id = place.organization else p.id = place.project end)
            returning m.project_id, m.role
        loop
            perform usher_tell_of_membership('removed', null, ended.project_id, person, ended.role);
        end loop;
        if place.project is not null then
            return found;
        end if;
        update organization_users m set deleted_at = asked_at, updated_at = asked_at
        where m.organization_id = place.organization and m.admin_id = person and m.deleted_at is null
        returning m.role into ended;
        if not found then
            return false;
        end if;
        perform usher_tell_of_membership('removed', place.organization, null, person, ended.role);
        return true;
    end
    $$;
    comment on function remove_member(text, text, text, boolean) is 'Ends a membership, and those in the organization''s projects; whether there was one.';

    create function usher_revoke_invite(wanted uuid) returns boolean language plpgsql as $$
    declare
        asked_at timestamptz := clock_timestamp();
        saved invites;
    begin
        update invites i set status = 'revoked', revoked_at = asked_at, flagged_at = null, flagged_for = null,
            dismissed_at = null, updated_at = asked_at
        where i.id = wanted and i.status in ('pending', 'expired') returning * into saved;
        if not found then
            return false;
        end if;
        perform usher_record_event(saved, 'revoked');
        return true;
    end
    $$;
    comment on function usher_revoke_invite is 'Revokes an open invite; whether it was one.';

    create function revoke(invite_id uuid) returns void language plpgsql security definer as $$
    declare
        status text;
    begin
        if usher_revoke_invite($1) then
            return;
        end if;
        status := (select i.status from invites i where i.id = $1);
        if status is null then
            perform usher_refuse(404, 'not_found', 'there is no such invite', 'invite_id');
        end if;
        perform usher_refuse(409, 'invite_' || status, format('the invite was %s', status));
    end
    $$;
    comment on function revoke is 'Revokes an open invite.';

    for mine in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = 'usher'::regnamespace and p.proname in (
            'usher_read_id', 'usher_keep_spelling', 'usher_read_name', 'put_organization',
            'put_project', 'usher_set_membership', 'usher_tell_of_membership', 'usher_is_last_owner',
            'usher_read_target', 'put_member', 'remove_member', 'usher_revoke_invite', 'revoke')
    loop
        execute format('alter function %s set search_path = pg_catalog, usher, pg_temp', mine);
        execute format('alter function %s set timezone = ''UTC''', mine);
    end loop;

    -- Ids of other types are spelled as Postgres prints them.
    foreach id_type in array array['uuid', 'bigint'] loop
        execute replace(replace($overloads$
            create function put_organization(id ID, name text) returns void language sql DEFINER
                as 'select put_organization($1::text, $2)';
            create function put_project(id ID, organization_id ID, name text) returns void language sql DEFINER
                as 'select put_project($1::text, $2::text, $3)';
            create function put_member(clerk_user_id text, role text, organization_id ID default null, project_id ID default null)
                returns text language sql DEFINER as 'select put_member($1, $2, $3::text, $4::text)';
            create function remove_member(
                clerk_user_id text, organization_id ID default null, project_id ID default null, force boolean default false
            ) returns boolean language sql DEFINER as 'select remove_member($1, $2::text, $3::text, $4)';
        $overloads$, ' ID', ' ' || id_type),
            'DEFINER', 'security definer set search_path = pg_catalog, usher, pg_temp set timezone = ''UTC''');
    end loop;

    for mine in
        select p.oid::regprocedure from pg_proc p where p.pronamespace = 'usher'::regnamespace
    loop
        execute format('revoke all on function %s from public', mine);
    end loop;
end
$door$;

-- What an app may read in SQL; with USHER_TABLES=shared it has the tables.
do $views$
begin
    if exists (select from usher_layout where app_schema is not null) then
        return;
    end if;

    create view app_memberships as
    select coalesce(o.app_id, m.organization_id::text) as organization_id, null::text as project_id,
        a.external_id as clerk_user_id, a.email, m.role, m.created_at, m.updated_at
    from organization_users m join admins a on a.id = m.admin_id and a.deleted_at is null
    left join usher_app_ids o on o.key = m.organization_id where m.deleted_at is null
    union all
    select coalesce(o.app_id, p.organization_id::text), coalesce(i.app_id, m.project_id::text),
        a.external_id, a.email, m.role, m.created_at, m.updated_at
    from project_admins m join projects p on p.id = m.project_id
    join admins a on a.id = m.admin_id and a.deleted_at is null
    left join usher_app_ids o on o.key = p.organization_id left join usher_app_ids i on i.key = m.project_id
    where m.deleted_at is null;
    comment on view app_memberships is 'Who is in which organization, and, where project_id is not null, in which project.';

    create view app_invites as
    select i.id as invite_id, coalesce(o.app_id, i.organization_id::text) as organization_id,
        coalesce(p.app_id, i.project_id::text) as project_id, i.email, i.role,
        case when i.status = 'pending' and i.expires_at <= now() then 'expired' else i.status end as status,
        i.invited_by_clerk_id as invited_by, i.invited_at, i.expires_at, i.accepted_by_clerk_id as accepted_by,
        i.accepted_at, i.declined_at, i.revoked_at, i.mail_held, i.created_at, i.updated_at
    from invites i left join usher_app_ids o on o.key = i.organization_id left join usher_app_ids p on p.key = i.project_id;
    comment on view app_invites is 'All invites, with the ids that the app uses.';
end
$views$;
