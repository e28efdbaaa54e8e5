-- Answers that are given again when a caller repeats a request with the same Idempotency-Key.
create table usher_idempotency_keys (
    api_key text not null,
    idempotency_key text not null,
    request_hash bytea not null,
    status integer,
    answer text,
    created_at timestamptz not null,
    primary key (api_key, idempotency_key)
);
create index usher_idempotency_keys_age on usher_idempotency_keys (created_at);
comment on table usher_idempotency_keys is 'Answers that are given again when a request is repeated.';
comment on column usher_idempotency_keys.api_key is 'The name of the key that called.';
comment on column usher_idempotency_keys.idempotency_key is 'What the caller sent as Idempotency-Key.';
comment on column usher_idempotency_keys.request_hash is 'SHA-256 of path and body: the same key with another request is a mistake.';
comment on column usher_idempotency_keys.status is 'The status that was answered; null only inside the transaction that makes the answer.';
comment on column usher_idempotency_keys.answer is 'The body that was answered.';
comment on column usher_idempotency_keys.created_at is 'Kept for 24 hours.';

-- Lists go by creation, newest first, within one filter; email_key and status narrow further.
create index invites_by_creation on invites (created_at, id);
create index invites_by_email on invites (email_key, created_at, id);
create index invites_by_inviter on invites (invited_by, created_at, id) where invited_by is not null;
