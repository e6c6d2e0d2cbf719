//! Says when a folder may have changed: by inotify, once its writers have paused; and from time to time in any case.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

/// A folder is read this often although nothing was heard of it: some file systems tell nothing.
const RESCAN: Duration = Duration::from_secs(30);
/// And this often while it cannot be watched, as when it is gone.
const RETRY: Duration = Duration::from_secs(1);
/// A change is over when nothing was written for so long,
const PAUSE: Duration = Duration::from_millis(50);
/// or when it has gone on for so long.
const PATIENCE: Duration = Duration::from_millis(500);

/// A watched folder.
#[derive(Debug)]
pub struct Watch {
    folder: PathBuf,
    watcher: Option<RecommendedWatcher>,
    armed: bool,
    events: mpsc::Receiver<()>,
    /// When the first and the last part of a change were heard that is not told yet.
    heard: Option<(Instant, Instant)>,
    rescan: Instant,
}

impl Watch {
    /// Watches a folder, which may be missing.
    pub fn new(folder: &Path) -> Self {
        let (sender, events) = mpsc::channel(1);
        let heard = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| is_change(event.kind)) {
                // A full channel says the same.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(heard).ok();
        let folder = folder.to_owned();
        let mut watch = Self { folder, watcher, armed: false, events, heard: None, rescan: Instant::now() };
        watch.arm();
        watch
    }

    /// Returns when the folder may have changed. Cancel safe: what was heard is kept for the next call.
    pub async fn changed(&mut self) {
        while let Ok(Some(())) = timeout_at(self.deadline(), self.events.recv()).await {
            let now = Instant::now();
            self.heard = Some((self.heard.map_or(now, |(first, _)| first), now));
        }
        self.heard = None;
        self.arm();
    }

    /// When to return if nothing more is heard.
    fn deadline(&self) -> Instant {
        self.heard.map_or(self.rescan, |(first, last)| (first + PATIENCE).min(last + PAUSE))
    }

    /// Watches the folder that has this name now: it may be another one than before.
    fn arm(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            // Fails if the folder was not watched or is gone.
            let _ = watcher.unwatch(&self.folder);
            self.armed = watcher.watch(&self.folder, RecursiveMode::NonRecursive).is_ok();
        }
        self.rescan = Instant::now() + if self.armed { RESCAN } else { RETRY };
    }
}

/// Reading a file is no change: the agent reads them itself.
fn is_change(kind: EventKind) -> bool {
    !matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn writes_renames_and_removals_are_heard_and_reads_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        let mut watch = Watch::new(dir.path());
        fs::write(&file, "a").unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
        fs::write(dir.path().join("tmp"), "b").unwrap();
        fs::rename(dir.path().join("tmp"), &file).unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "b");
        timeout(Duration::from_millis(300), watch.changed()).await.unwrap_err();
        fs::remove_file(&file).unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
    }

    /// The agent's loop drops this future whenever it has something else to do.
    #[tokio::test]
    async fn a_change_survives_impatient_callers() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path());
        fs::write(dir.path().join("a.yaml"), "a").unwrap();
        for _ in 0..2 {
            assert!(watch.changed().now_or_never().is_none(), "the caller was more patient than it should be");
        }
        let mut tries = 0;
        while timeout(Duration::from_millis(5), watch.changed()).await.is_err() {
            tries += 1;
            assert!(tries < 500, "the change was lost");
        }
        let missing = dir.path().join("missing");
        let mut watch = Watch::new(&missing);
        let start = Instant::now();
        while timeout(Duration::from_millis(100), watch.changed()).await.is_err() {
            assert!(start.elapsed() < SOON, "a missing folder is never looked for again");
        }
    }

    #[tokio::test]
    async fn a_folder_is_watched_again_when_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("manifests");
        fs::create_dir(&folder).unwrap();
        let mut watch = Watch::new(&folder);
        fs::remove_dir(&folder).unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
        assert!(!watch.armed);
        fs::create_dir(&folder).unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
        assert!(watch.armed);
        fs::write(folder.join("a.yaml"), "a").unwrap();
        timeout(SOON, watch.changed()).await.unwrap();
    }
}
