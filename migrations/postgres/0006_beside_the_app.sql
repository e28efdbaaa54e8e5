-- What functions and triggers in the database need to know of the configuration, and what keeps an app's own tables and
-- usher's in step.

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
    identity_provider text,
    identity_issuer text,
    unique_emails text not null check (unique_emails in ('no', 'live', 'all')),
    check ((identity_provider is null) = (identity_issuer is null))
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
comment on column usher_settings.identity_issuer is 'What admin_identities.issuer says of Clerk users.';
comment on column usher_settings.unique_emails is 'Whether the app lets an admins.email be there once only: no, among the live, or among all.';

create table usher_backfills (
    name text primary key,
    reached uuid,
    finished_at timestamptz
);
comment on table usher_backfills is 'How far rows that were there before usher have been taken over.';
comment on column usher_backfills.name is 'What is taken over.';
comment on column usher_backfills.reached is 'The last admins.id that is done.';
comment on column usher_backfills.finished_at is 'When all were done.';

-- People who may be linked by their address when Clerk tells of them.
create index if not exists usher_admins_unlinked on admins (lower(trim(email))) where external_id is null and deleted_at is null;

alter table organization_users alter column id set default gen_random_uuid();

-- An app that deletes its rows for good goes on doing so: what usher knows of them goes with them.
alter table organization_users
    drop constraint if exists organization_users_organization_id_fkey,
    drop constraint if exists organization_users_admin_id_fkey,
    add constraint organization_users_organization_id_fkey
        foreign key (organization_id) references organizations (id) on delete cascade,
    add constraint organization_users_admin_id_fkey foreign key (admin_id) references admins (id) on delete cascade;
alter table invites
    drop constraint if exists invites_organization_id_fkey,
    drop constraint if exists invites_project_id_fkey,
    add constraint invites_organization_id_fkey
        foreign key (organization_id) references organizations (id) on delete cascade,
    add constraint invites_project_id_fkey foreign key (project_id) references projects (id) on delete cascade;
alter table usher_deliveries
    drop constraint if exists usher_deliveries_invite_id_fkey,
    add constraint usher_deliveries_invite_id_fkey foreign key (invite_id) references invites (id) on delete cascade;

-- An app that still writes admins.organization_id (or admins.role) sees the membership follow. Nothing here may make the
-- app's own statement fail.
create function usher_mirror_organization() returns trigger language plpgsql security definer as $$
declare
    lowest text := (select organization_roles[1] from usher_settings);
begin
    -- Nothing is set up yet: the backfill, which comes after, takes this row over.
    if lowest is null then
        return null;
    end if;
    -- Who was moved has left; a column that is emptied is on its way out of the schema, and says nothing of anybody. What is
    -- noted here also keeps a backfill that read the row before from bringing back what it read.
    if tg_op = 'UPDATE' and old.organization_id <> new.organization_id then
        insert into organization_users (organization_id, admin_id, role, created_at, updated_at, deleted_at)
        select o.id, new.id, coalesce(old.role::text, lowest), now(), now(), now()
        from organizations o where o.id = old.organization_id
        on conflict (organization_id, admin_id) do update set deleted_at = excluded.deleted_at, updated_at = excluded.updated_at
            where organization_users.deleted_at is null;
    end if;
    if new.deleted_at is not null or not exists (select from organizations where id = new.organization_id) then
        return null;
    end if;
    if tg_op = 'INSERT' or old.organization_id is distinct from new.organization_id or old.deleted_at is not null then
        insert into organization_users (organization_id, admin_id, role, created_at, updated_at)
        values (new.organization_id, new.id, coalesce(new.role::text, lowest), now(), now())
        on conflict (organization_id, admin_id) do update
            set role = excluded.role, deleted_at = null, updated_at = excluded.updated_at
            where organization_users.deleted_at is not null;
    elsif old.role is distinct from new.role then
        insert into organization_users (organization_id, admin_id, role, created_at, updated_at)
        values (new.organization_id, new.id, coalesce(new.role::text, lowest), now(), now())
        on conflict (organization_id, admin_id) do update set role = excluded.role, updated_at = excluded.updated_at
            where organization_users.deleted_at is null;
    end if;
    return null;
end
$$;
comment on function usher_mirror_organization is 'Mirrors what the app writes to admins.organization_id into organization_users.';

-- usher's own writes never name these columns together with an organization, so they never come here.
create trigger usher_mirror_organization after insert or update of organization_id, role, deleted_at on admins
    for each row when (new.organization_id is not null) execute function usher_mirror_organization();

-- An app that keeps identities in a table of its own (USHER_IDENTITIES) has them mirrored into admins.external_id, and
-- those that usher learns of mirrored back. `usher migrate` puts the two triggers on where they are wanted.
create function usher_mirror_identity() returns trigger language plpgsql security definer as $$
declare
    settings usher_settings;
begin
    select * into settings from usher_settings;
    if tg_op <> 'INSERT' and old.provider = settings.identity_provider and old.issuer = settings.identity_issuer
        and (tg_op = 'DELETE' or (old.admin_id, old.subject) is distinct from (new.admin_id, new.subject))
    then
        update admins set external_id = null where id = old.admin_id and external_id = old.subject;
    end if;
    if tg_op <> 'DELETE' and new.provider = settings.identity_provider and new.issuer = settings.identity_issuer then
        update admins set external_id = new.subject where id = new.admin_id and external_id is null;
    end if;
    return null;
end
$$;
comment on function usher_mirror_identity is 'Mirrors admin_identities into admins.external_id.';

create function usher_note_identity() returns trigger language plpgsql security definer as $$
begin
    insert into admin_identities (admin_id, provider, issuer, subject)
    select new.id, s.identity_provider, s.identity_issuer, new.external_id from usher_settings s
    where s.identity_provider is not null and not exists (
        select from admin_identities i
        where i.provider = s.identity_provider and i.issuer = s.identity_issuer and i.subject = new.external_id);
    return null;
end
$$;
comment on function usher_note_identity is 'Mirrors admins.external_id into admin_identities.';

-- They write where the app's role may not, whatever that role's search path and time zone are.
do $$
declare
    mine text;
begin
    foreach mine in array array['usher_mirror_organization()', 'usher_mirror_identity()', 'usher_note_identity()'] loop
        execute format('alter function %s set search_path = pg_catalog, %I, pg_temp', mine, current_schema());
        execute format('alter function %s set timezone = ''UTC''', mine);
        execute format('revoke all on function %s from public', mine);
    end loop;
end
$$;
