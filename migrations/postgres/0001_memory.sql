-- The memory: patterns with their vectors, words, evidence and tags; recurring issues; counters.
--
-- Two groups of tables. Control plane: spaces, marks, and the keys of the next migration. Data plane: everything else;
-- `tenant_id` comes first in each of its keys and indexes, foreign keys stay inside a scope, ids come from the scope's
-- own counter, so that tenants can later live on shards. Row-level security is the second lock: the server works as the
-- role `engramia_app`, which owns nothing and sees only the scope that the transaction has named.

create extension if not exists vector;

do $$
begin
    if not exists (select from pg_roles where rolname = 'engramia_app') then
        begin
            create role engramia_app nologin;
        exception when duplicate_object or unique_violation then
            null; -- another database of this server was faster
        end;
    end if;
    if not pg_has_role(current_user, 'engramia_app', 'member') then
        execute format('grant engramia_app to %I', current_user);
    end if;
exception when insufficient_privilege then
    raise warning 'the role % may not create or take the role engramia_app: row-level security will not bind it', current_user;
end $$;

-- English stems of words that the server has already folded (lower case, no accents); no stop words.
create text search dictionary engramia_stem (template = snowball, language = english);
create text search configuration engramia (parser = default);
alter text search configuration engramia
    add mapping for asciiword, word, numword, int, uint, float, sfloat, version, asciihword, hword, numhword,
        hword_asciipart, hword_part, hword_numpart
    with engramia_stem;

create table spaces (
    id         integer generated always as identity primary key,
    name       text    not null,
    dimensions integer not null,
    unique (name, dimensions)
);

-- One row a scope: its revision, which every unit of work that writes raises and so waits for the one before; the
-- counter of its pattern ids; its statistics. It stays when the scope is emptied: ids and revisions are never used twice.
create table scopes (
    tenant_id     text   not null collate "C",
    project_id    text   not null collate "C",
    revision      bigint not null default 0,
    last_pattern  bigint not null,
    forgotten     bigint not null default 0, -- tombstones up to this revision are gone
    patterns      bigint not null default 0,
    words         bigint not null default 0, -- of all tasks together
    runs          bigint not null default 0,
    successes     bigint not null default 0,
    recalls       bigint not null default 0,
    recall_hits   bigint not null default 0,
    recent_scores double precision[] not null default '{}', -- oldest first
    primary key (tenant_id, project_id)
) with (fillfactor = 50);

create table patterns (
    tenant_id       text    not null collate "C",
    project_id      text    not null collate "C",
    id              bigint  not null,
    revision        bigint  not null, -- of the scope, when what searches need was last written
    key             text    not null collate "C",
    task            text    not null,
    code            text,
    output          text,
    classification  text    not null,
    source          text    not null,
    run_id          text,
    author          text,
    redacted        boolean not null,
    success_score   double precision not null,
    reuse_count     bigint  not null,
    created_at      timestamptz not null,
    decayed_at      timestamptz not null,
    evidence_weight double precision not null,
    evidence_sum    double precision not null,
    task_digest     bytea   not null,
    code_digest     bytea   not null,
    extra           text,
    space_id        integer not null default 0, -- of its vector; 0 while it waits for one
    primary key (tenant_id, project_id, id)
);

create unique index patterns_by_key on patterns (tenant_id, project_id, key);
create index patterns_by_task on patterns (tenant_id, project_id, task_digest, code_digest);
create index patterns_by_revision on patterns (tenant_id, project_id, revision);
create index patterns_by_space on patterns (space_id, id); -- the search for missing vectors knows no tenant

-- One vector a pattern, of the newest space: L2-normalised f32. A table of its own, because reading patterns should not
-- read past vectors. Short ones stay in the row, longer ones go beside it uncompressed.
create table vectors (
    tenant_id  text    not null collate "C",
    project_id text    not null collate "C",
    pattern_id bigint  not null,
    space_id   integer not null,
    vector     vector  not null,
    primary key (tenant_id, project_id, pattern_id),
    foreign key (tenant_id, project_id, pattern_id) references patterns (tenant_id, project_id, id) on delete cascade
);
alter table vectors alter column vector set storage external;

-- Words of the tasks. Every row also has the scope's token, so that the index never walks another scope's rows.
create table pattern_words (
    tenant_id  text     not null collate "C",
    project_id text     not null collate "C",
    pattern_id bigint   not null,
    words      tsvector not null,
    length     integer  not null,
    primary key (tenant_id, project_id, pattern_id),
    foreign key (tenant_id, project_id, pattern_id) references patterns (tenant_id, project_id, id) on delete cascade
);
create index pattern_words_by_word on pattern_words using gin (words);

-- Ids that are gone, for the indexes that servers keep in memory.
create table tombstones (
    tenant_id  text   not null collate "C",
    project_id text   not null collate "C",
    revision   bigint not null,
    pattern_id bigint not null,
    primary key (tenant_id, project_id, revision, pattern_id)
);

-- Reuses since the pattern was last written: a narrow table, because every recall adds to it.
create table reuse (
    tenant_id  text   not null collate "C",
    project_id text   not null collate "C",
    pattern_id bigint not null,
    count      bigint not null,
    primary key (tenant_id, project_id, pattern_id),
    foreign key (tenant_id, project_id, pattern_id) references patterns (tenant_id, project_id, id) on delete cascade
) with (fillfactor = 70);

create table evaluations (
    tenant_id  text   not null collate "C",
    project_id text   not null collate "C",
    id         text   not null, -- UUIDv7: in order of time
    pattern_id bigint not null,
    score      double precision not null,
    weight     double precision not null,
    run_id     text,
    created_at timestamptz not null,
    primary key (tenant_id, project_id, id),
    foreign key (tenant_id, project_id, pattern_id) references patterns (tenant_id, project_id, id) on delete cascade
);
create index evaluations_by_pattern on evaluations (tenant_id, project_id, pattern_id);

create table skills (
    tenant_id  text   not null collate "C",
    project_id text   not null collate "C",
    skill      text   not null collate "C",
    pattern_id bigint not null,
    created_at timestamptz not null,
    primary key (tenant_id, project_id, skill, pattern_id),
    foreign key (tenant_id, project_id, pattern_id) references patterns (tenant_id, project_id, id) on delete cascade
);
create index skills_by_pattern on skills (tenant_id, project_id, pattern_id);

create table feedback (
    tenant_id  text    not null collate "C",
    project_id text    not null collate "C",
    digest     bytea   not null, -- of the text, which may be longer than an index takes
    text       text    not null collate "C",
    folded     text    not null collate "C", -- lower case, for searching
    count      bigint  not null,
    score      double precision not null,
    last_seen  timestamptz not null,
    decayed_at timestamptz not null,
    primary key (tenant_id, project_id, digest)
);

-- Marks of one-time work.
create table marks (
    name       text        primary key,
    created_at timestamptz not null
);

-- BM25 (k1 = 1.2, b = 0.75) of the scope's tasks that share a stem with `wanted`. A stem that more than 2000 tasks have
-- says little: only so many of them are looked at for its sake, and it counts as one that every fourth task has.
--
-- It reads the words with the rights of their owner, because a text match is not leakproof and could use no index under
-- row-level security; so it holds the lock itself: another scope than the one that the transaction has named gives
-- nothing.
create function keyword_scores(wanted_tenant text, wanted_project text, wanted_token text, wanted text)
returns table (pattern_id bigint, score double precision)
language sql stable security definer
set search_path from current
as $$
    with scope as materialized (
        select patterns, greatest(words, 1)::double precision / greatest(patterns, 1) as average
        from scopes where tenant_id = wanted_tenant and project_id = wanted_project
            and wanted_tenant = current_setting('engramia.tenant', true)
            and wanted_project = current_setting('engramia.project', true)
    ),
    found as materialized (
        select terms.lexeme, w.pattern_id
        from scope cross join unnest(to_tsvector('engramia', wanted)) as terms (lexeme, positions, weights)
        cross join lateral (
            select p.pattern_id from pattern_words p
            where p.tenant_id = wanted_tenant and p.project_id = wanted_project
                and p.words @@ format('''%s'' & ''%s''', wanted_token, terms.lexeme)::tsquery
            limit 2000
        ) w
    ),
    documents as materialized (
        select lexeme, case when count(*) < 2000 then count(*) else greatest(2000, scope.patterns / 4) end as n
        from found cross join scope group by lexeme, scope.patterns
    ),
    hits as (
        select w.pattern_id, w.length, u.lexeme, cardinality(u.positions) as frequency
        from (select distinct found.pattern_id from found) f
        cross join lateral (
            select p.pattern_id, p.words, p.length from pattern_words p
            where p.tenant_id = wanted_tenant and p.project_id = wanted_project and p.pattern_id = f.pattern_id
            limit 1
        ) w
        cross join lateral unnest(w.words) as u (lexeme, positions, weights)
    )
    select hits.pattern_id,
           sum(ln(1 + greatest(scope.patterns - documents.n + 0.5, 0.5) / (documents.n + 0.5))
               * hits.frequency * 2.2
               / (hits.frequency + 1.2 * (0.25 + 0.75 * hits.length / scope.average)))
    from hits join documents using (lexeme) cross join scope
    group by hits.pattern_id
$$;
revoke execute on function keyword_scores(text, text, text, text) from public;

-- The second lock. `engramia.system` opens it for work that is no tenant's own: sums and missing vectors.
do $$
declare
    data text;
begin
    foreach data in array array['scopes', 'patterns', 'vectors', 'pattern_words', 'tombstones', 'reuse', 'evaluations',
                                'skills', 'feedback'] loop
        execute format('alter table %I enable row level security', data);
        execute format(
            'create policy own_scope on %I using (
                 (tenant_id = (select current_setting(''engramia.tenant'', true))
                  and project_id = (select current_setting(''engramia.project'', true)))
                 or (select current_setting(''engramia.system'', true)) = ''on'')', data);
    end loop;
    if exists (select from pg_roles where rolname = 'engramia_app') then
        execute format('grant usage on schema %I to engramia_app', current_schema());
        grant select, insert, update, delete on scopes, patterns, vectors, tombstones, reuse, evaluations, skills, feedback
            to engramia_app;
        grant select, insert on spaces, marks to engramia_app;
        -- A server whose login owns nothing still looks whether the schema is its own.
        grant select on _sqlx_migrations to engramia_app;
        -- Words can be written and removed, not read but through keyword_scores.
        grant select (tenant_id, project_id, pattern_id, length), insert, update, delete on pattern_words to engramia_app;
        grant execute on function keyword_scores(text, text, text, text) to engramia_app;
    end if;
end $$;
