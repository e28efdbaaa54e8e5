-- Each change of a job's status is a new version of its row, with an entry in every index. Two of apalis's indexes say
-- what others say; and through those on lock_by the planner finds a few jobs of a worker by walking all that it ever
-- did. Whoever looks for a silent worker's jobs wants the held ones only.
drop index if exists apalis.unique_job_id;
drop index if exists apalis.lidx;
drop index if exists apalis.idx_apalis_jobs_lock_by;
create index usher_jobs_held on apalis.jobs (lock_by) where status in ('Running', 'Queued');

-- One notification for each queue in a statement instead of one for each job: nobody reads more than the queue's name.
create function apalis.usher_tell_of_jobs() returns trigger language plpgsql as $$
begin
    perform pg_notify('apalis::job::insert', json_build_object('job_type', job_type)::text)
    from (select distinct job_type from inserted where run_at <= now()) as due;
    return null;
end
$$;
comment on function apalis.usher_tell_of_jobs is 'Tells the workers which queues have new jobs.';
drop trigger if exists notify_workers on apalis.jobs;
create trigger usher_tell_of_jobs after insert on apalis.jobs referencing new table as inserted
    for each statement execute function apalis.usher_tell_of_jobs();
