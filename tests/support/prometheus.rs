//! A real Prometheus with what is asked of it, from Debian's package.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{namespace::Namespace, process::Running};

/// How long it may take to scrape; not a measurement.
const PATIENCE: Duration = Duration::from_secs(60);

/// What it scrapes, each second.
#[derive(Clone, Debug)]
pub struct Job {
    /// The label `job`.
    pub name: &'static str,
    /// Where, and the label `instance`.
    pub targets: Vec<(String, String)>,
}

/// One series of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its labels, without its name.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

/// A Prometheus that ends with the test.
#[derive(Debug)]
pub struct Prometheus {
    /// Killed when dropped.
    process: Running,
    address: SocketAddr,
    namespace: Option<Namespace>,
}

impl Prometheus {
    /// Ends it at once, where nothing will drop it.
    pub fn kill(&self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)
    }

    /// Starts one in this network namespace, or in another; it keeps its data in a folder, and evaluates rules each second.
    pub fn start(folder: &Path, jobs: &[Job], rules: &[&Path], namespace: Option<Namespace>) -> Result<Self> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = folder.join("prometheus.yml");
        fs::write(&config, configuration(jobs, rules).to_string())?;
        let mut command = match &namespace {
            Some(namespace) => namespace.command("prometheus")?,
            None => Command::new("prometheus"),
        };
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"));
        let process = Running::start(command, &folder.join("prometheus.log"))
            .context("install the package prometheus: `cargo xtask setup --for test` does")?;
        Ok(Self { process, address, namespace })
    }

    /// Where it answers, in its network namespace.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An answer of its HTTP interface.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let query: String =
            parameters.iter().map(|(name, value)| format!("{name}={}&", percent_encoded(value))).collect();
        let path = format!("/api/v1/{path}?{query}");
        let ask = || get(self.address, &path);
        let body = match &self.namespace {
            Some(namespace) => namespace.enter(ask)??,
            None => ask()?,
        };
        let answer: Value = serde_json::from_str(&body)?;
        ensure!(answer["status"] == "success", "{path}: {}", answer["error"]);
        Ok(answer["data"].clone())
    }

    /// What a query gives now.
    pub fn query(&self, query: &str) -> Result<Vec<Series>> {
        let data = self.api("query", &[("query", query)])?;
        let rows = data["result"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| Series::read(row).with_context(|| format!("{query}: {row}"))).collect()
    }

    /// Waits until every target was scraped with success.
    pub fn wait_for_targets(&self) -> Result<()> {
        let start = Instant::now();
        let mut targets = Vec::new();
        while start.elapsed() < PATIENCE {
            // It does not answer at once.
            let answer = self.api("targets", &[]).unwrap_or_default();
            targets = answer["activeTargets"].as_array().cloned().unwrap_or_default();
            if !targets.is_empty() && targets.iter().all(|target| target["health"] == "up") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        bail!("Prometheus did not scrape within {} s: {targets:#?}\n{}", PATIENCE.as_secs(), self.process.log())
    }
}

impl Series {
    fn read(row: &Value) -> Option<Self> {
        let labels = row["metric"].as_object()?.iter().filter(|(name, _)| *name != "__name__");
        let labels =
            labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect::<Option<_>>()?;
        Some(Self { labels, value: row["value"][1].as_str()?.parse().ok()? })
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The names of its labels.
    pub fn label_names(&self) -> Vec<&str> {
        self.labels.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// As JSON, which is YAML too.
fn configuration(jobs: &[Job], rules: &[&Path]) -> Value {
    let target =
        |(address, instance): &(String, String)| json!({"targets": [address], "labels": {"instance": instance}});
    let scrape = |job: &Job| {
        let targets: Vec<_> = job.targets.iter().map(target).collect();
        // `namespace` and `service` are those of what is balanced, as the chart's PodMonitor has it.
        json!({"job_name": job.name, "honor_labels": true, "static_configs": targets})
    };
    json!({
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "scrape_configs": jobs.iter().map(scrape).collect::<Vec<_>>(),
        "rule_files": rules,
    })
}

/// The body of an answer; HTTP/1.0, so that it comes in one piece.
pub fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no body")?;
    // An error of Prometheus' is told in the body.
    ensure!([" 200 ", " 400 ", " 422 "].iter().any(|code| head.contains(code)), "{path}: {head}");
    Ok(body.to_owned())
}

fn percent_encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_survive_the_way_into_a_path() {
        assert_eq!(percent_encoded(r#"a{b=~"c d"} > 0"#), "a%7Bb%3D%7E%22c%20d%22%7D%20%3E%200");
    }

    #[test]
    fn series_are_read() {
        let row = json!({"metric": {"__name__": "up", "job": "a"}, "value": [1.5, "NaN"]});
        let series = Series::read(&row).expect("a series");
        assert_eq!((series.label_names(), series.label("job")), (vec!["job"], Some("a")));
        assert!(series.value.is_nan());
    }
}
