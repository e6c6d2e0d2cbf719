//! Programs that tests start: killed by their pid when their guard goes, their output kept for the message of a failure.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A started program; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program, standard output and standard error appended to a file.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let file =
            fs::OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its exit status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal).with_context(|| format!("{signal} to {}", self.child.id()))
    }

    /// Kills it at once and waits until it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        wait_until(limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })
        .with_context(|| format!("the end of process {}; it printed:\n{}", self.child.id(), self.log()))?;
        status.context("no exit status")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until a condition holds; an error of the condition ends the wait.
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        if condition()? {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("not within {} s", limit.as_secs_f32());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a program to its end with this as its standard input.
pub fn with_input(mut command: Command, input: &[u8]) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let mut stdin = child.stdin.take().context("a piped standard input")?;
    thread::scope(|scope| {
        // A program that ends without reading everything says itself what is wrong.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().with_context(|| format!("the end of {command:?}"))
    })
}

/// Bytes of a program's output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
