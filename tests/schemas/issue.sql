-- The shape that usher started from.
create table organizations (id uuid primary key, name text not null, deleted_at timestamptz);
create table admins (id uuid primary key, organization_id uuid not null references organizations (id), external_id text,
    email text not null unique, role text not null);
create table projects (id uuid primary key, organization_id uuid not null references organizations (id), name text not null);
create table project_admins (project_id uuid not null references projects (id), admin_id uuid not null references admins (id),
    role text not null, primary key (project_id, admin_id));
insert into organizations values ('a0000000-0000-4000-8000-000000000000', 'Acme');
insert into admins values ('00000000-0000-4000-8000-000000000001', 'a0000000-0000-4000-8000-000000000000', 'user_ada', 'ada@example.com', 'owner');
