//! Logs, metrics and traces (guide §4 "Observability", decision 9).

use secrecy::SecretString;

use super::Reader;
use super::settings::{self as table, Transport};

/// Logs, metrics and traces.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// Whether a log line is a JSON object.
    pub json_logs: bool,
    /// Directives of a tracing filter; not checked here.
    pub log_filter: String,
    /// Whether metrics are served.
    pub metrics: bool,
    /// Bearer token the metrics ask for.
    pub metrics_token: Option<SecretString>,
    /// Where traces go; `None` where there are none.
    pub traces: Option<Traces>,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// Address of the collector, with its scheme.
    pub endpoint: String,
    /// How it is spoken to.
    pub transport: Transport,
    /// Name of this service.
    pub service_name: String,
    /// Share in [0, 1] of the traces that begin here.
    pub sampled: f64,
}

/// Where a collector listens for messages over HTTP, if nobody says.
const HTTP_ENDPOINT: &str = "http://localhost:4318";

impl Telemetry {
    pub(super) fn read(reader: &mut Reader) -> Self {
        let log = reader.given(&table::LOG).or_else(|| reader.given(&table::RUST_LOG));
        Self {
            json_logs: reader.read(&table::JSON_LOGS),
            log_filter: log.unwrap_or_else(|| reader.read(&table::LOG)),
            metrics: reader.read(&table::METRICS),
            metrics_token: reader.given(&table::METRICS_TOKEN),
            traces: Traces::read(reader),
        }
    }
}

impl Traces {
    fn read(reader: &mut Reader) -> Option<Self> {
        // Platforms set variables of OpenTelemetry for every program: without traces they are nobody's business here.
        if !reader.read(&table::TELEMETRY) {
            return None;
        }
        let transport = reader.read(&table::OTEL_PROTOCOL);
        let insecure = reader.read(&table::OTEL_INSECURE);
        let endpoint = match (transport, reader.is_set(&table::OTEL_ENDPOINT)) {
            (Transport::Http, false) => HTTP_ENDPOINT.to_owned(),
            _ => reader.read(&table::OTEL_ENDPOINT),
        };
        let has_scheme = endpoint.contains("://");
        if has_scheme && insecure && endpoint.starts_with("https://") {
            reader.warn("OTEL_EXPORTER_OTLP_INSECURE has no effect: ENGRAMIA_OTEL_ENDPOINT says https");
        }
        let endpoint = match (has_scheme, insecure) {
            (true, _) => endpoint,
            (false, true) => format!("http://{endpoint}"),
            (false, false) => format!("https://{endpoint}"),
        };
        let (service_name, sampled) = (reader.read(&table::OTEL_SERVICE_NAME), reader.read(&table::OTEL_SAMPLED));
        Some(Self { endpoint, transport, service_name, sampled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Loaded};

    fn load(vars: &[(&str, &str)]) -> Result<Loaded, String> {
        let on = [("ENGRAMIA_TELEMETRY", "true")];
        let vars = on.iter().chain(vars).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(vars).map_err(|findings| findings.to_string())
    }

    fn traces(vars: &[(&str, &str)]) -> Traces {
        load(vars).expect("valid").config.telemetry.traces.expect("switched on")
    }

    #[test]
    fn traces_are_off_until_they_are_switched_on() {
        let vars = [("ENGRAMIA_OTEL_ENDPOINT".to_owned(), "http://collector:4317".to_owned())];
        assert_eq!(Config::load(vars).expect("valid").config.telemetry.traces, None);
        let expected = Traces {
            endpoint: "http://localhost:4317".into(),
            transport: Transport::Grpc,
            service_name: "engramia-api".into(),
            sampled: 1.0,
        };
        assert_eq!(traces(&[]), expected);
    }

    #[test]
    fn the_scheme_decides_about_tls_and_the_variable_where_there_is_none() {
        let endpoint = |text: &str, insecure: &str| {
            traces(&[("ENGRAMIA_OTEL_ENDPOINT", text), ("OTEL_EXPORTER_OTLP_INSECURE", insecure)]).endpoint
        };
        assert_eq!(endpoint("http://c:1/", "false"), "http://c:1");
        assert_eq!(endpoint("https://c:1", "true"), "https://c:1");
        assert_eq!(endpoint("c:1", "false"), "https://c:1");
        assert_eq!(endpoint("c:1", "true"), "http://c:1");
        let http = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
        assert_eq!(traces(&http).endpoint, "http://localhost:4318");
        let warned = [("ENGRAMIA_OTEL_ENDPOINT", "https://c:1"), ("OTEL_EXPORTER_OTLP_INSECURE", "1")];
        assert!(load(&warned).expect("valid").warnings.iter().any(|line| line.contains("no effect")));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (name, value) in [
            ("ENGRAMIA_OTEL_ENDPOINT", "http://user:secret@c:4317"),
            ("ENGRAMIA_OTEL_ENDPOINT", "unix:///socket"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
        ] {
            let finding = load(&[(name, value)]).expect_err(value);
            assert!(finding.starts_with(&format!("{name}=")) && !finding.contains("secret"), "{finding}");
        }
    }
}
