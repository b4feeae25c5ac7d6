//! Typed reading: the kinds of values a setting can have, what each accepts, and how it parses a text.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use url::Url;

use super::sections::CorsOrigins;
use crate::domain::payment::Prices;
use crate::domain::spend::{Budget, ModelRole, Nanos, Price};

/// Stands in messages for a value that must not be shown.
pub const HIDDEN: &str = "(hidden)";

/// Longest piece of a value repeated in a message, in characters.
const SHOWN_CHARS: usize = 80;

/// A kind of value. Texts given to its methods are trimmed.
pub trait Kind {
    type Value;

    /// The accepted values, as a noun phrase for findings and for the documentation.
    fn accepts(&self) -> String;

    /// The value, or what is wrong with the text.
    fn parse(&self, text: &str) -> Result<Self::Value, String>;

    /// Whether a value lets somebody in: it can be given as a file.
    fn is_secret(&self) -> bool {
        false
    }

    /// The text as it may appear in a message.
    fn shown(&self, text: &str) -> String {
        printable(text)
    }
}

/// A foreign text made safe for one line of a log.
pub fn printable(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

const ON: [&str; 4] = ["1", "true", "yes", "on"];
const OFF: [&str; 4] = ["0", "false", "no", "off"];

fn is_one_of(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// A switch.
pub struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn accepts(&self) -> String {
        "true or false (1/0, yes/no, on/off)".into()
    }

    fn parse(&self, text: &str) -> Result<bool, String> {
        match text {
            text if is_one_of(text, &ON) => Ok(true),
            text if is_one_of(text, &OFF) => Ok(false),
            _ => Err("neither true nor false".into()),
        }
    }
}

/// A switch that any text turns on, except the words for "off".
pub struct Presence;

impl Kind for Presence {
    type Value = bool;

    fn accepts(&self) -> String {
        "any value (0, false, no and off count as unset)".into()
    }

    fn parse(&self, text: &str) -> Result<bool, String> {
        Ok(!text.is_empty() && !is_one_of(text, &OFF))
    }
}

/// A number within bounds, both included.
pub struct Number<T> {
    noun: &'static str,
    min: T,
    max: T,
}

impl<T> Number<T> {
    pub const fn whole(min: T, max: T) -> Self {
        Self { noun: "a whole number", min, max }
    }
}

impl Number<f64> {
    pub const fn real(min: f64, max: f64) -> Self {
        Self { noun: "a number", min, max }
    }
}

impl<T: FromStr + PartialOrd + Display> Kind for Number<T> {
    type Value = T;

    fn accepts(&self) -> String {
        format!("{} from {} to {}", self.noun, self.min, self.max)
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        match text.parse::<T>() {
            Ok(number) if (&self.min..=&self.max).contains(&&number) => Ok(number),
            Ok(_) => Err("out of range".into()),
            // A number of digits that only the narrower type cannot hold.
            Err(_) if text.parse::<i128>().is_ok() => Err("out of range".into()),
            Err(_) => Err(format!("not {}", self.noun)),
        }
    }
}

/// A span of time in seconds, fractions allowed.
pub struct Seconds(Number<f64>);

impl Seconds {
    pub const fn between(min: f64, max: f64) -> Self {
        Self(Number { noun: "a number of seconds", min, max })
    }
}

impl Kind for Seconds {
    type Value = Duration;

    fn accepts(&self) -> String {
        self.0.accepts()
    }

    fn parse(&self, text: &str) -> Result<Duration, String> {
        let seconds = self.0.parse(text)?;
        Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
    }
}

/// One of a closed list of words, in any case.
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy> Kind for Choice<T> {
    type Value = T;

    fn accepts(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|(word, _)| *word).collect();
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => words.concat(),
        }
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        self.0
            .iter()
            .find(|(word, _)| text.eq_ignore_ascii_case(word))
            .map(|(_, value)| *value)
            .ok_or_else(|| "not a known value".into())
    }
}

/// Whatever `T` reads from a text.
pub struct Parsed<T> {
    accepts: &'static str,
    value: PhantomData<T>,
}

impl<T> Parsed<T> {
    pub const fn new(accepts: &'static str) -> Self {
        Self { accepts, value: PhantomData }
    }
}

impl<T: FromStr> Kind for Parsed<T> {
    type Value = T;

    fn accepts(&self) -> String {
        self.accepts.into()
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        text.parse().map_err(|_| format!("not {}", self.accepts))
    }
}

/// A text that no message ever repeats.
pub struct Secret;

impl Kind for Secret {
    type Value = SecretString;

    fn accepts(&self) -> String {
        "a secret".into()
    }

    fn parse(&self, text: &str) -> Result<SecretString, String> {
        Ok(text.into())
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn shown(&self, _: &str) -> String {
        HIDDEN.into()
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// A list of [`Secret`]s.
pub struct Secrets;

impl Kind for Secrets {
    type Value = Vec<SecretString>;

    fn accepts(&self) -> String {
        "secrets, separated by commas".into()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        Ok(list(text).map(SecretString::from).collect())
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn shown(&self, _: &str) -> String {
        HIDDEN.into()
    }
}

/// Dollars a day: all together, then roles of their own.
pub struct DailyBudget;

impl Kind for DailyBudget {
    type Value = Budget;

    fn accepts(&self) -> String {
        "dollars, then eval= and architect= for a part of them, separated by commas".into()
    }

    fn parse(&self, text: &str) -> Result<Budget, String> {
        let mut items = list(text);
        let total = items.next().and_then(dollars).ok_or("does not begin with an amount")?;
        let mut budget = Budget { total: Nanos::of_usd(total), eval: None, architect: None };
        for item in items {
            let wrong = || format!("\"{}\" is no part of a budget", printable(item));
            let (role, amount) = item.split_once('=').ok_or_else(wrong)?;
            let amount = dollars(amount.trim()).map(Nanos::of_usd).ok_or_else(wrong)?;
            let part = match role.trim().parse().map_err(|_| wrong())? {
                ModelRole::Eval => &mut budget.eval,
                ModelRole::Architect => &mut budget.architect,
            };
            if part.replace(amount).is_some() {
                return Err(format!("names {} twice", role.trim()));
            }
        }
        Ok(budget)
    }
}

/// Prices by model.
pub struct ModelPrices;

impl Kind for ModelPrices {
    type Value = BTreeMap<String, Price>;

    fn accepts(&self) -> String {
        "model=input/output in dollars for a million tokens, separated by commas".into()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        list(text)
            .map(|item| {
                let price = item.rsplit_once('=').and_then(|(model, price)| {
                    let (input, output) = price.split_once('/')?;
                    let price = Price { input: dollars(input.trim())?, output: dollars(output.trim())? };
                    Some((model.trim().to_owned(), price))
                });
                price.filter(|(model, _)| !model.is_empty()).ok_or(format!("\"{}\" is no price", printable(item)))
            })
            .collect()
    }
}

/// An amount that a budget or a price may have.
fn dollars(text: &str) -> Option<f64> {
    text.parse().ok().filter(|amount| (0.0..=1e6).contains(amount))
}

/// A list of addresses and networks; an address is a network of one.
pub struct Networks;

impl Kind for Networks {
    type Value = Vec<IpNet>;

    fn accepts(&self) -> String {
        "IP addresses or CIDR networks, separated by commas".into()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        list(text)
            .map(|item| {
                item.parse::<IpAddr>()
                    .map(IpNet::from)
                    .or_else(|_| item.parse())
                    .map_err(|_| format!("\"{}\" is neither", printable(item)))
            })
            .collect()
    }
}

/// Web origins, normalised to the form in which browsers send them.
pub struct Origins;

impl Kind for Origins {
    type Value = CorsOrigins;

    fn accepts(&self) -> String {
        "* or origins such as https://app.example.com, separated by commas".into()
    }

    fn parse(&self, text: &str) -> Result<CorsOrigins, String> {
        if list(text).any(|item| item == "*") {
            return Ok(CorsOrigins::Any);
        }
        let origins: Vec<_> = list(text)
            .map(|item| origin(item).ok_or(format!("\"{}\" is not an origin", printable(item))))
            .collect::<Result<_, _>>()?;
        Ok(if origins.is_empty() { CorsOrigins::Off } else { CorsOrigins::Only(origins) })
    }
}

fn origin(text: &str) -> Option<String> {
    let url = web_url(text)?;
    (url.path() == "/").then(|| url.origin().ascii_serialization())
}

/// The origin of a web address.
pub fn origin_of(address: &str) -> Option<String> {
    Some(web_url(address)?.origin().ascii_serialization())
}

/// Origins of web pages; at least one where it is set.
pub struct ReturnOrigins;

impl Kind for ReturnOrigins {
    type Value = Vec<String>;

    fn accepts(&self) -> String {
        "web addresses such as https://app.example.com, of which scheme, host and port count, separated by commas"
            .into()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        list(text).map(|item| origin_of(item).ok_or(format!("\"{}\" is no web address", printable(item)))).collect()
    }
}

/// Plans by the ids of their prices.
pub struct PlanPrices;

impl Kind for PlanPrices {
    type Value = Prices;

    fn accepts(&self) -> String {
        "price=plan, plans being sandbox, pro, team or enterprise, separated by commas".into()
    }

    fn parse(&self, text: &str) -> Result<Self::Value, String> {
        let mut prices = Prices::new();
        for item in list(text) {
            let pair = item.split_once('=').and_then(|(price, plan)| Some((price.trim(), plan.trim().parse().ok()?)));
            let (price, plan) =
                pair.filter(|(price, _)| !price.is_empty()).ok_or(format!("\"{}\"", printable(item)))?;
            if prices.insert(price.to_owned(), plan).is_some() {
                return Err(format!("names {} twice", printable(price)));
            }
        }
        Ok(prices)
    }
}

/// Whether a web address leads to this machine.
pub fn is_loopback(address: &str) -> bool {
    match Url::parse(address).ok().as_ref().and_then(Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// An http or https address without user, query or fragment.
fn web_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    plain.then_some(url)
}

/// The address of a service, without its trailing slashes. Credentials in it are refused: the address is
/// logged.
pub struct BaseUrl;

impl Kind for BaseUrl {
    type Value = String;

    fn accepts(&self) -> String {
        "an http or https URL without user, query and fragment".into()
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        let url = web_url(text).ok_or("not the address of a service")?;
        Ok(url.as_str().trim_end_matches('/').to_owned())
    }

    fn shown(&self, text: &str) -> String {
        if text.contains('@') { HIDDEN.into() } else { printable(text) }
    }
}

/// Where traces go: the address of a collector, or its host and port alone. It is logged, too.
pub struct Collector;

impl Kind for Collector {
    type Value = String;

    fn accepts(&self) -> String {
        "an http or https URL, or host:port".into()
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        if text.contains("://") {
            return BaseUrl.parse(text);
        }
        BaseUrl.parse(&format!("http://{text}")).map(|_| text.trim_end_matches('/').to_owned())
    }

    fn shown(&self, text: &str) -> String {
        BaseUrl.shown(text)
    }
}

/// The issuer of tokens: a web address that is compared with what tokens say, hence kept as it is written but for its
/// last slashes.
pub struct IssuerUrl;

impl Kind for IssuerUrl {
    type Value = String;

    fn accepts(&self) -> String {
        BaseUrl.accepts()
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        BaseUrl.parse(text).map(|_| text.trim_end_matches('/').to_owned())
    }

    fn shown(&self, text: &str) -> String {
        BaseUrl.shown(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    #[test]
    fn flags() {
        for text in ["1", "true", "TRUE", "Yes", "on"] {
            assert_eq!(Flag.parse(text), Ok(true), "{text}");
            assert_eq!(Presence.parse(text), Ok(true), "{text}");
        }
        for text in ["0", "false", "False", "NO", "off"] {
            assert_eq!(Flag.parse(text), Ok(false), "{text}");
            assert_eq!(Presence.parse(text), Ok(false), "{text}");
        }
        for text in ["", "2", "y", "t", "enabled"] {
            assert!(Flag.parse(text).is_err(), "{text}");
        }
        assert_eq!(Presence.parse("sentence-transformers"), Ok(true));
        assert_eq!(Presence.parse(""), Ok(false));
    }

    #[test]
    fn whole_numbers() {
        let port = Number::<u16>::whole(1, 9000);
        let out_of_range = || Err("out of range".to_owned());
        let no_number = || Err("not a whole number".to_owned());
        assert_eq!(port.parse("1"), Ok(1));
        assert_eq!(port.parse("9000"), Ok(9000));
        for text in ["0", "9001", "65536", "-1"] {
            assert_eq!(port.parse(text), out_of_range(), "{text}");
        }
        for text in ["", "1.5", "80a", "0x50", "1 000"] {
            assert_eq!(port.parse(text), no_number(), "{text}");
        }
        let rate = Number::whole(NonZeroU32::MIN, NonZeroU32::MAX);
        assert!(rate.parse("0").is_err());
        assert_eq!(rate.accepts(), "a whole number from 1 to 4294967295");
    }

    #[test]
    fn real_numbers_and_seconds() {
        let share = Number::real(0.0, 1.0);
        assert_eq!(share.parse("0.70"), Ok(0.7));
        for text in ["NaN", "inf", "-0.1", "1.01", "0,5", ""] {
            assert!(share.parse(text).is_err(), "{text}");
        }
        let span = Seconds::between(0.5, 60.0);
        assert_eq!(span.parse("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(span.accepts(), "a number of seconds from 0.5 to 60");
        for text in ["0.4", "61", "NaN", "1e400", "30s"] {
            assert!(span.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn choices() {
        let choice = Choice(&[("json", 1), ("sqlite", 1), ("postgres", 2)]);
        assert_eq!(choice.parse("Postgres"), Ok(2));
        assert!(choice.parse("mysql").is_err());
        assert_eq!(choice.accepts(), "json, sqlite or postgres");
    }

    #[test]
    fn networks() {
        let text = "10.0.0.1, 10.1.0.0/16,,::1, fd00::/8";
        let networks = Networks.parse(text).expect("valid");
        let shown: Vec<_> = networks.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.1/32", "10.1.0.0/16", "::1/128", "fd00::/8"]);
        for text in ["proxy.local", "10.0.0.0/33", "10.0.0.1:80"] {
            assert!(Networks.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn origins() {
        let only = |origins: &[&str]| Ok(CorsOrigins::Only(origins.iter().map(ToString::to_string).collect()));
        assert_eq!(Origins.parse(""), Ok(CorsOrigins::Off));
        assert_eq!(Origins.parse("https://a.example, *"), Ok(CorsOrigins::Any));
        assert_eq!(
            Origins.parse("https://A.example:443/, http://localhost:3000"),
            only(&["https://a.example", "http://localhost:3000"]),
        );
        for text in ["a.example", "https://", "https://a.example/x", "ftp://a.example", "null"] {
            assert!(Origins.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn base_urls() {
        assert_eq!(BaseUrl.parse("https://api.example/v1/"), Ok("https://api.example/v1".into()));
        assert_eq!(BaseUrl.parse("http://127.0.0.1:9"), Ok("http://127.0.0.1:9".into()));
        for text in ["api.example", "ftp://api.example", "https://u:p@api.example", "https://a?b=c"] {
            assert!(BaseUrl.parse(text).is_err(), "{text}");
        }
        assert_eq!(BaseUrl.shown("https://u:p@api.example"), HIDDEN);
    }

    #[test]
    fn an_issuer_is_kept_as_it_is_written() {
        assert_eq!(IssuerUrl.parse("https://ID.example:443/realms/a//"), Ok("https://ID.example:443/realms/a".into()));
        for text in ["id.example", "https://u:p@id.example", "https://id.example?a", "https://id.example#a"] {
            assert!(IssuerUrl.parse(text).is_err(), "{text}");
        }
        assert_eq!(IssuerUrl.shown("https://u:p@id.example"), HIDDEN);
    }

    #[test]
    fn shown_values_fit_on_one_line() {
        assert_eq!(printable("a\nb\u{1b}"), "a\\nb\\u{1b}");
        assert_eq!(printable(&"x".repeat(1000)).len(), SHOWN_CHARS);
    }
}
