//! `engramia healthcheck`: what a container is told about the server in it.

use std::process::Command;

use crate::support::program::{self, Server};

/// Asks for the server on this port as the image does: exit code, and the one line that is said.
async fn asked(port: u16, vars: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(program::PROGRAM);
    command.arg("healthcheck").env_clear().env("ENGRAMIA_HOST", "0.0.0.0").env("ENGRAMIA_PORT", port.to_string());
    command.envs(vars.iter().copied());
    let output = program::finished(command).await;
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    (output.status.code(), text.trim().to_owned())
}

#[tokio::test]
async fn a_server_is_healthy_with_and_without_keys() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let [with_static, with_stored, open] = folders.each_ref().map(|folder| program::on_directory(folder.path()));
    let (mut with_stored, mut open) = (with_stored, open);
    with_stored.env("ENGRAMIA_AUTH_MODE", "db");
    open.env_remove("ENGRAMIA_API_KEYS").env("ENGRAMIA_ALLOW_NO_AUTH", "true");
    for command in [with_static, with_stored, open] {
        let server = Server::start(command).await;
        let port = server.address().port();
        let url = format!("ready at http://127.0.0.1:{port}/");
        // A key or another server in the environment, or a proxy, changes nothing.
        assert_eq!(asked(port, &[]).await, (Some(0), url.clone()));
        let around =
            [("ENGRAMIA_API_KEY", "x"), ("ENGRAMIA_API_URL", "http://h:1"), ("HTTP_PROXY", "http://127.0.0.1:9")];
        assert_eq!(asked(port, &around).await, (Some(0), url));
    }
}

#[tokio::test]
async fn nobody_or_somebody_else_on_the_port_is_not_healthy() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = nobody.local_addr().expect("an address").port();
    let (code, said) = asked(port, &[]).await;
    assert!(code == Some(1) && said.contains("timed out"), "accepts and never answers: {said}");
    drop(nobody);
    let (code, said) = asked(port, &[]).await;
    assert!(code == Some(1) && said.contains("cannot reach"), "{said}");

    let starting = wiremock::MockServer::builder().start().await;
    let (code, said) = asked(starting.address().port(), &[]).await;
    assert!(code == Some(1) && said.starts_with("engramia: not ready: ") && said.ends_with("404 Not Found"), "{said}");
    let (code, said) = asked(0, &[]).await;
    assert!(code == Some(1) && said.contains("--port"), "{said}");
}
