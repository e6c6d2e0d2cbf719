//! What a process takes.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// A process by its id.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// This one.
    pub fn own() -> Self {
        Self(std::process::id())
    }

    /// Anonymous memory in MiB.
    pub fn rss_anon_mib(self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.0);
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let number =
            line.and_then(|line| line.trim().strip_suffix(" kB")).with_context(|| format!("{path}: RssAnon"))?;
        Ok(number.trim().parse::<f64>()? / 1024.0)
    }

    /// CPU time, in the kernel's name too, to a hundredth of a second.
    pub fn cpu_time(self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.0);
        let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
        // The name may have spaces; fields 14 and 15 are user and system time.
        let (_, rest) = stat.rsplit_once(") ").with_context(|| path.clone())?;
        let ticks: u64 = rest.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap_or(0)).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Of one CPU, in percent, over this time.
    pub fn busy_percent(self, time: Duration) -> Result<f64> {
        let before = self.cpu_time()?;
        std::thread::sleep(time);
        Ok((self.cpu_time()? - before).as_secs_f64() / time.as_secs_f64() * 100.0)
    }
}
