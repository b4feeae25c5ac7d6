-- What the payment service tells of its customers, and what evaluations beyond the limit cost.

-- A customer is known by its id alone before anybody knows whose it is; its lock keeps its events in line.
create table stripe_customers (
    customer_id text        collate "C" primary key,
    tenant_id   text        collate "C" unique, -- null while nobody knows
    created_at  timestamptz not null
);

-- Events without anything that the state of an account does not need. It is worked out from all of them.
create table stripe_events (
    customer_id     text        not null collate "C" references stripe_customers,
    id              text        not null collate "C",
    created         timestamptz not null,
    kind            text        not null,
    subscription_id text,
    status          text,
    billing_interval text,
    price_id        text,
    plan_tier       text,
    period_start    timestamptz,
    period_end      timestamptz,
    received_at     timestamptz not null,
    primary key (customer_id, id)
);

-- Months in which a tenant pays for evaluations beyond the limit: a bill each, once.
create table overage_periods (
    tenant_id    text    not null collate "C",
    year         integer not null,
    month        integer not null,
    state        text    not null collate "C",
    included     bigint  not null,
    block        bigint  not null,
    price_cents  bigint  not null,
    cap_cents    bigint,
    excess       bigint  not null,
    amount_cents bigint  not null,
    invoice_id   text,
    item_id      text,
    attempted_at timestamptz,
    primary key (tenant_id, year, month)
);
create index overage_periods_unsettled on overage_periods (tenant_id) where state in ('open', 'pending', 'unclear');

-- The last day on which a tenant was warned that its access ends.
create table dunning_warnings (
    tenant_id text not null collate "C" primary key,
    day       date not null
);

create index billing_subscriptions_by_customer on billing_subscriptions (customer_id) where customer_id is not null;
create index billing_subscriptions_watched on billing_subscriptions (tenant_id)
    where past_due_since is not null or overage_enabled;

do $$
declare
    data text;
begin
    foreach data in array array['overage_periods', 'dunning_warnings'] loop
        execute format('alter table %I enable row level security', data);
        execute format(
            'create policy own_tenant on %I using (
                 tenant_id = (select current_setting(''engramia.tenant'', true))
                 or (select current_setting(''engramia.system'', true)) = ''on'')', data);
    end loop;
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, update, delete on stripe_customers, stripe_events, overage_periods, dunning_warnings
            to engramia_app;
    end if;
end $$;
