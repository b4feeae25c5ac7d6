-- Tenants and projects that are erased. Times are microseconds since the epoch, UTC.

alter table tenants add column deleted_at integer;
alter table projects add column deleted_at integer;
alter table api_keys add column erased_at integer; -- with its project: it is listed nowhere, and opens nothing

-- What is scrubbed already is not looked at again.
create index audit_log_unscrubbed on audit_log (tenant_id, project_id, sequence)
    where nonce is not null and action <> 'scope_deleted';

-- One row a scope that nobody may write into: while it is being erased, and afterwards until its name is used again.
create table erasures (
    tenant_id    text    not null,
    project_id   text    not null, -- empty for the tenant as a whole
    started_at   integer not null,
    touched_at   integer not null, -- when somebody last worked on it
    finished_at  integer,
    requested_by text,
    recorded_in  text    not null, -- project in whose audit log the end is recorded
    reopens      integer not null, -- whether the scope may be used again as soon as it is empty
    keys_revoked integer not null,
    projects     integer not null,
    counts       text    not null, -- JSON: rows by table
    primary key (tenant_id, project_id)
) strict, without rowid;
