-- How long patterns are kept, and what people whose data it is have asked for.

alter table tenants add column retention_days integer; -- null: the default of the installation
alter table projects add column retention_days integer; -- null: that of the tenant

-- What is too old is found without a look at the rest.
create index patterns_by_age on patterns (tenant_id, project_id, created_at);

create table data_subject_requests (
    tenant_id     text        not null collate "C",
    id            text        not null collate "C", -- UUIDv7
    request_type  text        not null,
    subject_email text        not null,
    status        text        not null,
    created_at    timestamptz not null,
    due_at        timestamptz not null,
    updated_at    timestamptz not null,
    completed_at  timestamptz,
    handler_notes text        not null,
    primary key (tenant_id, id)
);
create index data_subject_requests_by_time on data_subject_requests (tenant_id, created_at, id);
create index data_subject_requests_open on data_subject_requests (tenant_id, due_at)
    where status in ('pending', 'in_progress');

alter table data_subject_requests enable row level security;
create policy own_tenant on data_subject_requests using (
    tenant_id = (select current_setting('engramia.tenant', true))
    or (select current_setting('engramia.system', true)) = 'on');

-- Rounds through all scopes that come again and again: how far each is, so that whoever asks takes the next scopes.
create table sweeps (
    name          text        not null primary key,
    step          bigint      not null, -- raised by whoever takes scopes: of two only one does
    began_at      timestamptz not null,
    after_tenant  text,
    after_project text,
    is_over       boolean     not null
) with (fillfactor = 50);

do $$
begin
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, update, delete on data_subject_requests to engramia_app;
        grant select, insert, update on sweeps to engramia_app;
        grant update on projects to engramia_app;
    end if;
end $$;
