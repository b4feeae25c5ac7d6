//! The command line: `serve` starts the server, the other verbs are its clients (decision 1).
//!
//! Only this module prints. Answers go to standard output, everything else to standard error. Exit codes: see
//! [`failure`].

mod audit;
mod backup;
mod client;
mod config;
mod copy_store;
mod direct;
mod doctor;
mod export;
mod failure;
mod healthcheck;
mod import;
mod import_original;
mod input;
mod jobs;
mod keys;
mod learn;
mod migrate;
mod outcome;
mod output;
mod partial;
mod recall;
mod records;
mod refusal;
mod restore;
mod retention;
mod serve;
mod status;
mod stream;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;

use client::Client;
use failure::Failure;

const AFTER_HELP: &str = "\
Without a verb the server starts. The client verbs talk to the server at --url; where no URL is given and no server \
listens on this machine, they work on the data directory (ENGRAMIA_DATA_PATH) themselves.

Examples:
  engramia
  engramia learn --task 'Parse a CSV file' --code parse.py --score 8.5
  engramia recall 'Read CSV and compute averages'
  engramia export backup.json

Exit codes: 0 success, 1 failure, 2 usage, 3 server not reachable, 4 credentials refused.";

/// Memory for AI agents: learn what worked, recall it by meaning.
#[derive(Parser)]
#[command(name = "engramia", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    global: Global,
}

/// Options of every verb.
#[derive(Args)]
struct Global {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Server to talk to [default: the one on this machine, at ENGRAMIA_PORT]
    #[arg(long, global = true, value_name = "URL", env = "ENGRAMIA_API_URL")]
    url: Option<String>,
    /// API key; other users of this machine can see it: prefer the variable [default: the owner key in the data
    /// directory]
    #[arg(long, global = true, value_name = "KEY", env = "ENGRAMIA_API_KEY", hide_env_values = true)]
    key: Option<SecretString>,
}

#[derive(Subcommand)]
enum Verb {
    /// Start the server (default)
    Serve(serve::ServeArgs),
    /// Store a successful run as a reusable pattern
    Learn(learn::LearnArgs),
    /// Find stored patterns for a task
    Recall(recall::RecallArgs),
    /// Say what came of using a pattern
    Outcome(outcome::OutcomeArgs),
    /// Store the patterns of an export
    Import(import::ImportArgs),
    /// Write every pattern to a file or a directory
    Export(export::ExportArgs),
    /// Show or set how long patterns are kept, and remove what is older
    Retention(retention::RetentionArgs),
    /// Show health, statistics and version
    Status,
    /// Make, list, revoke and rotate API keys
    #[command(subcommand)]
    Keys(keys::KeysVerb),
    /// List, show and cancel operations that run in the background
    #[command(subcommand)]
    Jobs(jobs::JobsVerb),
    /// Show or check the audit log
    #[command(subcommand)]
    Audit(audit::AuditVerb),
    /// Find out what is wrong with this installation, and change nothing
    Doctor(doctor::DoctorArgs),
    /// Say whether the server on this machine is ready
    Healthcheck(healthcheck::HealthArgs),
    /// Write everything to a file, or check such a file; servers may go on
    Backup(backup::BackupArgs),
    /// Put a backup into the configured store, which no server may use meanwhile
    Restore(restore::RestoreArgs),
    /// Bring the schema of the configured store to this version
    Migrate(migrate::MigrateArgs),
    /// Move a whole memory from one store to another
    CopyStore(copy_store::CopyArgs),
    /// Carry everything over from a PostgreSQL database of the original server
    ImportOriginal(import_original::ImportArgs),
    /// Check or document the configuration
    #[command(subcommand)]
    Config(config::ConfigVerb),
    /// Print the OpenAPI document
    Openapi,
}

/// Parses the arguments and runs.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(Cli { verb, global }: Cli) -> anyhow::Result<()> {
    match verb.unwrap_or(Verb::Serve(serve::ServeArgs::default())) {
        Verb::Serve(args) => serve::run(&args, global.json),
        Verb::Config(verb) => config::run(&verb, global.json),
        Verb::Openapi => Ok(output::line(&crate::http::openapi_document().to_pretty_json()?)?),
        Verb::CopyStore(args) => copy_store::run(&args, global.json),
        Verb::ImportOriginal(args) => import_original::run(&args, global.json),
        Verb::Backup(args) => backup::run(args, global.json),
        Verb::Restore(args) => restore::run(&args, global.json),
        Verb::Keys(verb) => keys::run(verb, &global),
        Verb::Jobs(verb) => jobs::run(verb, &global),
        Verb::Audit(verb) => audit::run(verb, &global),
        Verb::Doctor(args) => doctor::run(&args, global.json),
        Verb::Healthcheck(args) => interruptible(healthcheck::run(&args, global.json)),
        Verb::Migrate(migrate::MigrateArgs {}) => migrate::run(global.json),
        Verb::Learn(args) => with_client(&global, async |client| learn::run(client, args, global.json).await),
        Verb::Recall(args) => with_client(&global, async |client| recall::run(client, args, global.json).await),
        Verb::Outcome(args) => with_client(&global, async |client| outcome::run(client, args, global.json).await),
        Verb::Import(args) => with_client(&global, async |client| import::run(client, &args, global.json).await),
        Verb::Export(args) => with_client(&global, async |client| export::run(client, args, global.json).await),
        Verb::Retention(args) => with_client(&global, async |client| retention::run(client, &args, global.json).await),
        Verb::Status => with_client(&global, async |client| status::run(client, global.json).await),
    }
}

/// Runs a client verb until it is done or the user interrupts it.
fn with_client(global: &Global, work: impl AsyncFnOnce(&Client) -> anyhow::Result<()>) -> anyhow::Result<()> {
    interruptible(async {
        let client = Client::open(global).await?;
        let outcome = work(&client).await;
        client.close().await;
        outcome
    })
}

/// Runs something to its end, unless the user interrupts it.
fn interruptible(verb: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            outcome = verb => outcome,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted.into()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn refused(arguments: &[&str]) -> ErrorKind {
        let error = Cli::try_parse_from([&["engramia"], arguments].concat()).err();
        error.expect("wrong usage").kind()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands().filter(|verb| !["help", "status", "openapi"].contains(&verb.get_name())) {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("engramia {}", verb.get_name())), "{}", verb.get_name());
        }
    }

    #[test]
    fn no_verb_serves_and_global_options_stand_anywhere() {
        let parsed = |arguments: &[&str]| Cli::try_parse_from([&["engramia"], arguments].concat()).expect("valid");
        assert!(parsed(&[]).verb.is_none());
        for arguments in [["--json", "--url", "http://h:1", "status"], ["status", "--url", "http://h:1", "--json"]] {
            let cli = parsed(&arguments);
            assert!(cli.global.json && cli.global.url.as_deref() == Some("http://h:1"));
            assert!(matches!(cli.verb, Some(Verb::Status)));
        }
    }

    #[test]
    fn no_argument_of_a_verb_takes_the_name_of_a_global_one() {
        let mut command = Cli::command();
        command.build();
        let globals = ["json", "url", "key"];
        let mut verbs: Vec<_> = command.get_subcommands().collect();
        while let Some(verb) = verbs.pop() {
            verbs.extend(verb.get_subcommands());
            for argument in verb.get_arguments().filter(|argument| globals.contains(&argument.get_id().as_str())) {
                assert!(argument.is_global_set(), "{} of {}", argument.get_id(), verb.get_name());
            }
        }
    }

    #[test]
    fn wrong_usage_is_refused() {
        let learn = ["learn", "--task", "t", "--score", "1"];
        let with = |rest: &[&'static str]| refused(&[&learn, rest].concat());
        assert_eq!(with(&[]), ErrorKind::MissingRequiredArgument);
        assert_eq!(with(&["--code", "f", "--code-text", "c"]), ErrorKind::ArgumentConflict);
        assert_eq!(with(&["--code", "f", "--source", "web"]), ErrorKind::InvalidValue);
        assert_eq!(refused(&["learn", "--task", "t", "--code", "f", "--score", "nan"]), ErrorKind::ValueValidation);
        assert_eq!(refused(&["recall"]), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused(&["recall", "t", "--code", "--explain"]), ErrorKind::ArgumentConflict);
        assert_eq!(refused(&["export", "--format", "xml"]), ErrorKind::InvalidValue);
        assert_eq!(refused(&["serve", "--port", "99999"]), ErrorKind::ValueValidation);
        assert_eq!(refused(&["keys", "create", "n", "--role", "boss"]), ErrorKind::InvalidValue);
        assert_eq!(refused(&["keys", "revoke", "../x"]), ErrorKind::ValueValidation);
        assert_eq!(refused(&["outcome", "patterns/x"]), ErrorKind::MissingRequiredArgument);
        assert_eq!(refused(&["outcome", "patterns/x", "--success", "--failure"]), ErrorKind::ArgumentConflict);
        assert_eq!(refused(&["keys"]), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
        assert_eq!(refused(&["remember"]), ErrorKind::InvalidSubcommand);
    }
}
