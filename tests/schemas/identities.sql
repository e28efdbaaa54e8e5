-- Its later form: memberships and identities in tables of their own, no external_id.
create table organizations (id uuid primary key default gen_random_uuid(), name text not null);
create table admins (id uuid primary key default gen_random_uuid(), email text not null);
create table admin_identities (admin_id uuid not null references admins (id), provider text not null, issuer text not null,
    subject text not null, deleted_at timestamptz, unique (provider, issuer, subject));
create table organization_members (organization_id uuid not null references organizations (id),
    admin_id uuid not null references admins (id), role text not null check (role in ('viewer', 'boss')),
    primary key (organization_id, admin_id));
insert into organizations (name) values ('Acme');
insert into admins (email) values ('ada@example.com');
insert into organization_members select o.id, a.id, 'boss' from organizations o, admins a;
