-- Prisma, with cuids and names in capitals.
create type "Role" as enum ('MEMBER', 'OWNER');
create table "User" ("id" text primary key, "clerkId" text not null unique, "email" text not null unique);
create table "Organization" ("id" text primary key, "name" text not null, "createdAt" timestamp(3) not null default current_timestamp);
create table "Membership" ("id" text primary key, "userId" text not null references "User" ("id") on delete restrict,
    "organizationId" text not null references "Organization" ("id") on delete restrict, "role" "Role" not null default 'MEMBER');
create table "_prisma_migrations" ("id" varchar(36) primary key, "checksum" varchar(64) not null);
insert into "Organization" ("id", "name") values ('clh3am7y10000s6k5x0z1', 'Acme');
