-- What usher needs of the catalog, one row each. $1 is the app's schema, or null; with $2 also the statements that make an object
-- again. Of the app's tables only what usher uses: the app may add to them, and change and drop what is not needed.
relations as (
    select c.oid, c.relname, c.relkind, c.relacl, c.relowner, n.nspname, format('%I.%I', n.nspname, c.relname) as name,
        n.nspname in ('usher', 'apalis') or c.relname = 'invites' as is_own
    from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p', 'v')
        and (n.nspname = 'usher'
            or (n.nspname = 'apalis' and c.relname in ('jobs', 'workers'))
            or (n.nspname = $1 and c.relname in
                ('organizations', 'projects', 'admins', 'organization_users', 'project_admins', 'invites')))
),
columns as (
    select r.name as of_table, a.*, r.is_own,
        r.is_own or (r.relname, a.attname) in (('organizations', 'id'), ('projects', 'id'), ('projects', 'organization_id'),
            ('admins', 'id'), ('admins', 'external_id'), ('organization_users', 'organization_id'),
            ('organization_users', 'admin_id'), ('organization_users', 'role'), ('organization_users', 'deleted_at'),
            ('organization_users', 'created_at'), ('organization_users', 'updated_at'), ('project_admins', 'project_id'), ('project_admins', 'admin_id'), ('project_admins', 'role'),
            ('project_admins', 'deleted_at')) as is_needed
    from relations r
    join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
    where r.relkind <> 'v' and (r.is_own or a.attname in ('id', 'organization_id', 'project_id', 'admin_id', 'external_id', 'email', 'first_name',
        'last_name', 'image_url', 'role', 'name', 'created_at', 'updated_at', 'deleted_at'))
),
functions as (
    select p.oid, p.proacl, p.proowner, p.prosrc,
        format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) as name
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    where n.nspname = 'usher' or (n.nspname = 'apalis' and p.proname like 'usher\_%')
),
objects (kind, name, of_table, fingerprint, is_needed, is_obligatory, definition) as (
    select 'table', name, name, '', true, false, null::text
    from relations where relkind <> 'v'
    union all
    select 'view', name, name, '', true, false,
        case when $2 then concat_ws('; ', format('create or replace view %s as %s', name, rtrim(pg_get_viewdef(oid), ';')),
            (select string_agg(format('grant select on %s to %s', name,
                     case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end), '; ')
             from aclexplode(relacl)
             where privilege_type = 'SELECT' and grantee <> relowner)) end
    from relations where relkind = 'v'
    union all
    select 'column', format('%s.%I', of_table, attname), of_table,
        case when is_needed then format_type(atttypid, atttypmod) else '' end
            || case when is_own and attnotnull then ' not null' else '' end,
        is_needed, is_own and attnotnull and not atthasdef and attidentity = '' and attgenerated = '', null
    from columns
    union all
    select 'constraint', format('%I on %s', k.conname, r.name), r.name, case when k.convalidated then '' else 'not valid' end,
        true, false, null
    from pg_constraint k
    join relations r on r.oid = k.conrelid and r.is_own
    where k.contype in ('c', 'f', 'p', 'u', 'x')
    union all
    select 'index', format('%I.%I', r.nspname, i.relname), r.name, case when x.indisvalid then '' else 'not valid' end, true, false,
        case when $2 then pg_get_indexdef(x.indexrelid) end
    from pg_index x
    join relations r on r.oid = x.indrelid
    join pg_class i on i.oid = x.indexrelid
    where (r.nspname = 'usher' or r.relname = 'invites' or i.relname like 'usher\_%')
        and not exists (select from pg_constraint k where k.conindid = x.indexrelid)
    union all
    select 'trigger', format('%I on %s', t.tgname, r.name), r.name,
        concat_ws(' ', t.tgenabled, t.tgtype, (select p.proname from pg_proc p where p.oid = t.tgfoid)), true, false,
        case when $2 then pg_get_triggerdef(t.oid) end
    from pg_trigger t
    join (select oid, name, nspname from relations
          union all
          select c.oid, format('%I.%I', n.nspname, c.relname), n.nspname
          from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where n.nspname = $1 and c.relname = 'admin_identities') r on r.oid = t.tgrelid
    where not t.tgisinternal and (r.nspname = 'usher' or t.tgname like 'usher\_%')
    union all
    select 'function', name, null, md5(prosrc), true, false,
        case when $2 then concat_ws('; ', pg_get_functiondef(oid), format('revoke all on function %s from public', name),
            (select string_agg(format('grant execute on function %s to %s', name,
                     case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end), '; ')
             from aclexplode(coalesce(proacl, acldefault('f', proowner)))
             where privilege_type = 'EXECUTE' and grantee <> proowner)) end
    from functions
)
