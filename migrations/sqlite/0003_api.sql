-- Answers that are given again when a caller repeats a request with the same Idempotency-Key.
create table usher_idempotency_keys (
    -- The name of the key that called.
    api_key text not null,
    -- What the caller sent as Idempotency-Key.
    idempotency_key text not null,
    -- SHA-256 of path and body: the same key with another request is a mistake.
    request_hash blob not null,
    -- The status that was answered; null only inside the transaction that makes the answer.
    status integer,
    -- The body that was answered.
    answer text,
    -- Kept for 24 hours.
    created_at text not null,
    primary key (api_key, idempotency_key)
) strict;
create index usher_idempotency_keys_age on usher_idempotency_keys (created_at);

-- Lists go by creation, newest first, within one filter; email_key and status narrow further.
create index invites_by_creation on invites (created_at, id);
create index invites_by_email on invites (email_key, created_at, id);
create index invites_by_inviter on invites (invited_by, created_at, id) where invited_by is not null;
