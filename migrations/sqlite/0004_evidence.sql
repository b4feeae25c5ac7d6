-- Every pattern carries what its evidence says; every piece of evidence says where it comes from.

alter table patterns add column evidence_count integer not null default 0;
alter table patterns add column evidence_variance real not null default 0;
alter table patterns add column evidence_seen_at integer;

alter table evaluations add column kind text not null default 'reported';
alter table evaluations add column note text;

drop index evaluations_by_pattern;
create index evaluations_by_pattern on evaluations (pattern_id, created_at, id);

-- Until now every report counted as one; together they count as one at most.
update patterns set
    evidence_count = (select count(*) from evaluations e where e.pattern_id = patterns.id),
    evidence_seen_at = (select max(e.created_at) from evaluations e where e.pattern_id = patterns.id),
    evidence_sum = evidence_sum / (evidence_weight + 1),
    evidence_weight = evidence_weight / (evidence_weight + 1);
