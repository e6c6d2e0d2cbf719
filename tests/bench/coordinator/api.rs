//! The only thing that the coordinator asks of the API server here: whose a token is. A token is the name of its node.

use anyhow::Result;
use kube::{Client, Config};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Whose every token is.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:weir:weir-agent";

/// Starts it; returns a client of it.
pub(crate) async fn start() -> Result<Client> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Ok(Client::try_from(Config::new(url.parse()?))?)
}

/// Answers the reviews of one connection.
async fn serve(mut stream: TcpStream) -> Option<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = find(&read, b"\r\n\r\n") {
                break end + 4;
            }
            (stream.read_buf(&mut read).await.ok()? > 0).then_some(())?;
        };
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())?;
        while read.len() < end + length {
            (stream.read_buf(&mut read).await.ok()? > 0).then_some(())?;
        }
        let body: serde_json::Value = serde_json::from_slice(&read[end..end + length]).ok()?;
        read.drain(..end + length);
        let status = json!({
            "authenticated": true, "audiences": body["spec"]["audiences"],
            "user": {"username": ACCOUNT, "extra": {"authentication.kubernetes.io/node-name": [body["spec"]["token"]]}},
        });
        let answer =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {}, "status": status})
                .to_string();
        let head = format!(
            "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        stream.write_all((head + &answer).as_bytes()).await.ok()?;
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
