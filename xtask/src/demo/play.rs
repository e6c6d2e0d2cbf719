//! The demo's course: its phases, what happens in each, and what is watched meanwhile.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use weir_tests::{
    agent::{Agent, Options},
    process::wait_until,
    requirements,
};

use super::{
    load::Load,
    picture,
    report::{self, Event, Observation, Phase, Record},
    stage::{SERVERS_MAX, Stage},
};

const FEW: usize = 24;
const MANY: usize = 120;

/// Plays the demo, prints the table, draws the picture, and returns what was recorded.
pub(crate) fn run(folder: &Path, weir: PathBuf, keep: bool) -> Result<Record> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    say("building the network and starting four nginx servers, the first with a quarter of the others' CPU");
    let nginx = requirements::find("nginx").context("nginx is not installed")?;
    let stage = Stage::new(folder, &nginx)?;
    let command = stage.scale_script.to_str().context("the path of the clone is not UTF-8")?;
    let options = Options { binary: Some(weir.clone()), show_log: false, ..Options::default() }
        .with(&["--scale-command", command]);
    let agent = Agent::start(&stage.topology, &stage.manifests, options)?;
    let load = Load::new(&stage.topology.client, Stage::frontend(), MANY)?;
    let mut play = Play { stage: &stage, agent, load, record: Record::default(), interrupted };
    play.phases()?;
    let total = play.settle()?;
    play.record.samples = play.load.samples();
    show(&play.record, folder, total)?;
    play.farewell(&weir, keep)?;
    Ok(play.record)
}

struct Play<'a> {
    stage: &'a Stage,
    agent: Agent<'a>,
    load: Load,
    record: Record,
    interrupted: Arc<AtomicBool>,
}

impl Play<'_> {
    fn phases(&mut self) -> Result<()> {
        self.phase("random", FEW, |play| play.watch(10))?;
        self.phase("least-connections", FEW, |play| {
            play.stage.set_algorithm("least-connections")?;
            play.watch(10)
        })?;
        self.phase("more load", MANY, Self::scale_out)?;
        self.phase("agent killed", MANY, |play| {
            play.watch(2)?;
            play.event("kill -9");
            play.agent.kill9()?;
            play.watch(1)?;
            say("no agent runs; the kernel's maps can be read all the same:");
            print!("{}", play.agent.weir_ok(&["get", "backends"])?);
            play.watch(4)?;
            play.event("started again");
            play.agent.launch()?;
            for _ in 0..30 {
                play.watch(1)?;
                if play.agent.is_ready()? {
                    say("ready");
                    return play.watch(3);
                }
            }
            bail!("weir is not ready again after 30 s; it printed:\n{}", play.agent.log())
        })
    }

    fn scale_out(&mut self) -> Result<()> {
        for _ in 0..20 {
            self.watch(1)?;
            if self.replicas() == SERVERS_MAX {
                self.event("two servers started");
                return self.watch(8);
            }
        }
        bail!("the ScalePolicy started no servers within 20 s; weir printed:\n{}", self.agent.log())
    }

    fn phase(
        &mut self,
        name: &'static str,
        clients: usize,
        course: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        say(&format!("{name}: {clients} clients, a new connection for every request"));
        let from = self.load.elapsed();
        self.load.set_clients(clients);
        course(self)?;
        self.record.phases.push(Phase { name, clients, from, to: self.load.elapsed() });
        Ok(())
    }

    fn event(&mut self, text: &'static str) {
        say(text);
        self.record.events.push(Event { at: self.load.elapsed(), text });
    }

    fn replicas(&self) -> usize {
        self.record.observations.last().map_or(0, Observation::replicas)
    }

    /// Watches for so many seconds, with a line for each.
    fn watch(&mut self, seconds: u32) -> Result<()> {
        let start = Instant::now();
        for second in 1..=seconds {
            while start.elapsed() < Duration::from_secs(second.into()) {
                self.check_interrupted()?;
                thread::sleep(Duration::from_millis(50));
            }
            self.observe()?;
        }
        Ok(())
    }

    fn check_interrupted(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted; everything is cleaned up");
        }
        Ok(())
    }

    /// Reads the kernel's maps through `weir get backends`, agent or not.
    fn observe(&mut self) -> Result<()> {
        let mut active = [None; SERVERS_MAX];
        for backend in self.agent.backends()? {
            let index = self.stage.topology.hosts.iter().position(|host| host.v4.to_string() == backend.address);
            active[index.context("a backend that is no server")?] = Some(backend.active_connections);
        }
        let at = self.load.elapsed();
        let observation = Observation { at, active };
        self.print_second(&observation);
        self.record.observations.push(observation);
        Ok(())
    }

    fn print_second(&self, seen: &Observation) {
        let last = seen.at.saturating_sub(Duration::from_secs(1));
        let samples = self.load.samples();
        let summary =
            report::summarise(samples.iter().filter(|sample| (last..seen.at).contains(&(sample.begun + sample.took))));
        let active = seen.active.map(|count| count.map_or("-".to_owned(), |count| count.to_string())).join(" ");
        println!(
            "  {:4.0} s  {:5} requests/s  p99 {:4.0} ms  errors {}  active connections {active}",
            seen.at.as_secs_f64(),
            summary.answered,
            summary.p99.as_secs_f64() * 1e3,
            summary.errors,
        );
    }

    /// Lets every request end and compares the kernel's count of connections with the clients'.
    fn settle(&mut self) -> Result<u64> {
        self.load.set_clients(0);
        wait_until(Duration::from_secs(30), || Ok(self.load.is_idle())).context("requests are still under way")?;
        let idle = || Ok(self.agent.backends()?.iter().all(|backend| backend.active_connections == 0));
        wait_until(Duration::from_secs(20), idle).context("connections are still counted as active")?;
        let counted: u64 = self.agent.backends()?.iter().map(|backend| backend.connections_total).sum();
        let made = self.load.samples().len() as u64;
        if counted != made {
            bail!("the clients made {made} connections, the kernel counted {counted}");
        }
        Ok(counted)
    }

    fn farewell(&self, weir: &Path, keep: bool) -> Result<()> {
        let node = self.stage.topology.node.path();
        let prefix = format!("nsenter --net={} {}", node.display(), weir.display());
        let suffix = format!("--pin-path {}", self.agent.pins().path().display());
        let commands = [
            "get backends",
            "get services",
            "get flows",
            "map list",
            "status",
            "explain 10.99.0.1:80/TCP --from 10.10.0.1",
            "drain 10.20.1.2:8080",
        ];
        if !keep {
            println!("\nTo look around in it yourself: cargo xtask demo --keep");
            return Ok(());
        }
        println!("\nIt goes on until Ctrl-C. To try next, as root:");
        commands.iter().for_each(|command| println!("  {prefix} {command} {suffix}"));
        println!("  ls {}   # edit these files and watch", self.stage.manifests.path().display());
        self.load.set_clients(FEW);
        while !self.interrupted.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn show(record: &Record, folder: &Path, total: u64) -> Result<()> {
    let table = report::table(record).to_string();
    println!(
        "\n{table}\n\nThe clients made {total} connections; the kernel counted {total}, the agent's death included."
    );
    fs::write(folder.join("table.md"), table + "\n")?;
    for path in picture::draw(record, folder)? {
        println!("{}", path.display());
    }
    Ok(())
}

fn say(text: &str) {
    println!("- {text}");
}
