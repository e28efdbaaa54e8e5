-- Nobody gives jobs a key of this kind, yet each job had an entry for none.
create unique index usher_jobs_idempotency_key on Jobs (job_type, idempotency_key) where idempotency_key is not null;
drop index if exists idx_jobs_idempotency_key;

-- Whoever counts or lists jobs by their state asks for those that are not done; a finished job needs no place in this.
create index usher_jobs_unfinished on Jobs (job_type, status, run_at) where status <> 'Done';
drop index if exists idx_jobs_job_type_status_run_at;
drop index if exists idx_jobs_completed_done_at;
