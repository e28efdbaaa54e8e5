-- Nobody gives jobs a key of this kind, yet each job had an entry for none.
create unique index usher_jobs_idempotency_key on Jobs (job_type, idempotency_key) where idempotency_key is not null;
drop index if exists idx_jobs_idempotency_key;
