-- Recurring issues with what they mean and where they arose; what was learned and recalled, and its roll-ups.

alter table feedback
    add column ratings    bigint           not null default 0, -- evaluations behind it whose score is known
    add column rating_sum double precision not null default 0,
    add column space_id   integer, -- of its vector; null while it has none
    add column vector     vector;
alter table feedback alter column vector set storage external;

-- The tasks in whose evaluation an issue arose; the newest few of each.
create table feedback_tasks (
    tenant_id   text        not null collate "C",
    project_id  text        not null collate "C",
    digest      bytea       not null, -- of the issue's text
    task_digest bytea       not null,
    task        text        not null collate "C",
    folded      text        not null collate "C",
    seen_at     timestamptz not null,
    space_id    integer,
    vector      vector,
    primary key (tenant_id, project_id, digest, task_digest),
    foreign key (tenant_id, project_id, digest) references feedback (tenant_id, project_id, digest) on delete cascade
);
alter table feedback_tasks alter column vector set storage external;

create table analytics_events (
    tenant_id   text        not null collate "C",
    project_id  text        not null collate "C",
    created_at  timestamptz not null,
    id          text        not null collate "C", -- UUIDv7
    kind        text        not null,
    eval_score  double precision,
    similarity  double precision,
    tier        text,
    pattern_key text,
    primary key (tenant_id, project_id, created_at, id)
);

-- The last roll-up of each window.
create table analytics_rollups (
    tenant_id      text        not null collate "C",
    project_id     text        not null collate "C",
    period         text        not null,
    recalls        bigint      not null,
    duplicate_hits bigint      not null,
    adapt_hits     bigint      not null,
    fresh_misses   bigint      not null,
    avg_similarity double precision not null,
    learns         bigint      not null,
    avg_score      double precision not null,
    p50_score      double precision not null,
    p90_score      double precision not null,
    computed_at    timestamptz not null,
    primary key (tenant_id, project_id, period)
);

do $$
declare
    data text;
begin
    foreach data in array array['feedback_tasks', 'analytics_events', 'analytics_rollups'] loop
        execute format('alter table %I enable row level security', data);
        execute format(
            'create policy own_scope on %I using (
                 (tenant_id = (select current_setting(''engramia.tenant'', true))
                  and project_id = (select current_setting(''engramia.project'', true)))
                 or (select current_setting(''engramia.system'', true)) = ''on'')', data);
    end loop;
    if exists (select from pg_roles where rolname = 'engramia_app') then
        grant select, insert, update, delete on feedback_tasks, analytics_events, analytics_rollups to engramia_app;
    end if;
end $$;
