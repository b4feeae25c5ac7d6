//! The table of keys that are known by how they begin. A row says which literals start the key,
//! which bytes may follow and how many; a new provider is one more row.
//!
//! Prefixes and lengths are from the providers' documentation of their token formats. Lower bounds
//! are kept a little under the documented lengths, since a cut key is still worth hiding.

use std::ops::Range;

use super::checks::{is_base64url, is_inside_base64, is_word, run_end, slice, starts_word};

/// One family of keys that share an alphabet and a length.
pub(super) struct Prefixed {
    pub(super) family: &'static str,
    pub(super) literals: &'static [&'static str],
    body: fn(u8) -> bool,
    min: usize,
    max: usize,
    keeps_literal: bool,
}

/// At least `min` bytes of the alphabet after the literal.
const fn long(family: &'static str, literals: &'static [&'static str], body: fn(u8) -> bool, min: usize) -> Prefixed {
    let (max, keeps_literal) = (usize::MAX, false);
    Prefixed { family, literals, body, min, max, keeps_literal }
}

/// From `min` to `max` bytes, for literals that also begin ordinary words.
const fn sized(
    family: &'static str,
    literals: &'static [&'static str],
    body: fn(u8) -> bool,
    (min, max): (usize, usize),
) -> Prefixed {
    Prefixed { max, ..long(family, literals, body, min) }
}

/// The literal is a name or an address and stays; only what follows is replaced.
const fn after(family: &'static str, literals: &'static [&'static str], body: fn(u8) -> bool, min: usize) -> Prefixed {
    Prefixed { keeps_literal: true, ..long(family, literals, body, min) }
}

fn alnum(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}
fn upper(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte.is_ascii_digit()
}
fn hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}
fn hex_dash(byte: u8) -> bool {
    hex(byte) || byte == b'-'
}
fn url(byte: u8) -> bool {
    is_base64url(byte)
}
fn dotted(byte: u8) -> bool {
    is_base64url(byte) || byte == b'.' || byte == b'='
}
fn base64(byte: u8) -> bool {
    alnum(byte) || b"+/=_-".contains(&byte)
}
fn path(byte: u8) -> bool {
    is_base64url(byte) || byte == b'/'
}
fn percent(byte: u8) -> bool {
    base64(byte) || byte == b'%'
}

#[rustfmt::skip]
pub(super) static PREFIXED: &[Prefixed] = &[
    // Models and machine learning.
    long("openai_key", &["sk-"], alnum, 20),
    long("openai_key", &["sk-proj-", "sk-svcacct-", "sk-admin-", "sk-None-"], url, 20),
    long("anthropic_key", &["sk-ant-"], url, 20),
    long("openrouter_key", &["sk-or-"], url, 20),
    long("langfuse_key", &["sk-lf-"], url, 32),
    long("langsmith_key", &["lsv2_pt_", "lsv2_sk_"], url, 32),
    long("hugging_face_token", &["hf_", "api_org_"], alnum, 30),
    long("replicate_token", &["r8_"], alnum, 30),
    long("groq_key", &["gsk_"], alnum, 40),
    long("xai_key", &["xai-"], alnum, 40),
    long("perplexity_key", &["pplx-"], alnum, 40),
    long("fireworks_key", &["fw_"], alnum, 22),
    long("together_key", &["tgp_v1_"], url, 40),
    long("cerebras_key", &["csk-"], alnum, 40),
    long("nvidia_key", &["nvapi-"], url, 50),
    long("pinecone_key", &["pcsk_"], url, 40),
    long("jina_key", &["jina_"], alnum, 50),
    long("tavily_key", &["tvly-"], url, 20),
    sized("firecrawl_key", &["fc-"], hex, (32, 32)),
    sized("elevenlabs_key", &["sk_"], hex, (48, 48)),
    // Engramia itself.
    long("engramia_key", &["engramia_sk_"], url, 20),
    sized("engramia_key", &["engramia-"], hex, (32, 64)),
    // Clouds and hosting.
    sized("aws_access_key", &["AKIA", "ASIA", "ABIA", "ACCA"], upper, (16, 16)),
    long("aws_bedrock_key", &["ABSK"], base64, 100),
    long("aws_mws_token", &["amzn.mws."], hex_dash, 36),
    long("google_api_key", &["AIza"], url, 35),
    long("google_oauth_secret", &["GOCSPX-"], url, 24),
    long("google_oauth_token", &["ya29."], url, 20),
    long("google_refresh_token", &["1//0"], url, 30),
    after("azure_storage_key", &["AccountKey=", "SharedAccessKey="], base64, 40),
    after("azure_sas_signature", &["sig="], percent, 40),
    sized("alibaba_access_key", &["LTAI"], alnum, (12, 24)),
    sized("tencent_secret_id", &["AKID"], alnum, (32, 36)),
    long("yandex_api_key", &["AQVN"], url, 35),
    long("digitalocean_token", &["dop_v1_", "doo_v1_", "dor_v1_"], hex, 60),
    long("cloudflare_origin_ca_key", &["v1.0-"], hex_dash, 100),
    long("heroku_key", &["HRKU-"], url, 36),
    long("fly_token", &["fm1r_", "fm1a_", "fm2_"], base64, 60),
    long("fly_token", &["fo1_"], url, 40),
    long("render_key", &["rnd_"], alnum, 28),
    long("netlify_token", &["nfp_", "nfc_", "nfo_", "nfb_", "nfu_"], alnum, 36),
    long("openshift_token", &["sha256~"], url, 40),
    long("tailscale_key", &["tskey-"], url, 20),
    long("scalingo_token", &["tk-us-", "tk-eu-"], url, 40),
    // Source code and packages.
    long("github_token", &["ghp_", "gho_", "ghu_", "ghs_", "ghr_"], alnum, 36),
    long("github_token", &["github_pat_"], is_word, 40),
    long("gitlab_token", &["glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glsoat-", "glft-",
        "glimt-", "glagent-", "gloas-", "GR1348941"], dotted, 20),
    long("bitbucket_token", &["ATBB"], alnum, 28),
    long("atlassian_token", &["ATATT3", "ATCTT3"], base64, 60),
    long("trello_token", &["ATTA"], alnum, 60),
    long("npm_token", &["npm_"], alnum, 36),
    long("pypi_token", &["pypi-AgE"], url, 50),
    long("rubygems_key", &["rubygems_"], hex, 48),
    sized("crates_io_token", &["cio"], alnum, (32, 32)),
    sized("nuget_key", &["oy2"], alnum, (43, 43)),
    long("clojars_token", &["CLOJARS_"], alnum, 50),
    long("docker_token", &["dckr_pat_", "dckr_oat_"], url, 27),
    sized("artifactory_key", &["AKCp"], alnum, (69, 73)),
    sized("artifactory_key", &["cmVmd"], alnum, (59, 59)),
    long("sourcegraph_token", &["sgp_"], is_word, 40),
    long("sonar_token", &["sqp_", "squ_", "sqa_"], hex, 40),
    long("circleci_token", &["CCIPAT_"], is_word, 40),
    long("buildkite_token", &["bkua_"], alnum, 40),
    long("infracost_key", &["ico-"], alnum, 32),
    // Secrets, infrastructure and monitoring.
    long("vault_token", &["hvs.", "hvb.", "hvr."], url, 24),
    long("doppler_token", &["dp.pt.", "dp.st.", "dp.ct.", "dp.sa.", "dp.scim.", "dp.audit."], dotted, 40),
    long("onepassword_token", &["ops_eyJ"], base64, 60),
    long("age_secret_key", &["AGE-SECRET-KEY-1"], upper, 58),
    long("pulumi_token", &["pul-"], hex, 40),
    long("prefect_key", &["pnu_", "pnb_"], alnum, 36),
    long("databricks_token", &["dapi", "dose"], hex_dash, 32),
    long("grafana_token", &["glsa_", "glc_"], base64, 32),
    long("sentry_token", &["sntrys_", "sntryu_", "sntryi_"], base64, 40),
    long("new_relic_key", &["NRAK-", "NRJS-", "NRII-", "NRAA-", "NRIQ-"], url, 19),
    long("dynatrace_token", &["dt0c01.", "dt0s01.", "dt0s16."], dotted, 60),
    sized("launchdarkly_key", &["sdk-", "api-", "mob-"], hex_dash, (36, 36)),
    long("posthog_key", &["phx_"], alnum, 40),
    long("wandb_key", &["wandb_v1_"], is_word, 40),
    // Data stores.
    long("supabase_key", &["sbp_"], hex, 40),
    long("supabase_key", &["sb_secret_"], url, 20),
    long("planetscale_token", &["pscale_tkn_", "pscale_pw_", "pscale_oauth_"], dotted, 32),
    long("neon_key", &["napi_"], alnum, 40),
    long("contentful_token", &["CFPAT-"], url, 40),
    long("mapbox_token", &["sk.eyJ", "tk.eyJ"], dotted, 40),
    // Messages and mail.
    long("slack_token", &["xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxo-", "xoxd-", "xoxc-",
        "xoxe-", "xoxe.xoxb-", "xoxe.xoxp-", "xapp-"], url, 20),
    after("slack_webhook", &["hooks.slack.com/services/", "hooks.slack.com/workflows/"], path, 30),
    after("discord_webhook", &["discord.com/api/webhooks/", "discordapp.com/api/webhooks/"], path, 60),
    long("sendgrid_key", &["SG."], dotted, 60),
    sized("mailgun_key", &["key-"], hex, (32, 32)),
    long("brevo_key", &["xkeysib-", "xsmtpsib-"], url, 60),
    long("postman_key", &["PMAK-"], hex_dash, 50),
    // Shops and payments.
    long("stripe_key", &["sk_live_", "sk_test_", "rk_live_", "rk_test_"], alnum, 16),
    long("stripe_webhook_secret", &["whsec_"], base64, 24),
    long("square_token", &["sq0atp-", "sq0csp-"], url, 22),
    long("braintree_token", &["access_token$production$", "access_token$sandbox$"], braintree, 40),
    long("shopify_token", &["shpat_", "shpca_", "shppa_", "shpss_", "shptka_"], hex, 32),
    long("duffel_token", &["duffel_live_", "duffel_test_"], url, 40),
    sized("easypost_key", &["EZAK", "EZTK"], alnum, (54, 54)),
    long("shippo_token", &["shippo_live_", "shippo_test_"], hex, 40),
    // Work tools.
    long("linear_key", &["lin_api_", "lin_oauth_", "lin_wh_"], alnum, 32),
    long("notion_token", &["ntn_", "secret_"], alnum, 40),
    long("figma_token", &["figd_", "figo_"], url, 36),
    long("hubspot_token", &["pat-na1-", "pat-na2-", "pat-eu1-"], hex_dash, 36),
    long("typeform_token", &["tfp_"], dotted, 40),
    long("readme_key", &["rdme_"], alnum, 60),
    long("frameio_token", &["fio-u-"], url, 60),
    sized("adobe_secret", &["p8e-"], alnum, (32, 32)),
    long("dropbox_token", &["sl."], url, 100),
    long("facebook_token", &["EAA"], alnum, 100),
];

fn braintree(byte: u8) -> bool {
    alnum(byte) || byte == b'$'
}

impl Prefixed {
    /// The key whose literal (already compared without case) stands at `literal`.
    pub(super) fn find(&self, bytes: &[u8], text: &str, literal: Range<usize>) -> Option<Range<usize>> {
        if &bytes[literal.clone()] != text.as_bytes() || !starts_word(bytes, literal.start) {
            return None;
        }
        let body = literal.end;
        if !self.may_begin(bytes, body) || is_inside_base64(bytes, literal.start) {
            return None;
        }
        let end = self.end(bytes, body);
        let is_sized = (self.min..=self.max).contains(&(end - body));
        let ends_word = !bytes.get(end).is_some_and(|&byte| is_word(byte));
        let start = if self.keeps_literal { body } else { literal.start };
        (is_sized && ends_word).then_some(start..end)
    }

    /// Whether enough bytes of the alphabet follow, and no name: `sk-ant-loading-spinner` has
    /// separators and no digit. Looks at a bounded number of bytes, so that a long text of bare
    /// literals stays cheap.
    fn may_begin(&self, bytes: &[u8], body: usize) -> bool {
        const JUDGED: usize = 64;
        let mut has_separator = false;
        let window = slice(bytes, body..bytes.len().min(body + JUDGED.max(self.min)));
        let mut length = 0;
        for &byte in window.iter().take_while(|&&byte| (self.body)(byte)) {
            length += 1;
            if byte.is_ascii_digit() {
                return length >= self.min || self.has_minimum(bytes, body);
            }
            has_separator |= !byte.is_ascii_alphanumeric();
        }
        length >= self.min && !has_separator
    }

    fn has_minimum(&self, bytes: &[u8], body: usize) -> bool {
        let minimum = bytes.get(body..body + self.min);
        minimum.is_some_and(|key| key.iter().all(|&byte| (self.body)(byte)))
    }

    /// End of the key: as far as its alphabet goes, without the full stop of a sentence.
    fn end(&self, bytes: &[u8], body: usize) -> usize {
        let window = &bytes[..bytes.len().min(body.saturating_add(self.max).saturating_add(1))];
        let end = run_end(window, body, self.body);
        if bytes[body..end].ends_with(b".") { end - 1 } else { end }
    }
}

#[cfg(test)]
impl Prefixed {
    /// A made-up key: the literal and as many bytes of its alphabet as it needs.
    pub(super) fn sample(&self, literal: &str) -> String {
        let alphabet = b"A7b2C9d4E1f6a3B8c5D0e2F";
        let body = alphabet.iter().cycle().filter(|&&byte| (self.body)(byte));
        let body: Vec<u8> = body.take(self.min).copied().collect();
        format!("{literal}{}", String::from_utf8(body).expect("ASCII"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::redact;
    use super::*;

    #[test]
    fn every_row_is_found() {
        for row in PREFIXED {
            for literal in row.literals {
                let key = row.sample(literal);
                for text in [key.clone(), format!("value = '{key}'\n"), format!("a\\n{key}, b")] {
                    let redacted = redact(&text);
                    let found: Vec<_> = redacted.findings.iter().collect();
                    assert_eq!(found, [(row.family, 1)], "{text}");
                    assert!(!redacted.text.contains(&key), "{}", redacted.text);
                }
            }
        }
    }

    #[test]
    fn short_keys_and_names_stay() {
        for text in [
            "name = 'sk-short'",
            "class=\"sk-ant-loading-spinner-of-the-page\"",
            "npm_config_user_agent",
            "risk-a1b2c3d4e5f6a1b2c3d4e5f6",
            "secret_name_of_the_cluster",
            "api-gateway-service",
            "hf_model",
            "ASIAPACIFICREGIONNAME",
        ] {
            assert_eq!(redact(text).text, text);
        }
        let picture = format!("AGFzbQEAAAABJwdgAX8Bf2ADf39/AX9gAX8AYAJ/{}/EAA{}", "AGFzbQ1", "AJwd9".repeat(30));
        assert_eq!(redact(&picture).text, picture, "chance in the middle of base64");
    }
}
