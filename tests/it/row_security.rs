//! The second lock of PostgreSQL: row-level security holds for every table that has tenants, whoever adds one.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;
use engramia::domain::analytics::{Rollup, Window};
use engramia::domain::erasure::ErasureOrder;
use engramia::domain::job::{NewJob, Submitter};
use engramia::domain::overage::OveragePeriod;
use engramia::domain::spend::{Budget, ModelRole, Nanos};
use engramia::domain::subject::{RequestStatus, RequestType, SubjectRequest};
use engramia::domain::subscription::Overage;
use engramia::domain::{Feedback, JobOperation, Month, Plan, Ratings, Role, Scope, Subscription, Timestamp};
use engramia::store::Store;
use engramia::store::billing::Reservation;
use engramia::store::copy::CarriedRow;
use engramia::store::idempotency::{Application, Hold, Place};
use engramia::store::memory::IssueTask;
use engramia::store::spend::Booking;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::support::app::{Setup, TestApp, api_key, store_key};
use crate::support::postgres::{Database, execute, numbers};
use crate::support::run;

/// Tables that are looked into before any tenant is known, or hold nothing of one.
const CONTROL_PLANE: [&str; 8] =
    ["_sqlx_migrations", "api_keys", "marks", "spaces", "stripe_customers", "stripe_events", "sweeps", "tenants"];
/// Tables whose rows belong to the tenant as a whole.
const OF_THE_TENANT: [&str; 13] = [
    "audit_heads",
    "audit_log",
    "billing_subscriptions",
    "carried_rows",
    "data_subject_requests",
    "dunning_warnings",
    "erasures",
    "job_turns",
    "model_spend",
    "overage_periods",
    "projects",
    "usage_counters",
    "usage_reservations",
];

/// Two tenants, the first with two projects.
fn scopes() -> [Scope; 3] {
    [("acme", "one"), ("acme", "two"), ("other", "one")].map(|(tenant, project)| Scope::verified(tenant, project))
}

/// A database with rows of every scope in every table.
pub async fn furnished(database: &Database) -> TestApp {
    let secrets = ["key-0", "key-1", "key-2"];
    let setup = Setup::new().postgres(database).stored_keys().prepare(async |store: &dyn Store| {
        for (scope, secret) in scopes().into_iter().zip(secrets) {
            store_key(store, &api_key(secret, scope.clone(), Role::Owner)).await;
            let mut work = store.begin(&scope).await.expect("a unit of work");
            let at = Timestamp::UNIX_EPOCH;
            let issue = Feedback {
                text: "issue".into(),
                count: 2,
                score: 1.0,
                ratings: Ratings::default(),
                last_seen: at,
                decayed_at: at,
            };
            work.feedback().put(&issue, None).await.expect("written");
            let task = IssueTask { text: "task".into(), vector: None, seen_at: at };
            work.feedback().note_tasks("issue", &[task]).await.expect("written");
            work.analytics().put_rollup(&Rollup::of(Window::Daily, &[], at)).await.expect("written");
            let row = CarriedRow { source: "plans".into(), id: scope.project().into(), data: "{}".into() };
            work.copying().put_carried(&[row]).await.expect("written");
            // It waits for ever, so that the tenant stays in the row of those that wait.
            work.jobs().enqueue(&waiting_job(&scope)).await.expect("queued");
            work.commit().await.expect("committed");
            close_another(store, &scope).await;
            let place = Application {
                hold: Hold { name: [1; 32], holder: "server".into() },
                request: [2; 32],
                now: at,
                lease_until: at + TimeDelta::days(50_000),
                expires_at: at + TimeDelta::days(50_000),
            };
            assert_eq!(store.repeatable().take(&scope, &place).await.expect("written"), Place::Free);
            let mut work = store.begin(&Scope::of_tenant(scope.tenant())).await.expect("a unit of work");
            let (booking, budget) = spending(at);
            assert_eq!(work.spend().reserve(&booking, &budget).await.expect("written"), None);
            work.billing().put_subscription(&Subscription::none()).await.expect("written");
            let place =
                Reservation { id: scope.project().into(), month: Month::of(at), expires_at: at + TimeDelta::days(1) };
            assert_eq!(work.billing().reserve_run(&place, 9, at).await.expect("written"), None);
            let month = OveragePeriod::under(&paying(), Month::of(at), None, 0).expect("overage");
            work.payments().put_period(&month).await.expect("written");
            work.payments().claim_warning(at.date_naive()).await.expect("written");
            work.subjects().put(&subject_request(at)).await.expect("written");
            work.commit().await.expect("committed");
        }
    });
    let app = setup.await.start().await;
    for secret in secrets {
        let owner = app.holder_of(secret);
        for task in ["read a table", "write a table"] {
            owner.post("/v1/learn", &run(task, "code", 8.0)).await.ok();
        }
        let found = owner.post("/v1/recall", &json!({ "task": "read a table" })).await.ok();
        let keys = crate::support::keys(&found);
        let tags = json!({ "pattern_key": keys[0], "skills": ["tables"] });
        owner.post("/v1/skills/register", &tags).await.ok();
        owner.delete(&format!("/v1/patterns/{}", keys[1])).await.ok();
    }
    app
}

/// Somebody who pays for more evaluations.
fn paying() -> Subscription {
    let overage = Overage { enabled: true, cap_cents: None };
    Subscription { plan: Plan::Team, overage, ..Subscription::none() }
}

/// A project of the tenant that is being erased, so that there is a row of it.
async fn close_another(store: &dyn Store, scope: &Scope) {
    let gone = Scope::verified(scope.tenant(), &format!("{}-gone", scope.project()));
    let mut work = store.begin(&gone).await.expect("a unit of work");
    work.projects().register("gone", None, Timestamp::UNIX_EPOCH).await.expect("registered");
    work.commit().await.expect("committed");
    let order =
        ErasureOrder { requested_by: None, recorded_in: "gone".into(), reopens: false, at: Timestamp::UNIX_EPOCH };
    let mut work = store.erase(&gone).await.expect("a unit of work");
    assert!(work.erasure().close(&order).await.expect("closed"));
    work.commit().await.expect("committed");
}

/// A nano-dollar of ten.
fn spending(at: Timestamp) -> (Booking, Budget) {
    let booking = Booking { day: at.date_naive(), role: ModelRole::Eval, amount: Nanos(1) };
    (booking, Budget { total: Nanos(10), eval: None, architect: None })
}

fn subject_request(at: Timestamp) -> SubjectRequest {
    SubjectRequest {
        id: "0be2046e-0000-7000-8000-000000000000".into(),
        request_type: RequestType::Access,
        subject_email: "x@y.z".into(),
        status: RequestStatus::Pending,
        created_at: at,
        due_at: at,
        updated_at: at,
        completed_at: None,
        handler_notes: String::new(),
    }
}

fn waiting_job(scope: &Scope) -> NewJob {
    let at = Timestamp::UNIX_EPOCH + TimeDelta::days(50_000);
    NewJob {
        id: format!("0be2046e-0000-7000-8000-{:012x}", u64::from(scope.project() == "two")),
        operation: JobOperation::Aging,
        params: "{}".into(),
        submitter: Submitter { key_id: None, role: Role::Owner, max_patterns: None, address: None, request_id: None },
        created_at: at,
        expires_at: at,
        max_execution: Duration::from_secs(1),
    }
}

async fn words(connection: &mut PgConnection, sql: &str) -> BTreeSet<String> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await;
    let rows = rows.unwrap_or_else(|e| panic!("{sql}: {e}"));
    rows.iter().map(|row| row.try_get(0).expect("a text")).collect()
}

/// Tables of the data plane.
async fn data_tables(connection: &mut PgConnection) -> BTreeSet<String> {
    let tables = words(
        connection,
        "select table_name::text from information_schema.columns \
         where table_schema = 'public' and column_name = 'tenant_id'",
    );
    tables.await.into_iter().filter(|table| !CONTROL_PLANE.contains(&table.as_str())).collect()
}

/// From now on the connection is the application's, in this scope.
async fn enter(connection: &mut PgConnection, scope: Option<&Scope>) {
    let (tenant, project) = scope.map_or(("", ""), |scope| (scope.tenant(), scope.project()));
    let sql = format!(
        "set role engramia_app; set engramia.tenant = '{tenant}'; set engramia.project = '{project}'; \
         set engramia.system = 'off'"
    );
    execute(connection, &sql).await;
}

/// Why a statement is refused.
async fn refusal(connection: &mut PgConnection, sql: &str) -> String {
    let outcome = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    outcome.err().unwrap_or_else(|| panic!("it went through: {sql}")).to_string()
}

#[tokio::test]
async fn every_table_is_of_the_control_plane_or_behind_a_policy() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let open = "select relname::text from pg_class where relnamespace = 'public'::regnamespace \
                and relkind in ('r', 'p', 'v', 'm', 'f') and not relrowsecurity";
    assert_eq!(words(&mut connection, open).await, CONTROL_PLANE.map(str::to_owned).into());
    let known = data_tables(&mut connection).await;
    let closed = "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relrowsecurity";
    assert_eq!(words(&mut connection, closed).await, known);
    // What a policy lets through for reading it lets through for writing, and it holds for every command.
    let odd = "select tablename || ' ' || policyname from pg_policies \
               where schemaname = 'public' and (cmd <> 'ALL' or with_check is not null or permissive <> 'PERMISSIVE')";
    assert_eq!(words(&mut connection, odd).await, BTreeSet::new());
    let owned = "select c.relname::text from pg_class c join pg_roles r on r.oid = c.relowner \
                 where r.rolname = 'engramia_app'";
    assert_eq!(words(&mut connection, owned).await, BTreeSet::new(), "owners are not bound by policies");
    let powers = "select rolname::text from pg_roles where rolname = 'engramia_app' \
                  and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolcanlogin)";
    assert_eq!(words(&mut connection, powers).await, BTreeSet::new());
}

#[tokio::test]
async fn a_scope_sees_only_its_own_rows_of_every_table() {
    let database = Database::new().await;
    let app = furnished(&database).await;
    let mut connection = database.connect().await;
    let tables = data_tables(&mut connection).await;
    assert!(tables.len() >= 12, "{tables:?}");
    // Counts of recalls and of uses are written in the background.
    for table in &tables {
        for scope in scopes() {
            let counted = format!("select count(*) from {table} where {}", of(table, &scope));
            let mut rows = Vec::new();
            for _ in 0..200 {
                rows = numbers(&mut connection, &counted).await;
                if rows != [0] {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            assert_ne!(rows, [0], "the test writes nothing of {scope:?} into {table}");
        }
    }
    app.stop().await;
    for scope in scopes() {
        for table in &tables {
            execute(&mut connection, "reset role").await;
            let own = format!("select count(*) from {table} where {}", of(table, &scope));
            let own = numbers(&mut connection, &own).await;
            enter(&mut connection, Some(&scope)).await;
            assert_eq!(numbers(&mut connection, &format!("select count(*) from {table}")).await, own, "{table}");
            let foreign = format!("select count(*) from {table} where not ({})", of(table, &scope));
            assert_eq!(numbers(&mut connection, &foreign).await, [0], "{table} {scope:?}");
        }
    }
    enter(&mut connection, None).await;
    for table in &tables {
        assert_eq!(numbers(&mut connection, &format!("select count(*) from {table}")).await, [0], "{table}, no scope");
    }
    // A session that never named a scope has no setting at all.
    let mut fresh = database.connect().await;
    execute(&mut fresh, "set role engramia_app").await;
    for table in &tables {
        assert_eq!(numbers(&mut fresh, &format!("select count(*) from {table}")).await, [0], "{table}, no setting");
    }
}

/// The rows of a table that a scope may see.
fn of(table: &str, scope: &Scope) -> String {
    let tenant = format!("tenant_id = '{}'", scope.tenant());
    if OF_THE_TENANT.contains(&table) { tenant } else { format!("{tenant} and project_id = '{}'", scope.project()) }
}

#[tokio::test]
async fn a_scope_writes_nothing_into_another() {
    let database = Database::new().await;
    let app = furnished(&database).await;
    app.stop().await;
    let mut connection = database.connect().await;
    let tables = data_tables(&mut connection).await;
    let [own, ..] = scopes();
    let sum = "select coalesce(sum(hashtextextended(t::text, 0) % 1000000007), 0)::bigint from";
    enter(&mut connection, Some(&own)).await;
    for table in &tables {
        let said = refusal(&mut connection, &format!("update {table} set tenant_id = 'other'")).await;
        assert!(said.contains("row-level security") || said.contains("permission denied"), "{table}: {said}");
    }
    for table in &tables {
        let untouched = format!("{sum} {table} t where not ({})", of(table, &own));
        execute(&mut connection, "reset role").await;
        let before = numbers(&mut connection, &untouched).await;
        enter(&mut connection, Some(&own)).await;
        // Rows of others are not there: nothing happens to them, or nobody may do such a thing at all.
        for change in [format!("update {table} set tenant_id = tenant_id"), format!("delete from {table}")] {
            let outcome = sqlx::raw_sql(AssertSqlSafe(format!("begin; {change}; commit"))).execute(&mut connection);
            if let Err(error) = outcome.await {
                assert!(error.to_string().contains("permission denied"), "{change}: {error}");
                execute(&mut connection, "rollback").await;
            }
        }
        execute(&mut connection, "reset role").await;
        assert_eq!(numbers(&mut connection, &untouched).await, before, "{table}");
    }
    enter(&mut connection, Some(&own)).await;
    let insert = "insert into tombstones values ('other', 'one', 1, 1)";
    assert!(refusal(&mut connection, insert).await.contains("row-level security"));
}

#[tokio::test]
async fn words_are_read_only_through_the_scores_of_the_own_scope() {
    let database = Database::new().await;
    furnished(&database).await.stop().await;
    let mut connection = database.connect().await;
    let [own, sibling, stranger] = scopes();
    let token_of = |scope: &Scope| {
        format!(
            "select m[1] from pattern_words, regexp_matches(words::text, '''([^'']{{12,}})''', 'g') m where {}",
            of("pattern_words", scope)
        )
    };
    let mut tokens = Vec::new();
    for scope in [&own, &sibling, &stranger] {
        let found = words(&mut connection, &token_of(scope)).await;
        assert_eq!(found.len(), 1, "each row holds the token of its scope: {found:?}");
        tokens.extend(found);
    }
    enter(&mut connection, Some(&own)).await;
    assert_eq!(
        numbers(&mut connection, "select count(*) from (select pattern_id, length from pattern_words) w").await,
        [1]
    );
    for column in ["words", "*", "to_json(pattern_words)", "pattern_words"] {
        let said = refusal(&mut connection, &format!("select {column} from pattern_words")).await;
        assert!(said.contains("permission denied"), "{column}: {said}");
    }
    let scores = |scope: &Scope, token: &str| {
        format!("select count(*) from keyword_scores('{}', '{}', '{token}', 'table')", scope.tenant(), scope.project())
    };
    assert_eq!(numbers(&mut connection, &scores(&own, &tokens[0])).await, [1]);
    for (scope, token) in [(&sibling, 1), (&stranger, 2), (&own, 1), (&own, 2), (&sibling, 0), (&stranger, 0)] {
        assert_eq!(numbers(&mut connection, &scores(scope, &tokens[token])).await, [0], "{scope:?} {token}");
    }
    // A text that is no word cannot break out of the query either.
    for odd in ["x'' | ''tabl", "x'' & ''", "' or true --"] {
        let sql = format!("select count(*) from keyword_scores('acme', 'one', $odd${odd}$odd$, 'table')");
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await;
        if let Ok(rows) = outcome {
            assert!(rows[0].try_get::<i64, _>(0).expect("a number") <= 1, "never more than the own row");
        }
    }
}

#[tokio::test]
async fn what_a_tenant_holds_is_told_to_nobody_else() {
    let database = Database::new().await;
    furnished(&database).await.stop().await;
    let mut connection = database.connect().await;
    let [own, _, stranger] = scopes();
    enter(&mut connection, Some(&own)).await;
    let held = |scope: &Scope| format!("select projects from held_by('{}')", scope.tenant());
    assert_eq!(numbers(&mut connection, &held(&own)).await, [2]);
    assert_eq!(numbers(&mut connection, &held(&stranger)).await, [0]);
}
