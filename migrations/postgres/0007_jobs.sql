-- Operations that run in the background. Workers serve every tenant; the indexes that no scope needs are theirs.

create table jobs (
    tenant_id        text        not null collate "C",
    project_id       text        not null collate "C",
    id               text        not null collate "C", -- UUIDv7: in order of time
    operation        text        not null,
    state            text        not null collate "C",
    attempt          integer     not null default 0, -- raised by every claim: whoever holds an older number changes nothing
    max_attempts     integer     not null,
    cancel_requested boolean     not null default false,
    created_at       timestamptz not null,
    ready_at         timestamptz not null, -- when it may begin
    started_at       timestamptz,
    completed_at     timestamptz,
    expires_at       timestamptz not null,
    max_execution    bigint      not null, -- microseconds
    worker           text,
    lease_until      timestamptz,
    key_id           text,
    role             text        not null,
    max_patterns     integer,
    request_id       text,
    address          text,
    error            text,
    progress         text,
    result           text,
    params           text, -- null once the job came to its end
    primary key (tenant_id, project_id, id)
) with (fillfactor = 70);

create index jobs_by_state on jobs (tenant_id, project_id, state, id);
create index jobs_waiting on jobs (tenant_id, ready_at, id) where state = 'pending';
create index jobs_leased on jobs (lease_until) where state = 'running';
create index jobs_expiring on jobs (expires_at) where state in ('pending', 'running');
create index jobs_over on jobs (completed_at) where completed_at is not null;

-- One row a tenant that has waiting jobs: whose turn it is. Whoever queues a job locks the row until the end, so that a
-- worker never removes it while a job comes in; workers pass over rows that are locked.
create table job_turns (
    tenant_id text        not null collate "C" primary key,
    served_at timestamptz not null, -- or, before it was served, when it came
    ready_at  timestamptz not null  -- of its first waiting job
) with (fillfactor = 50);

create index job_turns_by_service on job_turns (served_at, tenant_id);
create index job_turns_by_time on job_turns (ready_at);

alter table jobs enable row level security;
create policy own_scope on jobs using (
    (tenant_id = (select current_setting('engramia.tenant', true))
     and project_id = (select current_setting('engramia.project', true)))
    or (select current_setting('engramia.system', true)) = 'on');

alter table job_turns enable row level security;
create policy own_tenant on job_turns using (
    tenant_id = (select current_setting('engramia.tenant', true))
    or (select current_setting('engramia.system', true)) = 'on');

do $$
begin
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, update, delete on jobs, job_turns to engramia_app;
    end if;
end $$;
