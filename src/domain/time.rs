//! Times as texts of the API.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, SubsecRound, Utc};

use super::Timestamp;

/// `2026-04-04T12:00:00Z`, with as many decimals as there are.
pub fn iso(at: Timestamp) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// `2026-04-04T12:00:00.123456+00:00`, always with six decimals.
pub fn iso_micros(at: Timestamp) -> String {
    at.format("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

/// Reads an ISO 8601 time of the years 1 to 9999, to the microsecond. Without an offset it is UTC, without a time of
/// day the beginning of the day.
pub fn parse_iso(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let at = with_offset(text).or_else(|| local(text)).or_else(|| {
        // A query string turns the plus sign of an offset into a space.
        let (time, offset) = text.rsplit_once(' ')?;
        with_offset(&format!("{time}+{offset}"))
    })?;
    (1..=9999).contains(&at.year()).then(|| at.trunc_subsecs(6))
}

fn with_offset(text: &str) -> Option<Timestamp> {
    let forms = ["%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z"];
    let loose = || forms.into_iter().find_map(|form| DateTime::parse_from_str(text, form).ok());
    let zoned = DateTime::parse_from_rfc3339(text).ok().or_else(loose);
    Some(zoned?.with_timezone(&Utc))
}

fn local(text: &str) -> Option<Timestamp> {
    let times = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
    let time = times.into_iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|day| day.and_time(NaiveTime::MIN));
    time.or_else(day).map(|time| time.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_are_always_shown_where_they_are_documented() {
        let at = parse_iso("2026-04-04T12:00:00Z").expect("a time");
        assert_eq!(iso_micros(at), "2026-04-04T12:00:00.000000+00:00");
        assert_eq!(parse_iso(&iso_micros(at)), Some(at));
    }

    #[test]
    fn usual_forms_are_read_and_written_in_one() {
        for text in [
            "2026-04-04T12:00:00Z",
            "2026-04-04T12:00:00+00:00",
            "2026-04-04T12:00:00 00:00",
            "2026-04-04T14:00:00+0200",
            "2026-04-04T10:00:00-02",
            "2026-04-04 12:00:00Z",
            "2026-04-04 12:00:00+00",
            "2026-04-04T12:00:00",
            "2026-04-04 12:00:00",
            " 2026-04-04T12:00 ",
        ] {
            assert_eq!(parse_iso(text).map(iso).as_deref(), Some("2026-04-04T12:00:00Z"), "{text}");
        }
        assert_eq!(parse_iso("2026-04-04").map(iso).as_deref(), Some("2026-04-04T00:00:00Z"));
        let fine = parse_iso("2026-04-04T12:00:00.1234567Z").map(iso);
        assert_eq!(fine.as_deref(), Some("2026-04-04T12:00:00.123456Z"));
    }

    #[test]
    fn other_texts_are_no_times() {
        for text in ["", "soon", "2026-13-01", "2026-02-30T00:00:00Z", "1775304000", "12026-04-04T12:00:00Z", "12:00"] {
            assert_eq!(parse_iso(text), None, "{text}");
        }
    }
}
