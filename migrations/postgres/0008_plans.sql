-- What a tenant has subscribed to, and the evaluations that count against its quota.

create table billing_subscriptions (
    tenant_id         text        not null collate "C" primary key,
    plan_tier         text        not null,
    status            text        not null,
    billing_interval  text        not null,
    customer_id       text,
    subscription_id   text,
    price_id          text,
    period_start      timestamptz,
    period_end        timestamptz,
    past_due_since    timestamptz,
    canceled_at       timestamptz,
    overage_enabled   boolean not null,
    overage_cap_cents bigint
);

-- Evaluations that were done, by calendar month (UTC).
create table usage_counters (
    tenant_id text    not null collate "C",
    metric    text    not null collate "C",
    year      integer not null,
    month     integer not null,
    count     bigint not null,
    primary key (tenant_id, metric, year, month)
) with (fillfactor = 50);

-- Places in the quota that evaluations under way hold.
create table usage_reservations (
    tenant_id  text not null collate "C",
    id         text not null collate "C",
    year       integer not null,
    month      integer not null,
    expires_at timestamptz not null,
    primary key (tenant_id, id)
);

-- Patterns and projects of a tenant. A quota counts all projects, of which a transaction sees only its own: the function
-- reads with the rights of their owner, and holds the lock itself.
create function held_by(wanted_tenant text)
returns table (patterns bigint, projects bigint)
language sql stable security definer
set search_path from current
as $$
    with own as materialized (
        select project_id, patterns from scopes
        where tenant_id = wanted_tenant and wanted_tenant = current_setting('engramia.tenant', true)
    )
    select
        (select coalesce(sum(own.patterns), 0)::bigint from own),
        (select count(*) from (
            select project_id from own where project_id <> '' and patterns > 0
            union
            select id from projects
            where tenant_id = wanted_tenant and wanted_tenant = current_setting('engramia.tenant', true)
        ) as known)
$$;
revoke execute on function held_by(text) from public;

do $$
declare
    data text;
begin
    foreach data in array array['billing_subscriptions', 'usage_counters', 'usage_reservations'] loop
        execute format('alter table %I enable row level security', data);
        execute format(
            'create policy own_tenant on %I using (
                 tenant_id = (select current_setting(''engramia.tenant'', true))
                 or (select current_setting(''engramia.system'', true)) = ''on'')', data);
    end loop;
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, update, delete on billing_subscriptions, usage_counters, usage_reservations
            to engramia_app;
        grant execute on function held_by(text) to engramia_app;
    end if;
end $$;
