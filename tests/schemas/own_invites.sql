-- An app with invites and organization_users of its own, of other forms; and traps on the way to other schemas.
create table invites (code integer primary key, invitee text not null);
create table organization_users (user_id integer, organization_id integer, primary key (user_id, organization_id));
create table sessions (id integer primary key);
create view events as select code from invites;
create function gen_random_uuid() returns uuid language plpgsql as $$ begin raise exception 'the app''s own'; end $$;
create operator = (leftarg = point, rightarg = point, procedure = point_eq);
insert into invites values (1, 'ada@example.com');
insert into organization_users values (1, 1);
