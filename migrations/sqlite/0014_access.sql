-- Why the address was last asked without a mail: cool_down, daily_cap or address_cap; null where a mail was queued.
alter table invites add column mail_held text;

-- Of a refusal: target_deleted, unknown_role, inviter_blocked or inviter_lost_rights.
alter table usher_invite_history add column reason text;

-- Mails are counted for addresses, too.
create table usher_mail_counts_new (
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
insert into usher_mail_counts_new select scope, subject, day, mails from usher_mail_counts;
drop table usher_mail_counts;
alter table usher_mail_counts_new rename to usher_mail_counts;
