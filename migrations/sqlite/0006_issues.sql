-- Recurring issues with what they mean and where they arose; what was learned and recalled, and its roll-ups.

create table issues (
    id         integer primary key,
    tenant_id  text    not null,
    project_id text    not null,
    text       text    not null,
    folded     text    not null, -- lower case, for searching
    count      integer not null,
    score      real    not null,
    ratings    integer not null default 0, -- evaluations behind it whose score is known
    rating_sum real    not null default 0,
    last_seen  integer not null,
    decayed_at integer not null,
    space_id   integer, -- of its vector; null while it has none
    vector     blob,
    unique (tenant_id, project_id, text)
) strict;

insert into issues (tenant_id, project_id, text, folded, count, score, last_seen, decayed_at)
    select tenant_id, project_id, text, folded, count, score, last_seen, decayed_at from feedback;
drop table feedback;
alter table issues rename to feedback;

-- The tasks in whose evaluation an issue arose; the newest few of each.
create table feedback_tasks (
    tenant_id   text    not null,
    project_id  text    not null,
    feedback_id integer not null references feedback (id) on delete cascade,
    task        text    not null,
    folded      text    not null,
    seen_at     integer not null,
    space_id    integer,
    vector      blob,
    primary key (feedback_id, task)
) strict, without rowid;

create table analytics_events (
    tenant_id   text    not null,
    project_id  text    not null,
    created_at  integer not null,
    id          text    not null, -- UUIDv7
    kind        text    not null,
    eval_score  real,
    similarity  real,
    tier        text,
    pattern_key text,
    primary key (tenant_id, project_id, created_at, id)
) strict, without rowid;

-- The last roll-up of each window.
create table analytics_rollups (
    tenant_id      text    not null,
    project_id     text    not null,
    period         text    not null,
    recalls        integer not null,
    duplicate_hits integer not null,
    adapt_hits     integer not null,
    fresh_misses   integer not null,
    avg_similarity real    not null,
    learns         integer not null,
    avg_score      real    not null,
    p50_score      real    not null,
    p90_score      real    not null,
    computed_at    integer not null,
    primary key (tenant_id, project_id, period)
) strict, without rowid;
