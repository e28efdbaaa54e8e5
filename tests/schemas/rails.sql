-- Rails, with bigints.
create table organizations (id bigserial primary key, name varchar not null, created_at timestamp(6) not null, updated_at timestamp(6) not null);
create table users (id bigserial primary key, email varchar not null default '', clerk_id varchar);
create table memberships (id bigserial primary key, user_id bigint not null references users (id),
    organization_id bigint not null references organizations (id), role integer not null default 0);
create table schema_migrations (version varchar primary key);
create unique index index_memberships_on_pair on memberships (user_id, organization_id);
insert into organizations (name, created_at, updated_at) values ('Acme', now(), now());
