//! Nobody learns anything of another scope, by whatever operation with whatever input.
//!
//! Two proofs at once. Every text of a scope holds a word that no other scope ever sends: it must turn up in no answer
//! and no log line of others. And each caller runs twice, beside the others and alone in the world: every answer must be
//! the same, so that not even a count, an order or an error text tells that the others are there.

use std::io;
use std::sync::{Arc, Mutex};

use axum::http::Method;
use chrono::TimeDelta;
use engramia::domain::{Feedback, Ratings, Role, Scope, Timestamp};
use engramia::store::Store;
use serde_json::{Map, Value, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::app::{BOOTSTRAP_TOKEN, Setup, TestApp, api_key, store_key};
use crate::support::fakes::{CountedEntropy, StoppedClock};
use crate::support::operations::{Operation, operations};
use crate::support::people::{Answer, Person};
use crate::support::postgres::Database;

/// Somebody's memory. What holds `<word>hidden` is known to nobody else; `<word>known` is what an attacker may guess.
struct Place {
    word: &'static str,
    tenant: &'static str,
    project: &'static str,
}

const PLACES: [Place; 3] = [
    Place { word: "amber", tenant: "amberhidden.tenant", project: "one" },
    Place { word: "birch", tenant: "amberhidden.tenant", project: "birchknown.two" },
    Place { word: "cedar", tenant: "cedarhidden.tenant", project: "one" },
];

impl Place {
    fn scope(&self) -> Scope {
        Scope::verified(self.tenant, self.project)
    }

    fn hidden(&self) -> String {
        format!("{}hidden", self.word)
    }

    fn known(&self) -> String {
        format!("{}known", self.word)
    }

    fn secret(&self, role: Role) -> String {
        format!("{}-key-of-the-{}", self.hidden(), role.as_str())
    }

    fn key_id(&self, role: Role) -> String {
        api_key(&self.secret(role), self.scope(), role).id
    }

    /// What others may guess of it.
    fn guesses(&self) -> Vec<String> {
        vec![
            self.known(),
            format!("patterns/{}", self.known()),
            format!("{} is a task for everybody", self.known()),
            self.key_id(Role::Owner),
            self.key_id(Role::Admin),
            self.project.to_owned(),
        ]
    }
}

/// Where the log goes.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn take(&self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut *self.0.lock().expect("no panic"))).into_owned()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// An application with the memories of some places.
struct World {
    app: TestApp,
    entropy: Arc<CountedEntropy>,
    // Dropped after the application.
    _database: Option<Database>,
}

/// Where everything is kept.
#[derive(Clone, Copy)]
enum Kind {
    Embedded,
    /// Searched in memory.
    Postgres,
    /// Searched in the database.
    PostgresOnly,
}

impl World {
    async fn new(kind: Kind, places: &[usize]) -> Self {
        let database = match kind {
            Kind::Embedded => None,
            Kind::Postgres | Kind::PostgresOnly => Some(Database::new().await),
        };
        let (clock, entropy) = (Arc::new(StoppedClock::new()), Arc::new(CountedEntropy::default()));
        let mut setup = Setup::new()
            .without_worker()
            .stored_keys()
            .clock(clock.clone())
            .entropy(entropy.clone())
            .var("ENGRAMIA_BOOTSTRAP_TOKEN", BOOTSTRAP_TOKEN)
            .var("ENGRAMIA_METRICS", "true");
        if let Some(database) = &database {
            setup = setup.postgres(database);
        }
        if matches!(kind, Kind::PostgresOnly) {
            setup = setup.var("ENGRAMIA_SEARCH_MEMORY", "0");
        }
        let prepared = setup.prepare(async |store| {
            for place in places {
                prepare(store, &PLACES[*place]).await;
            }
        });
        let app = prepared.await.start().await;
        for number in places {
            // What is random does not depend on who else is there.
            entropy.set((*number as u64) << 32);
            furnish(&app, &PLACES[*number]).await;
        }
        clock.pass(TimeDelta::days(30));
        Self { app, entropy, _database: database }
    }
}

/// What no operation of today stores: the first keys of a tenant, and recurring issues.
async fn prepare(store: &dyn Store, place: &Place) {
    for role in [Role::Owner, Role::Admin] {
        let mut key = api_key(&place.secret(role), place.scope(), role);
        key.name = format!("{} name of the {}", place.hidden(), role.as_str());
        key.prefix = format!("{}...", place.hidden());
        store_key(store, &key).await;
    }
    let at = Timestamp::UNIX_EPOCH;
    let issue = |text: String, count| Feedback {
        text,
        count,
        score: 0.9,
        ratings: Ratings::default(),
        last_seen: at,
        decayed_at: at,
    };
    let issues = [
        issue(format!("issue of everybody {} {}", place.known(), place.hidden()), 5),
        issue("issue of everybody".into(), 3 + u32::try_from(place.word.len()).expect("short")),
    ];
    let mut work = store.begin(&place.scope()).await.expect("a unit of work");
    for issue in &issues {
        work.feedback().put(issue, None).await.expect("written");
    }
    work.commit().await.expect("committed");
}

/// Uses every operation that stores something.
async fn furnish(app: &TestApp, place: &Place) {
    let owner = app.holder_of(&place.secret(Role::Owner));
    let (hidden, known) = (place.hidden(), place.known());
    let id = format!("{hidden}-request");
    let send = async |path: &str, body: Value| {
        let answer = owner.post(path, &body).header("x-request-id", &id).await;
        assert!(answer.status.is_success(), "{path}: {}", answer.text());
        answer.json()
    };
    let mut pattern = Value::Null;
    for task in [format!("{known} is a task for everybody"), format!("{hidden} secret task"), "shared task".to_owned()]
    {
        let body = json!({
            "task": task, "code": format!("{hidden}_code()"), "eval_score": 8.5, "output": format!("{hidden} output"),
            "run_id": format!("{hidden}-run"), "classification": "confidential", "source": "sdk",
        });
        pattern = send("/v1/learn", body).await["pattern_key"].clone();
    }
    let record = |key: &str, task: &str| {
        let data = json!({
            "task": task, "success_score": 7.0, "design": { "code": format!("{hidden}()") }, "extra": hidden.clone()
        });
        json!({ "version": 1, "key": key, "data": data })
    };
    let records = [
        record(&format!("patterns/{known}"), "imported task"),
        record("patterns/everybody", &format!("{hidden} imported task")),
        record(&format!("patterns/{hidden}"), "shared imported task"),
        record("patterns/gone", "a task that is deleted"),
    ];
    send("/v1/import", json!({ "records": records, "overwrite": true })).await;
    let tags = json!({ "pattern_key": pattern, "skills": ["everybody", known.clone(), hidden.clone()] });
    send("/v1/skills/register", tags).await;
    send("/v1/recall", json!({ "task": format!("{hidden} question") })).await;
    send("/v1/recall", json!({ "task": "shared task" })).await;
    let made = send("/v1/keys", json!({ "name": format!("{hidden} key"), "role": "reader" })).await;
    let path = format!("/v1/keys/{}", made["id"].as_str().expect("an id"));
    owner.delete(&path).header("x-request-id", &id).await.ok();
    owner.delete("/v1/patterns/patterns/gone").header("x-request-id", &id).await.ok();
    owner.get("/v1/export").header("x-request-id", &id).await.ok();
    // Writes what is gathered.
    owner.get("/v1/audit").await.ok();
    // A dead key, and a refused path with a word of its own.
    let dead = app.holder_of(made["key"].as_str().expect("a key"));
    dead.get(&format!("/v1/{hidden}")).header("x-request-id", &id).await.problem(401, "UNAUTHORIZED");
    owner.get("/v1/audit").await.ok();
}

/// A request of an attacker.
#[derive(Debug, Clone)]
struct Attempt {
    method: Method,
    path: String,
    body: Option<Value>,
    project: Option<String>,
}

impl Attempt {
    fn is_hybrid(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body["hybrid"] == true)
    }

    async fn send(&self, person: &Person, number: usize) -> Answer {
        let mut call = person.call(self.method.clone(), &self.path).header("x-request-id", format!("attempt-{number}"));
        if let Some(project) = &self.project {
            call = call.header("x-project-id", project);
        }
        match &self.body {
            Some(body) => call.body(body.to_string()).await,
            None => call.await,
        }
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Every request that an operation can take with these inputs.
fn attempts(operation: &Operation, inputs: &[String]) -> Vec<Attempt> {
    let plain = Attempt {
        method: operation.method.clone(),
        path: operation.concrete_path(),
        body: operation.has_body().then(|| operation.valid_body()),
        project: None,
    };
    let mut all = vec![plain.clone()];
    let parameters: Vec<&Value> = operation.documented["parameters"].as_array().into_iter().flatten().collect();
    for input in inputs {
        all.push(Attempt { project: Some(input.clone()), ..plain.clone() });
        // Whoever erases its own project has nothing left to see.
        if operation.path.contains('{') && !(operation.id == "erase_project" && input == PLACES[0].project) {
            let path = operation.path.replace("{key}", &encoded(input)).replace("{key_id}", &encoded(input));
            let path = path.replace("{project_id}", &encoded(input)).replace("{tenant_id}", &encoded(input));
            all.push(Attempt { path, ..plain.clone() });
        }
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().expect("a name");
            all.push(Attempt { path: format!("{}?{name}={}", plain.path, encoded(input)), ..plain.clone() });
        }
        for body in bodies(operation, input) {
            all.push(Attempt { body: Some(body), ..plain.clone() });
        }
    }
    all
}

/// Bodies with an input in each member that takes a text; with every switch as it is, and turned.
fn bodies(operation: &Operation, input: &str) -> Vec<Value> {
    if !operation.has_body() {
        return Vec::new();
    }
    let schema = operation.body_schema();
    let members: Map<String, Value> = schema["properties"].as_object().cloned().unwrap_or_default();
    let is = |schema: &Value, kind: &str| match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(|known| known == kind),
        known => known == kind,
    };
    let mut turned = Map::new();
    for (name, schema) in members.iter().filter(|(_, schema)| is(schema, "boolean")) {
        turned.insert(name.clone(), json!(schema["default"] != true));
    }
    if members.contains_key("limit") {
        turned.insert("limit".into(), json!(50));
    }
    let mut all = Vec::new();
    for (name, schema) in &members {
        let value = if is(schema, "string") && schema.get("pattern").is_none() {
            json!(input)
        } else if is(schema, "array") && is(&schema["items"], "string") {
            json!([input])
        } else if is(schema, "array") {
            let data = json!({ "task": input, "success_score": 5.0, "design": { "code": input } });
            json!([{ "version": 1, "key": input, "data": data }])
        } else {
            continue;
        };
        let mut body = operation.valid_body();
        body[name] = value;
        all.push(body.clone());
        if !turned.is_empty() {
            body.as_object_mut().expect("an object").extend(turned.clone());
            all.push(body);
        }
    }
    all
}

/// Without what is measured, or written in the background whenever it comes to it.
fn steady(mut value: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(members) => {
                // The last is counted in the background.
                for name in ["last_used_at", "latency_ms", "uptime_seconds", "reuse_count"] {
                    members.remove(name);
                }
                members.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut value);
    value
}

/// What must be the same in both worlds.
fn described(answer: &Answer, has_siblings: bool) -> String {
    let mut headers = answer.headers.clone();
    // The body is compared itself.
    headers.remove("content-length");
    let body = serde_json::from_slice(&answer.bytes).map(|value| {
        let mut value = steady(value);
        // Those of one moment come in the order of their ids, which are random.
        if let Some(events) = value.get_mut("events").and_then(Value::as_array_mut) {
            events.sort_by_key(Value::to_string);
        }
        if has_siblings && let Some(cursor) = value.get_mut("next_cursor") {
            // Entries are numbered by the tenant, so that a cursor counts those of its other projects, too.
            cursor.take();
        }
        if has_siblings && value.get("plan_tier").is_some() {
            // A plan is the tenant's, and so is what is used of it.
            value["patterns_used"].take();
            value["projects_used"].take();
        }
        value.to_string()
    });
    format!("{} {headers:?} {}", answer.status, body.unwrap_or_else(|_| answer.text()))
}

/// Everything of an answer, as it is.
fn shown(answer: &Answer) -> String {
    format!("{} {:?} {}", answer.status, answer.headers, answer.text())
}

struct Attack {
    kind: Kind,
    /// Whose memory.
    place: usize,
    role: Role,
    /// Whom else the caller may see.
    sees: &'static [usize],
}

impl Attack {
    async fn run(self) {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("info,engramia=trace")
            .with_writer(lines.clone())
            .with_ansi(false)
            .finish();
        // Of this thread, which runs the whole test.
        let _guard = tracing::subscriber::set_default(subscriber);
        let own = [&[self.place], self.sees].concat();
        let victims: Vec<&Place> = (0..PLACES.len()).filter(|at| !own.contains(at)).map(|at| &PLACES[at]).collect();
        let has_siblings = victims.iter().any(|victim| victim.tenant == PLACES[self.place].tenant);

        let everybody = World::new(self.kind, &[0, 1, 2]).await;
        let alone = World::new(self.kind, &own).await;
        let secret = PLACES[self.place].secret(self.role);
        let holder = |world: &World| world.app.holder_of(&secret);
        let before = possessions(&everybody, &victims).await;

        let mut inputs = vec!["shared task".to_owned(), "patterns/everybody".into(), "everybody".into()];
        inputs.extend(victims.iter().flat_map(|victim| victim.guesses()));
        let mut operations = operations();
        // Written first, then read; what removes comes last.
        operations.sort_by_key(|operation| (operation.method == Method::DELETE, operation.method == Method::GET));
        let routes = ["/metrics", "/livez", "/readyz", "/openapi.json", "/v1/nowhere", "/v1/learn/"];
        let beside =
            routes.map(|path| Attempt { method: Method::GET, path: path.to_owned(), body: None, project: None });
        let all: Vec<Attempt> =
            operations.iter().flat_map(|operation| attempts(operation, &inputs)).chain(beside).collect();
        lines.take();
        let mut successes = 0;
        for (number, attempt) in all.iter().enumerate() {
            // What is random follows from the request alone: no worker draws in between.
            for world in [&everybody, &alone] {
                world.entropy.set((1 << 48) + ((number as u64) << 24));
            }
            let answer = attempt.send(&holder(&everybody), number).await;
            let logged = lines.take();
            // What monitoring asks all the time is not logged while it is well.
            let is_quiet = ["/v1/health", "/metrics", "/livez", "/readyz"].contains(&attempt.path.as_str());
            let seen = is_quiet || logged.contains(&format!("attempt-{number}"));
            assert!(seen, "its log is seen: {attempt:?} {logged}");
            for (what, text) in [("answer", shown(&answer)), ("log", logged)] {
                let text = text.to_lowercase();
                let leak = victims.iter().find(|victim| text.contains(&victim.hidden()));
                assert!(leak.is_none(), "{attempt:?}: the {what} shows {}: {text}", PLACES[self.place].word);
            }
            let reference = attempt.send(&holder(&alone), number).await;
            // Sums over everybody; and how rare a word is, the text index of the embedded store only knows of its whole
            // database, so that the weight of a word there may tell whether anybody uses it.
            let weighed = matches!(self.kind, Kind::Embedded) && attempt.is_hybrid();
            if attempt.path != "/metrics" && !weighed {
                let (with, without) = (&answer, &reference);
                assert_eq!(described(with, has_siblings), described(without, has_siblings), "{attempt:?}");
            }
            assert!(
                answer.status.as_u16() < 500
                    || answer.status == 501
                    || attempt.path.contains("bootstrap")
                    || attempt.path.contains("billing"),
                "{}",
                answer.text()
            );
            successes += usize::from(answer.status.is_success());
            if let Some(key) = answer.status.is_success().then(|| issued(&answer)).flatten() {
                self.use_key(&key, &everybody, &alone, &victims).await;
            }
            for world in [&everybody, &alone] {
                // Writes what is gathered, so that it is written in the same order.
                holder(world).get("/v1/audit?limit=1").await.ok();
            }
            lines.take();
        }
        println!("{} requests, {successes} of them successful", all.len());
        assert!(all.len() > 150 && successes > 60, "{} {successes}", all.len());
        assert_eq!(possessions(&everybody, &victims).await, before, "nothing of the others has changed");
    }

    /// A key that was made during the attack opens nothing of others either.
    async fn use_key(&self, key: &str, everybody: &World, alone: &World, victims: &[&Place]) {
        for path in ["/v1/export", "/v1/keys", "/v1/audit", "/v1/health", "/v1/feedback"] {
            let answer = everybody.app.holder_of(key).get(path).await;
            let reference = alone.app.holder_of(key).get(path).await;
            assert_eq!(answer.status, reference.status);
            let text = shown(&answer).to_lowercase();
            assert!(victims.iter().all(|victim| !text.contains(&victim.hidden())), "{path}: {text}");
        }
    }
}

/// The secret of a key that an answer hands out.
fn issued(answer: &Answer) -> Option<String> {
    let body: Value = serde_json::from_slice(&answer.bytes).ok()?;
    body["secret"].as_str().map(str::to_owned)
}

/// Everything that the victims have.
async fn possessions(world: &World, victims: &[&Place]) -> Vec<Value> {
    let mut all = Vec::new();
    for victim in victims {
        let owner = world.app.holder_of(&victim.secret(Role::Admin));
        for path in ["/v1/health", "/v1/metrics", "/v1/feedback?limit=20", "/v1/keys"] {
            all.push(steady(owner.get(path).await.ok()));
        }
        let events = owner.get("/v1/audit?limit=1000").await.ok();
        let actions = events["events"].as_array().expect("a list").iter().map(|event| event["action"].clone());
        // The exports below are events, too.
        all.push(actions.filter(|action| action != "data_exported").collect());
        let found = owner.post("/v1/skills/search", &json!({ "required": ["everybody"] })).await.ok();
        assert!(found.to_string().contains(&victim.hidden()));
        all.push(found);
        let exported = owner.get("/v1/export").await.ok();
        assert_eq!(exported["count"], 6, "{exported}");
        assert!(exported.to_string().contains(&victim.hidden()));
        all.push(exported);
    }
    all
}

/// An admin, who sees nothing of the other project.
async fn as_admin(kind: Kind) {
    Attack { kind, place: 0, role: Role::Admin, sees: &[] }.run().await;
}

/// An owner, who may enter every project of the tenant.
async fn as_owner(kind: Kind) {
    Attack { kind, place: 0, role: Role::Owner, sees: &[1] }.run().await;
}

/// The owner of another tenant, whose project has the same name.
async fn as_stranger(kind: Kind) {
    Attack { kind, place: 2, role: Role::Owner, sees: &[] }.run().await;
}

#[tokio::test]
async fn the_embedded_store_shows_an_admin_nothing_of_others() {
    as_admin(Kind::Embedded).await;
}

#[tokio::test]
async fn the_embedded_store_shows_an_owner_nothing_of_other_tenants() {
    as_owner(Kind::Embedded).await;
}

#[tokio::test]
async fn the_embedded_store_shows_another_tenant_nothing() {
    as_stranger(Kind::Embedded).await;
}

#[tokio::test]
async fn postgresql_shows_an_admin_nothing_of_others() {
    as_admin(Kind::Postgres).await;
}

#[tokio::test]
async fn postgresql_shows_an_owner_nothing_of_other_tenants() {
    as_owner(Kind::Postgres).await;
}

#[tokio::test]
async fn postgresql_shows_another_tenant_nothing() {
    as_stranger(Kind::Postgres).await;
}

#[tokio::test]
async fn postgresql_searched_without_memory_shows_another_tenant_nothing() {
    as_stranger(Kind::PostgresOnly).await;
}
