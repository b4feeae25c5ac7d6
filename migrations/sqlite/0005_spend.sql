-- What language models have cost each tenant, by day (UTC), in nano-dollars; reservations of calls under way count.

create table model_spend (
    tenant_id text    not null,
    day       integer not null, -- days since the first of January of the year 1
    eval      integer not null, -- judging
    architect integer not null, -- composing and evolving
    primary key (tenant_id, day)
) strict, without rowid;
