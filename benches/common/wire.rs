//! One keep-alive HTTP connection with as little between the clock and the socket as possible.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A connection that knows its key.
pub struct Connection {
    stream: TcpStream,
    key: &'static str,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr, key: &'static str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, key, buffer: Vec::new() })
    }

    /// Posts JSON to a project and reads the JSON answer; anything but 200 is an error.
    pub async fn post_to(&mut self, project: usize, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nX-Project-Id: p{project}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        let (head, length) = loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server hung up");
            if let Some(head) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break (head + 4, content_length(&self.buffer[..head])?);
            }
        };
        while self.buffer.len() < head + length {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server hung up");
        }
        let answer = &self.buffer[head..];
        ensure!(self.buffer.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&self.buffer));
        Ok(serde_json::from_slice(answer)?)
    }
}

fn content_length(head: &[u8]) -> anyhow::Result<usize> {
    let head = std::str::from_utf8(head)?.to_ascii_lowercase();
    let line = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    Ok(line.context("a content length")?.trim().parse()?)
}
