//! The cluster of the tests: one at a time, named after this process, so that runs at the same time do not meet and what a killed one
//! left is found.

use std::{
    fs,
    ops::Deref,
    path::Path,
    process,
    sync::{Mutex, MutexGuard, Once, PoisonError},
};

use anyhow::{Context as _, Result};
use weir_tests::{
    agent,
    cluster::{self, Cluster, Config, Proxy, layout::Name, programs::Programs},
    image,
    namespace::unique_name,
};

use crate::weir;

/// The letter before the process id in a cluster's name.
const LETTER: char = 't';
const NODES: usize = 3;

static CURRENT: Mutex<Option<World>> = Mutex::new(None);
static FIRST: Once = Once::new();

/// A cluster, its kube-proxy, and whether Weir is installed.
struct World {
    cluster: Cluster,
    proxy: Proxy,
    weir: bool,
}

/// The right to use the cluster alone.
pub(crate) struct Use(MutexGuard<'static, Option<World>>);

impl Deref for Use {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        // `enter` makes no other.
        &self.0.as_ref().expect("a cluster").cluster
    }
}

/// The cluster of three nodes with this kube-proxy, without Weir. It stays for the next test, until one wants another; the end of the
/// program removes it.
pub(crate) fn enter(proxy: Proxy) -> Result<Use> {
    let mut world = with(proxy)?;
    if let Some(world) = world.0.as_mut().filter(|world| world.weir) {
        weir::remove(&world.cluster)?;
        world.weir = false;
    }
    Ok(world)
}

/// The same with Weir.
pub(crate) fn enter_with_weir(proxy: Proxy) -> Result<Use> {
    let mut world = with(proxy)?;
    if let Some(world) = world.0.as_mut().filter(|world| !world.weir) {
        weir::install(&world.cluster, proxy)?;
        world.weir = true;
    }
    Ok(world)
}

fn with(proxy: Proxy) -> Result<Use> {
    FIRST.call_once(|| {
        sweep();
        // SAFETY: the function is safe to call when the program ends: it uses no value of a thread.
        unsafe { libc::atexit(leave) };
    });
    // What a failed test left is no worse than what a failed request leaves.
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    if current.as_ref().is_none_or(|world| world.proxy != proxy) {
        if let Some(old) = current.take() {
            remove(old.cluster.name());
        }
        *current = Some(World { cluster: start(proxy)?, proxy, weir: false });
    }
    Ok(Use(current))
}

extern "C" fn leave() {
    if let Ok(mut current) = CURRENT.try_lock()
        && let Some(world) = current.take()
    {
        remove(world.cluster.name());
    }
}

fn start(proxy: Proxy) -> Result<Cluster> {
    let name: Name = format!("{LETTER}{}", process::id()).parse()?;
    let config = Config { name, nodes: NODES, proxy };
    let started = Cluster::up(&config, &Programs::find()?, &cluster::print_progress());
    let loaded = started.and_then(|cluster| load_images(&cluster).map(|()| cluster));
    loaded.inspect_err(|_| remove(&config.name)).context("start the tests' cluster")
}

fn load_images(cluster: &Cluster) -> Result<()> {
    let folder = std::env::temp_dir().join(unique_name("images"));
    fs::create_dir(&folder)?;
    let peer = Path::new(env!("CARGO_BIN_EXE_peer"));
    let images = [image::peer(peer)?, image::weir(&agent::binary()?, image::WEIR)?];
    let archive = folder.join("image.tar");
    images.iter().try_for_each(|image| {
        image.write(&archive)?;
        cluster.load_image(&archive)
    })?;
    Ok(fs::remove_dir_all(folder)?)
}

fn remove(name: &Name) {
    if let Err(error) = cluster::down(name) {
        eprintln!("cluster {name}: {error:#}");
    }
}

/// Removes the clusters of processes that are gone.
fn sweep() {
    for name in cluster::names() {
        let text = name.to_string();
        let pid = text.strip_prefix(LETTER).and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove(&name);
        }
    }
}
