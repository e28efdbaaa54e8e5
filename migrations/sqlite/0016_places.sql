-- What is kept under an Idempotency-Key: beside the answer, what became of each item, by which a key that was limited
-- meanwhile is told no more than it may see now. Answers of great length are not kept: `answer` is null then.
alter table usher_idempotency_keys add column outcomes text;

-- The few events that failed, among all that wait while there is much to do.
create index usher_events_failed on usher_events (received_at) where processed_at is null and error is not null;
