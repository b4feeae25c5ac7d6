//! Patterns with their vectors and their words.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::rows::{self, column_option, column_text, evaluation_columns, pattern_columns};
use super::unit::{Access, PostgresWork};
use super::{search, words};
use crate::domain::pattern::Fingerprint;
use crate::domain::text::WordSet;
use crate::domain::{Classification, Evidence, NewPattern, Pattern, PatternId, PatternKey};
use crate::ports::Vector;
use crate::store::engine::{column, corrupt, key, word};
use crate::store::memory::{Evaluation, Filter, Mark, Nearest, NearestQuery, Ranking, ScoreRow, TaskRow};
use crate::store::{Patterns, Result};

#[async_trait]
impl Patterns for PostgresWork {
    async fn insert(&mut self, pattern: &NewPattern, vector: Option<&Vector>) -> Result<Option<PatternId>> {
        let fingerprint = pattern.fingerprint();
        let (id, revision) = (self.next_pattern()?, self.revision()?);
        let space = self.space_of(vector).await?;
        let (folded, length) = words::folded(&pattern.task);
        let token = words::token(&self.scope);
        let (query, connection) = self
            .scoped(
                "with made as ( \
                     insert into patterns (tenant_id, project_id, id, revision, key, task, code, output, \
                         classification, source, run_id, author, redacted, success_score, reuse_count, created_at, \
                         decayed_at, evidence_weight, evidence_sum, task_digest, code_digest, extra, space_id, \
                         evidence_count, evidence_variance, evidence_seen_at) \
                     values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, \
                         $20, $21, $22, $23, $28, $29, $30) \
                     on conflict (tenant_id, project_id, key) do nothing returning id), \
                 worded as ( \
                     insert into pattern_words (tenant_id, project_id, pattern_id, words, length) \
                     select $1, $2, id, to_tsvector('engramia', $24) || array_to_tsvector(array[$25]), $26 from made), \
                 embedded as ( \
                     insert into vectors (tenant_id, project_id, pattern_id, space_id, vector) \
                     select $1, $2, id, $23, $27 from made where $27 is not null), \
                 counted as ( \
                     update scopes set last_pattern = $3, patterns = patterns + 1, words = words + $26 \
                     where tenant_id = $1 and project_id = $2 and exists (select from made)) \
                 select id from made",
            )
            .await?;
        let row = query
            .bind(id.0)
            .bind(revision)
            .bind(column_text(pattern.key.as_str()))
            .bind(column_text(&pattern.task))
            .bind(column_option(pattern.code.as_ref()))
            .bind(column_option(pattern.output.as_ref()))
            .bind(pattern.classification.as_str())
            .bind(pattern.source.as_str())
            .bind(column_option(pattern.run_id.as_ref()))
            .bind(column_option(pattern.author.as_ref()))
            .bind(pattern.redacted)
            .bind(pattern.success_score)
            .bind(column(pattern.reuse_count))
            .bind(pattern.created_at)
            .bind(pattern.decayed_at)
            .bind(pattern.evidence.weight)
            .bind(pattern.evidence.sum)
            .bind(fingerprint.task.to_vec())
            .bind(fingerprint.code.to_vec())
            .bind(pattern.extra.to_json())
            .bind(space)
            .bind(folded)
            .bind(token)
            .bind(length)
            .bind(vector.map(column_vector))
            .bind(column(pattern.evidence.count))
            .bind(pattern.evidence.variance)
            .bind(pattern.evidence.seen_at)
            .fetch_optional(connection)
            .await?;
        if row.is_none() {
            return Ok(None);
        }
        self.written()?.last_pattern = id.0;
        Ok(Some(id))
    }

    async fn update(&mut self, pattern: &Pattern, vector: Option<&Vector>) -> Result<()> {
        let (id, body) = (pattern.id, &pattern.body);
        let (query, connection) =
            self.scoped("select task from patterns where tenant_id = $1 and project_id = $2 and id = $3").await?;
        let Some(row) = query.bind(id.0).fetch_optional(connection).await? else { return Ok(()) };
        let same_task = rows::text(row.try_get(0)?) == body.task;
        let fingerprint = body.fingerprint();
        let revision = self.revision()?;
        // What was counted beside the row is part of the number that is written.
        let (query, connection) = self
            .scoped(
                "with counted as (delete from reuse where tenant_id = $1 and project_id = $2 and pattern_id = $3) \
                 update patterns set task = $4, code = $5, output = $6, classification = $7, source = $8, \
                 run_id = $9, author = $10, redacted = $11, success_score = $12, reuse_count = $13, created_at = $14, \
                 decayed_at = $15, evidence_weight = $16, evidence_sum = $17, task_digest = $18, code_digest = $19, \
                 extra = $20, revision = $21, evidence_count = $22, evidence_variance = $23, evidence_seen_at = $24 \
                 where tenant_id = $1 and project_id = $2 and id = $3",
            )
            .await?;
        query
            .bind(id.0)
            .bind(column_text(&body.task))
            .bind(column_option(body.code.as_ref()))
            .bind(column_option(body.output.as_ref()))
            .bind(body.classification.as_str())
            .bind(body.source.as_str())
            .bind(column_option(body.run_id.as_ref()))
            .bind(column_option(body.author.as_ref()))
            .bind(body.redacted)
            .bind(body.success_score)
            .bind(column(body.reuse_count))
            .bind(body.created_at)
            .bind(body.decayed_at)
            .bind(body.evidence.weight)
            .bind(body.evidence.sum)
            .bind(fingerprint.task.to_vec())
            .bind(fingerprint.code.to_vec())
            .bind(body.extra.to_json())
            .bind(revision)
            .bind(column(body.evidence.count))
            .bind(body.evidence.variance)
            .bind(body.evidence.seen_at)
            .execute(connection)
            .await?;
        match vector {
            Some(vector) => self.write_vector(id, &body.task, vector).await?,
            None if same_task => {}
            None => self.remove_vector(id).await?,
        }
        if same_task { Ok(()) } else { self.write_words(id, &body.task).await }
    }

    async fn find(&mut self, key: &PatternKey) -> Result<Option<Pattern>> {
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                " from patterns p where p.tenant_id = $1 and p.project_id = $2 and p.key = $3"
            ))
            .await?;
        let row = query.bind(column_text(key.as_str())).fetch_optional(connection).await?;
        row.as_ref().map(rows::pattern).transpose()
    }

    async fn get(&mut self, ids: &[PatternId]) -> Result<Vec<Pattern>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                " from unnest($3::bigint[]) with ordinality wanted (id, place) \
                 join patterns p on p.tenant_id = $1 and p.project_id = $2 and p.id = wanted.id order by wanted.place"
            ))
            .await?;
        patterns(&query.bind(numbers(ids)).fetch_all(connection).await?)
    }

    async fn tasks(&mut self, ids: &[PatternId]) -> Result<Vec<TaskRow>> {
        // A writer must see its own changes, and a reader without an index is told of none.
        let indexes = matches!(self.access, Access::Read(_)).then(|| std::sync::Arc::clone(&self.inner));
        let hot = indexes.as_ref().and_then(|inner| inner.indexes.hot_for(&self.scope));
        if let Some(hot) = hot {
            let tasks: Option<Vec<_>> = ids.iter().map(|id| hot.task(&self.scope, *id)).collect();
            if let Some(tasks) = tasks {
                return Ok(tasks);
            }
        }
        let before = hot.map(|hot| (hot, hot.before()));
        let (query, connection) = self
            .scoped(
                "select p.id, p.task, p.success_score from unnest($3::bigint[]) with ordinality wanted (id, place) \
                 join patterns p on p.tenant_id = $1 and p.project_id = $2 and p.id = wanted.id order by wanted.place",
            )
            .await?;
        let rows = query.bind(numbers(ids)).fetch_all(connection).await?;
        let mut tasks = Vec::with_capacity(rows.len());
        for row in &rows {
            let words = WordSet::of_words(&rows::text(row.try_get(1)?));
            tasks.push(TaskRow { id: PatternId(row.try_get(0)?), words, success_score: row.try_get(2)? });
        }
        if let Some((hot, before)) = before {
            hot.keep_tasks(before, &self.scope, &tasks);
        }
        Ok(tasks)
    }

    async fn delete(&mut self, key: &PatternKey) -> Result<bool> {
        let revision = self.revision()?;
        // The rows that hang from the pattern go with it, but this statement still sees its words.
        let (query, connection) = self
            .scoped(
                "with gone as ( \
                     delete from patterns where tenant_id = $1 and project_id = $2 and key = $3 returning id), \
                 noted as ( \
                     insert into tombstones (tenant_id, project_id, revision, pattern_id) \
                     select $1, $2, $4, id from gone) \
                 update scopes set patterns = patterns - 1, words = words - coalesce(( \
                     select length from pattern_words w join gone on gone.id = w.pattern_id \
                     where w.tenant_id = $1 and w.project_id = $2), 0) \
                 where tenant_id = $1 and project_id = $2 and exists (select from gone)",
            )
            .await?;
        let done = query.bind(column_text(key.as_str())).bind(revision).execute(connection).await?;
        Ok(done.rows_affected() == 1)
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
        let query = query.bind(fingerprint.task.to_vec()).bind(fingerprint.code.to_vec());
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
        let query = query.bind(fingerprint.task.to_vec()).bind(fingerprint.code.to_vec()).bind(i64::from(limit));
        patterns(&query.fetch_all(connection).await?)
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
        let after = column_text(after.map_or("", PatternKey::as_str));
        patterns(&query.bind(after).bind(i64::from(limit)).fetch_all(connection).await?)
    }

    async fn export_page(
        &mut self,
        after: Option<&PatternKey>,
        among: &[Classification],
        rows: u32,
        bytes: usize,
    ) -> Result<Vec<Pattern>> {
        let words: Vec<&str> = among.iter().map(|word| word.as_str()).collect();
        let (query, connection) = self
            .scoped(concat!(
                "select ",
                pattern_columns!(),
                " from patterns p where p.tenant_id = $1 and p.project_id = $2 and p.key > $3 \
                 and p.classification = any($4) order by p.key limit $5"
            ))
            .await?;
        let after = column_text(after.map_or("", PatternKey::as_str));
        let mut found = query.bind(after).bind(words).bind(i64::from(rows)).fetch(connection);
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
        let revision = self.revision()?;
        let (query, connection) = self
            .scoped(
                "with before as ( \
                     select id, classification from patterns \
                     where tenant_id = $1 and project_id = $2 and key = $3) \
                 update patterns p set classification = $4, revision = $5 from before \
                 where p.tenant_id = $1 and p.project_id = $2 and p.id = before.id returning before.classification",
            )
            .await?;
        let query = query.bind(column_text(key.as_str())).bind(classification.as_str()).bind(revision);
        let row = query.fetch_optional(connection).await?;
        row.map(|row| word(row.try_get(0)?)).transpose()
    }

    async fn scores(&mut self, after: Option<PatternId>, limit: u32) -> Result<Vec<ScoreRow>> {
        let (query, connection) = self
            .scoped(
                "select id, key, success_score, decayed_at from patterns \
                 where tenant_id = $1 and project_id = $2 and id > $3 order by id limit $4",
            )
            .await?;
        let query = query.bind(after.map_or(i64::MIN, |id| id.0)).bind(i64::from(limit));
        let rows = query.fetch_all(connection).await?;
        rows.iter()
            .map(|row| {
                Ok(ScoreRow {
                    id: PatternId(row.try_get(0)?),
                    key: key(&rows::text(row.try_get(1)?))?,
                    success_score: row.try_get(2)?,
                    decayed_at: row.try_get(3)?,
                })
            })
            .collect()
    }

    async fn set_scores(&mut self, rows: &[ScoreRow]) -> Result<()> {
        let revision = self.revision()?;
        let (query, connection) = self
            .scoped(
                "update patterns p set success_score = s.score, decayed_at = s.at, revision = $3 \
                 from unnest($4::bigint[], $5::double precision[], $6::timestamptz[]) s (id, score, at) \
                 where p.tenant_id = $1 and p.project_id = $2 and p.id = s.id",
            )
            .await?;
        query
            .bind(revision)
            .bind(rows.iter().map(|row| row.id.0).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.success_score).collect::<Vec<_>>())
            .bind(rows.iter().map(|row| row.decayed_at).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn count_reuse(&mut self, counts: &[(PatternId, u32)]) -> Result<()> {
        self.written()?;
        let (query, connection) = self
            .scoped(
                "insert into reuse (tenant_id, project_id, pattern_id, count) \
                 select $1, $2, p.id, sum(c.count)::bigint from unnest($3::bigint[], $4::bigint[]) c (id, count) \
                 join patterns p on p.tenant_id = $1 and p.project_id = $2 and p.id = c.id group by p.id \
                 on conflict (tenant_id, project_id, pattern_id) do update set count = reuse.count + excluded.count",
            )
            .await?;
        query
            .bind(counts.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
            .bind(counts.iter().map(|(_, count)| i64::from(*count)).collect::<Vec<_>>())
            .execute(connection)
            .await?;
        Ok(())
    }

    async fn attach(&mut self, vectors: &[(PatternId, &str, &Vector)]) -> Result<()> {
        for (id, task, vector) in vectors {
            self.write_vector(*id, task, vector).await?;
        }
        Ok(())
    }

    async fn record_evaluation(&mut self, id: PatternId, evaluation: &Evaluation) -> Result<()> {
        self.written()?;
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
            .bind(column_option(evaluation.run_id.as_ref()))
            .bind(evaluation.at)
            .bind(evaluation.kind.as_str())
            .bind(column_option(evaluation.note.as_ref()))
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
                 order by e.created_at desc, e.id collate \"C\" desc limit $4"
            ))
            .await?;
        let found = query.bind(id.0).bind(i64::from(limit)).fetch_all(connection).await?;
        found.iter().rev().map(|row| rows::evaluation(row, 0)).collect()
    }

    async fn set_evidence(&mut self, id: PatternId, evidence: &Evidence) -> Result<()> {
        let revision = self.revision()?;
        let (query, connection) = self
            .scoped(
                "update patterns set evidence_weight = $4, evidence_sum = $5, evidence_count = $6, \
                 evidence_variance = $7, evidence_seen_at = $8, revision = $9 \
                 where tenant_id = $1 and project_id = $2 and id = $3",
            )
            .await?;
        query
            .bind(id.0)
            .bind(evidence.weight)
            .bind(evidence.sum)
            .bind(column(evidence.count))
            .bind(evidence.variance)
            .bind(evidence.seen_at)
            .bind(revision)
            .execute(connection)
            .await?;
        Ok(())
    }
}

impl PostgresWork {
    async fn write_words(&mut self, id: PatternId, task: &str) -> Result<()> {
        let (folded, length) = words::folded(task);
        let token = words::token(&self.scope);
        let (query, connection) = self
            .scoped(
                "with old as ( \
                     select length from pattern_words where tenant_id = $1 and project_id = $2 and pattern_id = $3), \
                 counted as ( \
                     update scopes set words = words + $6 - coalesce((select length from old), 0) \
                     where tenant_id = $1 and project_id = $2) \
                 update pattern_words set words = to_tsvector('engramia', $4) || array_to_tsvector(array[$5]), \
                 length = $6 where tenant_id = $1 and project_id = $2 and pattern_id = $3",
            )
            .await?;
        query.bind(id.0).bind(folded).bind(token).bind(length).execute(connection).await?;
        Ok(())
    }

    /// Replaces the vector of a stored pattern, if it still has the text that the vector was made from.
    async fn write_vector(&mut self, id: PatternId, task: &str, vector: &Vector) -> Result<()> {
        let revision = self.revision()?;
        let space = self.space_of(Some(vector)).await?;
        let (query, connection) = self
            .scoped(
                "with hit as ( \
                     update patterns set space_id = $5, revision = $6 \
                     where tenant_id = $1 and project_id = $2 and id = $3 and task = $4 returning id) \
                 insert into vectors (tenant_id, project_id, pattern_id, space_id, vector) \
                 select $1, $2, id, $5, $7 from hit \
                 on conflict (tenant_id, project_id, pattern_id) do update set space_id = $5, vector = $7",
            )
            .await?;
        query
            .bind(id.0)
            .bind(column_text(task))
            .bind(space)
            .bind(revision)
            .bind(column_vector(vector))
            .execute(connection)
            .await?;
        Ok(())
    }

    /// A vector of another text is worse than none: the pattern waits for its own.
    async fn remove_vector(&mut self, id: PatternId) -> Result<()> {
        let (query, connection) = self
            .scoped(
                "with gone as (delete from vectors where tenant_id = $1 and project_id = $2 and pattern_id = $3) \
                 update patterns set space_id = 0 where tenant_id = $1 and project_id = $2 and id = $3",
            )
            .await?;
        query.bind(id.0).execute(connection).await?;
        Ok(())
    }

    /// Number of the vector's space, made at its first use; 0 without a vector.
    pub(super) async fn space_of(&mut self, vector: Option<&Vector>) -> Result<i32> {
        let Some(vector) = vector else { return Ok(0) };
        let dimensions = i32::try_from(vector.values.len()).unwrap_or(i32::MAX);
        let inner = std::sync::Arc::clone(&self.inner);
        if let Some(number) = inner.indexes.space(&vector.space, dimensions, self.connection().await?).await? {
            return Ok(number);
        }
        // In a transaction of its own: a number that is rolled back must not be remembered.
        sqlx::query("insert into spaces (name, dimensions) values ($1, $2) on conflict do nothing")
            .bind(vector.space.as_str().to_owned())
            .bind(dimensions)
            .execute(&inner.pool)
            .await?;
        let number = inner.indexes.space(&vector.space, dimensions, self.connection().await?).await?;
        number.ok_or_else(|| corrupt("spaces", &"a space that was just made is not there"))
    }
}

pub(super) fn column_vector(vector: &Vector) -> pgvector::Vector {
    pgvector::Vector::from(vector.values.to_vec())
}

fn numbers(ids: &[PatternId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

fn patterns(rows: &[PgRow]) -> Result<Vec<Pattern>> {
    rows.iter().map(rows::pattern).collect()
}
