-- Clerk's ids as the keys; row level security on; a function that apalis has, too.
create table organizations (id text primary key, name text not null);
create table people (id text primary key, email text not null);
alter table organizations enable row level security;
create policy everybody on organizations for select using (true);
create function generate_ulid() returns text language sql as $$ select '01ARZ3NDEKTSV4RRFFQ69G5FAV' $$;
create table notes (id text primary key default generate_ulid(), text text);
insert into organizations values ('org_2abc', 'Acme');
insert into people values ('user_ada', 'ada@example.com');
