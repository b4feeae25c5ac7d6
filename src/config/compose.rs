//! The variables that only the Compose files read. They stand beside the settings in `.env.example` and in the
//! documentation, because all of them lie in one `.env`.

use super::settings::{Row, Section};

/// Name, default, accepted values, meaning.
type Variable = (&'static str, &'static str, &'static str, &'static str);

/// The variables of each file.
const FILES: &[(&str, &[Variable])] = &[
    (
        "docker-compose.prod.yml",
        &[
            (
                "ENGRAMIA_DOMAIN",
                "localhost",
                "a host name",
                "Name that Caddy serves and has a certificate for; for localhost it makes one itself.",
            ),
            ("ENGRAMIA_IMAGE", "engramia:0.1.0", "an image", "Image of the server; built where it is not there."),
        ],
    ),
    (
        "docker-compose.monitoring.yml",
        &[
            (
                "GRAFANA_ADMIN_PASSWORD",
                "changeme",
                "a secret",
                "Password of Grafana's user `admin` at its first start.",
            ),
            ("GRAFANA_ROOT_URL", "http://localhost:3000", "a URL", "Address under which Grafana is reached."),
            ("SMTP_HOST", "", "a host name", "Mail server that alerts are sent through."),
            ("SMTP_PORT", "587", "a port", "Its port."),
            ("SMTP_USER", "", "a text", "Login at the mail server."),
            ("SMTP_PASSWORD", "", "a secret", "Its password."),
            ("SMTP_FROM", "monitoring@engramia.dev", "a mail address", "Sender of alerts."),
        ],
    ),
];

/// One section a file, as [`super::settings::sections`].
pub fn sections() -> impl Iterator<Item = Section> {
    FILES.iter().map(|(title, variables)| {
        let row = |&(name, default, accepts, about): &Variable| Row { name, default, accepts: accepts.into(), about };
        Section { title, rows: variables.iter().map(row).collect() }
    })
}

/// Whether a variable of this name is meant for a Compose file.
pub fn knows(name: &str) -> bool {
    FILES.iter().flat_map(|(_, variables)| *variables).any(|variable| variable.0 == name)
}
