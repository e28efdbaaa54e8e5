-- Mails have their Message-IDs in a domain of the sender's, as mail servers expect.
alter table usher_settings add column mail_domain text not null default 'usher';
comment on column usher_settings.mail_domain is 'The domain of MAIL_FROM, in which mails have their Message-IDs.';

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
    values (apalis.generate_ulid(), 'send-invite-email',
        convert_to(json_build_object('delivery_id', delivery)::text, 'UTF8'), 'Pending', 0, 2147483647, now(), 0);
    insert into usher_invite_history (id, invite_id, event, at)
    values (usher_new_id(), invite.id, event, clock_timestamp());
    return delivery;
end
$$;
do $$
begin
    execute format('alter function usher_queue_invite_email(invites, text) set search_path = pg_catalog, %I, pg_temp',
        current_schema());
end
$$;
