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
    time::{Instant, sleep_until, timeout_at},
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
    /// Something was heard that [`Watch::changed`] has not returned for yet.
    heard: bool,
    /// When to read the folder even if nothing is heard.
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
        let mut watch =
            Self { folder: folder.to_owned(), watcher, armed: false, events, heard: false, rescan: Instant::now() };
        watch.arm();
        watch
    }

    /// Returns when the folder may have changed. Cancel safe: what one call has heard and waited for, the next one goes on from.
    pub async fn changed(&mut self) {
        while !self.heard && Instant::now() < self.rescan {
            tokio::select! {
                Some(()) = self.events.recv() => self.heard = true,
                () = sleep_until(self.rescan) => {}
            }
        }
        if self.heard {
            self.settle().await;
        }
        self.heard = false;
        self.arm();
    }

    async fn settle(&mut self) {
        let end = Instant::now() + PATIENCE;
        while timeout_at(end.min(Instant::now() + PAUSE), self.events.recv()).await.is_ok() && Instant::now() < end {}
    }

    /// Watches the folder that has this name now: it may be another one than before.
    fn arm(&mut self) {
        self.rescan = Instant::now() + RETRY;
        let Some(watcher) = &mut self.watcher else { return };
        // Fails if the folder was not watched or is gone.
        let _ = watcher.unwatch(&self.folder);
        self.armed = watcher.watch(&self.folder, RecursiveMode::NonRecursive).is_ok();
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

    #[tokio::test]
    async fn a_call_that_is_given_up_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path());
        fs::write(dir.path().join("a.yaml"), "a").unwrap();
        // Long enough to hear of it, too short to wait for the writers' pause.
        timeout(PAUSE / 2, watch.changed()).await.unwrap_err();
        timeout(SOON, watch.changed()).await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_folder_is_looked_for_under_a_faster_clock_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(&dir.path().join("missing"));
        let looked = async { while timeout(RETRY / 4, watch.changed()).await.is_err() {} };
        timeout(SOON, looked).await.unwrap();
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
