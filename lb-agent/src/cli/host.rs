//! What commands ask of this machine besides its maps: is the pin path on a bpf file system, does an agent hold it, what time is it.

use std::{net::IpAddr, os::linux::fs::MetadataExt, path::Path};

use super::Error;
use crate::{
    dataplane::sys,
    node::{Follower, NodeState},
};

/// Fails unless the pin path is, or would be, on a bpf file system.
pub fn check_bpffs(pin_path: &Path) -> Result<(), Error> {
    let existing = sys::nearest_existing(pin_path);
    match sys::is_bpffs(existing) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::NotBpffs { path: pin_path.to_owned() }),
        Err(source) => Err(Error::File { path: existing.to_owned(), source }),
    }
}

/// The interface by which packets to an address leave this node; `None` if they do not.
pub fn interface_towards(to: IpAddr) -> Result<Option<u32>, Error> {
    let listed = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Into::into);
    let listed = listed.and_then(|runtime| runtime.block_on(Follower::start()));
    let (_, events) = listed.map_err(Error::Routes)?;
    Ok(NodeState::from_events(events).way(to).filter(|way| !way.own).map(|way| way.interface))
}

/// Seconds of the monotonic clock, as the packet path reads it.
pub fn monotonic_seconds() -> u32 {
    rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec as u32
}

/// The process that holds a pin path. Asking for the lock itself could make an agent that starts at this moment fail, so this
/// reads `/proc/locks`, which hides processes of other pid namespaces.
pub fn agent(pin_path: &Path) -> Option<u32> {
    let meta = std::fs::metadata(pin_path).ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    holder(&locks, meta.st_dev(), meta.st_ino())
}

/// The process that holds an exclusive flock on this inode, from the text of `/proc/locks`.
fn holder(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let wanted = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().find_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [_, "FLOCK", _, "WRITE", pid, place, ..] if place == wanted => pid.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_found_by_device_and_inode() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 300 00:1a:77 0 EOF
2: FLOCK  ADVISORY  READ 301 00:1a:77 0 EOF
3: FLOCK  ADVISORY  WRITE 302 00:1a:77 0 EOF
3: -> FLOCK  ADVISORY  WRITE 303 00:1a:78 0 EOF
4: FLOCK  ADVISORY  WRITE 304 08:01:77 0 EOF
";
        assert_eq!(holder(locks, rustix::fs::makedev(0, 0x1a), 77), Some(302));
        assert_eq!(holder(locks, rustix::fs::makedev(8, 1), 77), Some(304));
        assert_eq!(holder(locks, rustix::fs::makedev(0, 0x1a), 78), None, "waits only");
        assert_eq!(holder(locks, rustix::fs::makedev(0, 0x1b), 77), None);
    }

    #[test]
    fn a_held_folder_names_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(agent(folder.path()), None);
        let file = std::fs::File::open(folder.path()).unwrap();
        file.lock().unwrap();
        assert_eq!(agent(folder.path()), Some(std::process::id()));
        drop(file);
        assert_eq!(agent(folder.path()), None);
    }

    #[test]
    fn other_file_systems_are_refused_even_before_the_folder_exists() {
        let folder = tempfile::tempdir().unwrap();
        let error = check_bpffs(&folder.path().join("not/yet")).unwrap_err();
        assert!(matches!(error, Error::NotBpffs { .. }), "{error}");
        assert!(error.remedy().contains("nsenter --net="));
    }
}
