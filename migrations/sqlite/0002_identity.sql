-- Who may come in, and what was done: more about keys, tenants and projects, the audit log.
-- Times are microseconds since the epoch, UTC.

alter table api_keys add column max_patterns integer;
alter table api_keys add column last_used_at integer;
alter table api_keys add column revoked_at integer;
alter table api_keys add column expires_at integer;

create index api_keys_by_project on api_keys (tenant_id, project_id, created_at, id);

create table tenants (
    id         text    not null primary key,
    name       text    not null,
    created_at integer not null
) strict, without rowid;

create table projects (
    tenant_id  text    not null references tenants (id),
    id         text    not null,
    name       text    not null,
    created_at integer not null,
    primary key (tenant_id, id)
) strict, without rowid;

-- The entries of a tenant are a chain: each hash covers the one before it.
create table audit_log (
    tenant_id     text    not null,
    sequence      integer not null, -- from 1 without gaps
    project_id    text    not null,
    at            integer not null,
    action        text    not null,
    actor         text,
    resource_type text,
    resource_id   text,
    ip            text,
    detail        text,
    nonce         blob, -- null once ip and detail are scrubbed
    private       blob    not null,
    hash          blob    not null,
    primary key (tenant_id, sequence)
) strict, without rowid;

create index audit_log_by_project on audit_log (tenant_id, project_id, sequence);

-- The end of each chain: entries cut off at the end are missed.
create table audit_heads (
    tenant_id text    not null primary key,
    sequence  integer not null,
    hash      blob    not null
) strict, without rowid;

-- Whatever has a key or a pattern is a project already.
create temporary table found as
    select tenant_id, project_id, min(created_at) as created_at
    from (select tenant_id, project_id, created_at from api_keys
          union all select tenant_id, project_id, created_at from patterns)
    group by tenant_id, project_id;
insert into tenants (id, name, created_at) select tenant_id, tenant_id, min(created_at) from found group by tenant_id;
insert into projects (tenant_id, id, name, created_at) select tenant_id, project_id, project_id, created_at from found;
drop table found;
