//! `engramia status`: health, statistics and version in one table.

use serde_json::{Value, json};

use super::client::Client;
use super::output::{self, one_line};

/// Runs the verb.
pub async fn run(client: &Client, json: bool) -> anyhow::Result<()> {
    let health = client.get("/v1/health").await?;
    let metrics = client.get("/v1/metrics").await?;
    let version = client.get("/v1/version").await?;
    if json {
        let place = client.place();
        output::json(&json!({ "server": place, "health": health, "metrics": metrics, "version": version }))?;
        return Ok(());
    }
    for (name, value) in rows(&client.place(), &health, &metrics, &version) {
        output::line(&format!("{name:<14} {value}"))?;
    }
    Ok(())
}

fn rows(place: &str, health: &Value, metrics: &Value, version: &Value) -> [(&'static str, String); 9] {
    [
        ("server", place.to_owned()),
        ("version", format!("{} (commit {})", text(&version["app_version"]), text(&version["git_commit"]))),
        ("status", text(&health["status"])),
        ("storage", text(&health["storage"])),
        ("patterns", text(&metrics["pattern_count"])),
        ("runs", text(&metrics["runs"])),
        ("success rate", percent(&metrics["success_rate"])),
        ("average score", metrics["avg_eval_score"].as_f64().map_or("-".to_owned(), |score| format!("{score:.1}"))),
        ("reuse rate", percent(&metrics["reuse_rate"])),
    ]
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => one_line(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn percent(share: &Value) -> String {
    share.as_f64().map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_are_absent_show_as_a_dash() {
        let metrics = json!({"runs": 3, "success_rate": 0.667, "avg_eval_score": null, "pattern_count": 2});
        let rows = rows("here", &json!({"status": "ok"}), &metrics, &Value::Null);
        let values: Vec<_> = rows.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values, ["here", "- (commit -)", "ok", "-", "2", "3", "66.7 %", "-", "-"]);
    }
}
