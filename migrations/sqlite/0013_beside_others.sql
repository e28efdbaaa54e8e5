-- As on Postgres: usher's queues have a prefix, and its jobs are known by what they carry.
update Jobs set job_type = 'usher:' || job_type
where (job_type = 'process-clerk-event' and instr(cast(job as text), '"svix_id"') > 0)
   or (job_type in ('send-invite-email', 'send-accepted-notice') and instr(cast(job as text), '"delivery_id"') > 0)
   or (job_type = 'periodic' and instr(cast(job as text), '"schedule"') > 0);
