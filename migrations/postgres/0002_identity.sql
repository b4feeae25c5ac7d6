-- Who may come in: tenants, projects, API keys. What happened: the audit log.

create table tenants (
    id         text        collate "C" primary key,
    name       text        not null,
    created_at timestamptz not null
);

create table projects (
    tenant_id  text        not null collate "C",
    id         text        not null collate "C",
    name       text        not null,
    created_at timestamptz not null,
    primary key (tenant_id, id)
);

create table api_keys (
    id           text        primary key,
    tenant_id    text        not null collate "C",
    project_id   text        not null collate "C",
    name         text        not null,
    key_prefix   text        not null,
    key_hash     bytea       not null unique,
    role         text        not null,
    max_patterns integer,
    created_at   timestamptz not null,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    expires_at   timestamptz
);
create index api_keys_by_project on api_keys (tenant_id, project_id, created_at desc, id desc);

-- The end of each tenant's chain; its lock keeps the chain in order.
create table audit_heads (
    tenant_id text   primary key collate "C",
    sequence  bigint not null,
    hash      bytea  not null
) with (fillfactor = 50);

create table audit_log (
    tenant_id     text        not null collate "C",
    sequence      bigint      not null,
    project_id    text        not null collate "C",
    created_at    timestamptz not null,
    action        text        not null,
    actor         text,
    resource_type text,
    resource_id   text,
    ip            text,
    detail        text, -- JSON as it was hashed
    nonce         bytea,
    private       bytea       not null,
    hash          bytea       not null,
    primary key (tenant_id, sequence)
);
create index audit_log_by_project on audit_log (tenant_id, project_id, sequence desc);

do $$
declare
    data text;
begin
    -- A chain belongs to the tenant, so that projects do not matter here.
    foreach data in array array['projects', 'audit_heads', 'audit_log'] loop
        execute format('alter table %I enable row level security', data);
        execute format(
            'create policy own_tenant on %I using (
                 tenant_id = (select current_setting(''engramia.tenant'', true))
                 or (select current_setting(''engramia.system'', true)) = ''on'')', data);
    end loop;
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, update on tenants, api_keys, audit_heads to engramia_app;
        grant select, insert on projects, audit_log to engramia_app;
    end if;
end $$;
