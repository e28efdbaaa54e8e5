-- Each change of a job's status is written to every index that knows of it. Of apalis's, these two help nobody; whoever
-- looks for a silent worker's jobs wants the held ones only.
drop index if exists idx_jobs_claimable;
drop index if exists idx_jobs_running;
create index usher_jobs_held on Jobs (lock_by) where status in ('Running', 'Queued');
