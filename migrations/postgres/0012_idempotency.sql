-- Requests that were sent with an Idempotency-Key, and what they were answered. What a row is about, only its client can
-- tell: name and request are digests, the answer is encrypted with what the client sent.

create table idempotency_keys (
    tenant_id   text        not null collate "C",
    project_id  text        not null collate "C",
    name        bytea       not null,
    request     bytea       not null,
    holder      text        not null, -- who carries it out, or did
    lease_until timestamptz,          -- null once it is carried out
    expires_at  timestamptz not null,
    answer      bytea,                -- null while there is none, and where it is not kept
    primary key (tenant_id, project_id, name)
) with (fillfactor = 70);
alter table idempotency_keys alter column answer set storage external;

create index idempotency_keys_over on idempotency_keys (expires_at);

alter table idempotency_keys enable row level security;
create policy own_scope on idempotency_keys using (
    (tenant_id = (select current_setting('engramia.tenant', true))
     and project_id = (select current_setting('engramia.project', true)))
    or (select current_setting('engramia.system', true)) = 'on');

do $$
begin
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, update, delete on idempotency_keys to engramia_app;
    end if;
end $$;
