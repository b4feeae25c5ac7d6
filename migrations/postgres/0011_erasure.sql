-- Tenants and projects that are erased.

alter table tenants
    add column deleted_at timestamptz,
    add column closed_at  timestamptz; -- since then no new scope of it may begin
alter table projects add column deleted_at timestamptz;
alter table api_keys add column erased_at timestamptz; -- with its project: it is listed nowhere, and opens nothing
alter table scopes add column closed_at timestamptz; -- since then nobody may write in it

-- What is scrubbed already is not looked at again.
create index audit_log_unscrubbed on audit_log (tenant_id, project_id, sequence)
    where nonce is not null and action <> 'scope_deleted';

-- One row a scope that is closed: while it is being erased, and afterwards until its name is used again.
create table erasures (
    tenant_id    text        not null collate "C",
    project_id   text        not null collate "C", -- empty for the tenant as a whole
    started_at   timestamptz not null,
    touched_at   timestamptz not null, -- when somebody last worked on it
    finished_at  timestamptz,
    requested_by text,
    recorded_in  text        not null, -- project in whose audit log the end is recorded
    reopens      boolean     not null, -- whether the scope may be used again as soon as it is empty
    keys_revoked bigint      not null,
    projects     bigint      not null,
    counts       text        not null, -- JSON: rows by table
    primary key (tenant_id, project_id)
);

-- What is erased counts no more.
create or replace function held_by(wanted_tenant text)
returns table (patterns bigint, projects bigint)
language sql stable security definer
set search_path from current
as $$
    with own as materialized (
        select project_id, patterns from scopes
        where tenant_id = wanted_tenant and wanted_tenant = current_setting('engramia.tenant', true)
            and closed_at is null
    )
    select
        (select coalesce(sum(own.patterns), 0)::bigint from own),
        (select count(*) from (
            select project_id from own where project_id <> '' and patterns > 0
            union
            select id from projects
            where tenant_id = wanted_tenant and wanted_tenant = current_setting('engramia.tenant', true)
                and deleted_at is null
        ) as known)
$$;

alter table erasures enable row level security;
create policy own_tenant on erasures using (
    tenant_id = (select current_setting('engramia.tenant', true))
    or (select current_setting('engramia.system', true)) = 'on');

do $$
begin
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, update, delete on erasures to engramia_app;
        grant update on projects to engramia_app;
        grant delete on model_spend to engramia_app;
        -- What the chain of hashes does not cover can be forgotten.
        grant update (ip, detail, nonce) on audit_log to engramia_app;
    end if;
end $$;
