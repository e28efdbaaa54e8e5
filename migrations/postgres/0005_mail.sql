-- Periodic work: one row per schedule decides, in one guarded update, which process a tick belongs to.
create table usher_schedules (
    name text primary key,
    due_at timestamptz not null
);
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

create table usher_mail_trouble (
    id integer primary key check (id = 1),
    reason text not null,
    since timestamptz not null,
    probes integer not null default 0,
    probe_at timestamptz not null
);
comment on table usher_mail_trouble is 'At most one row: there while the mail server refuses the account, and all mails wait.';
comment on column usher_mail_trouble.id is 'Always 1.';
comment on column usher_mail_trouble.reason is 'The server''s words, addresses masked.';
comment on column usher_mail_trouble.since is 'When it began.';
comment on column usher_mail_trouble.probes is 'How many mails were tried since.';
comment on column usher_mail_trouble.probe_at is 'When the next one is tried; whoever moves it on sends it.';

create table usher_mail_counts (
    scope text not null check (scope in ('inviter', 'organization')),
    subject uuid not null,
    day text not null,
    mails integer not null,
    primary key (scope, subject, day)
);
comment on table usher_mail_counts is 'Invite mails asked for on a day, for the daily caps.';
comment on column usher_mail_counts.scope is 'Who is counted: an inviter or an organization.';
comment on column usher_mail_counts.subject is 'The admins.id or the organizations.id.';
comment on column usher_mail_counts.day is 'The day in UTC, such as 2026-11-22.';
comment on column usher_mail_counts.mails is 'How many mails.';

alter table usher_deliveries add column attempted_at timestamptz;
comment on column usher_deliveries.attempted_at is 'When sending was last tried.';
comment on column usher_deliveries.status is 'queued, sent, failed (for good) or suppressed (no longer wanted, or its address refuses mail).';

alter table invites add column reminders_from timestamptz;
alter table invites add column reminders_until timestamptz;
alter table invites add column remind_at timestamptz;
comment on column invites.reminders_from is 'When the life began that reminders are planned for.';
comment on column invites.reminders_until is 'The expires_at that remind_at was planned for; another one means that the invite has a new life, to be planned anew.';
comment on column invites.remind_at is 'When the next reminder is due; null for none.';
comment on column invites.expired_at is 'When it expired, once the sweep has noted it.';
create index invites_expiring on invites (expires_at) where status = 'pending';
create index invites_to_plan on invites (id)
    where status = 'pending' and (reminders_until is null or reminders_until <> expires_at);
create index invites_to_remind on invites (remind_at) where status = 'pending' and remind_at is not null;
