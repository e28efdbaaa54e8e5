-- What is kept under an Idempotency-Key: beside the answer, what became of each item, by which a key that was limited
-- meanwhile is told no more than it may see now. Answers of great length are not kept.
alter table usher_idempotency_keys add column outcomes text;
comment on column usher_idempotency_keys.answer is 'The body that was answered; null where it was too long to be kept.';
comment on column usher_idempotency_keys.outcomes is 'What became of each item that was asked for: its status, and the invite''s id or the problem''s code. JSON.';

-- The few events that failed, among all that wait while there is much to do.
create index usher_events_failed on usher_events (received_at) where processed_at is null and error is not null;
