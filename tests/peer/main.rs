//! The program in the test cluster's pods: a server that says who it is and whom it sees, and a client that counts who answers.

mod ask;
mod replay;

use std::{net::IpAddr, thread, time::Duration};

use anyhow::Result;
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use weir_tests::server::Server;

/// A server and a client for tests.
#[derive(Parser)]
enum Command {
    /// Answer over TCP and UDP until SIGTERM
    Serve(Serve),
    /// Ask, and print as JSON who answered and what failed
    Ask(ask::Ask),
    /// Follow arrivals from standard input, and print as JSON what came of each
    Replay(replay::Replay),
}

#[derive(clap::Args)]
struct Serve {
    /// What answers say
    #[arg(long, env = "HOSTNAME")]
    name: String,
    /// The port on which it listens
    #[arg(long, default_value_t = 80)]
    port: u16,
    /// The addresses on which it listens: where a host has several, an answer to a datagram must come from the one that was asked
    #[arg(long, value_delimiter = ',', default_value = "::")]
    address: Vec<IpAddr>,
    /// How long it takes before it listens, in seconds
    #[arg(long, default_value_t = 0)]
    startup: u64,
    /// How long it goes on serving after SIGTERM, in seconds: until no client is sent here any more
    #[arg(long, default_value_t = 3)]
    grace: u64,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Serve(serve) => serve.run(),
        Command::Ask(ask) => {
            println!("{}", serde_json::to_string(&ask.run()?)?);
            Ok(())
        }
        Command::Replay(replay) => {
            println!("{}", serde_json::to_string(&replay.run()?)?);
            Ok(())
        }
    }
}

impl Serve {
    fn run(&self) -> Result<()> {
        // Before the first thread, so that all of them leave the signal to this one.
        let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        ends.thread_block()?;
        thread::sleep(Duration::from_secs(self.startup));
        let server = Server::here(&self.name, &self.address, self.port)?;
        ends.wait()?;
        server.drain();
        thread::sleep(Duration::from_secs(self.grace));
        Ok(())
    }
}
