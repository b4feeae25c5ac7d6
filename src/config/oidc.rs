//! The section of OpenID Connect (`spec/engramia/30` §3): whose tokens are taken and which claims mean what.

use super::Reader;
use super::parse::{Kind, is_loopback};
use super::settings::{self as table, Setting};
use crate::domain::Role;

/// Whose tokens are taken, and which claims mean what.
#[derive(Debug, Clone)]
pub struct Oidc {
    /// Web address of the issuer, without its last slash.
    pub issuer: String,
    /// What a token's `aud` must contain.
    pub audience: String,
    /// Claim that holds the role.
    pub role_claim: String,
    /// Role of a token without that claim.
    pub default_role: Role,
    /// Claim that holds the tenant.
    pub tenant_claim: String,
    /// Claim that holds the project; `None` leaves the project to the caller.
    pub project_claim: Option<String>,
}

impl Oidc {
    /// `None`, with a finding each, where something is missing.
    pub(super) fn read(reader: &mut Reader) -> Option<Self> {
        let issuer = required(reader, &table::OIDC_ISSUER);
        let audience = required(reader, &table::OIDC_AUDIENCE);
        let tenant_claim = required(reader, &table::OIDC_TENANT_CLAIM);
        let role_claim = reader.read(&table::OIDC_ROLE_CLAIM);
        let default_role = reader.read(&table::OIDC_DEFAULT_ROLE);
        let project_claim = reader.given(&table::OIDC_PROJECT_CLAIM);
        let issuer = issuer?;
        if issuer.starts_with("http://") && !is_loopback(&issuer) {
            reader.warn("ENGRAMIA_OIDC_ISSUER is not https: who is on the way to it can forge every token");
        }
        Some(Self { issuer, audience: audience?, role_claim, default_role, tenant_claim: tenant_claim?, project_claim })
    }
}

fn required<K: Kind>(reader: &mut Reader, setting: &Setting<K>) -> Option<K::Value> {
    if !reader.is_set(setting) {
        reader.refuse(setting, "is required by ENGRAMIA_AUTH_MODE=oidc", setting.kind.accepts());
    }
    reader.given(setting)
}

#[cfg(test)]
mod tests {
    use crate::config::{AuthMode, Config, Loaded, Oidc};
    use crate::domain::Role;

    const ISSUER: (&str, &str) = ("ENGRAMIA_OIDC_ISSUER", "https://id.example/realms/a/");
    const AUDIENCE: (&str, &str) = ("ENGRAMIA_OIDC_AUDIENCE", "engramia");
    const TENANT: (&str, &str) = ("ENGRAMIA_OIDC_TENANT_CLAIM", "org");

    fn load(vars: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
        let vars = [("ENGRAMIA_AUTH_MODE", "oidc")].iter().chain(vars);
        let loaded = Config::load(vars.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        loaded.map_err(|findings| findings.to_string().lines().map(str::to_owned).collect())
    }

    fn valid(vars: &[(&str, &str)]) -> (Oidc, Vec<String>) {
        let loaded = load(&[&[ISSUER, AUDIENCE, TENANT], vars].concat()).expect("valid");
        let AuthMode::Oidc(oidc) = loaded.config.auth.mode else { panic!("another mode") };
        (oidc, loaded.warnings)
    }

    #[test]
    fn issuer_audience_and_tenant_claim_are_required_and_the_rest_has_defaults() {
        let (oidc, warnings) = valid(&[]);
        assert_eq!(warnings, [""; 0]);
        assert_eq!([oidc.issuer, oidc.audience], ["https://id.example/realms/a", "engramia"]);
        assert_eq!([oidc.role_claim, oidc.tenant_claim], ["engramia_role", "org"]);
        assert_eq!((oidc.default_role, oidc.project_claim), (Role::Reader, None));

        let findings = load(&[]).expect_err("nothing is set");
        assert_eq!(
            findings,
            [
                "ENGRAMIA_OIDC_ISSUER=: is required by ENGRAMIA_AUTH_MODE=oidc; accepted: an http or https URL without user, query and fragment",
                "ENGRAMIA_OIDC_AUDIENCE=: is required by ENGRAMIA_AUTH_MODE=oidc; accepted: a text",
                "ENGRAMIA_OIDC_TENANT_CLAIM=: is required by ENGRAMIA_AUTH_MODE=oidc; accepted: a claim name",
            ]
        );
    }

    #[test]
    fn every_value_is_checked() {
        let with = |extra| load(&[AUDIENCE, TENANT, extra]).expect_err("invalid");
        for issuer in ["id.example", "ftp://id.example", "https://id.example?tenant=a"] {
            let findings = with(("ENGRAMIA_OIDC_ISSUER", issuer));
            assert!(findings.len() == 1 && findings[0].starts_with("ENGRAMIA_OIDC_ISSUER="), "{findings:?}");
        }
        let findings = load(&[ISSUER, AUDIENCE, TENANT, ("ENGRAMIA_OIDC_DEFAULT_ROLE", "boss")]).expect_err("no role");
        assert!(findings[0].starts_with("ENGRAMIA_OIDC_DEFAULT_ROLE=boss"), "{findings:?}");
        let (oidc, _) = valid(&[
            ("ENGRAMIA_OIDC_DEFAULT_ROLE", "Editor"),
            ("ENGRAMIA_OIDC_ROLE_CLAIM", "https://a.example/role"),
            ("ENGRAMIA_OIDC_PROJECT_CLAIM", "project"),
        ]);
        assert_eq!((oidc.default_role, oidc.role_claim.as_str()), (Role::Editor, "https://a.example/role"));
        assert_eq!(oidc.project_claim.as_deref(), Some("project"));
    }

    #[test]
    fn settings_without_effect_and_keys_over_plain_http_are_warnings() {
        for (name, value) in
            [("ENGRAMIA_API_KEYS", "k"), ("ENGRAMIA_ENV_AUTH_ROLE", "admin"), ("ENGRAMIA_ALLOW_NO_AUTH", "true")]
        {
            let (_, warnings) = valid(&[(name, value)]);
            assert!(warnings.len() == 1 && warnings[0].starts_with(&format!("{name} has no effect")), "{warnings:?}");
        }
        let loaded = Config::load([(ISSUER.0.to_owned(), ISSUER.1.to_owned())]).expect("valid");
        assert_eq!(loaded.warnings, ["ENGRAMIA_OIDC_ISSUER has no effect: ENGRAMIA_AUTH_MODE is not oidc"]);

        let plain = |issuer| valid(&[("ENGRAMIA_OIDC_ISSUER", issuer)]).1.len();
        assert_eq!(plain("http://keycloak:8080"), 1);
        for loopback in ["http://127.0.0.1:1", "http://[::1]:1", "http://localhost"] {
            assert_eq!(plain(loopback), 0, "{loopback}");
        }
    }
}
