//! Whether an event comes from the payment service: `Stripe-Signature: t=<unix>,v1=<hex>[,v1=<hex>]`, where each `v1` is
//! an HMAC-SHA256 over `<t>.<body>`.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, verify};
use chrono::TimeDelta;
use secrecy::{ExposeSecret, SecretString};

use crate::domain::Timestamp;

/// How far the time of a signature may be from ours, in both directions.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// Whether one of the signatures in `header` is that of `body`, made by whoever knows `secret`, and just now.
pub(super) fn is_valid(header: &str, body: &[u8], secret: &SecretString, now: Timestamp) -> bool {
    let mut time = None;
    let mut tags = Vec::new();
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("t", text)) => time = Some(text),
            Some(("v1", text)) => tags.extend(hex::decode(text).ok()),
            _ => {}
        }
    }
    let Some(text) = time else { return false };
    let made = text.parse().ok().and_then(|seconds| Timestamp::from_timestamp(seconds, 0));
    if made.is_none_or(|made| (now - made).abs() > TOLERANCE) {
        return false;
    }
    let key = Key::new(HMAC_SHA256, secret.expose_secret().trim().as_bytes());
    let signed = [text.as_bytes(), b".", body].concat();
    // Compares in constant time.
    tags.iter().any(|tag| verify(&key, &signed, tag).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1"}"#;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(seconds, 0).expect("a time")
    }

    fn tag(secret: &str, signed: &str) -> String {
        let key = Key::new(HMAC_SHA256, secret.as_bytes());
        hex::encode(aws_lc_rs::hmac::sign(&key, signed.as_bytes()))
    }

    fn checks(header: &str, now: i64) -> bool {
        is_valid(header, BODY, &"whsec_1".into(), at(now))
    }

    #[test]
    fn the_tag_is_that_of_the_documented_algorithm() {
        // printf '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_1
        let known = "86d9cb9088d7cce050b0134e2d515d0fc05e8c00073612d3451480c6291f4dcd";
        assert_eq!(tag("whsec_1", r#"1700000000.{"id":"evt_1"}"#), known);
        assert!(checks(&format!("t=1700000000,v1={known}"), 1_700_000_000));
    }

    #[test]
    fn any_of_several_signatures_will_do() {
        let good = tag("whsec_1", r#"1000.{"id":"evt_1"}"#);
        let bad = tag("whsec_0", r#"1000.{"id":"evt_1"}"#);
        assert!(checks(&format!("t=1000,v1={bad},v1={good},v0=1"), 1_000));
        assert!(checks(&format!(" t=1000 , v1={good}"), 1_000));
        assert!(!checks(&format!("t=1000,v1={bad}"), 1_000));
        assert!(!checks(&format!("t=1000,v0={good}"), 1_000), "another scheme");
        assert!(!checks(&format!("t=1001,v1={good}"), 1_000), "another time");
        assert!(!is_valid(&format!("t=1000,v1={good}"), b"{}", &"whsec_1".into(), at(1_000)), "another body");
    }

    #[test]
    fn the_time_of_a_signature_is_near_ours() {
        let header = format!("t=1000,v1={}", tag("whsec_1", r#"1000.{"id":"evt_1"}"#));
        for (now, valid) in [(700, true), (699, false), (1_300, true), (1_301, false)] {
            assert_eq!(checks(&header, now), valid, "{now}");
        }
    }

    #[test]
    fn what_is_no_signature_is_none() {
        for header in
            ["", "garbage", "t=1000", "v1=abc", "t=,v1=", "t=1e3,v1=00", "t=1000,v1=zz", "t=99999999999999999999,v1=00"]
        {
            assert!(!checks(header, 1_000), "{header}");
        }
    }
}
