-- Who may invite and whether an invite still lets in are looked up whenever it counts, by one rule for all doors; and
-- asking again has the same limits for its mail as sending again.

alter table invites add column mail_held text check (mail_held in ('cool_down', 'daily_cap', 'address_cap'));
comment on column invites.mail_held is 'Why the address was last asked without a mail; null where a mail was queued.';

alter table usher_invite_history add column reason text;
comment on column usher_invite_history.reason is 'Of a refusal: target_deleted, unknown_role, inviter_blocked or inviter_lost_rights.';
comment on column usher_invite_history.event is 'created, refreshed, resent, flagged, dismissed, accepted, refused, declined, revoked or expired.';

alter table usher_mail_counts drop constraint usher_mail_counts_scope_check;
alter table usher_mail_counts add constraint usher_mail_counts_scope_check
    check (scope in ('inviter', 'organization', 'address'));
comment on column usher_mail_counts.scope is 'Who is counted: an inviter, an organization or an address.';
comment on column usher_mail_counts.subject is 'The admins.id, the organizations.id, or the first half of the SHA-256 of the address''s email_key.';

alter table usher_settings add column organization_invite_role text;
alter table usher_settings add column project_invite_role text;
alter table usher_settings add column mail_cap_address bigint default 20;
alter table usher_settings add column repetition interval not null default '1 minute';
comment on column usher_settings.organization_invite_role is 'ORGANIZATION_INVITE_ROLE; null for the highest.';
comment on column usher_settings.project_invite_role is 'PROJECT_INVITE_ROLE; null for the highest.';
comment on column usher_settings.mail_cap_address is 'MAIL_CAP_ADDRESS; null for no limit.';
comment on column usher_settings.repetition is 'How long the same request again is taken for a repetition of the first.';

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
            and (a.external_id is not null or not exists (select from usher_people u where u.admin_id = a.id
                and (u.banned or u.locked or u.deleted_at is not null)))
        from admins a where a.id = inviter), false)
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
        home := (select p.organization_id from projects p where p.id = invite.project_id and p.deleted_at is null);
    end if;
    if not exists (select from organizations o where o.id = home and o.deleted_at is null) then
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

comment on column usher_mail_asks.scope is 'Who is counted: an inviter, an organization or an address.';
comment on column usher_mail_asks.subject is 'The admins.id, the organizations.id, or the first half of the SHA-256 of the address''s email_key.';

create or replace function usher_count_asked_mails() returns trigger language plpgsql security definer as $$
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

-- Asks for a mail; false where the address had its mails today. Refuses at once what is beyond the other caps by now. Where
-- transactions meet, the one that commits last is refused then.
drop function usher_reserve_mail(uuid, uuid, timestamptz);
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

create or replace function usher_invite(
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
    obstacle text;
    mails integer;
    newest timestamptz;
    held text;
    new_id uuid := usher_new_id();
    asked_at timestamptz := clock_timestamp();
    ends_at timestamptz;
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
        obstacle := usher_inviter_obstacle(inviter, home, project, wanted);
        if obstacle = 'inviter_blocked' then
            perform usher_refuse(403, obstacle, 'the inviter is banned or locked');
        elsif obstacle is not null then
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
        locale, message, invited_at, expires_at, created_at, updated_at)
    values (new_id, case when project is null then 'organization' else 'project' end, home, project, usher_trimmed(asked),
        asked_key, wanted, 'pending', way, inviter, language_tag, words, asked_at, ends_at, asked_at, asked_at)
    on conflict (kind, target_id, email_key) where status in ('pending', 'expired') do update set updated_at = i.updated_at
    returning * into saved;
    if saved.id <> new_id then
        -- The same was asked a moment ago.
        if saved.status = 'pending' and saved.expires_at > asked_at
            and asked_at - saved.invited_at < settings.repetition and saved.invited_at - asked_at < settings.repetition
            and abs(extract(epoch from (saved.expires_at - saved.invited_at) - (ends_at - asked_at))) < 30
            and (saved.organization_id, saved.email, saved.role, saved.acceptance) = (home, usher_trimmed(asked), wanted, way)
            and saved.invited_by is not distinct from inviter and saved.locale is not distinct from language_tag
            and saved.message is not distinct from words
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
            acceptance = way, invited_by = inviter, locale = language_tag, message = words, invited_at = asked_at,
            expires_at = ends_at, expired_at = null, dismissed_at = null, mail_held = held,
            token_version = i.token_version + (held is null)::integer, updated_at = asked_at
        where i.id = saved.id returning * into saved;
    elsif held is not null then
        update invites i set mail_held = held where i.id = saved.id returning * into saved;
    end if;
    if held is null then
        perform usher_queue_invite_email(saved, case when saved.id = new_id then 'created' else 'refreshed' end);
    else
        insert into usher_invite_history (id, invite_id, event, at)
        values (usher_new_id(), saved.id, case when saved.id = new_id then 'created' else 'refreshed' end, clock_timestamp());
    end if;
    return query select saved.id, saved.id = new_id, saved.expires_at;
end
$$;

create or replace function usher_enqueue_invite_email(invite_id uuid) returns uuid language plpgsql security definer as $$
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
    select * into settings from usher_settings;
    if not found then
        perform usher_refuse(503, 'not_set_up', 'usher has not been set up in this database', hint => 'Run: usher migrate');
    end if;
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
            hint => 'usher_invite queues the mail by itself.');
    end if;
    if not usher_reserve_mail(saved.invited_by,
        coalesce((select p.organization_id from projects p where p.id = saved.project_id), saved.organization_id),
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

-- They run with the rights of usher's role, whatever the caller's search path and time zone are. Nobody may call anything
-- until it is granted.
do $$
declare
    mine regprocedure;
begin
    for mine in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = (select oid from pg_namespace where nspname = current_schema()) and p.proname in (
            'usher_manages_organization', 'usher_inviter_obstacle', 'usher_invite_obstacle', 'usher_reserve_mail',
            'usher_count_asked_mails', 'usher_invite', 'usher_enqueue_invite_email')
    loop
        execute format('alter function %s set search_path = pg_catalog, %I, pg_temp', mine, current_schema());
        execute format('alter function %s set timezone = ''UTC''', mine);
    end loop;
    for mine in
        select p.oid::regprocedure from pg_proc p
        where p.pronamespace = (select oid from pg_namespace where nspname = current_schema()) and p.proname in (
            'usher_manages_organization', 'usher_inviter_obstacle', 'usher_invite_obstacle', 'usher_reserve_mail')
    loop
        execute format('revoke all on function %s from public', mine);
    end loop;
end
$$;
