-- The tables that the app and usher share come first. They may already be the app's own, with more columns and with
-- rows: what is there stays as it is, what is missing is added.

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
alter table admins alter column organization_id drop not null;
create index if not exists usher_admins_external_id on admins (external_id);
comment on table admins is 'People.';
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
    id uuid primary key,
    organization_id uuid not null references organizations (id),
    admin_id uuid not null references admins (id),
    role text not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz,
    unique (organization_id, admin_id)
);
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
    project_id uuid not null references projects (id),
    admin_id uuid not null references admins (id),
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

create table usher_people (
    clerk_user_id text primary key,
    admin_id uuid,
    clerk_created_at timestamptz,
    clerk_updated_at timestamptz,
    banned boolean not null default false,
    locked boolean not null default false,
    locale text,
    seen_at timestamptz,
    deleted_at timestamptz
);
create index usher_people_admin on usher_people (admin_id);
comment on table usher_people is 'What Clerk last said of each person, and the tombstones of the deleted.';
comment on column usher_people.clerk_user_id is 'user_…';
comment on column usher_people.admin_id is 'Their row in admins; null for a tombstone of somebody never seen.';
comment on column usher_people.clerk_created_at is 'When Clerk created them.';
comment on column usher_people.clerk_updated_at is 'The version of what is stored: an older one never overwrites a newer one.';
comment on column usher_people.banned is 'Banned in Clerk: no invite is for them.';
comment on column usher_people.locked is 'Locked in Clerk: no invite is for them.';
comment on column usher_people.locale is 'Their language (BCP 47).';
comment on column usher_people.seen_at is 'When Clerk last told of them.';
comment on column usher_people.deleted_at is 'Deleted in Clerk; a late or replayed event never revives them.';

create table usher_addresses (
    admin_id uuid not null,
    email_key text not null,
    email text not null,
    verified boolean not null,
    is_primary boolean not null,
    primary key (admin_id, email_key)
);
create index usher_addresses_verified on usher_addresses (email_key) where verified;
comment on table usher_addresses is 'Every address that Clerk knows of a person.';
comment on column usher_addresses.admin_id is 'The person.';
comment on column usher_addresses.email_key is 'What addresses are compared by.';
comment on column usher_addresses.email is 'As Clerk shows it.';
comment on column usher_addresses.verified is 'Clerk verified it; only such an address matches invites.';
comment on column usher_addresses.is_primary is 'Their main address.';

create table usher_sessions (
    clerk_session_id text primary key,
    admin_id uuid,
    status text not null check (status in ('active', 'ended')),
    started_at timestamptz,
    ended_at timestamptz
);
create index usher_sessions_active on usher_sessions (admin_id) where status = 'active';
comment on table usher_sessions is 'Who is signed in, as far as the webhooks tell.';
comment on column usher_sessions.clerk_session_id is 'sess_…';
comment on column usher_sessions.admin_id is 'The person; null if they were unknown when the session ended.';
comment on column usher_sessions.status is 'active or ended; an ended session is never revived by a late event.';
comment on column usher_sessions.started_at is 'When Clerk says it began.';
comment on column usher_sessions.ended_at is 'When usher learnt of its end.';

create table invites (
    id uuid primary key,
    kind text not null check (kind in ('organization', 'project')),
    organization_id uuid not null references organizations (id),
    project_id uuid references projects (id),
    target_id uuid not null generated always as (coalesce(project_id, organization_id)) stored,
    email text not null,
    email_key text not null,
    role text not null,
    status text not null check (status in ('pending', 'accepted', 'declined', 'revoked', 'expired')),
    acceptance text not null check (acceptance in ('auto', 'ask', 'default')),
    invited_by uuid,
    accepted_by uuid,
    locale text,
    message text,
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
comment on column invites.accepted_by is 'Who accepted, an admins.id.';
comment on column invites.locale is 'The language for the mail (BCP 47).';
comment on column invites.message is 'A few words from the inviter.';
comment on column invites.token_version is 'The version that the link is derived from; raised to make older links void.';
comment on column invites.invited_at is 'When the address was asked, or last asked again.';
comment on column invites.expires_at is 'From then on it is expired.';
comment on column invites.flagged_at is 'Since when the banner shows it.';
comment on column invites.flagged_for is 'To whom the banner shows it, an admins.id.';
comment on column invites.dismissed_at is 'When that person put the banner away, until their next sign-in.';
comment on column invites.accepted_at is 'When it was accepted.';
comment on column invites.declined_at is 'When it was declined.';
comment on column invites.revoked_at is 'When it was revoked.';
comment on column invites.expired_at is 'When the sweep noted that it had expired.';
comment on column invites.created_at is 'When the row was made.';
comment on column invites.updated_at is 'When the row last changed.';

create table usher_deliveries (
    id uuid primary key,
    invite_id uuid not null references invites (id),
    kind text not null check (kind in ('invite', 'reminder', 'accepted_notice')),
    generation integer not null,
    to_email text not null,
    status text not null check (status in ('queued', 'sent', 'failed', 'suppressed')),
    attempts integer not null default 0,
    last_error text,
    message_id text not null,
    queued_at timestamptz not null,
    sent_at timestamptz,
    unique (invite_id, kind, generation)
);
comment on table usher_deliveries is 'Mails that belong to invites, sent or to be sent.';
comment on column usher_deliveries.id is 'What the job carries.';
comment on column usher_deliveries.invite_id is 'The invite it speaks of.';
comment on column usher_deliveries.kind is 'invite and reminder go to the invited address, accepted_notice to the inviter.';
comment on column usher_deliveries.generation is 'Counts the mails of one kind for one invite.';
comment on column usher_deliveries.to_email is 'Where it goes.';
comment on column usher_deliveries.status is 'queued, sent, failed (for good) or suppressed (no longer wanted).';
comment on column usher_deliveries.attempts is 'How often sending was tried.';
comment on column usher_deliveries.last_error is 'The last refusal, addresses masked.';
comment on column usher_deliveries.message_id is 'Fixed per delivery, so that a second copy after a crash is recognised as the same mail.';
comment on column usher_deliveries.queued_at is 'When it was asked for.';
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
create index usher_events_unprocessed on usher_events (received_at) where processed_at is null;
comment on table usher_events is 'The inbox: every event that Clerk was told usher has taken.';
comment on column usher_events.svix_id is 'The message id, the same over retries and replays.';
comment on column usher_events.event_type is 'user.created and so on.';
comment on column usher_events.payload is 'The body as it was signed; cleared some days after processing.';
comment on column usher_events.received_at is 'When it was stored.';
comment on column usher_events.processed_at is 'When its effect was committed.';
comment on column usher_events.outcome is 'What came of it, in a few words.';
comment on column usher_events.error is 'Why it could not be processed so far.';
