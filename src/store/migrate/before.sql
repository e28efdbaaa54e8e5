-- What the database had before usher: what usher migrate --remove leads back to. {app_schema} is a literal or null.
create table if not exists usher.usher_before (only_row integer primary key check (only_row = 1), picture jsonb not null);
comment on table usher.usher_before is 'What the database had before usher, for usher migrate --remove.';
comment on column usher.usher_before.only_row is 'Always 1.';
comment on column usher.usher_before.picture is 'Whether there was hstore, what usher replaces of an apalis, and the app''s tables and columns.';
with app_tables as (
    select c.oid, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = {app_schema} and c.relkind in ('r', 'p') and c.relname in
        ('organizations', 'projects', 'admins', 'organization_users', 'project_admins', 'invites', 'admin_identities')
)
insert into usher.usher_before (only_row, picture)
select 1, jsonb_build_object(
    'apalis', case when to_regclass('apalis.jobs') is not null then (
        select coalesce(jsonb_agg(definition), '[]') from (
            select pg_get_indexdef(indexrelid) from pg_index join pg_class i on i.oid = indexrelid
            where indrelid = to_regclass('apalis.jobs')
                and i.relname in ('unique_job_id', 'lidx', 'idx_apalis_jobs_lock_by', 'idx_jobs_idempotency_key')
            union all
            select pg_get_triggerdef(oid) from pg_trigger
            where tgrelid = to_regclass('apalis.jobs') and tgname = 'notify_workers') as lost (definition)) end,
    'hstore', exists (select from pg_extension where extname = 'hstore'),
    'tables', (select coalesce(jsonb_object_agg(relname, jsonb_build_object('comment', obj_description(oid, 'pg_class'))), '{}')
               from app_tables),
    'columns', (select coalesce(jsonb_object_agg(relname || '.' || attname, jsonb_build_object(
                        'has_default', atthasdef, 'comment', col_description(t.oid, attnum))), '{}')
                from app_tables t join pg_attribute on attrelid = t.oid and attnum > 0 and not attisdropped))
on conflict (only_row) do nothing;
