-- The tables of the queue are the whole database's: another program may keep its jobs there. usher's queues have a
-- prefix; its jobs are known by what they carry.
update apalis.jobs set job_type = 'usher:' || job_type
where (job_type = 'process-clerk-event' and position('"svix_id"'::bytea in job) > 0)
   or (job_type in ('send-invite-email', 'send-accepted-notice') and position('"delivery_id"'::bytea in job) > 0)
   or (job_type = 'periodic' and position('"schedule"'::bytea in job) > 0);

-- Of usher's jobs one notification for each queue in a statement; of others' one for each job, as apalis tells.
create or replace function apalis.usher_tell_of_jobs() returns trigger language plpgsql as $$
begin
    perform pg_notify('apalis::job::insert', json_build_object('job_type', job_type)::text)
    from (select distinct job_type from inserted where job_type like 'usher:%' and run_at <= now()) as due;
    return null;
end
$$;
drop trigger if exists notify_workers on apalis.jobs;
create trigger usher_leave_others_notified after insert on apalis.jobs
    for each row when (new.job_type not like 'usher:%') execute function apalis.notify_new_jobs();

create or replace function usher_queue_invite_email(invite invites, event text) returns uuid language plpgsql
    set timezone = 'UTC' as $$
declare
    delivery uuid := usher_new_id();
begin
    insert into usher_deliveries (id, invite_id, kind, generation, to_email, status, message_id, queued_at)
    select delivery, invite.id, 'invite', coalesce(max(generation), 0) + 1, invite.email, 'queued',
        delivery || '@' || (select mail_domain from usher_settings), clock_timestamp()
    from usher_deliveries where invite_id = invite.id and kind = 'invite';
    -- As usher enqueues: its own limit of attempts counts, not that of the queue.
    insert into apalis.jobs (id, job_type, job, status, attempts, max_attempts, run_at, priority)
    values (apalis.generate_ulid(), 'usher:send-invite-email',
        convert_to(json_build_object('delivery_id', delivery)::text, 'UTF8'), 'Pending', 0, 2147483647, now(), 0);
    insert into usher_invite_history (id, invite_id, event, at)
    values (usher_new_id(), invite.id, event, clock_timestamp());
    return delivery;
end
$$;

-- The app's transaction may stay open for long, and everybody counts in the same rows. So what it asks for is noted
-- here, in rows that nobody else sees, and counted when it commits: the counts are locked for the commit alone.
create table usher_mail_asks (
    scope text not null,
    subject uuid not null,
    day text not null
);
comment on table usher_mail_asks is 'Mails that the current transaction asks for; empty for everybody else.';
comment on column usher_mail_asks.scope is 'Who is counted: an inviter or an organization.';
comment on column usher_mail_asks.subject is 'The admins.id or the organizations.id.';
comment on column usher_mail_asks.day is 'The day in UTC, such as 2026-11-22.';

create function usher_count_asked_mails() returns trigger language plpgsql security definer set timezone = 'UTC' as $$
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
    select bool_or(counted.mails > case counted.scope when 'inviter' then s.mail_cap_inviter else s.mail_cap_organization end)
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

-- Refuses at once what is beyond the caps by now. Where transactions meet, the one that commits last is refused then.
create or replace function usher_reserve_mail(inviter uuid, organization uuid, asked_at timestamptz) returns void
    language plpgsql set timezone = 'UTC' as $$
declare
    today text := to_char(asked_at, 'YYYY-MM-DD');
    beyond boolean;
begin
    with capped as (
        select cap.scope, cap.subject, cap.most from usher_settings s cross join lateral (values
            ('inviter', inviter, s.mail_cap_inviter),
            ('organization', organization, s.mail_cap_organization)) as cap (scope, subject, most)
        where cap.subject is not null and cap.most is not null
    ), asked as (
        insert into usher_mail_asks (scope, subject, day) select scope, subject, today from capped
    )
    select bool_or(
        coalesce((select c.mails from usher_mail_counts c
            where c.scope = capped.scope and c.subject = capped.subject and c.day = today), 0)
        + (select count(*) from usher_mail_asks a
            where a.scope = capped.scope and a.subject = capped.subject and a.day = today)
        >= capped.most) into beyond from capped;
    if beyond then
        perform usher_refuse(429, 'daily_mail_cap', 'no invite mails are left today',
            hint => 'Come again after midnight UTC.');
    end if;
end
$$;

do $$
declare
    mine regprocedure;
begin
    for mine in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = (select oid from pg_namespace where nspname = current_schema())
          and p.proname in ('usher_queue_invite_email', 'usher_reserve_mail', 'usher_count_asked_mails')
    loop
        execute format('alter function %s set search_path = pg_catalog, %I, pg_temp', mine, current_schema());
        execute format('revoke all on function %s from public', mine);
    end loop;
end
$$;
