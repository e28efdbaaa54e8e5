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

-- The rows stay locked until the transaction ends, so no cap is passed; a refusal takes the counting back with it.
create function usher_reserve_mail(inviter uuid, organization uuid, asked_at timestamptz) returns void language plpgsql as $$
declare
    beyond boolean;
begin
    with capped as (
        select cap.scope, cap.subject, cap.most from usher_settings s cross join lateral (values
            ('inviter', inviter, s.mail_cap_inviter),
            ('organization', organization, s.mail_cap_organization)) as cap (scope, subject, most)
        where cap.subject is not null and cap.most is not null
    ), counted as (
        -- In one order for everybody.
        insert into usher_mail_counts as c (scope, subject, day, mails)
        select scope, subject, to_char(asked_at, 'YYYY-MM-DD'), 1 from capped order by scope
        on conflict (scope, subject, day) do update set mails = c.mails + 1
        returning scope, mails
    )
    select bool_or(counted.mails > capped.most) into beyond from counted join capped using (scope);
    if beyond then
        perform usher_refuse(429, 'daily_mail_cap', 'no invite mails are left today',
            hint => 'Come again after midnight UTC.');
    end if;
end
$$;
comment on function usher_reserve_mail is 'Counts a mail, and refuses it beyond the daily caps.';

-- The delivery and its job, picked up after the commit, and what they are for.
create function usher_queue_invite_email(invite invites, event text) returns uuid language plpgsql as $$
declare
    delivery uuid := usher_new_id();
begin
    insert into usher_deliveries (id, invite_id, kind, generation, to_email, status, message_id, queued_at)
    select delivery, invite.id, 'invite', coalesce(max(generation), 0) + 1, invite.email, 'queued', delivery || '@usher',
        clock_timestamp()
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
comment on function usher_queue_invite_email is 'Queues the mail for an invite.';

create function usher_invite(
    email text,
    role text,
    organization_id uuid default null,
    project_id uuid default null,
    invited_by text default null,
    expires_in interval default null,
    acceptance text default 'default',
    locale text default null,
    message text default null
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
    settings usher_settings;
    asked_key text;
    home uuid;
    place text := case when $4 is null then 'organization_id' else 'project_id' end;
    ladder text[];
    inviter uuid;
    held_organization text;
    held_project text;
    new_id uuid := usher_new_id();
    asked_at timestamptz := clock_timestamp();
    saved invites;
begin
    select * into settings from usher_settings;
    if not found then
        perform usher_refuse(503, 'not_set_up', 'usher has not been set up in this database', hint => 'Run: usher migrate');
    end if;

    if organization is null and project is null then
        perform usher_refuse_field('organization_id', 'is missing; give organization_id or project_id');
    elsif organization is not null and project is not null then
        perform usher_refuse_field('project_id', 'must not stand beside organization_id');
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

    if project is null then
        ladder := settings.organization_roles;
        select o.id into home from organizations o where o.id = organization and o.deleted_at is null;
    else
        ladder := settings.project_roles;
        select o.id into home from projects p join organizations o on o.id = p.organization_id and o.deleted_at is null
        where p.id = project and p.deleted_at is null;
    end if;
    if home is null then
        perform usher_refuse_field(place, 'names nothing that is there');
    end if;
    if array_position(ladder, wanted) is null then
        perform usher_refuse_field('role', 'must be one of ' || array_to_string(ladder, ', '));
    end if;

    if inviter_name is not null then
        if inviter_name like 'user\_%' then
            select a.id into inviter from admins a where a.external_id = inviter_name and a.deleted_at is null
            order by a.created_at, a.id limit 1;
        else
            select a.id into inviter from admins a where a.id = inviter_name::uuid and a.deleted_at is null;
        end if;
        if inviter is null then
            perform usher_refuse_field('invited_by', 'names no known person');
        end if;
        if exists (select from usher_addresses a where a.verified and a.email_key = asked_key and a.admin_id = inviter) then
            perform usher_refuse_field('email', 'is the inviter''s own address');
        end if;
        select m.role into held_organization from organization_users m
        where m.organization_id = home and m.admin_id = inviter and m.deleted_at is null;
        select m.role into held_project from project_admins m
        where m.project_id = project and m.admin_id = inviter and m.deleted_at is null;
        -- Whoever manages the organization, every role but the lowest, gives any role in its projects.
        if not coalesce(
            case when project is null
                then array_position(ladder, held_organization) >= greatest(array_position(ladder, wanted), 2)
                else array_position(settings.organization_roles, held_organization) >= 2
            end, false)
            and not coalesce(
                project is not null and array_position(ladder, held_project) >= array_position(ladder, wanted), false)
        then
            perform usher_refuse(403, 'role_above_inviter', 'the inviter may not give this role here');
        end if;
    end if;

    if exists (
        select from usher_addresses a
        join admins owner on owner.id = a.admin_id and owner.deleted_at is null
        left join organization_users m on m.organization_id = home and m.admin_id = a.admin_id and m.deleted_at is null
        left join project_admins pm on pm.project_id = project and pm.admin_id = a.admin_id and pm.deleted_at is null
        where a.verified and a.email_key = asked_key
          and case when project is null
              then array_position(ladder, m.role) >= array_position(ladder, wanted)
              else array_position(settings.organization_roles, m.role) >= 2
                  or array_position(ladder, pm.role::text) >= array_position(ladder, wanted)
              end
    ) then
        perform usher_refuse(409, 'already_member',
            'the address''s owner is a member already, with this role or a higher one');
    end if;

    perform usher_reserve_mail(inviter, home, asked_at);
    insert into invites as i (id, kind, organization_id, project_id, email, email_key, role, status, acceptance, invited_by,
        locale, message, invited_at, expires_at, created_at, updated_at)
    values (new_id, case when project is null then 'organization' else 'project' end, home, project, usher_trimmed(asked),
        asked_key, wanted, 'pending', way, inviter, language_tag, words, asked_at,
        asked_at + make_interval(secs => extract(epoch from lifetime)::double precision), asked_at, asked_at)
    on conflict (kind, target_id, email_key) where status in ('pending', 'expired') do update set
        status = 'pending', organization_id = excluded.organization_id, email = excluded.email, role = excluded.role,
        acceptance = excluded.acceptance, invited_by = excluded.invited_by, locale = excluded.locale,
        message = excluded.message, invited_at = excluded.invited_at, expires_at = excluded.expires_at,
        expired_at = null, dismissed_at = null, token_version = i.token_version + 1, updated_at = excluded.updated_at
    returning * into saved;
    perform usher_queue_invite_email(saved, case when saved.token_version = 1 then 'created' else 'refreshed' end);
    return query select saved.id, saved.id = new_id, saved.expires_at;
end
$$;
comment on function usher_invite is 'Invites an address in the caller''s transaction, and queues the mail.';

create function usher_enqueue_invite_email(invite_id uuid) returns uuid language plpgsql security definer as $$
#variable_conflict use_column
declare
    wanted alias for $1;
    settings usher_settings;
    asked_at timestamptz := clock_timestamp();
    saved invites;
    mails integer;
    newest timestamptz;
begin
    select * into settings from usher_settings;
    if not found then
        perform usher_refuse(503, 'not_set_up', 'usher has not been set up in this database', hint => 'Run: usher migrate');
    end if;
    update invites i set status = 'pending', expired_at = null, updated_at = asked_at,
        expires_at = case when i.expires_at <= asked_at then asked_at + settings.invite_ttl else i.expires_at end
    where i.id = wanted and i.status in ('pending', 'expired') returning * into saved;
    if not found then
        select * into saved from invites i where i.id = wanted;
        if not found then
            perform usher_refuse(404, 'not_found', 'there is no such invite', 'invite_id');
        end if;
        perform usher_refuse(409, 'invite_' || saved.status, format('the invite was %s', saved.status));
    end if;
    select count(*), max(d.queued_at) into mails, newest from usher_deliveries d
    where d.invite_id = wanted and d.kind = 'invite' and d.queued_at > asked_at - interval '24 hours';
    if newest + settings.resend_cool_down > asked_at or mails >= settings.resend_daily_cap then
        perform usher_refuse(429, 'resend_too_soon', 'the address was written to only recently',
            hint => 'usher_invite queues the mail by itself.');
    end if;
    perform usher_reserve_mail(saved.invited_by,
        coalesce((select p.organization_id from projects p where p.id = saved.project_id), saved.organization_id), asked_at);
    -- Whoever resends vouches for the address.
    delete from usher_suppressions s where s.email_key = saved.email_key;
    return usher_queue_invite_email(saved, 'resent');
end
$$;
comment on function usher_enqueue_invite_email is 'Sends an open invite''s mail once more; an expired one is renewed.';

-- The two for the app run with the rights of usher's role, whatever the caller's search path and time zone are. Nobody
-- may call anything until it is granted.
do $$
declare
    mine regprocedure;
begin
    for mine in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = (select oid from pg_namespace where nspname = current_schema()) and p.proname in ('usher_refuse', 'usher_refuse_field',
            'usher_trimmed', 'usher_email_key', 'usher_new_id', 'usher_reserve_mail', 'usher_queue_invite_email',
            'usher_invite', 'usher_enqueue_invite_email')
    loop
        execute format('alter function %s set search_path = pg_catalog, %I, pg_temp', mine, current_schema());
        execute format('alter function %s set timezone = ''UTC''', mine);
        execute format('revoke all on function %s from public', mine);
    end loop;
end
$$;
