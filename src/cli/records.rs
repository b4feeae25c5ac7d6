//! Reading the records of an import file, and cutting them into requests.
//!
//! Three forms: the answer of `GET /v1/export`, a bare list of records, and one record after the other (NDJSON).

use std::fmt;

use anyhow::Context;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Most records of one request.
const BATCH_RECORDS: usize = 200;
/// From this size of its records, in bytes, a request takes no more.
const BATCH_BYTES: usize = 512 * 1024;

/// One record as it stands in the file.
#[derive(Debug)]
pub struct Record<'a> {
    /// Where it stands.
    pub place: Place,
    /// Its text.
    pub json: &'a RawValue,
}

/// Position of a record, counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a list.
    Item(usize),
    /// In a file with one record after the other.
    Line(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Item(number) => write!(f, "record {number}"),
            Self::Line(number) => write!(f, "line {number}"),
        }
    }
}

#[derive(Deserialize)]
struct Export<'a> {
    #[serde(borrow)]
    records: Option<Vec<&'a RawValue>>,
}

/// The records of a text in any of the three forms.
///
/// # Errors
/// When it is not JSON, or not in one of the forms.
pub fn read(text: &str) -> anyhow::Result<Vec<Record<'_>>> {
    let text = text.trim_start_matches('\u{feff}');
    if text.trim_start().starts_with('[') {
        return Ok(items(serde_json::from_str(text)?));
    }
    let mut records = Vec::new();
    let (mut line, mut counted) = (1, 0);
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    while let Some(value) = values.next() {
        let json = value?;
        let start = values.byte_offset() - json.get().len();
        line += text[counted..start].matches('\n').count();
        counted = start;
        anyhow::ensure!(json.get().starts_with('{'), "line {line}: a record is a JSON object");
        records.push(Record { place: Place::Line(line), json });
    }
    if let [only] = records.as_slice()
        && let Some(list) = serde_json::from_str::<Export>(only.json.get()).context("`records` is not a list")?.records
    {
        return Ok(items(list));
    }
    Ok(records)
}

fn items(list: Vec<&RawValue>) -> Vec<Record<'_>> {
    list.into_iter().enumerate().map(|(at, json)| Record { place: Place::Item(at + 1), json }).collect()
}

/// Cuts the records into pieces for one request each; a record that is too large stands alone.
pub fn batches<'r, 'a>(mut rest: &'r [Record<'a>]) -> impl Iterator<Item = &'r [Record<'a>]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take(BATCH_RECORDS).take_while(|record| {
            bytes += record.json.get().len();
            bytes <= BATCH_BYTES
        });
        let size = fitting.count().max(1).min(rest.len());
        let (batch, after) = rest.split_at(size);
        rest = after;
        (!batch.is_empty()).then_some(batch)
    })
}

/// The body of an import request, the records unchanged.
pub fn body(batch: &[Record<'_>], overwrite: bool) -> String {
    let records: Vec<&str> = batch.iter().map(|record| record.json.get()).collect();
    format!("{{\"overwrite\":{overwrite},\"records\":[{}]}}", records.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn places(text: &str) -> Vec<String> {
        let records = read(text).expect(text);
        records.iter().map(|record| format!("{} {}", record.place, record.json.get())).collect()
    }

    #[test]
    fn the_three_forms() {
        let listed = ["record 1 {\"key\":\"a\"}", "record 2 {\"key\":\"b\"}"];
        assert_eq!(places(r#"{"records":[{"key":"a"},{"key":"b"}],"count":2}"#), listed);
        assert_eq!(places("\u{feff} [ {\"key\":\"a\"} ,{\"key\":\"b\"}]\n"), listed);
        assert_eq!(
            places("{\"key\":\"a\"}\n\n{\"key\":\"b\"}\n"),
            ["line 1 {\"key\":\"a\"}", "line 3 {\"key\":\"b\"}"]
        );
        assert_eq!(
            places("{\n\"key\":\"a\"\n}\n{\"key\":\"b\"}"),
            ["line 1 {\n\"key\":\"a\"\n}", "line 4 {\"key\":\"b\"}"]
        );
        assert_eq!(places("{\"key\":\"a\"}"), ["line 1 {\"key\":\"a\"}"]);
        for empty in ["", " \n", "[]", "{\"records\": []}"] {
            assert!(places(empty).is_empty(), "{empty}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        for bad in ["[", "{\"key\":", "hello", "5", "{} 5", "{\"records\": 5}", "[] []", "{\"key\":1}\n{\"key\""] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(read("{}\n\n[]").unwrap_err().to_string(), "line 3: a record is a JSON object");
    }

    #[test]
    fn requests_stay_small() {
        let sizes = |text: &str| batches(&read(text).expect("valid")).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(&"{}\n".repeat(450)), [200, 200, 50]);
        assert_eq!(sizes(""), [0; 0]);
        let large = format!("{{\"k\":\"{}\"}}\n", "x".repeat(300 * 1024));
        let huge = format!("{{\"k\":\"{}\"}}\n", "x".repeat(600 * 1024));
        assert_eq!(sizes(&format!("{large}{large}{huge}{{}}{{}}")), [1, 1, 1, 2]);
    }

    #[test]
    fn a_body_holds_the_records_as_they_are() {
        let records = read("{\"a\": 1.50}\n{\"b\":2}").expect("valid");
        assert_eq!(body(&records, true), r#"{"overwrite":true,"records":[{"a": 1.50},{"b":2}]}"#);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}|[\\[\\]{}\",:0-9 \\n]{0,40}") {
            if let Ok(records) = read(&text) {
                prop_assert_eq!(batches(&records).map(<[_]>::len).sum::<usize>(), records.len());
            }
        }
    }
}
