-- Periodic work: one row per schedule decides, in one guarded update, which process a tick belongs to.
create table usher_schedules (
    -- What is done.
    name text primary key,
    -- When its next tick is due; whoever moves it on runs the tick.
    due_at text not null
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

-- At most one row: there while the mail server refuses the account, and all mails wait.
create table usher_mail_trouble (
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
    -- Who is counted: an inviter or an organization.
    scope text not null check (scope in ('inviter', 'organization')),
    -- The admins.id or the organizations.id.
    subject blob not null,
    -- The day in UTC, such as 2026-11-22.
    day text not null,
    -- How many mails.
    mails integer not null,
    primary key (scope, subject, day)
) strict;

-- When sending was last tried.
alter table usher_deliveries add column attempted_at text;

-- When the life began that reminders are planned for.
alter table invites add column reminders_from text;
-- The expires_at that remind_at was planned for; another one means that the invite has a new life, to be planned anew.
alter table invites add column reminders_until text;
-- When the next reminder is due; null for none.
alter table invites add column remind_at text;
create index invites_expiring on invites (expires_at) where status = 'pending';
create index invites_to_plan on invites (id)
    where status = 'pending' and (reminders_until is null or reminders_until <> expires_at);
create index invites_to_remind on invites (remind_at) where status = 'pending' and remind_at is not null;
