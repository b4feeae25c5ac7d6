//! Reading an export while it arrives: the records go by one at a time, so that memory does not grow with their
//! number.

use std::fmt;
use std::io::{self, BufReader, Read};

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

/// Pieces that may wait for the reader.
const WAITING: usize = 16;

/// Feeds a body to `read`, which runs on a thread where it may block.
///
/// # Errors
/// Those of `read`, which sees a body that breaks off as an error of its reader.
pub async fn feed<T: Send + 'static>(
    mut body: Body,
    read: impl FnOnce(Pieces) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let reading = tokio::task::spawn_blocking(move || read(Pieces { receiver, current: Bytes::new() }));
    while let Some(frame) = body.frame().await {
        let piece = frame.map(|frame| frame.into_data().unwrap_or_default()).map_err(io::Error::other);
        let broken = piece.is_err();
        // A reader that is gone has failed, and says so below.
        if sender.send(piece).await.is_err() || broken {
            break;
        }
    }
    drop(sender);
    reading.await?
}

/// The pieces of a body as a blocking reader.
pub struct Pieces {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let piece = self.current.split_to(buffer.len().min(self.current.len()));
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

/// Calls `each` for every record of `{"records": [...], "count": n}`; how many there were.
///
/// # Errors
/// When the text is not an export or is not complete, and the errors of `each`.
pub fn each_record(reader: impl Read, mut each: impl FnMut(&RawValue) -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let mut failed = None;
    let mut seen = 0;
    let mut checked = |record: &RawValue| {
        seen += 1;
        each(record).map_err(|error| failed = Some(error)).is_ok()
    };
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(reader));
    let count = Export(&mut checked).deserialize(&mut json).and_then(|count| json.end().map(|()| count));
    match (failed, count) {
        (Some(error), _) => Err(error),
        (None, Err(error)) => Err(anyhow::Error::new(error).context("the export cannot be read to its end")),
        (None, Ok(count)) => {
            anyhow::ensure!(count == seen, "the export is not complete: {seen} of {count} records");
            Ok(seen)
        }
    }
}

/// The whole object; its value is `count`. The function says whether to go on.
struct Export<F>(F);

impl<'de, F: FnMut(&RawValue) -> bool> DeserializeSeed<'de> for Export<F> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&RawValue) -> bool> Visitor<'de> for Export<F> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an export")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut members: A) -> Result<u64, A::Error> {
        let mut count = None;
        while let Some(name) = members.next_key::<String>()? {
            match name.as_str() {
                "records" => members.next_value_seed(Records(&mut self.0))?,
                "count" => count = Some(members.next_value()?),
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        count.ok_or_else(|| A::Error::missing_field("count"))
    }
}

struct Records<'f, F>(&'f mut F);

impl<'de, F: FnMut(&RawValue) -> bool> DeserializeSeed<'de> for Records<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(&RawValue) -> bool> Visitor<'de> for Records<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        while let Some(record) = records.next_element::<Box<RawValue>>()? {
            if !(self.0)(&record) {
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn records(text: &str) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        let count = each_record(text.as_bytes(), |record| {
            found.push(record.get().to_owned());
            Ok(())
        })?;
        assert_eq!(count, found.len() as u64);
        Ok(found)
    }

    #[test]
    fn records_come_as_they_are() {
        assert_eq!(records(r#"{"records":[{"a": 1.50},{}],"count":2}"#).expect("valid"), ["{\"a\": 1.50}", "{}"]);
        assert_eq!(records("{\"new\":[1],\"count\":0,\"records\":[]} \n").expect("valid"), [""; 0]);
    }

    #[test]
    fn half_an_export_is_an_error() {
        for bad in [
            "",
            "[]",
            "{\"records\":[{},",
            "{\"records\":[{}]}",
            "{\"records\":[{}],\"count\":2}",
            "{\"records\":{},\"count\":0}",
            "{\"records\":[],\"count\":0} more",
        ] {
            assert!(records(bad).is_err(), "{bad}");
        }
        let error = each_record("{\"records\":[1,2],\"count\":2}".as_bytes(), |_| anyhow::bail!("disk full"));
        assert_eq!(error.unwrap_err().to_string(), "disk full");
    }

    fn read_all(mut pieces: Pieces) -> anyhow::Result<String> {
        let mut text = String::new();
        pieces.read_to_string(&mut text)?;
        Ok(text)
    }

    #[tokio::test]
    async fn pieces_are_put_together() {
        let pieces = ["ab", "", "cde"].map(|piece| Ok::<_, io::Error>(Bytes::from(piece)));
        let text = feed(Body::from_stream(stream::iter(pieces)), read_all).await;
        assert_eq!(text.expect("whole"), "abcde");
        let broken = [Ok(Bytes::from("ab")), Err(io::Error::other("cut"))];
        let error = feed(Body::from_stream(stream::iter(broken)), read_all).await.unwrap_err();
        assert!(format!("{error:#}").contains("cut"), "{error:#}");
        let endless = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from("x")));
        let stopped: anyhow::Result<()> = feed(Body::from_stream(endless), |_| anyhow::bail!("enough")).await;
        assert_eq!(stopped.unwrap_err().to_string(), "enough");
    }
}
