-- How long patterns are kept, and what people whose data it is have asked for. Times are microseconds since the epoch, UTC.

alter table tenants add column retention_days integer; -- null: the default of the installation
alter table projects add column retention_days integer; -- null: that of the tenant

-- What is too old is found without a look at the rest.
create index patterns_by_age on patterns (tenant_id, project_id, created_at);

create table data_subject_requests (
    tenant_id     text    not null,
    id            text    not null, -- UUIDv7
    request_type  text    not null,
    subject_email text    not null,
    status        text    not null,
    created_at    integer not null,
    due_at        integer not null,
    updated_at    integer not null,
    completed_at  integer,
    handler_notes text    not null,
    primary key (tenant_id, id)
) strict;

create index data_subject_requests_by_time on data_subject_requests (tenant_id, created_at, id);
create index data_subject_requests_open on data_subject_requests (tenant_id, due_at)
    where status in ('pending', 'in_progress');

-- Rounds through all scopes that come again and again: how far each is, so that whoever asks takes the next scopes.
create table sweeps (
    name          text    not null primary key,
    step          integer not null, -- raised by whoever takes scopes: of two only one does
    began_at      integer not null,
    after_tenant  text,
    after_project text,
    is_over       integer not null
) strict, without rowid;
