//! A PostgreSQL cluster of one test: it may be stopped, crashed and started again, and is gone with its owner.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use uuid::Uuid;

/// How a cluster is stopped.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// In order; sessions are cut off.
    Fast,
    /// As a crash does.
    Immediate,
}

/// A running or stopped cluster.
pub struct Cluster {
    name: String,
    url: String,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres.sh")
}

fn run(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(script());
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().expect("the script runs");
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

async fn apart(arguments: Vec<String>, variables: &'static [(&str, &str)]) -> String {
    let run = move || run(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), variables);
    tokio::task::spawn_blocking(run).await.expect("done")
}

impl Cluster {
    /// One that keeps what it has acknowledged.
    pub async fn durable() -> Self {
        Self::create(&[("ENGRAMIA_TEST_POSTGRES_FSYNC", "on")]).await
    }

    /// One on which pgvector was never installed.
    pub async fn without_pgvector() -> Self {
        Self::create(&[("ENGRAMIA_TEST_POSTGRES_VECTOR", "off")]).await
    }

    async fn create(variables: &'static [(&str, &str)]) -> Self {
        let name = format!("it-{}", Uuid::new_v4().simple());
        // Owned already, so that it is dropped whatever comes of the start.
        let mut cluster = Self { name, url: String::new() };
        cluster.url = apart(vec!["start".into(), cluster.name.clone()], variables).await;
        cluster
    }

    /// Connection string of its superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts it again, and waits until it answers.
    pub async fn start(&self) {
        let url = apart(vec!["start".into(), self.name.clone()], &[]).await;
        assert_eq!(url, self.url);
    }

    /// Stops it; its data stays.
    pub async fn stop(&self, how: Stop) {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        apart(vec!["stop".into(), self.name.clone(), mode.into()], &[]).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // No panic: the test may be failing already.
        drop(Command::new(script()).args(["drop", &self.name]).stdin(Stdio::null()).status());
    }
}
