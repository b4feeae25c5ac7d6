//! `engramia import`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::failure::Failure;
use super::input::read_text;
use super::output;
use super::records::{self, Record};
use super::refusal::Mistake;

/// Longest pause that the server may ask for: rate limits refill within a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(90);
/// Pauses in a row before the import gives up.
const PAUSES: usize = 5;

/// Records to store.
#[derive(Args)]
#[command(after_help = "\
The file holds what `engramia export` wrote, a JSON list of records, or one record a line.

Examples:
  engramia import backup.json
  gunzip < backup.jsonl.gz | engramia import - --overwrite")]
pub struct ImportArgs {
    /// File to read; `-` for standard input
    file: PathBuf,
    /// Replace patterns whose key exists; without it they are skipped
    #[arg(long)]
    overwrite: bool,
}

#[derive(Deserialize)]
struct Answer {
    imported: usize,
}

/// Runs the verb. The whole file is read before anything is sent.
pub async fn run(client: &Client, args: &ImportArgs, json: bool) -> anyhow::Result<()> {
    let text = read_text(&args.file)?;
    let records = records::read(&text).with_context(|| args.file.display().to_string())?;
    let bar = output::progress("importing", Some(records.len() as u64));
    let mut imported = 0;
    for batch in records::batches(&records) {
        let answer = send(client, batch, args.overwrite, &bar).await;
        imported += answer.inspect_err(|_| bar.suspend(|| stopped(imported)))?;
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    let (total, skipped) = (records.len(), records.len() - imported);
    if json {
        output::json(&json!({ "imported": imported, "skipped": skipped, "total": total }))?;
        return Ok(());
    }
    let why = match skipped {
        0 => "",
        _ if args.overwrite => " (unusable keys or newer versions)",
        _ => " (existing or unusable keys; --overwrite replaces existing ones)",
    };
    output::line(&format!("imported {imported}, skipped {skipped}{why}"))?;
    Ok(())
}

/// What came before a failure stays: importing the file again skips it.
fn stopped(imported: usize) {
    if imported > 0 {
        eprintln!("engramia: stopped after {imported} imported patterns");
    }
}

/// Sends one request, again after each pause that the server asks for; how many records were stored.
async fn send(client: &Client, batch: &[Record<'_>], overwrite: bool, bar: &ProgressBar) -> anyhow::Result<usize> {
    let body = records::body(batch, overwrite);
    let mut pauses = 0;
    loop {
        let error = match client.post_text("/v1/import", body.clone()).await {
            Ok(answer) => return Ok(serde_json::from_value::<Answer>(answer)?.imported.min(batch.len())),
            Err(error) => error,
        };
        let Some(pause) = pause(&error).filter(|_| pauses < PAUSES) else { return Err(located(error, batch)) };
        pauses += 1;
        bar.set_message(format!("waiting {} s for the server;", pause.as_secs()));
        tokio::time::sleep(pause).await;
        bar.set_message("importing");
    }
}

fn pause(error: &anyhow::Error) -> Option<Duration> {
    match error.downcast_ref() {
        Some(Failure::Refused(refusal)) => refusal.retry_after.filter(|pause| *pause <= LONGEST_PAUSE),
        _ => None,
    }
}

/// The error, with positions in the file instead of positions in the request.
fn located(mut error: anyhow::Error, batch: &[Record<'_>]) -> anyhow::Error {
    if let Some(Failure::Refused(refusal)) = error.downcast_mut() {
        for mistake in &mut refusal.mistakes {
            locate(mistake, batch);
        }
    }
    error
}

fn locate(mistake: &mut Mistake, batch: &[Record<'_>]) {
    let [Value::String(list), Value::Number(at), rest @ ..] = mistake.place.as_slice() else { return };
    let record = at.as_u64().and_then(|at| batch.get(usize::try_from(at).ok()?));
    if let Some(record) = record.filter(|_| list == "records") {
        mistake.owner = record.place.to_string();
        mistake.place = rest.to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusal::Refusal;
    use super::*;
    use axum::http::{HeaderMap, StatusCode, header};

    fn refused(status: StatusCode, retry_after: &'static str, body: &Value) -> anyhow::Error {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, retry_after.parse().expect("a value"))]);
        Failure::from(Refusal::new(status, &headers, body.to_string().as_bytes())).into()
    }

    #[test]
    fn mistakes_name_the_position_in_the_file() {
        let text = "{\"key\":\"a\"}\n\n{\"key\":\"b\"}";
        let records = records::read(text).expect("valid");
        let mistake = |place: Value| json!({"loc": place, "msg": "Field required", "type": "missing"});
        let body = json!({"error_code": "VALIDATION_ERROR", "detail": [
            mistake(json!(["body", "records", 0, "data", "task"])),
            mistake(json!(["body", "records", 0])),
            mistake(json!(["body", "records", 9, "key"])),
            mistake(json!(["body", "records"])),
        ]});
        let error = located(refused(StatusCode::UNPROCESSABLE_ENTITY, "x", &body), &records[1..]);
        assert_eq!(
            error.to_string().lines().collect::<Vec<_>>(),
            [
                "VALIDATION_ERROR: line 3: data.task: Field required",
                "VALIDATION_ERROR: line 3: Field required",
                "VALIDATION_ERROR: records[9].key: Field required",
                "VALIDATION_ERROR: records: Field required",
            ]
        );
    }

    #[test]
    fn short_pauses_are_kept() {
        let wait = |seconds| pause(&refused(StatusCode::TOO_MANY_REQUESTS, seconds, &Value::Null));
        assert_eq!(wait("60"), Some(Duration::from_secs(60)));
        assert_eq!(wait("3600"), None, "maintenance");
        assert_eq!(wait("soon"), None);
        assert_eq!(pause(&anyhow::anyhow!("other")), None);
    }
}
