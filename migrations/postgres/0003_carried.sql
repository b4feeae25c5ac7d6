-- Rows of an older server that no part of this version knows, kept as they were until one does: billing.

create table carried_rows (
    tenant_id text not null, -- empty for what belongs to no tenant
    source    text not null collate "C", -- the table it comes from
    id        text not null collate "C",
    data      text not null, -- JSON
    primary key (tenant_id, source, id)
);

alter table carried_rows enable row level security;
create policy own_tenant on carried_rows using (
    tenant_id = (select current_setting('engramia.tenant', true))
    or (select current_setting('engramia.system', true)) = 'on');

do $$
begin
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, delete on carried_rows to engramia_app;
        -- A copy of a whole store says while it lasts that it is not complete.
        grant delete on marks to engramia_app;
    end if;
end $$;
