-- With many finished rows the planner takes one of these two for acks and locks and walks the history of the queue;
-- without them it takes the primary key.
drop index if exists LIdx;
drop index if exists idx_jobs_status_run_at;
