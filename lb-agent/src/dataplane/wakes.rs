//! Who asks for a Service without a backend, as the kernel tells it.

use std::{collections::BTreeSet, io, path::Path, time::Duration};

use aya::maps::{Map, MapData, RingBuf};
use lb_common::names::map;
use tokio::{io::unix::AsyncFd, time::Instant};

use super::{
    Error,
    pins::{failed, map_folder},
};

/// Those that ask again and again are heard so often at most.
const PACE: Duration = Duration::from_millis(20);

/// The ring buffer `wakes`.
#[derive(Default)]
pub struct Wakes {
    ring: Option<AsyncFd<RingBuf<MapData>>>,
    heard: Option<Instant>,
}

impl Wakes {
    /// Opens the pinned one. Runs in the context of a tokio runtime.
    pub fn open(pin_path: &Path) -> Result<Self, Error> {
        let of_io = |operation| move |source: io::Error| Error::Map { map: map::WAKES, operation, source };
        let data = MapData::from_pin(map_folder(pin_path).join(map::WAKES)).map_err(failed(map::WAKES, "open"))?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(failed(map::WAKES, "open"))?;
        Ok(Self { ring: Some(AsyncFd::new(ring).map_err(of_io("wait for"))?), heard: None })
    }

    /// Waits until clients ask, and gives the indexes of the Services that they ask for. Cancel safe.
    pub async fn next(&mut self) -> BTreeSet<u32> {
        let Some(ring) = &mut self.ring else { return std::future::pending().await };
        loop {
            if let Some(heard) = self.heard {
                tokio::time::sleep_until(heard + PACE).await;
            }
            let Ok(mut ready) = ring.readable_mut().await else { return std::future::pending().await };
            let mut services = BTreeSet::new();
            while let Some(item) = ready.get_inner_mut().next() {
                services.extend(<[u8; 4]>::try_from(&*item).map(u32::from_ne_bytes));
            }
            ready.clear_ready();
            self.heard = Some(Instant::now());
            if !services.is_empty() {
                return services;
            }
        }
    }
}
