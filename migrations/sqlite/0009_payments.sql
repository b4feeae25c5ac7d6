-- What the payment service tells of its customers, and what evaluations beyond the limit cost. Times are microseconds
-- since the epoch, UTC.

-- A customer is known by its id alone before anybody knows whose it is.
create table stripe_customers (
    customer_id text    not null primary key,
    tenant_id   text    unique, -- null while nobody knows
    created_at  integer not null
) strict, without rowid;

-- Events without anything that the state of an account does not need. It is worked out from all of them.
create table stripe_events (
    customer_id      text    not null references stripe_customers,
    id               text    not null,
    created          integer not null,
    kind             text    not null,
    subscription_id  text,
    status           text,
    billing_interval text,
    price_id         text,
    plan_tier        text,
    period_start     integer,
    period_end       integer,
    received_at      integer not null,
    primary key (customer_id, id)
) strict, without rowid;

-- Months in which a tenant pays for evaluations beyond the limit: a bill each, once.
create table overage_periods (
    tenant_id    text    not null,
    year         integer not null,
    month        integer not null,
    state        text    not null,
    included     integer not null,
    block        integer not null,
    price_cents  integer not null,
    cap_cents    integer,
    excess       integer not null,
    amount_cents integer not null,
    invoice_id   text,
    item_id      text,
    attempted_at integer,
    primary key (tenant_id, year, month)
) strict, without rowid;
create index overage_periods_unsettled on overage_periods (tenant_id) where state in ('open', 'pending', 'unclear');

-- The last day on which a tenant was warned that its access ends.
create table dunning_warnings (
    tenant_id text    not null primary key,
    day       integer not null -- days since the first of January of the year 1
) strict, without rowid;

create index billing_subscriptions_by_customer on billing_subscriptions (customer_id) where customer_id is not null;
create index billing_subscriptions_watched on billing_subscriptions (tenant_id)
    where past_due_since is not null or overage_enabled;
