//! Who asks for a service without a backend, as the kernel tells it through the ring buffer `wakes`.

use std::{collections::BTreeSet, io, path::Path};

use aya::maps::{Map, MapData, RingBuf};
use lb_common::names::map;
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    time::{Duration, Instant, sleep_until},
};

use super::{
    Error,
    pins::{failed, map_folder},
};

/// However many services are asked for, the agent listens so often at most.
const PACE: Duration = Duration::from_millis(20);

/// The ring buffer, or what stands for it where there is no kernel.
#[derive(Default)]
pub struct Wakes {
    source: Source,
    heard: Option<Instant>,
}

#[derive(Default)]
enum Source {
    /// Nobody says anything, or can be heard any more.
    #[default]
    Silent,
    /// Open; no runtime waits for it yet.
    Open(RingBuf<MapData>),
    Awaited(AsyncFd<RingBuf<MapData>>),
}

impl Wakes {
    /// Opens the pinned buffer. What was told while nobody listened is heard first.
    pub fn open(pin_path: &Path) -> Result<Self, Error> {
        let data = MapData::from_pin(map_folder(pin_path).join(map::WAKES)).map_err(failed(map::WAKES, "open"))?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(failed(map::WAKES, "open"))?;
        Ok(Self { source: Source::Open(ring), heard: None })
    }

    /// The indexes of the services that were told of and that nobody has heard of yet.
    pub fn heard(&mut self) -> BTreeSet<u32> {
        match &mut self.source {
            Source::Silent => BTreeSet::new(),
            Source::Open(ring) => drain(ring),
            Source::Awaited(ring) => drain(ring.get_mut()),
        }
    }

    /// Waits until somebody asks, and gives the indexes of the services asked for. An error is said once; nothing is heard after it.
    /// Cancel safe.
    pub async fn next(&mut self) -> Result<BTreeSet<u32>, Error> {
        loop {
            if let Some(heard) = self.heard {
                sleep_until(heard + PACE).await;
            }
            if let Err(source) = self.readable().await {
                self.source = Source::Silent;
                return Err(Error::Map { map: map::WAKES, operation: "wait for", source });
            }
            self.heard = Some(Instant::now());
            let services = self.heard();
            if !services.is_empty() {
                return Ok(services);
            }
        }
    }

    /// Waits until there is something to read. That it was read is for the caller to see to: what comes after it is said again.
    async fn readable(&mut self) -> io::Result<()> {
        if let Source::Open(_) = self.source {
            // Without a runtime the registration would panic.
            Handle::try_current().map_err(io::Error::other)?;
            let Source::Open(ring) = std::mem::take(&mut self.source) else { return Ok(()) };
            // SAFETY: the map's own descriptor, which it keeps open and never exchanges. Such a descriptor is never writable.
            let awaited = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
            self.source = Source::Awaited(awaited);
        }
        match &mut self.source {
            Source::Awaited(ring) => {
                ring.readable().await?.clear_ready();
                Ok(())
            }
            _ => std::future::pending().await,
        }
    }
}

fn drain(ring: &mut RingBuf<MapData>) -> BTreeSet<u32> {
    let mut services = BTreeSet::new();
    while let Some(item) = ring.next() {
        services.extend(<[u8; 4]>::try_from(&*item).map(u32::from_ne_bytes));
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_nobody_says_anything_nothing_is_heard() {
        let mut wakes = Wakes::default();
        assert!(wakes.heard().is_empty());
        assert!(tokio::time::timeout(Duration::from_millis(20), wakes.next()).await.is_err());
    }
}
