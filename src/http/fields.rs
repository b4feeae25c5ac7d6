//! Reading input members: coercion, limits, and every mistake reported at once (`spec/engramia/00` §5.3).
//!
//! Getters take a member out and give a value; a member that is wrong is noted, and the getter gives a stand-in.
//! [`Fields::finish`] then refuses the whole input, so that no stand-in is ever used.

use std::str::FromStr;

use serde_json::{Map, Value, json};

use crate::domain::record::Flaw;
use crate::domain::subject::is_address;
use crate::domain::{PatternKey, Scope, Timestamp, UnknownWord, alternatives, time};

/// One mistake in the input.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    kind: &'static str,
    location: Vec<Value>,
    message: String,
    context: Option<Value>,
}

impl Finding {
    /// A mistake at a place.
    pub fn new(kind: &'static str, location: Vec<Value>, message: impl Into<String>) -> Self {
        Self { kind, location, message: message.into(), context: None }
    }

    /// A flaw of the record at a position of an import.
    pub fn of_record(at: usize, flaw: Flaw) -> Self {
        let mut location = vec![json!("body"), json!("records"), json!(at), json!("data")];
        location.extend(flaw.path.into_iter().map(Value::from));
        Self::new(flaw.kind, location, flaw.message)
    }

    /// The item of the `detail` array. Input is not echoed: it may be large or secret.
    pub fn to_json(&self) -> Value {
        let mut item = json!({ "type": self.kind, "loc": self.location, "msg": self.message });
        if let Some(context) = &self.context {
            item["ctx"] = context.clone();
        }
        item
    }
}

/// Something that reads itself from named members.
pub trait FromFields: Sized {
    /// Takes its members; mistakes are noted in `fields`.
    fn read(fields: &mut Fields) -> Self;
}

/// An amount where "nothing" and "none" are two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Not said.
    Absent,
    /// None.
    Null,
    /// This much.
    Given(u64),
}

/// The members of one object of the input.
pub struct Fields {
    location: Vec<Value>,
    members: Map<String, Value>,
    findings: Vec<Finding>,
}

/// Limits of a text, in characters.
#[derive(Debug, Clone, Copy)]
pub struct Text {
    most: usize,
    blank: bool,
}

impl Text {
    /// At most so many characters.
    pub const fn up_to(most: usize) -> Self {
        Self { most, blank: true }
    }

    /// And something beside white space.
    pub const fn not_blank(self) -> Self {
        Self { blank: false, ..self }
    }
}

impl Fields {
    /// Members of `body` or `query`.
    pub fn new(root: &'static str, members: Map<String, Value>) -> Self {
        Self { location: vec![json!(root)], members, findings: Vec::new() }
    }

    /// Refuses if anything was wrong.
    pub fn finish<T>(self, value: T) -> Result<T, Vec<Finding>> {
        if self.findings.is_empty() { Ok(value) } else { Err(self.findings) }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, name: &'static str, limits: Text) -> String {
        match self.members.remove(name) {
            None => self.missing(name),
            Some(value) => self.as_text(&[json!(name)], value, limits).unwrap_or_default(),
        }
    }

    /// A text that may be absent or null.
    pub fn text(&mut self, name: &'static str, limits: Text) -> Option<String> {
        let value = self.present(name)?;
        self.as_text(&[json!(name)], value, limits)
    }

    /// A number that must be there, inside the bounds.
    pub fn required_number(&mut self, name: &'static str, least: f64, most: f64) -> f64 {
        match self.members.remove(name) {
            None => self.missing(name),
            Some(value) => self.as_number(name, &value, least, most).unwrap_or_default(),
        }
    }

    /// A number inside the bounds that may be absent or null.
    pub fn number(&mut self, name: &'static str, least: f64, most: f64) -> Option<f64> {
        let value = self.present(name)?;
        self.as_number(name, &value, least, most)
    }

    /// A whole number inside the bounds, with a default.
    pub fn integer(&mut self, name: &'static str, least: i64, most: i64, default: i64) -> i64 {
        let Some(value) = self.members.remove(name) else { return default };
        self.as_integer(name, &value, least, most).unwrap_or(default)
    }

    /// A whole number inside the bounds that may be absent or null.
    pub fn whole(&mut self, name: &'static str, least: i64, most: i64) -> Option<i64> {
        let value = self.present(name)?;
        self.as_integer(name, &value, least, most)
    }

    fn as_integer(&mut self, name: &'static str, value: &Value, least: i64, most: i64) -> Option<i64> {
        let parsed = match value {
            Value::Number(number) => {
                number.as_i64().or_else(|| number.as_f64().filter(|f| f.fract() == 0.0).map(|f| f as i64))
            }
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match parsed {
            None => {
                let kind = if value.is_string() { "int_parsing" } else { "int_type" };
                self.note(kind, name, "Input should be a valid integer", None);
            }
            Some(number) if number < least => {
                let message = format!("Input should be greater than or equal to {least}");
                self.note("greater_than_equal", name, message, Some(json!({ "ge": least })));
            }
            Some(number) if number > most => {
                let message = format!("Input should be less than or equal to {most}");
                self.note("less_than_equal", name, message, Some(json!({ "le": most })));
            }
            Some(number) => return Some(number),
        }
        None
    }

    /// A whole number inside the bounds, or null; it must be there. Nothing else is taken for a number.
    pub fn required_whole_or_null(&mut self, name: &'static str, least: u32, most: u32) -> Option<u32> {
        let value = match self.members.remove(name) {
            None => return self.missing(name),
            Some(Value::Null) => return None,
            Some(value) => value,
        };
        if !value.is_i64() && !value.is_u64() {
            self.note("int_type", name, "Input should be a valid integer", None);
            return None;
        }
        let number = self.as_integer(name, &value, i64::from(least), i64::from(most))?;
        u32::try_from(number).ok()
    }

    /// A time in ISO 8601 that may be absent or null.
    pub fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let text = self.text(name, Text::up_to(100))?;
        let at = time::parse_iso(&text);
        if at.is_none() {
            let message = "Input should be a valid time such as 2026-04-04T12:00:00Z";
            self.note("datetime_parsing", name, message, None);
        }
        at
    }

    /// The key of a pattern that may be absent or null.
    pub fn pattern_key(&mut self, name: &'static str, most: usize) -> Option<PatternKey> {
        let text = self.text(name, Text::up_to(most))?;
        let key = PatternKey::parse(&text).ok();
        if key.is_none() {
            self.note(
                "value_error",
                name,
                "Input should be a pattern key such as patterns/0be2046e_1795319203747",
                None,
            );
        }
        key
    }

    /// The id of a project that may be absent or null.
    pub fn project(&mut self, name: &'static str) -> Option<String> {
        let text = self.text(name, Text::up_to(100))?;
        if Scope::is_project_name(&text) {
            return Some(text);
        }
        let message = "Input should be 1 to 100 characters of A-Z, a-z, 0-9, '_', '.', '-'";
        self.note("string_pattern_mismatch", name, message, None);
        None
    }

    /// A truth value, with a default.
    pub fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let Some(value) = self.members.remove(name) else { return default };
        let parsed = match &value {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) if number.as_i64() == Some(0) => Some(false),
            Value::Number(number) if number.as_i64() == Some(1) => Some(true),
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Some(true),
                "false" | "0" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        };
        parsed.unwrap_or_else(|| {
            self.note("bool_parsing", name, "Input should be a valid boolean", None);
            default
        })
    }

    /// A truth value with a default; nothing else is taken for one.
    pub fn strict_flag(&mut self, name: &'static str, default: bool) -> bool {
        match self.members.remove(name) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.note("bool_type", name, "Input should be a valid boolean", None);
                default
            }
        }
    }

    /// A truth value that must be there.
    pub fn required_flag(&mut self, name: &'static str) -> bool {
        if self.members.contains_key(name) { self.flag(name, false) } else { self.missing(name) }
    }

    /// A truth value that must be there and be nothing else: where money hangs on it, no text is taken for one.
    pub fn required_strict_flag(&mut self, name: &'static str) -> bool {
        match self.members.remove(name) {
            None => self.missing(name),
            Some(Value::Bool(flag)) => flag,
            Some(_) => {
                self.note("bool_type", name, "Input should be a valid boolean", None);
                false
            }
        }
    }

    /// A whole number from 0 on that may be absent, or null, which is something else; no text is taken for one.
    pub fn strict_amount(&mut self, name: &'static str, most: u64) -> Amount {
        let amount = match self.members.remove(name) {
            None => return Amount::Absent,
            Some(Value::Null) => return Amount::Null,
            Some(Value::Number(number)) => self.as_integer(name, &Value::Number(number), 0, most.cast_signed()),
            Some(_) => {
                self.note("int_type", name, "Input should be a valid integer", None);
                None
            }
        };
        Amount::Given(amount.unwrap_or_default().cast_unsigned())
    }

    /// One of some words, absent or null.
    pub fn word<T: FromStr<Err = UnknownWord>>(&mut self, name: &'static str) -> Option<T> {
        let text = match self.present(name)? {
            Value::String(text) => text,
            _ => {
                self.note("string_type", name, "Input should be a valid string", None);
                return None;
            }
        };
        match text.parse() {
            Ok(word) => Some(word),
            Err(UnknownWord(words)) => {
                self.note("literal_error", name, alternatives(words), Some(json!({ "expected": words })));
                None
            }
        }
    }

    /// One of some words that must be there; `None` only where a mistake is noted.
    pub fn required_word<T: FromStr<Err = UnknownWord>>(&mut self, name: &'static str) -> Option<T> {
        match self.members.get(name) {
            None => self.missing(name),
            Some(Value::Null) => {
                self.note("string_type", name, "Input should be a valid string", None);
                None
            }
            Some(_) => self.word(name),
        }
    }

    /// Some of some words in one text, separated by commas; absent, null or empty for no choice.
    pub fn words<T: FromStr<Err = UnknownWord>>(&mut self, name: &'static str, most: usize) -> Option<Vec<T>> {
        let text = self.text(name, Text::up_to(most)).filter(|text| !text.trim().is_empty())?;
        let mut words = Vec::new();
        for word in text.split(',').map(str::trim) {
            match word.parse() {
                Ok(word) => words.push(word),
                Err(UnknownWord(known)) => {
                    let message = format!("{}, separated by commas, not '{word}'", alternatives(known));
                    self.note("literal_error", name, message, Some(json!({ "expected": known })));
                    return None;
                }
            }
        }
        Some(words)
    }

    /// An e-mail address that must be there.
    pub fn required_address(&mut self, name: &'static str, most: usize) -> String {
        let Some(value) = self.members.remove(name) else { return self.missing(name) };
        let text = self.as_text(&[json!(name)], value, Text::up_to(most));
        let Some(text) = text.map(|text| text.trim().to_owned()) else { return String::new() };
        if !is_address(&text) {
            self.note("value_error", name, "Input should be an e-mail address", None);
        }
        text
    }

    /// A list of texts that must be there.
    pub fn required_texts(&mut self, name: &'static str, most: usize, limits: Text) -> Vec<String> {
        let mut texts = Vec::new();
        for (at, value) in self.required_list(name, most).into_iter().enumerate() {
            texts.extend(self.as_text(&[json!(name), json!(at)], value, limits));
        }
        texts
    }

    /// A list of objects that must be there, each read on its own.
    pub fn required_objects<T: FromFields>(&mut self, name: &'static str, most: usize) -> Vec<T> {
        let mut read = Vec::new();
        for (at, value) in self.required_list(name, most).into_iter().enumerate() {
            let mut location = self.location.clone();
            location.extend([json!(name), json!(at)]);
            match value {
                Value::Object(members) => {
                    let mut inner = Fields { location, members, findings: Vec::new() };
                    read.push(T::read(&mut inner));
                    self.findings.append(&mut inner.findings);
                }
                _ => self.findings.push(Finding::new("dict_type", location, "Input should be a valid dictionary")),
            }
        }
        read
    }

    /// An object that must be there.
    pub fn required_object(&mut self, name: &'static str) -> Map<String, Value> {
        match self.members.remove(name) {
            None => self.missing(name),
            Some(Value::Object(members)) => members,
            Some(_) => {
                self.note("dict_type", name, "Input should be a valid dictionary", None);
                Map::new()
            }
        }
    }

    fn required_list(&mut self, name: &'static str, most: usize) -> Vec<Value> {
        match self.members.remove(name) {
            None => self.missing(name),
            Some(Value::Array(items)) if items.len() > most => {
                let message = format!("List should have at most {most} items, not {}", items.len());
                self.note("too_long", name, message, Some(json!({ "max_length": most })));
                Vec::new()
            }
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.note("list_type", name, "Input should be a valid list", None);
                Vec::new()
            }
        }
    }

    fn present(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name).filter(|value| !value.is_null())
    }

    fn missing<T: Default>(&mut self, name: &'static str) -> T {
        self.note("missing", name, "Field required", None);
        T::default()
    }

    fn note(&mut self, kind: &'static str, name: &'static str, message: impl Into<String>, context: Option<Value>) {
        self.note_at(kind, &[json!(name)], message, context);
    }

    fn note_at(&mut self, kind: &'static str, place: &[Value], message: impl Into<String>, context: Option<Value>) {
        let mut location = self.location.clone();
        location.extend_from_slice(place);
        self.findings.push(Finding { context, ..Finding::new(kind, location, message) });
    }

    fn as_text(&mut self, place: &[Value], value: Value, limits: Text) -> Option<String> {
        let Value::String(text) = value else {
            self.note_at("string_type", place, "Input should be a valid string", None);
            return None;
        };
        // Characters are counted only where bytes cannot settle it.
        if text.len() > limits.most && text.chars().count() > limits.most {
            let message = format!("String should have at most {} characters", limits.most);
            self.note_at("string_too_long", place, message, Some(json!({ "max_length": limits.most })));
        } else if !limits.blank && text.trim().is_empty() {
            self.note_at("string_too_short", place, "String should not be blank", Some(json!({ "min_length": 1 })));
        } else if text.contains('\0') {
            self.note_at("value_error", place, "Input should not contain NUL characters", None);
        } else {
            return Some(text);
        }
        None
    }

    fn as_number(&mut self, name: &'static str, value: &Value, least: f64, most: f64) -> Option<f64> {
        let parsed = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match parsed {
            Some(number) if (least..=most).contains(&number) => return Some(number),
            Some(number) if number < least => {
                let message = format!("Input should be greater than or equal to {least}");
                self.note("greater_than_equal", name, message, Some(json!({ "ge": least })));
            }
            Some(number) if number > most => {
                let message = format!("Input should be less than or equal to {most}");
                self.note("less_than_equal", name, message, Some(json!({ "le": most })));
            }
            // NaN compares with nothing.
            Some(_) => self.note("finite_number", name, "Input should be a finite number", None),
            None => {
                let kind = if value.is_string() { "float_parsing" } else { "float_type" };
                self.note(kind, name, "Input should be a valid number", None);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        let Value::Object(members) = value else { panic!("an object") };
        Fields::new("body", members)
    }

    fn kinds(fields: Fields) -> Vec<(&'static str, String)> {
        let findings = fields.finish(()).err().unwrap_or_default();
        findings.iter().map(|f| (f.kind, f.location.last().expect("a place").to_string())).collect()
    }

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        let mut f = fields(json!({"a": 5, "b": "  ", "n": 11, "i": 1.5, "w": "x", "l": ["ok", 1]}));
        f.required_text("a", Text::up_to(3));
        f.required_text("b", Text::up_to(3).not_blank());
        f.required_text("c", Text::up_to(3));
        f.required_number("n", 0.0, 10.0);
        f.integer("i", 0, 9, 1);
        f.word::<crate::domain::Source>("w");
        f.required_texts("l", 5, Text::up_to(9));
        let expected = [
            ("string_type", "\"a\""),
            ("string_too_short", "\"b\""),
            ("missing", "\"c\""),
            ("less_than_equal", "\"n\""),
            ("int_type", "\"i\""),
            ("literal_error", "\"w\""),
            ("string_type", "1"),
        ];
        let found = kinds(f);
        assert_eq!(found.iter().map(|(k, p)| (*k, p.as_str())).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn numbers_and_flags_are_coerced_as_documented() {
        let mut f = fields(json!({"n": "7.5", "i": "3", "t": "yes", "f": 0, "whole": 4.0}));
        assert!((f.required_number("n", 0.0, 10.0) - 7.5).abs() < 1e-12);
        assert_eq!(f.integer("i", 1, 50, 5), 3);
        assert_eq!(f.integer("whole", 1, 50, 5), 4);
        assert!(f.flag("t", false) && !f.flag("f", true) && f.flag("absent", true));
        assert!(f.finish(()).is_ok());
        for bad in ["NaN", "inf", "x", ""] {
            let mut f = fields(json!({ "n": bad }));
            f.required_number("n", 0.0, 10.0);
            assert!(f.finish(()).is_err(), "{bad}");
        }
    }

    #[test]
    fn where_money_hangs_on_it_nothing_is_coerced() {
        let mut f = fields(json!({"on": true, "none": null, "some": 5000, "whole": 5.0}));
        assert!(f.required_strict_flag("on"));
        assert_eq!((f.strict_amount("absent", 9), f.strict_amount("none", 9)), (Amount::Absent, Amount::Null));
        assert_eq!(f.strict_amount("some", 9000), Amount::Given(5000));
        assert_eq!(f.strict_amount("whole", 9000), Amount::Given(5));
        assert!(f.finish(()).is_ok());
        for bad in [json!("false"), json!(0), json!(null), json!([])] {
            let mut f = fields(json!({ "on": bad.clone() }));
            f.required_strict_flag("on");
            assert_eq!(kinds(f), [("bool_type", "\"on\"".to_owned())], "{bad}");
        }
        for bad in [json!("5"), json!(-1), json!(1e40), json!(10), json!(0.5), json!(true), json!({})] {
            let mut f = fields(json!({ "cap": bad.clone() }));
            f.strict_amount("cap", 9);
            assert_eq!(kinds(f).len(), 1, "{bad}");
        }
    }

    #[test]
    fn what_must_not_be_guessed_is_not() {
        for (value, days) in [(json!(1), Some(1)), (json!(36_500), Some(36_500)), (json!(null), None)] {
            let mut f = fields(json!({ "d": value }));
            assert_eq!(f.required_whole_or_null("d", 1, 36_500), days);
            assert!(f.finish(()).is_ok());
        }
        for bad in [json!(0), json!(-1), json!(36_501), json!(1.5), json!(2.0), json!("90"), json!(true), json!([])] {
            let mut f = fields(json!({ "d": bad }));
            f.required_whole_or_null("d", 1, 36_500);
            assert_eq!(kinds(f).len(), 1, "{bad}");
        }
        for bad in [json!("false"), json!(0), json!(null), json!([])] {
            let mut f = fields(json!({ "f": bad, "w": null, "a": "x" }));
            f.strict_flag("f", false);
            f.required_word::<crate::domain::Source>("w");
            f.required_word::<crate::domain::Source>("absent");
            f.required_address("a", 5);
            assert_eq!(kinds(f).len(), 4, "{bad}");
        }
        let mut f = fields(json!({ "some": " api, cli", "none": "", "other": "api,x" }));
        assert_eq!(f.words("some", 10), Some(vec![crate::domain::Source::Api, crate::domain::Source::Cli]));
        assert_eq!(f.words::<crate::domain::Source>("none", 10), None);
        assert_eq!(f.words::<crate::domain::Source>("other", 10), None);
        let findings = f.finish(()).unwrap_err();
        assert!(findings.len() == 1 && findings[0].message.contains("'x'"), "{findings:?}");
    }

    #[test]
    fn limits_count_characters() {
        let mut f = fields(json!({"a": "žžž", "b": "žžžž", "nul": "\0"}));
        assert_eq!(f.required_text("a", Text::up_to(3)), "žžž");
        f.required_text("b", Text::up_to(3));
        f.text("nul", Text::up_to(3));
        assert_eq!(kinds(f).len(), 2);
    }
}
