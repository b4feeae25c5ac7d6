//! What every store must do, whatever lies beneath it (decision 27): the tests know only `dyn Store`.
//!
//! Another store joins with a [`Fixture`] and one line `contract_suite!(name, open_name)`. A test that no list names
//! is dead code, and the compiler says so.

mod analytics;
mod audit;
mod backups;
mod billing;
mod concurrency;
mod copy;
mod erasure;
mod feedback;
mod governance;
mod idempotency;
mod isolation;
mod jobs;
mod keys;
mod model;
mod patterns;
mod payments;
mod projects;
mod search;
mod skills;
mod spend;
mod statistics;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Duration};
use engramia::compute::ComputePool;
use engramia::domain::evidence::Evidence;
use engramia::domain::pattern::Extra;
use engramia::domain::{Classification, NewPattern, Pattern, PatternId, PatternKey, Scope, Source, Timestamp};
use engramia::ports::{Space, Vector};
use engramia::store::memory::{Filter, NearestQuery, Ranking};
use engramia::store::postgres::{PostgresStore, Settings};
use engramia::store::sqlite::SqliteStore;
use engramia::store::{Store, Work};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::support::postgres::{Database, settings};

/// The data of one test, gone with it.
#[async_trait(?Send)]
trait Fixture: Send + Sync {
    /// Opens the data, the same each time, for vectors of `space`.
    async fn open(&self, space: Space) -> Arc<dyn Store>;
}

/// A fixture and the store that is open on it.
struct Db {
    fixture: Box<dyn Fixture>,
    /// Always there but while it is opened anew.
    open: Option<Arc<dyn Store>>,
}

impl Db {
    async fn new(fixture: impl Fixture + 'static) -> Self {
        let open = Some(fixture.open(space()).await);
        Self { fixture: Box::new(fixture), open }
    }

    /// Closes the store and opens it on the same data.
    async fn reopen(&mut self) {
        self.reopen_for(space()).await;
    }

    async fn reopen_for(&mut self, space: Space) {
        if let Some(old) = self.open.take() {
            old.close().await;
        }
        // The old store is gone by now, with the locks it held.
        self.open = Some(self.fixture.open(space).await);
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.open.as_ref().expect("open between the calls")
    }

    async fn read(&self) -> Box<dyn Work> {
        self.store().read(&home()).await.expect("a reading unit of work")
    }

    async fn begin(&self) -> Box<dyn Work> {
        self.store().begin(&home()).await.expect("a writing unit of work")
    }

    /// Inserts and commits.
    async fn insert(&self, pattern: &NewPattern, vector: Option<&Vector>) -> PatternId {
        self.insert_in(&home(), pattern, vector).await
    }

    async fn insert_in(&self, scope: &Scope, pattern: &NewPattern, vector: Option<&Vector>) -> PatternId {
        let mut work = self.store().begin(scope).await.expect("a writing unit of work");
        let id = work.patterns().insert(pattern, vector).await.expect("inserted").expect("a free key");
        work.commit().await.expect("committed");
        id
    }

    async fn find(&self, tail: &str) -> Option<Pattern> {
        self.read().await.patterns().find(&key(tail)).await.expect("read")
    }

    /// Ids of the best rows, without filters and ranking.
    async fn nearest(&self, vector: &Vector, limit: usize) -> Vec<PatternId> {
        let found = self.read().await.patterns().nearest(&query(vector, limit)).await.expect("searched");
        found.iter().map(|row| row.id).collect()
    }

    /// Ids of the rows that share words with `text`.
    async fn matching(&self, text: &str) -> Vec<PatternId> {
        let mut work = self.read().await;
        let found = work.patterns().matching(text, &Filter::default(), &Ranking::default(), 50).await;
        found.expect("searched").iter().map(|row| row.id).collect()
    }

    /// Ids that wait for a vector of `space`.
    async fn unembedded(&self, space: &Space) -> Vec<PatternId> {
        self.store().unembedded(space, None, 1000).await.expect("read").iter().map(|row| row.id).collect()
    }
}

/// The space of the vectors of these tests.
fn space() -> Space {
    Space("test/one".into())
}

/// The scope of tests that need only one.
fn home() -> Scope {
    Scope::verified("acme", "web")
}

fn key(tail: &str) -> PatternKey {
    PatternKey::parse(&format!("patterns/{tail}")).expect("a valid tail")
}

/// A time, in seconds after a fixed moment.
fn at(seconds: i64) -> Timestamp {
    DateTime::UNIX_EPOCH + Duration::seconds(1_750_000_000 + seconds)
}

fn pattern(tail: &str, task: &str) -> NewPattern {
    NewPattern {
        key: key(tail),
        task: task.into(),
        code: Some(format!("solve({tail})")),
        output: None,
        classification: Classification::Internal,
        source: Source::Api,
        run_id: None,
        author: None,
        redacted: false,
        success_score: 5.0,
        reuse_count: 0,
        created_at: at(0),
        decayed_at: at(0),
        evidence: Evidence::of_sums(1.0, 5.0),
        extra: Extra::default(),
    }
}

/// A vector of the tests' space.
fn vector(values: &[f32]) -> Vector {
    Vector::normalized(space(), values.to_vec()).expect("a direction")
}

/// A vector at `degrees` from the first axis, so that its cosine with [`east`] is known.
fn angle(degrees: f64) -> Vector {
    let (sin, cos) = degrees.to_radians().sin_cos();
    vector(&[cos as f32, sin as f32, 0.0, 0.0])
}

fn east() -> Vector {
    angle(0.0)
}

fn query(vector: &Vector, limit: usize) -> NearestQuery {
    NearestQuery {
        vector: vector.clone(),
        keywords: None,
        filter: Filter::default(),
        ranking: Ranking::default(),
        limit,
    }
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-5, "{found} is not about {expected}");
}

/// Runs `$test` of each `$area` on the store that `$open` gives.
macro_rules! tests {
    ($open:path => $($area:ident: [$($test:ident),+ $(,)?]),+ $(,)?) => {
        $(mod $area {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::super::$area::$test(super::super::Db::new($open()).await).await;
            })+
        })+
    };
}

macro_rules! contract_suite {
    ($store:ident, $open:path) => {
        mod $store {
            tests! { $open =>
                patterns: [
                    every_field_comes_back, a_taken_key_is_not_inserted, what_is_not_there_is_absent,
                    an_update_replaces_everything_but_the_key, a_task_that_changes_loses_its_vector,
                    a_deleted_pattern_leaves_nothing, get_keeps_the_order_it_is_asked_in,
                    pages_follow_the_keys, scores_follow_the_ids, faded_scores_are_set, reuse_is_counted,
                    the_same_task_is_found_by_its_digest, an_equal_pattern_is_found, vectors_are_attached_to_their_text,
                    patterns_without_a_vector_of_the_space_are_listed, evaluations_belong_to_a_pattern,
                    evidence_is_set_and_counts_in_the_next_search,
                    a_dropped_unit_of_work_leaves_nothing, a_committed_unit_of_work_is_durable,
                    a_reader_cannot_write, marks_stay, it_answers,
                ],
                search: [
                    nearest_finds_what_a_naive_search_finds, equal_scores_go_by_id, filters_are_part_of_the_search,
                    quality_and_age_change_the_order, keywords_join_the_rank, a_page_is_short_only_at_its_end,
                    other_spaces_are_never_compared, near_finds_what_is_about_equal, near_sees_work_before_its_commit,
                    near_after_a_mark_finds_what_came_since, words_are_found, user_text_is_no_syntax,
                    word_filters_and_ranking, words_of_what_waits_for_its_vector, other_scopes_do_not_blur_keywords,
                ],
                skills: [tags_are_replaced_and_counted, tags_are_searched, tags_of_what_is_gone],
                feedback: [
                    issues_are_stored_by_their_text, the_top_is_ordered_and_bounded, any_case_is_contained,
                    only_the_newest_tasks_of_an_issue_stay, vectors_stay_until_they_are_replaced,
                ],
                spend: [
                    a_budget_is_kept_by_day_role_and_tenant, what_was_spent_replaces_what_was_set_aside,
                    many_at_once_never_exceed_a_budget,
                ],
                billing: [
                    a_subscription_comes_back_and_is_the_tenants_own, places_and_what_was_done_share_a_month,
                    a_place_that_nobody_gives_back_is_free_again, many_at_once_take_no_more_places_than_there_are,
                    any_order_of_events_keeps_the_quota, what_a_tenant_holds_covers_its_projects,
                    whoever_is_alone_keeps_the_others_waiting,
                ],
                payments: [
                    a_customer_is_one_tenant_for_good, events_come_back_once, a_customer_that_nobody_knows_is_found_later,
                    months_are_kept_and_listed, a_day_has_one_warning, tenants_to_look_after_are_listed,
                    an_event_is_placed_however_it_meets_its_customer,
                ],
                statistics: [
                    counters_add_up, only_the_newest_scores_stay, patterns_are_counted_with_their_rows,
                    totals_cover_every_scope,
                ],
                analytics: [
                    events_come_newest_first, an_event_is_appended_once, only_the_newest_events_stay,
                    the_last_rollup_stays,
                ],
                governance: [
                    retention_belongs_to_the_project_or_its_tenant, what_is_older_is_found_oldest_first,
                    old_issues_tasks_and_events_are_forgotten, a_classification_changes_alone,
                    exported_pages_are_bounded_and_filtered, requests_belong_to_the_tenant,
                    each_scope_of_a_round_goes_to_one,
                ],
                keys: [
                    a_key_is_found_by_its_hash, only_one_key_is_the_first, keys_are_listed_by_project,
                    a_revoked_key_stays_and_says_so, a_rotated_key_has_another_hash,
                    uses_are_noted_and_never_moved_back, a_key_of_a_dropped_unit_is_gone,
                ],
                jobs: [
                    every_field_of_a_job_comes_back, jobs_are_listed_newest_first_by_state, a_job_is_claimed_once,
                    an_older_attempt_settles_nothing, a_verdict_and_its_effects_are_one, tenants_take_turns,
                    tenants_can_be_passed_over, a_pending_job_is_cancelled_at_once, a_running_job_is_told_to_stop,
                    a_retry_waits_for_its_time, a_lost_lease_is_taken_back_until_attempts_are_used_up,
                    expired_jobs_end_whether_pending_or_running, a_released_attempt_does_not_count,
                    progress_belongs_to_the_attempt, old_jobs_are_forgotten, a_job_of_a_dropped_unit_is_gone,
                    many_claims_at_once_share_the_jobs, a_claim_neither_writes_nor_waits_in_a_scope,
                    leases_of_the_process_before, looks_that_are_cut_short_do_no_harm,
                ],
                idempotency: [
                    a_place_is_held_then_answered_for_its_time, a_lease_that_is_over_opens_the_place,
                    a_place_that_is_given_back_is_free, of_many_at_once_one_gets_the_place,
                    places_of_other_scopes_are_others, places_whose_time_is_over_are_forgotten,
                ],
                projects: [
                    a_project_is_registered_once, a_full_tenant_gets_no_more, many_at_once_never_exceed_the_limit,
                    a_project_of_a_dropped_unit_is_gone,
                ],
                audit: [
                    every_field_of_an_entry_comes_back, pages_are_filtered_and_go_back_in_time,
                    a_tenant_has_one_chain_and_a_project_its_pages, appends_at_once_make_one_chain,
                    a_dropped_unit_leaves_no_gap, tenants_with_a_log_are_listed,
                ],
                backups: [
                    a_turn_is_taken_once_in_its_time, a_turn_that_nobody_ended_is_due_again_soon,
                    of_many_at_once_one_has_the_turn,
                ],
                copy: [
                    whole_patterns_come_in_the_order_of_their_ids, counters_are_set, keys_are_put_in_place,
                    a_project_keeps_its_first_registration, entries_are_written_as_they_are,
                    carried_rows_are_kept_once, every_scope_is_listed, spaces_and_marks_are_listed,
                ],
                erasure: [
                    a_project_goes_with_everything_and_nothing_else, a_closed_project_is_used_by_nobody,
                    an_erased_project_begins_anew_as_an_empty_one, what_is_not_there_is_not_closed,
                    an_erasure_goes_on_where_it_was, a_tenant_goes_with_all_its_projects,
                    nothing_that_is_written_meanwhile_survives,
                    a_tenant_without_any_project_is_erased_too,
                ],
                isolation: [no_scope_sees_another, foreign_ids_change_nothing],
                concurrency: [
                    all_units_of_a_batch_are_durable, a_failed_unit_spares_the_others,
                    cancelled_tasks_do_no_harm, readers_do_not_wait_for_a_writer, many_first_searches_at_once,
                    equal_inserts_leave_one, the_next_in_line_sees_the_released_unit,
                ],
                model: [random_operations_agree_with_a_naive_memory],
            }
        }
    };
}

contract_suite!(sqlite, super::super::open_sqlite);
contract_suite!(postgres, super::super::open_postgres);
// Without memory for indexes every search is SQL.
contract_suite!(postgres_sql, super::super::open_postgres_without_indexes);

/// A database of its own, and how much memory searches may take.
struct Postgres {
    database: OnceCell<Database>,
    search_memory_bytes: usize,
}

fn open_postgres() -> impl Fixture + 'static {
    Postgres { database: OnceCell::new(), search_memory_bytes: 64 << 20 }
}

fn open_postgres_without_indexes() -> impl Fixture + 'static {
    Postgres { database: OnceCell::new(), search_memory_bytes: 0 }
}

#[async_trait(?Send)]
impl Fixture for Postgres {
    async fn open(&self, space: Space) -> Arc<dyn Store> {
        let database = self.database.get_or_init(Database::new).await;
        let compute = Arc::new(ComputePool::start(1, 64).expect("threads"));
        let settings = Settings { search_memory_bytes: self.search_memory_bytes, ..settings(&database.url()) };
        Arc::new(PostgresStore::open(&settings, Some(space), compute).await.expect("the store opens"))
    }
}

/// A directory with its own compute threads.
struct Directory(TempDir);

fn open_sqlite() -> impl Fixture + 'static {
    Directory(TempDir::new().expect("a directory"))
}

#[async_trait(?Send)]
impl Fixture for Directory {
    async fn open(&self, space: Space) -> Arc<dyn Store> {
        let compute = Arc::new(ComputePool::start(1, 64).expect("threads"));
        Arc::new(SqliteStore::open(self.0.path(), Some(space), compute).await.expect("the store opens"))
    }
}
