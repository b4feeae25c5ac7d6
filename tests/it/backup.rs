//! Backups: taken by the real program while a server learns, restored elsewhere, equal in every table; and everything
//! that is refused, with one clear line and nothing changed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use engramia::store::backup::{Archive, Table};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{Row, SqlSafeStr};
use tempfile::TempDir;

use crate::migrations::{ROWS, version_1};
use crate::row_security::furnished;
use crate::support::postgres::{Database, execute, numbers};
use crate::support::program::{self, Server, finished, lesson, on_database, on_directory, refused};

/// A store of either kind.
enum Place {
    Directory(TempDir),
    Database(Database),
}

impl Place {
    fn command(&self) -> Command {
        match self {
            Self::Directory(root) => on_directory(root.path()),
            Self::Database(database) => on_database(&database.url()),
        }
    }

    fn with(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.args(arguments);
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let output = finished(self.with(arguments)).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[&["--json"], arguments].concat()).await;
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    async fn refused(&self, arguments: &[&str]) -> String {
        refused(self.with(arguments)).await
    }
}

/// One of each kind, empty, and another one.
async fn places() -> [(Place, Place); 2] {
    let directory = || tempfile::tempdir().expect("a directory");
    [
        (Place::Directory(directory()), Place::Directory(directory())),
        (Place::Database(Database::empty().await), Place::Database(Database::empty().await)),
    ]
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// Names in a directory.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

fn tables(file: &Path) -> Vec<Table> {
    Archive::open(file).expect("a backup").manifest.tables
}

/// A store with a lesson, and a backup of it in a directory of its own.
async fn backed_up(place: &Place) -> (TempDir, PathBuf) {
    let mut server = Server::start(place.command()).await;
    server.post("/v1/learn", &lesson("read a table")).await.ok();
    server.signal("TERM");
    server.wait();
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("b.tar");
    place.run(&["backup", text(&file)]).await;
    (folder, file)
}

#[tokio::test]
async fn a_backup_taken_while_a_server_learns_is_restored_equal() {
    for (place, other) in places().await {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("b.tar");
        let mut server = Server::start(place.command()).await;
        for number in 0..20 {
            server.post("/v1/learn", &lesson(&format!("before-{number}"))).await.ok();
        }
        let learning = async {
            for number in 0..60 {
                server.post("/v1/learn", &lesson(&format!("meanwhile-{number}"))).await.ok();
            }
        };
        let arguments = ["backup", text(&file)];
        let (made, ()) = tokio::join!(place.json(&arguments), learning);
        assert!(made["rows"].as_u64().expect("a number") > 40, "{made}");
        assert_eq!(names(folder.path()), ["b.tar".to_owned()].into());
        let verified = place.json(&["backup", "verify", text(&file)]).await;
        assert_eq!(verified["ok"], true);
        assert_eq!(names(folder.path()), ["b.tar".to_owned()].into(), "nothing is left of the verification");

        other.json(&["restore", text(&file)]).await;
        let again = folder.path().join("again.tar");
        other.run(&["backup", text(&again)]).await;
        assert_eq!(tables(&file), tables(&again), "every table is equal");
        let restored = Server::start(other.command()).await;
        let tasks = restored.exported_tasks().await;
        for number in 0..20 {
            assert!(tasks.contains(&format!("before-{number}")), "{tasks:?}");
        }
        assert!(server.exported_tasks().await.is_superset(&tasks));
        let found = restored.post("/v1/recall", &json!({ "task": "before-7" })).await.ok();
        assert_eq!(found["matches"][0]["pattern"]["task"], "before-7");
        restored.post("/v1/learn", &lesson("afterwards")).await.ok();
        server.signal("TERM");
        assert!(server.wait().success());
    }
}

#[tokio::test]
async fn one_of_everything_comes_back_in_postgresql() {
    let (database, other) = (Database::new().await, Place::Database(Database::empty().await));
    furnished(&database).await.stop().await;
    let mut connection = database.connect().await;
    let filled = engramia::store::postgres::TABLES.len();
    let place = Place::Database(database);
    let folder = tempfile::tempdir().expect("a directory");
    let (file, again) = (folder.path().join("b.tar"), folder.path().join("again.tar"));
    place.run(&["backup", text(&file)]).await;
    let found = tables(&file);
    assert_eq!(found.len(), filled);
    for table in &found {
        let sql = format!("select count(*) from {}", table.name);
        assert_eq!(numbers(&mut connection, &sql).await, [i64::try_from(table.rows).expect("few")], "{}", table.name);
    }
    assert!(found.iter().filter(|table| table.rows > 0).count() > 25, "{found:?}");
    // The target is there already, and has had another schema in it; its rows go.
    other.run(&["migrate"]).await;
    other.run(&["restore", text(&file)]).await;
    other.run(&["backup", text(&again)]).await;
    assert_eq!(tables(&file), tables(&again));
    let Place::Database(target) = &other else { unreachable!("a database") };
    let mut restored = target.connect().await;
    let next = "select nextval(pg_get_serial_sequence('spaces', 'id'))";
    assert_eq!(numbers(&mut restored, next).await, numbers(&mut connection, next).await, "ids go on where they were");
}

#[tokio::test]
async fn a_backup_of_an_earlier_schema_is_restored_and_brought_to_this_one() {
    let [(_, directory), (old, database)] = places().await;
    let Place::Database(old) = old else { unreachable!("a database") };
    let sql = include_str!("../../migrations/postgres/0001_memory.sql").into_sql_str();
    let first = Migration::new(1, "memory".into(), MigrationType::Simple, sql, false);
    let mut connection = old.connect().await;
    Migrator::with_migrations(vec![first]).run(&mut connection).await.expect("version 1");
    execute(&mut connection, "insert into scopes (tenant_id, project_id, last_pattern) values ('a', 'b', 7)").await;
    let sources = [Place::Directory(version_1(ROWS).await), Place::Database(old)];
    for (place, other) in sources.into_iter().zip([directory, database]) {
        let folder = tempfile::tempdir().expect("a directory");
        let file = folder.path().join("b.tar");
        assert_eq!(place.json(&["backup", text(&file)]).await["schema"], 1);
        place.run(&["backup", "verify", text(&file)]).await;
        let restored = other.json(&["restore", text(&file)]).await;
        assert!(restored["schema_before"] == 1 && restored["schema"].as_i64() > Some(11), "{restored}");
        Server::start(other.command()).await.post("/v1/learn", &lesson("goes on")).await.ok();
    }
}

#[tokio::test]
async fn no_table_and_nothing_else_of_a_migration_is_forgotten() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let mut words = async |sql: &'static str| -> BTreeSet<String> {
        let rows = sqlx::query(sql).fetch_all(&mut connection).await.expect("read");
        rows.iter().map(|row| row.get::<String, _>(0)).collect()
    };
    let known: BTreeSet<String> = engramia::store::postgres::TABLES.map(str::to_owned).into();
    let relations = "select relname::text from pg_class where relnamespace = 'public'::regnamespace \
                     and relkind in ('r', 'p', 'v', 'm', 'f') and relname <> '_sqlx_migrations'";
    assert_eq!(words(relations).await, known, "what becomes of it in a backup? See src/store/postgres/tables.rs");
    let made = "select proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' from pg_proc p \
                where pronamespace = 'public'::regnamespace \
                and not exists (select from pg_depend d where d.objid = p.oid and d.deptype = 'e') \
                union select cfgname::text from pg_ts_config where cfgnamespace = 'public'::regnamespace \
                union select dictname::text from pg_ts_dict where dictnamespace = 'public'::regnamespace \
                union select typname::text from pg_type t where typnamespace = 'public'::regnamespace \
                and typtype in ('e', 'd') \
                and not exists (select from pg_depend d where d.objid = t.oid and d.deptype = 'e')";
    let removed = [
        "keyword_scores(wanted_tenant text, wanted_project text, wanted_token text, wanted text)",
        "held_by(wanted_tenant text)",
        "engramia",
        "engramia_stem",
    ];
    assert_eq!(
        words(made).await,
        removed.map(str::to_owned).into(),
        "a restore removes it first: see `clear` in src/store/postgres/restore.rs"
    );
}

#[tokio::test]
async fn what_is_no_whole_backup_is_refused_and_changes_nothing() {
    for (place, other) in places().await {
        let (folder, file) = backed_up(&place).await;
        let whole = fs::read(&file).expect("read");
        let wrong = folder.path().join("wrong.tar");
        let said = async |bytes: &[u8]| {
            fs::write(&wrong, bytes).expect("written");
            let verified = place.refused(&["backup", "verify", text(&wrong)]).await;
            let restored = other.refused(&["restore", text(&wrong)]).await;
            assert!(verified.contains("wrong.tar") && restored.contains("wrong.tar"), "{verified} {restored}");
            restored
        };
        for length in [600, 1500, whole.len() / 2, whole.len() - 2000, whole.len() - 1024, whole.len() - 1] {
            let line = said(&whole[..length]).await;
            assert!(line.contains("is truncated"), "at {length}: {line}");
        }
        for foreign in [b"".as_slice(), &whole[..100], b"not a tar archive at all", &[0; 4096], &[7; 9000]] {
            assert!(said(foreign).await.contains("is not a backup"));
        }
        let task = whole.windows(12).position(|window| window == b"read a table").expect("the task");
        for position in [task, 620] {
            let mut flipped = whole.clone();
            flipped[position] ^= 0x10;
            let line = said(&flipped).await;
            assert!(line.contains("damaged") || line.contains("manifest"), "at {position}: {line}");
        }
        let more = [whole.as_slice(), b"more"].concat();
        assert!(said(&more).await.contains("damaged"));
        let schema = format!("\"schema\": {}", Archive::open(&file).expect("a backup").header.schema);
        for (from, to) in [("\"format\": 1", "\"format\": 9"), (schema.as_str(), "\"schema\": 9999")] {
            let line = said(&rewritten(&whole, from, to)).await;
            assert!(line.contains("newer than this program's") && line.contains(env!("CARGO_PKG_VERSION")), "{line}");
        }
        // Nothing of it has come to anything.
        match &other {
            Place::Directory(root) => assert!(!root.path().join("engramia.db").exists()),
            Place::Database(database) => {
                let sql = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
                assert_eq!(numbers(&mut database.connect().await, sql).await, [0]);
            }
        }
        fs::remove_file(&wrong).expect("removed");
        assert_eq!(names(folder.path()), ["b.tar".to_owned()].into());
        other.run(&["restore", text(&file)]).await;
    }
}

/// The same backup with another first entry, whose size and place stay.
fn rewritten(whole: &[u8], from: &str, to: &str) -> Vec<u8> {
    let head = std::str::from_utf8(&whole[512..1024]).expect("text").trim_end_matches('\0').to_owned();
    assert!(head.contains(from), "{head}");
    let mut text = head.replace(from, to);
    // Two digits more or less make room or need it.
    while text.len() > head.len() {
        text = text.replacen("  ", " ", 1);
    }
    while text.len() < head.len() {
        text.push(' ');
    }
    let mut bytes = [&whole[..512], text.as_bytes(), &whole[512 + head.len()..]].concat();
    // Its digest in the manifest, at the end.
    let [old, new] = [&head, &text].map(|text| hex::encode(Sha256::digest(text)));
    let at = bytes.windows(64).rposition(|window| window == old.as_bytes()).expect("the digest of the header");
    bytes[at..at + 64].copy_from_slice(new.as_bytes());
    bytes
}

#[tokio::test]
async fn a_store_that_holds_something_is_replaced_only_when_asked_to() {
    for (place, other) in places().await {
        let (_folder, file) = backed_up(&place).await;
        let (_others, _) = backed_up(&other).await;
        let line = other.refused(&["restore", text(&file)]).await;
        assert!(line.contains("holds a memory already") && line.contains("--replace"), "{line}");
        let mut server = Server::start(other.command()).await;
        server.post("/v1/learn", &lesson("to be replaced")).await.ok();
        let line = other.refused(&["restore", text(&file), "--replace"]).await;
        assert!(line.contains("stop it"), "{line}");
        // Killed, so that the log of the embedded store is not folded in.
        server.signal("KILL");
        server.wait();
        // The server of the database notices a moment later that its clients are gone.
        let restored = crate::support::eventually("a restore", async || {
            let output = finished(other.with(&["--json", "restore", text(&file), "--replace"])).await;
            output.status.success().then(|| serde_json::from_slice::<Value>(&output.stdout).expect("JSON"))
        });
        let restored = restored.await;
        let tasks = Server::start(other.command()).await.exported_tasks().await;
        assert_eq!(tasks, ["read a table".to_owned()].into());
        if let Place::Directory(root) = &other {
            let kept = PathBuf::from(restored["kept"].as_str().expect("a path"));
            assert_eq!(kept.parent(), Some(root.path()));
            let before = tempfile::tempdir().expect("a directory");
            fs::copy(kept, before.path().join("engramia.db")).expect("copied");
            let tasks = Server::start(on_directory(before.path())).await.exported_tasks().await;
            assert!(tasks.contains("to be replaced"), "{tasks:?}");
        }
    }
}

#[tokio::test]
async fn a_backup_of_one_kind_of_store_is_refused_by_the_other() {
    let [(directory, _), (database, _)] = places().await;
    let (_one, of_directory) = backed_up(&directory).await;
    let (_two, of_database) = backed_up(&database).await;
    for (place, file) in [(&database, &of_directory), (&directory, &of_database)] {
        let line = place.refused(&["restore", text(file)]).await;
        assert!(line.contains("copy-store") && line.contains("the embedded store"), "{line}");
    }
    let line = directory.refused(&["backup", "verify", text(&of_database)]).await;
    assert!(line.contains("ENGRAMIA_DATABASE_URL"), "{line}");
    database.run(&["backup", "verify", text(&of_directory)]).await;
}

#[tokio::test]
async fn files_that_cannot_be_written_are_refused_and_leave_nothing() {
    for (place, empty) in places().await {
        let (folder, file) = backed_up(&place).await;
        let before = fs::read(&file).expect("read");
        let line = place.refused(&["backup", text(&file)]).await;
        assert!(line.contains("exists already") && line.contains("--force"), "{line}");
        assert_eq!(fs::read(&file).expect("read"), before);
        place.run(&["backup", text(&file), "--force"]).await;
        for target in ["/proc/b.tar", text(&file.join("b.tar")), "/proc", text(&folder.path().join("none/b.tar"))] {
            let line = place.refused(&["backup", target]).await;
            assert!(line.contains(target), "{line}");
        }
        let line = empty.refused(&["backup", text(&folder.path().join("empty.tar"))]).await;
        assert!(line.contains("there is no memory in"), "{line}");
        let line = place.refused(&["restore", text(&folder.path().join("none.tar"))]).await;
        assert!(line.contains("none.tar"), "{line}");
        // A disk that is full: no file may become longer than this.
        let mut limited = Command::new("/bin/sh");
        let inner = place.with(&["backup", text(&folder.path().join("full.tar"))]);
        limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$0\" \"$@\"", program::PROGRAM]).args(inner.get_args());
        limited.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        limited.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        refused(limited).await;
        assert_eq!(names(folder.path()), ["b.tar".to_owned()].into());
        let usage = finished(place.with(&["backup"])).await;
        assert_eq!(usage.status.code(), Some(2));
    }
}

#[tokio::test]
async fn a_restore_that_is_killed_leaves_the_old_state_or_the_new_one() {
    for (place, other) in places().await {
        let (_folder, file) = backed_up(&place).await;
        let mut server = Server::start(other.command()).await;
        server.post("/v1/learn", &lesson("the old state")).await.ok();
        server.signal("TERM");
        server.wait();
        for pause in [5, 20, 40, 80, 160, 320] {
            let mut command = other.with(&["restore", text(&file), "--replace"]);
            let mut restoring = command.spawn().expect("started");
            tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
            drop(restoring.kill());
            restoring.wait().expect("ended");
            let mut server = Server::start(other.command()).await;
            let tasks = server.exported_tasks().await;
            let (old, new) = (tasks.contains("the old state"), tasks.contains("read a table"));
            assert!(tasks.len() == 1 && (old || new), "{tasks:?}");
            server.signal("TERM");
            server.wait();
        }
        crate::support::eventually("a restore", async || {
            let output = finished(other.with(&["restore", text(&file), "--replace"])).await;
            output.status.success().then_some(())
        })
        .await;
        let tasks = Server::start(other.command()).await.exported_tasks().await;
        assert_eq!(tasks, ["read a table".to_owned()].into());
    }
}

#[tokio::test]
async fn a_login_that_does_not_see_every_row_is_told_so() {
    let database = Database::new().await;
    let mut connection = database.connect().await;
    let login = format!("it_{}", uuid::Uuid::new_v4().simple());
    execute(&mut connection, &format!("create role {login} login in role engramia_app")).await;
    let folder = tempfile::tempdir().expect("a directory");
    let mut command = on_database(&database.url_as(&login));
    command.args(["backup", text(&folder.path().join("b.tar"))]);
    let line = refused(command).await;
    execute(&mut connection, &format!("drop role {login}")).await;
    assert!(line.contains("does not see every row") && names(folder.path()).is_empty(), "{line}");
}

#[tokio::test]
async fn scheduled_backups_are_made_and_only_the_newest_are_kept() {
    for (place, other) in places().await {
        let folder = tempfile::tempdir().expect("a directory");
        fs::write(folder.path().join("notes"), "mine").expect("written");
        fs::write(folder.path().join(".engramia-20200101T000000Z.tar.partial"), "cut off").expect("written");
        let scheduled = || {
            let mut command = place.command();
            command
                .env("ENGRAMIA_BACKUP_DIR", folder.path())
                .env("ENGRAMIA_BACKUP_INTERVAL", "1")
                .env("ENGRAMIA_BACKUP_KEEP", "2")
                .env("ENGRAMIA_METRICS", "true");
            command
        };
        let server = Server::start(scheduled()).await;
        server.post("/v1/learn", &lesson("kept twice")).await.ok();
        // Over PostgreSQL another server of the same database makes none beside it.
        let second = if matches!(place, Place::Database(_)) { Some(Server::start(scheduled()).await) } else { None };
        let seen = std::cell::RefCell::new(BTreeSet::new());
        crate::support::eventually("five backups", async || {
            let now: BTreeSet<String> =
                names(folder.path()).into_iter().filter(|name| name.starts_with("engramia-")).collect();
            assert!(now.len() <= 3, "two, and one that is just there: {now:?}");
            let mut seen = seen.borrow_mut();
            seen.extend(now);
            (seen.len() >= 5).then_some(())
        })
        .await;
        let metrics = crate::support::eventually("a time", async || {
            let metrics = server.get("/metrics").await.body;
            (!metrics.contains("engramia_backup_last_success_timestamp_seconds 0")).then_some(metrics)
        });
        let metrics = metrics.await;
        assert!(metrics.contains("engramia_backup_failures_total 0"), "{metrics}");
        drop((server, second));
        let left = names(folder.path());
        assert!(left.contains("notes") && !left.contains(".engramia-20200101T000000Z.tar.partial"), "{left:?}");
        let newest = left.iter().rfind(|name| name.starts_with("engramia-")).expect("a backup");
        other.run(&["restore", text(&folder.path().join(newest))]).await;
        assert!(Server::start(other.command()).await.exported_tasks().await.contains("kept twice"));
    }
}

#[tokio::test]
async fn a_scheduled_backup_that_fails_is_counted_and_the_server_goes_on() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("a file");
    fs::write(&file, "in the way").expect("written");
    let root = tempfile::tempdir().expect("a directory");
    let mut command = on_directory(root.path());
    command.env("ENGRAMIA_BACKUP_DIR", file.join("backups")).env("ENGRAMIA_METRICS", "true");
    let server = Server::start(command).await;
    crate::support::eventually("a failure", async || {
        let metrics = server.get("/metrics").await.body;
        metrics.contains("engramia_backup_failures_total 1").then_some(())
    })
    .await;
    server.post("/v1/learn", &lesson("goes on")).await.ok();
}
