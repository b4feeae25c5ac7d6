-- What language models have cost each tenant, by day (UTC), in nano-dollars; reservations of calls under way count.

create table model_spend (
    tenant_id text   not null collate "C",
    day       date   not null,
    eval      bigint not null, -- judging
    architect bigint not null, -- composing and evolving
    primary key (tenant_id, day)
) with (fillfactor = 50);

alter table model_spend enable row level security;
create policy own_tenant on model_spend using (
    tenant_id = (select current_setting('engramia.tenant', true))
    or (select current_setting('engramia.system', true)) = 'on');

do $$
begin
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, update on model_spend to engramia_app;
    end if;
end $$;
