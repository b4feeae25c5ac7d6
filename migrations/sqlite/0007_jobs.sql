-- Operations that run in the background. Times are microseconds since the epoch, UTC.

create table jobs (
    tenant_id        text    not null,
    project_id       text    not null,
    id               text    not null, -- UUIDv7: in order of time
    operation        text    not null,
    state            text    not null,
    attempt          integer not null default 0, -- raised by every claim: whoever holds an older number changes nothing
    max_attempts     integer not null,
    cancel_requested integer not null default 0,
    created_at       integer not null,
    ready_at         integer not null, -- when it may begin
    started_at       integer,
    completed_at     integer,
    expires_at       integer not null,
    max_execution    integer not null, -- microseconds
    worker           text,
    lease_until      integer,
    key_id           text,
    role             text    not null,
    max_patterns     integer,
    request_id       text,
    address          text,
    error            text,
    progress         text,
    result           text,
    params           text, -- null once the job came to its end
    primary key (tenant_id, project_id, id)
) strict;

create index jobs_by_state on jobs (tenant_id, project_id, state, id);
create index jobs_waiting on jobs (tenant_id, ready_at, id) where state = 'pending';
create index jobs_leased on jobs (lease_until) where state = 'running';
create index jobs_expiring on jobs (expires_at) where state in ('pending', 'running');
create index jobs_over on jobs (completed_at) where completed_at is not null;

-- One row a tenant that has waiting jobs: whose turn it is.
create table job_turns (
    tenant_id text    not null primary key,
    served_at integer not null, -- or, before it was served, when it came
    ready_at  integer not null  -- of its first waiting job
) strict, without rowid;

create index job_turns_by_service on job_turns (served_at, tenant_id);
create index job_turns_by_time on job_turns (ready_at);
