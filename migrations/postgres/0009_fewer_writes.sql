-- Bodies are compressed at a third of the cost, where the server can (Postgres 14 or newer, built with lz4, as packages are).
do $$
begin
    execute 'alter table usher_events alter column payload set compression lz4';
exception
    when syntax_error or feature_not_supported then null;
end
$$;

-- Nobody gives jobs a key of this kind, yet each change of a job's status wrote an entry for none.
create unique index usher_jobs_idempotency_key on apalis.jobs (job_type, idempotency_key) where idempotency_key is not null;
drop index if exists apalis.idx_jobs_idempotency_key;
