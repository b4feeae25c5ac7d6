-- The memory: patterns with their vectors, text index, evidence and tags; recurring issues; counters; keys.
-- Times are microseconds since the epoch, UTC. Every row belongs to (tenant_id, project_id).

create table spaces (
    id         integer primary key,
    name       text    not null,
    dimensions integer not null,
    unique (name, dimensions)
) strict;

create table patterns (
    id              integer primary key autoincrement, -- never used twice: the in-memory index relies on it
    tenant_id       text    not null,
    project_id      text    not null,
    key             text    not null,
    task            text    not null,
    code            text,
    output          text,
    classification  text    not null,
    source          text    not null,
    run_id          text,
    author          text,
    redacted        integer not null,
    success_score   real    not null,
    reuse_count     integer not null,
    created_at      integer not null,
    decayed_at      integer not null,
    evidence_weight real    not null,
    evidence_sum    real    not null,
    task_digest     blob    not null,
    code_digest     blob    not null,
    extra           text,
    space_id        integer references spaces (id), -- of its vector; null while it waits for one
    unique (tenant_id, project_id, key)
) strict;

create index patterns_by_task on patterns (tenant_id, project_id, task_digest, code_digest);
create index patterns_by_id on patterns (tenant_id, project_id, id);
create index patterns_by_space on patterns (space_id);

-- One vector a pattern, of the newest space: f32, little-endian, L2-normalised. A table of its own, because reading
-- patterns should not read past vectors.
create table vectors (
    pattern_id integer primary key references patterns (id) on delete cascade,
    vector     blob    not null
) strict;

-- `scope` is an opaque token of tenant and project, so that a match never walks another scope's rows.
create virtual table pattern_text using fts5 (
    scope, task, content = '', contentless_delete = 1, tokenize = 'porter unicode61 remove_diacritics 2'
);
-- Every row of a scope has its token: it must not count.
insert into pattern_text (pattern_text, rank) values ('rank', 'bm25(0.0, 1.0)');

-- Reuses since the pattern was last written: a narrow table, because every recall adds to it and rewriting whole
-- patterns for a number would fill the log.
create table reuse (
    pattern_id integer primary key references patterns (id) on delete cascade,
    count      integer not null
) strict;

create table evaluations (
    tenant_id  text    not null,
    project_id text    not null,
    id         text    not null, -- UUIDv7: in order of time
    pattern_id integer not null references patterns (id) on delete cascade,
    score      real    not null,
    weight     real    not null,
    run_id     text,
    created_at integer not null,
    primary key (tenant_id, project_id, id)
) strict, without rowid;

create index evaluations_by_pattern on evaluations (pattern_id);

create table skills (
    tenant_id  text    not null,
    project_id text    not null,
    skill      text    not null,
    pattern_id integer not null references patterns (id) on delete cascade,
    created_at integer not null,
    primary key (tenant_id, project_id, skill, pattern_id)
) strict, without rowid;

create index skills_by_pattern on skills (pattern_id);

create table feedback (
    tenant_id  text    not null,
    project_id text    not null,
    text       text    not null,
    folded     text    not null, -- lower case, for searching
    count      integer not null,
    score      real    not null,
    last_seen  integer not null,
    decayed_at integer not null,
    primary key (tenant_id, project_id, text)
) strict, without rowid;

create table scope_statistics (
    tenant_id     text    not null,
    project_id    text    not null,
    patterns      integer not null default 0,
    runs          integer not null default 0,
    successes     integer not null default 0,
    recalls       integer not null default 0,
    recall_hits   integer not null default 0,
    recent_scores text    not null default '[]', -- JSON, oldest first
    primary key (tenant_id, project_id)
) strict, without rowid;

create table api_keys (
    id         text    not null primary key,
    tenant_id  text    not null,
    project_id text    not null,
    name       text    not null,
    key_prefix text    not null,
    key_hash   blob    not null unique,
    role       text    not null,
    created_at integer not null
) strict;

-- Marks of one-time work, such as the import of an older data directory.
create table marks (
    name       text    not null primary key,
    created_at integer not null
) strict;
