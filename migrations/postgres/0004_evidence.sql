-- Every pattern carries what its evidence says; every piece of evidence says where it comes from.

alter table patterns add column evidence_count bigint not null default 0;
alter table patterns add column evidence_variance double precision not null default 0;
alter table patterns add column evidence_seen_at timestamptz;

alter table evaluations add column kind text not null default 'reported';
alter table evaluations add column note text;

drop index evaluations_by_pattern;
create index evaluations_by_pattern on evaluations (tenant_id, project_id, pattern_id, created_at, id collate "C");

-- Until now every report counted as one; together they count as one at most.
select set_config('engramia.system', 'on', true);
update patterns p set
    evidence_count = e.count,
    evidence_seen_at = e.seen_at
from (select tenant_id, project_id, pattern_id, count(*) as count, max(created_at) as seen_at
      from evaluations group by tenant_id, project_id, pattern_id) e
where e.tenant_id = p.tenant_id and e.project_id = p.project_id and e.pattern_id = p.id;
update patterns set
    evidence_sum = evidence_sum / (evidence_weight + 1),
    evidence_weight = evidence_weight / (evidence_weight + 1);
