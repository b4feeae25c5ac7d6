-- Requests that were sent with an Idempotency-Key, and what they were answered. What a row is about, only its client can
-- tell: name and request are digests, the answer is encrypted with what the client sent.

create table idempotency_keys (
    tenant_id   text    not null,
    project_id  text    not null,
    name        blob    not null,
    request     blob    not null,
    holder      text    not null, -- who carries it out, or did
    lease_until integer,          -- null once it is carried out
    expires_at  integer not null,
    answer      blob,             -- null while there is none, and where it is not kept
    primary key (tenant_id, project_id, name)
) strict, without rowid;

create index idempotency_keys_over on idempotency_keys (expires_at);
