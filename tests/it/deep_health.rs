//! Deep health beyond the memory itself: the schema of the database, payments, and what this server does not use.

use serde_json::{Value, json};
use wiremock::MockServer;

use crate::support::app::{Setup, TestApp};
use crate::support::postgres::{Database, execute};

async fn checks(app: &TestApp) -> (Value, Value) {
    let deep = app.owner().get("/v1/health/deep").await.ok();
    (deep["status"].clone(), deep["checks"].clone())
}

#[tokio::test]
async fn the_schema_is_compared_with_the_migrations_of_the_program() {
    let database = Database::new().await;
    for setup in [Setup::new(), Setup::new().postgres(&database)] {
        let app = setup.start().await;
        let (status, checks) = checks(&app).await;
        let migration = &checks["migration"];
        assert_eq!((&status, &migration["status"], &migration["error"]), (&json!("ok"), &json!("ok"), &Value::Null));
        assert!(migration["latency_ms"].is_number() && migration["current_revision"].as_i64() > Some(0), "{migration}");
        assert_eq!(migration["current_revision"], migration["expected_revision"]);
        assert_eq!(checks["storage"].get("current_revision"), None, "of the schema only");
        let unused = json!({ "status": "not_configured", "latency_ms": null, "error": null });
        assert_eq!((&checks["redis"], &checks["stripe"]), (&unused, &unused));
    }
}

#[tokio::test]
async fn a_schema_of_another_version_degrades() {
    let database = Database::new().await;
    let app = Setup::new().postgres(&database).start().await;
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
                 values (9999, 'newer', true, '', 0)";
    execute(&mut database.connect().await, newer).await;
    let (status, checks) = checks(&app).await;
    assert_eq!((&status, &checks["migration"]["status"]), (&json!("degraded"), &json!("error")), "{checks}");
    assert_eq!(checks["migration"]["error"], "the schema is not the one of this program");
    assert_eq!(checks["migration"]["current_revision"], 9999);
}

#[tokio::test]
async fn payments_are_well_as_long_as_somebody_answers() {
    // It knows nothing of what it is asked, and says so.
    let stripe = MockServer::start().await;
    let setup = |url: &str| Setup::new().var("STRIPE_SECRET_KEY", "sk_test").var("STRIPE_API_BASE", url);
    let app = setup(&stripe.uri()).start().await;
    let (status, checks_while_there) = checks(&app).await;
    assert_eq!((&status, &checks_while_there["stripe"]["status"]), (&json!("ok"), &json!("ok")));

    let app = setup("http://127.0.0.1:9").start().await;
    let (status, checks) = checks(&app).await;
    assert_eq!((&status, &checks["stripe"]["status"]), (&json!("degraded"), &json!("error")));
    assert_eq!(checks["stripe"]["error"], "the payment service does not answer");
}
