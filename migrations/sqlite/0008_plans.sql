-- What a tenant has subscribed to, and the evaluations that count against its quota.
-- Times are microseconds since the epoch, UTC.

create table billing_subscriptions (
    tenant_id         text        not null primary key,
    plan_tier         text        not null,
    status            text        not null,
    billing_interval  text        not null,
    customer_id       text,
    subscription_id   text,
    price_id          text,
    period_start      integer,
    period_end        integer,
    past_due_since    integer,
    canceled_at       integer,
    overage_enabled   integer not null,
    overage_cap_cents integer
) strict, without rowid;

-- Evaluations that were done, by calendar month (UTC).
create table usage_counters (
    tenant_id text    not null,
    metric    text    not null,
    year      integer not null,
    month     integer not null,
    count     integer not null,
    primary key (tenant_id, metric, year, month)
) strict, without rowid;

-- Places in the quota that evaluations under way hold.
create table usage_reservations (
    tenant_id  text not null,
    id         text not null,
    year       integer not null,
    month      integer not null,
    expires_at integer not null,
    primary key (tenant_id, id)
) strict, without rowid;
