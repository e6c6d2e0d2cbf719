//! The client that follows a trace: requests at their times over a connection each, however many are open.

use std::{
    io::{self, BufReader, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use weir_tests::replay::{Arrival, Outcome};

use crate::ask::read_answer;

#[derive(clap::Args)]
pub(crate) struct Replay {
    /// HOST:PORT
    target: String,
    /// How long an answer may take, in milliseconds
    #[arg(long, default_value_t = 30_000)]
    timeout: u64,
}

impl Replay {
    /// Reads arrivals from standard input and follows them to the end of the last answer.
    pub(crate) fn run(&self) -> Result<Vec<Outcome>> {
        let target = self.target.to_socket_addrs().with_context(|| format!("look up {}", self.target))?.next();
        let target = target.with_context(|| format!("{} has no address", self.target))?;
        let arrivals: Vec<Arrival> = serde_json::from_reader(io::stdin()).context("arrivals on standard input")?;
        let start = Instant::now();
        thread::scope(|scope| {
            let requests = arrivals.into_iter().map(|arrival| {
                let at = start + Duration::from_micros(arrival.at);
                thread::sleep(at.saturating_duration_since(Instant::now()));
                scope.spawn(move || self.outcome(target, arrival, at))
            });
            // All have begun before the first is waited for.
            let requests: Vec<_> = requests.collect();
            requests.into_iter().map(|one| one.join().map_err(|_| anyhow!("a request panicked"))).collect()
        })
    }

    fn outcome(&self, target: SocketAddr, arrival: Arrival, at: Instant) -> Outcome {
        let answer = self.ask(target, arrival, at + Duration::from_millis(self.timeout));
        let answer = answer.map_err(|error| format!("{error:#}"));
        Outcome { arrival, took: at.elapsed().as_micros() as u64, answer }
    }

    fn ask(&self, target: SocketAddr, arrival: Arrival, end: Instant) -> Result<String> {
        let left = || end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let mut stream = TcpStream::connect_timeout(&target, left()).with_context(|| format!("connect to {target}"))?;
        stream.set_read_timeout(Some(left()))?;
        stream.set_nodelay(true)?;
        let path = format!("/work/{}", arrival.work);
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.target);
        stream.write_all(request.as_bytes()).context("send the request")?;
        let (name, _) = read_answer(&mut BufReader::new(stream))
            .with_context(|| format!("no whole answer from {target} within {} ms", self.timeout))?;
        Ok(name)
    }
}
