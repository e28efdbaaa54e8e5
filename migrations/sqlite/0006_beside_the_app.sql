-- People who may be linked by their address when Clerk tells of them. The rest of this number is for an app on the same
-- Postgres.
create index usher_admins_unlinked on admins (lower(trim(email))) where external_id is null and deleted_at is null;
