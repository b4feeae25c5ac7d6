//! Patterns with their vectors and their text index.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::Row;

use super::rows::{self, evaluation_columns, pattern_columns};
use super::search::scope_token;
use super::{Access, SqliteWork, search};
use crate::domain::pattern::Fingerprint;
use crate::domain::text::WordSet;
use crate::domain::{Classification, Evidence, NewPattern, Pattern, PatternId, PatternKey};
use crate::ports::Vector;
use crate::store::engine::{Change, ChangeKind, RowMeta};
use crate::store::memory::{Evaluation, Filter, Mark, Nearest, NearestQuery, Ranking, ScoreRow, TaskRow};
use crate::store::{Patterns, Result};

#[async_trait]
impl Patterns for SqliteWork {
    async fn insert(&mut self, pattern: &NewPattern, vector: Option<&Vector>) -> Result<Option<PatternId>> {
        let fingerprint = pattern.fingerprint();
        let space = match vector {
            Some(vector) => Some(self.space_id(vector).await?),
            None => None,
        };
        let (query, connection) = self
            .scoped(
                "insert into patterns (tenant_id, project_id, key, task, code, output, classification, source, run_id, \
             author, redacted, success_score, reuse_count, created_at, decayed_at, evidence_weight, evidence_sum, \
             task_digest, code_digest, extra, space_id, evidence_count, evidence_variance, evidence_seen_at) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, \
             $22, $23, $24) \
             on conflict (tenant_id, project_id, key) do nothing returning id",
            )
            .await?;
        let row = query
            .bind(pattern.key.as_str())
            .bind(&pattern.task)
            .bind(&pattern.code)
            .bind(&pattern.output)
            .bind(pattern.classification.as_str())
            .bind(pattern.source.as_str())
            .bind(&pattern.run_id)
            .bind(&pattern.author)
            .bind(pattern.redacted)
            .bind(pattern.success_score)
            .bind(rows::column(pattern.reuse_count))
            .bind(pattern.created_at.timestamp_micros())
            .bind(pattern.decayed_at.timestamp_micros())
            .bind(pattern.evidence.weight)
            .bind(pattern.evidence.sum)
            .bind(&fingerprint.task[..])
            .bind(&fingerprint.code[..])
            .bind(pattern.extra.to_json())
            .bind(space)
            .bind(rows::column(pattern.evidence.count))
            .bind(pattern.evidence.variance)
            .bind(pattern.evidence.seen_at.map(|at| at.timestamp_micros()))
            .fetch_optional(connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let id = PatternId(row.try_get(0)?);
        self.write_text(id, &pattern.task).await?;
        if let Some(vector) = vector {
            self.put_vector(id, vector, RowMeta::of(pattern)).await?;
        }
        self.count_patterns(1).await?;
        Ok(Some(id))
    }

    async fn update(&mut self, pattern: &Pattern, vector: Option<&Vector>) -> Result<()> {
        let (id, body) = (pattern.id, &pattern.body);
        let (query, connection) =
            self.scoped("select task from patterns where tenant_id = $1 and project_id = $2 and id = $3").await?;
        let Some(row) = query.bind(id.0).fetch_optional(connection).await? else { return Ok(()) };
        let same_task = row.try_get::<&str, _>(0)? == body.task;
        let fingerprint = body.fingerprint();
        let (query, connection) = self
            .scoped(
                "update patterns set task = $4, code = $5, output = $6, classification = $7, source = $8, run_id = $9, \
             author = $10, redacted = $11, success_score = $12, reuse_count = $13, created_at = $14, \
             decayed_at = $15, evidence_weight = $16, evidence_sum = $17, task_digest = $18, code_digest = $19, \
             extra = $20, evidence_count = $21, evidence_variance = $22, evidence_seen_at = $23 \
             where tenant_id = $1 and project_id = $2 and id = $3",
            )
            .await?;
        query
            .bind(id.0)
            .bind(&body.task)
            .bind(&body.code)
            .bind(&body.output)
            .bind(body.classification.as_str())
            .bind(body.source.as_str())
            .bind(&body.run_id)
            .bind(&body.author)
            .bind(body.redacted)
            .bind(body.success_score)
            .bind(rows::column(body.reuse_count))
            .bind(body.created_at.timestamp_micros())
            .bind(body.decayed_at.timestamp_micros())
            .bind(body.evidence.weight)
            .bind(body.evidence.sum)
            .bind(&fingerprint.task[..])
            .bind(&fingerprint.code[..])
            .bind(body.extra.to_json())
            .bind(rows::column(body.evidence.count))
            .bind(body.evidence.variance)
            .bind(body.evidence.seen_at.map(|at| at.timestamp_micros()))
            .execute(connection)
            .await?;
        // What was counted beside the row is part of the number just written.
        sqlx::query("delete from reuse where pattern_id = $1").bind(id.0).execute(self.connection().await?).await?;
        let meta = RowMeta::of(body);
        match vector {
            Some(vector) => self.write_vector(id, vector, meta).await?,
            None if same_task => self.remember(self.change(id, ChangeKind::Meta(meta))),
            None => self.remove_vector(id).await?,
        }
        if same_task { Ok(()) } else { self.write_text(id, &body.task).await }
    }

    async fn find(&mut self, key: &PatternKey) -> Result<Option<Pattern>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                " from patterns p where p.tenant_id = $1 and p.project_id = $2 and p.key = $3"
            ))
            .await?;
        query.bind(key.as_str()).fetch_optional(connection).await?.as_ref().map(rows::pattern).transpose()
    }

    async fn get(&mut self, ids: &[PatternId]) -> Result<Vec<Pattern>> {
        // A writer must see its own changes: only readers use what is at hand.
        let reading = matches!(self.access, Access::Read(_));
        let indexes = Arc::clone(&self.indexes);
        if reading {
            let hot: Option<Vec<_>> = ids.iter().map(|id| indexes.hot.pattern(&self.scope, *id)).collect();
            if let Some(patterns) = hot {
                return Ok(patterns);
            }
        }
        let before = indexes.hot.before();
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                " from json_each($3) wanted cross join patterns p on p.id = wanted.value \
                 where p.tenant_id = $1 and p.project_id = $2 order by wanted.key"
            ))
            .await?;
        let rows = query.bind(json_ids(ids.iter().copied())).fetch_all(connection).await?;
        let patterns: Vec<Pattern> = rows.iter().map(rows::pattern).collect::<Result<_>>()?;
        if reading {
            indexes.hot.keep_patterns(before, &self.scope, &patterns);
        }
        Ok(patterns)
    }

    async fn tasks(&mut self, ids: &[PatternId]) -> Result<Vec<TaskRow>> {
        let reading = matches!(self.access, Access::Read(_));
        let indexes = Arc::clone(&self.indexes);
        if reading {
            let hot: Option<Vec<_>> = ids.iter().map(|id| indexes.hot.task(&self.scope, *id)).collect();
            if let Some(tasks) = hot {
                return Ok(tasks);
            }
        }
        let before = indexes.hot.before();
        let (query, connection) = self
            .scoped(
                "select p.id, p.task, p.success_score \
                 from json_each($3) wanted cross join patterns p on p.id = wanted.value \
                 where p.tenant_id = $1 and p.project_id = $2 order by wanted.key",
            )
            .await?;
        let rows = query.bind(json_ids(ids.iter().copied())).fetch_all(connection).await?;
        let mut tasks = Vec::with_capacity(rows.len());
        for row in &rows {
            let words = WordSet::of_words(row.try_get(1)?);
            tasks.push(TaskRow { id: PatternId(row.try_get(0)?), words, success_score: row.try_get(2)? });
        }
        if reading {
            indexes.hot.keep_tasks(before, &self.scope, &tasks);
        }
        Ok(tasks)
    }

    async fn delete(&mut self, key: &PatternKey) -> Result<bool> {
        let (query, connection) = self
            .scoped("delete from patterns where tenant_id = $1 and project_id = $2 and key = $3 returning id")
            .await?;
        let row = query.bind(key.as_str()).fetch_optional(connection).await?;
        let Some(row) = row else { return Ok(false) };
        let id: i64 = row.try_get(0)?;
        sqlx::query("delete from pattern_text where rowid = $1").bind(id).execute(self.connection().await?).await?;
        self.count_patterns(-1).await?;
        self.remember(self.change(PatternId(id), ChangeKind::Remove));
        Ok(true)
    }

    async fn equal(&mut self, fingerprint: &Fingerprint) -> Result<Option<Pattern>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                " from patterns p where p.tenant_id = $1 and p.project_id = $2 and p.task_digest = $3 \
             and p.code_digest = $4 order by p.id desc limit 1"
            ))
            .await?;
        let query = query.bind(&fingerprint.task[..]).bind(&fingerprint.code[..]);
        query.fetch_optional(connection).await?.as_ref().map(rows::pattern).transpose()
    }

    async fn same_task(&mut self, fingerprint: &Fingerprint, limit: u32) -> Result<Vec<Pattern>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                " from patterns p where p.tenant_id = $1 and p.project_id = $2 and p.task_digest = $3 \
             order by p.code_digest = $4 desc, p.id desc limit $5"
            ))
            .await?;
        let rows =
            query.bind(&fingerprint.task[..]).bind(&fingerprint.code[..]).bind(limit).fetch_all(connection).await?;
        rows.iter().map(rows::pattern).collect()
    }

    async fn near(
        &mut self,
        vector: &Vector,
        least: f64,
        limit: usize,
        since: Option<Mark>,
    ) -> Result<(Vec<PatternId>, Mark)> {
        search::near(self, vector, least, limit, since).await
    }

    async fn nearest(&mut self, query: &NearestQuery) -> Result<Vec<Nearest>> {
        search::nearest(self, query).await
    }

    async fn matching(&mut self, text: &str, filter: &Filter, ranking: &Ranking, limit: usize) -> Result<Vec<Nearest>> {
        search::matching(self, text, filter, ranking, limit).await
    }

    async fn page(&mut self, after: Option<&PatternKey>, limit: u32) -> Result<Vec<Pattern>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                " from patterns p where p.tenant_id = $1 and p.project_id = $2 and p.key > $3 order by p.key limit $4"
            ))
            .await?;
        let rows = query.bind(after.map_or("", PatternKey::as_str)).bind(limit).fetch_all(connection).await?;
        rows.iter().map(rows::pattern).collect()
    }

    async fn export_page(
        &mut self,
        after: Option<&PatternKey>,
        among: &[Classification],
        rows: u32,
        bytes: usize,
    ) -> Result<Vec<Pattern>> {
        let words: Vec<&str> = among.iter().map(|word| word.as_str()).collect();
        let words = serde_json::json!(words).to_string();
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                " from patterns p where p.tenant_id = $1 and p.project_id = $2 and p.key > $3 \
                 and p.classification in (select value from json_each($4)) order by p.key limit $5"
            ))
            .await?;
        let query = query.bind(after.map_or("", PatternKey::as_str).to_owned()).bind(words).bind(rows);
        let mut found = query.fetch(connection);
        let (mut page, mut length) = (Vec::new(), 0);
        while length < bytes
            && let Some(row) = found.try_next().await?
        {
            let pattern = rows::pattern(&row)?;
            length += pattern.body.length();
            page.push(pattern);
        }
        Ok(page)
    }

    async fn classify(&mut self, key: &PatternKey, classification: Classification) -> Result<Option<Classification>> {
        let (query, connection) = self
            .scoped("select id, classification from patterns where tenant_id = $1 and project_id = $2 and key = $3")
            .await?;
        let Some(row) = query.bind(key.as_str()).fetch_optional(connection).await? else { return Ok(None) };
        let (id, before) = (PatternId(row.try_get(0)?), rows::word(row.try_get(1)?)?);
        let (query, connection) = self
            .scoped("update patterns set classification = $4 where tenant_id = $1 and project_id = $2 and id = $3")
            .await?;
        query.bind(id.0).bind(classification.as_str()).execute(connection).await?;
        self.remember(self.change(id, ChangeKind::Classification(classification)));
        Ok(Some(before))
    }

    async fn scores(&mut self, after: Option<PatternId>, limit: u32) -> Result<Vec<ScoreRow>> {
        let (query, connection) = self
            .scoped(
                "select id, key, success_score, decayed_at from patterns \
             where tenant_id = $1 and project_id = $2 and id > $3 order by id limit $4",
            )
            .await?;
        let rows = query.bind(after.map_or(i64::MIN, |id| id.0)).bind(limit).fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                Ok(ScoreRow {
                    id: PatternId(row.try_get(0)?),
                    key: rows::key(row.try_get(1)?)?,
                    success_score: row.try_get(2)?,
                    decayed_at: rows::time(row.try_get(3)?)?,
                })
            })
            .collect()
    }

    async fn set_scores(&mut self, rows: &[ScoreRow]) -> Result<()> {
        for row in rows {
            let (query, connection) = self
                .scoped(
                    "update patterns set success_score = $4, decayed_at = $5 \
                 where tenant_id = $1 and project_id = $2 and id = $3",
                )
                .await?;
            query
                .bind(row.id.0)
                .bind(row.success_score)
                .bind(row.decayed_at.timestamp_micros())
                .execute(connection)
                .await?;
            self.remember(self.change(row.id, ChangeKind::Score(row.success_score)));
        }
        Ok(())
    }

    async fn count_reuse(&mut self, counts: &[(PatternId, u32)]) -> Result<()> {
        let json: Vec<String> = counts.iter().map(|(id, count)| format!("[{},{count}]", id.0)).collect();
        let (query, connection) = self
            .scoped(
                "insert into reuse (pattern_id, count) \
                 select p.id, json_extract(c.value, '$[1]') from json_each($3) c \
                 cross join patterns p on p.id = json_extract(c.value, '$[0]') \
                 where p.tenant_id = $1 and p.project_id = $2 \
                 on conflict (pattern_id) do update set count = count + excluded.count",
            )
            .await?;
        query.bind(format!("[{}]", json.join(","))).execute(connection).await?;
        for (id, count) in counts {
            self.remember(self.change(*id, ChangeKind::Reuse(*count)));
        }
        Ok(())
    }

    async fn attach(&mut self, vectors: &[(PatternId, &str, &Vector)]) -> Result<()> {
        for (id, task, vector) in vectors {
            let (query, connection) = self
                .scoped(
                    "select classification, source, success_score, evidence_weight, evidence_sum, created_at \
                 from patterns where tenant_id = $1 and project_id = $2 and id = $3 and task = $4",
                )
                .await?;
            if let Some(row) = query.bind(id.0).bind(task).fetch_optional(connection).await? {
                self.write_vector(*id, vector, rows::meta(&row, 0)?).await?;
            }
        }
        Ok(())
    }

    async fn record_evaluation(&mut self, id: PatternId, evaluation: &Evaluation) -> Result<()> {
        let (query, connection) = self
            .scoped(
                "insert into evaluations \
             (tenant_id, project_id, id, pattern_id, score, weight, run_id, created_at, kind, note) \
             select tenant_id, project_id, $3, id, $5, $6, $7, $8, $9, $10 from patterns \
             where tenant_id = $1 and project_id = $2 and id = $4",
            )
            .await?;
        query
            .bind(&evaluation.id)
            .bind(id.0)
            .bind(evaluation.score)
            .bind(evaluation.weight)
            .bind(&evaluation.run_id)
            .bind(evaluation.at.timestamp_micros())
            .bind(evaluation.kind.as_str())
            .bind(&evaluation.note)
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn evaluations(&mut self, id: PatternId, limit: u32) -> Result<Vec<Evaluation>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                evaluation_columns!(),
                " from evaluations e where e.tenant_id = $1 and e.project_id = $2 and e.pattern_id = $3 \
                 order by e.created_at desc, e.id desc limit $4"
            ))
            .await?;
        let found = query.bind(id.0).bind(limit).fetch_all(connection).await?;
        found.iter().rev().map(|row| rows::evaluation(row, 0)).collect()
    }

    async fn set_evidence(&mut self, id: PatternId, evidence: &Evidence) -> Result<()> {
        let (query, connection) = self
            .scoped(
                "update patterns set evidence_weight = $4, evidence_sum = $5, evidence_count = $6, \
                 evidence_variance = $7, evidence_seen_at = $8 \
                 where tenant_id = $1 and project_id = $2 and id = $3",
            )
            .await?;
        query
            .bind(id.0)
            .bind(evidence.weight)
            .bind(evidence.sum)
            .bind(rows::column(evidence.count))
            .bind(evidence.variance)
            .bind(evidence.seen_at.map(|at| at.timestamp_micros()))
            .execute(connection)
            .await?;
        self.remember(self.change(id, ChangeKind::Quality(evidence.multiplier())));
        Ok(())
    }
}

impl SqliteWork {
    async fn write_text(&mut self, id: PatternId, task: &str) -> Result<()> {
        let token = scope_token(&self.scope);
        sqlx::query("insert or replace into pattern_text (rowid, scope, task) values ($1, $2, $3)")
            .bind(id.0)
            .bind(token)
            .bind(task)
            .execute(self.connection().await?)
            .await?;
        Ok(())
    }

    /// Replaces the vector of a stored pattern.
    async fn write_vector(&mut self, id: PatternId, vector: &Vector, meta: RowMeta) -> Result<()> {
        let space = self.space_id(vector).await?;
        let (query, connection) = self
            .scoped("update patterns set space_id = $4 where tenant_id = $1 and project_id = $2 and id = $3")
            .await?;
        query.bind(id.0).bind(space).execute(connection).await?;
        self.put_vector(id, vector, meta).await
    }

    /// Writes the vector of a pattern whose row names its space already.
    async fn put_vector(&mut self, id: PatternId, vector: &Vector, meta: RowMeta) -> Result<()> {
        sqlx::query(
            "insert into vectors (pattern_id, vector) values ($1, $2) \
             on conflict (pattern_id) do update set vector = excluded.vector",
        )
        .bind(id.0)
        .bind(rows::vector_to_bytes(&vector.values))
        .execute(self.connection().await?)
        .await?;
        let kind = if self.indexes.holds(&vector.space) {
            ChangeKind::Put(Arc::clone(&vector.values), meta)
        } else {
            ChangeKind::Remove
        };
        self.remember(self.change(id, kind));
        Ok(())
    }

    /// A vector of another text is worse than none: the pattern waits for its own.
    async fn remove_vector(&mut self, id: PatternId) -> Result<()> {
        sqlx::query("delete from vectors where pattern_id = $1").bind(id.0).execute(self.connection().await?).await?;
        let (query, connection) = self
            .scoped("update patterns set space_id = null where tenant_id = $1 and project_id = $2 and id = $3")
            .await?;
        query.bind(id.0).execute(connection).await?;
        self.remember(self.change(id, ChangeKind::Remove));
        Ok(())
    }

    fn change(&self, id: PatternId, kind: ChangeKind) -> Change {
        Change { scope: self.scope.clone(), id: id.0, kind }
    }
}

impl SqliteWork {
    /// Number of the vector's space, made at its first use.
    pub(super) async fn space_id(&mut self, vector: &Vector) -> Result<i64> {
        let dimensions = rows::column(vector.values.len() as u64);
        let found = sqlx::query("select id from spaces where name = $1 and dimensions = $2")
            .bind(vector.space.as_str())
            .bind(dimensions)
            .fetch_optional(self.connection().await?)
            .await?;
        let row = match found {
            Some(row) => row,
            None => {
                sqlx::query("insert into spaces (name, dimensions) values ($1, $2) returning id")
                    .bind(vector.space.as_str())
                    .bind(dimensions)
                    .fetch_one(self.connection().await?)
                    .await?
            }
        };
        Ok(row.try_get(0)?)
    }
}

/// Ids as a JSON array, for `json_each`.
pub(super) fn json_ids(ids: impl Iterator<Item = PatternId>) -> String {
    let ids: Vec<String> = ids.map(|id| id.0.to_string()).collect();
    format!("[{}]", ids.join(","))
}
