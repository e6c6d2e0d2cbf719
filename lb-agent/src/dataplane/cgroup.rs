//! The socket hooks: programs at a cgroup, for the processes in it and below. Each is a link, pinned as `link_cgroup_<hook>`, so that
//! it outlives the agent; the next agent puts its own program into the same link without a gap.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{
        CgroupAttachMode, Program, ProgramError,
        links::{FdLink, LinkError},
    },
};
use lb_common::{
    BackendLoad,
    names::{map, program},
    socket::{Pod, PodKey},
};

use super::{
    Error,
    bpf::{Bpf, kernel, loaded, missing},
    link::PinnedLink,
    pins::{Pinned, failed, ignore_missing},
    socket_list,
};

const PREFIX: &str = "link_cgroup_";

/// The hooks and their programs, in the order in which they are attached: who counts the end of a socket comes before who counts its
/// beginning.
const HOOKS: [(&str, &str); 10] = [
    (RELEASE, program::RELEASE),
    ("sock-ops", program::SOCK_OPS),
    ("getpeername4", program::PEERNAME4),
    ("getpeername6", program::PEERNAME6),
    ("recvmsg4", program::RECVMSG4),
    ("recvmsg6", program::RECVMSG6),
    ("sendmsg4", program::SENDMSG4),
    ("sendmsg6", program::SENDMSG6),
    ("connect4", program::CONNECT4),
    ("connect6", program::CONNECT6),
];

/// The hooks that see every packet of a socket, and their programs: attached only while requests are measured.
const REQUEST_HOOKS: [(&str, &str); 2] = [("skb-egress", program::SENT), ("skb-ingress", program::RECEIVED)];

/// The hook without which nobody counts the end of a socket.
const RELEASE: &str = "sock-release";

/// A pinned link at a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketHook {
    /// Such as `connect4`.
    pub name: &'static str,
    /// The cgroup's id, which is its folder's inode; 0 if the cgroup is gone.
    pub cgroup: u64,
    /// The program's id.
    pub program: u32,
}

fn pin(pin_path: &Path, hook: &str) -> PathBuf {
    pin_path.join(format!("{PREFIX}{hook}"))
}

/// The pinned links at cgroups.
pub fn hooks(pin_path: &Path) -> Result<Vec<SocketHook>, Error> {
    let mut found = Vec::new();
    for (name, _) in HOOKS.into_iter().chain(REQUEST_HOOKS) {
        let path = pin(pin_path, name);
        let Some(link) = open(&path)? else { continue };
        let info = link.info().map_err(|e| kernel(format!("ask for {}", path.display()), e))?;
        found.push(SocketHook { name, cgroup: info.cgroup, program: info.program });
    }
    Ok(found)
}

/// Where the cgroup v2 file system is: alone, or beside version 1.
pub const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The folder of a cgroup, by its id.
pub fn folder(id: u64) -> Option<PathBuf> {
    let mut open: Vec<PathBuf> = MOUNTS.map(PathBuf::from).into();
    while let Some(path) = open.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.st_ino() == id {
            return Some(path);
        }
        let children = fs::read_dir(&path).into_iter().flatten().filter_map(Result::ok);
        open.extend(
            children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())).map(|child| child.path()),
        );
    }
    None
}

fn open(path: &Path) -> Result<Option<PinnedLink>, Error> {
    PinnedLink::open(path).map_err(|e| kernel(format!("open {}", path.display()), e))
}

/// Removes the links at cgroups, and returns what they were. Who counts the end of a socket goes last.
pub fn detach(pin_path: &Path) -> Result<Vec<SocketHook>, Error> {
    socket_list::remove(pin_path)?;
    let hooks = hooks(pin_path)?;
    for hook in hooks.iter().rev() {
        let path = pin(pin_path, hook.name);
        fs::remove_file(&path).map_err(|e| kernel(format!("remove {}", path.display()), e))?;
    }
    Ok(hooks)
}

/// Where nobody counts the end of sockets, what the maps say of them is no longer so: removes their storage, before it is opened, so that
/// it is made anew. Whether that was the case.
pub(super) fn forget_unwatched(pin_path: &Path, map_folder: &Path) -> Result<bool, Error> {
    if open(&pin(pin_path, RELEASE))?.is_some() {
        return Ok(false);
    }
    for name in [map::SOCKETS, map::PEERS] {
        let path = map_folder.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(kernel(format!("remove {}", path.display()), error));
            }
            _ => {}
        }
    }
    Ok(true)
}

impl Pinned {
    /// No socket is counted by anybody.
    pub(super) fn clear_sockets(&mut self) -> Result<(), Error> {
        for index in 0..self.loads.len() {
            let Some(load) = self.loads.get(index) else { continue };
            if load.sockets != 0 || load.established != 0 {
                self.loads.set(index, BackendLoad { sockets: 0, established: 0, ..load });
            }
        }
        self.forget_socket_requests()
    }
}

impl Bpf {
    /// Loads the socket hooks and attaches them to a cgroup; what is attached there already gets this agent's programs.
    pub fn attach_sockets(&mut self, cgroup: &Path) -> Result<(), Error> {
        self.put_all(&HOOKS, cgroup)?;
        if let Err(error) = self.pin_socket_lists() {
            tracing::warn!(%error, "open connections of sockets add to the traffic only at their end");
        }
        Ok(())
    }

    /// Loads the hooks that see every packet and attaches them to a cgroup; none: removes them.
    pub fn follow_requests(&mut self, cgroup: Option<&Path>) -> Result<(), Error> {
        if let Some(cgroup) = cgroup {
            return self.put_all(&REQUEST_HOOKS, cgroup);
        }
        for (hook, _) in REQUEST_HOOKS {
            let path = pin(&self.pin_path, hook);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(kernel(format!("remove {}", path.display()), error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn put_all(&mut self, hooks: &[(&str, &str)], cgroup: &Path) -> Result<(), Error> {
        let folder = File::open(cgroup).map_err(|source| Error::Cgroup { path: cgroup.into(), source })?;
        let id = folder.metadata().map_err(|source| Error::Cgroup { path: cgroup.into(), source })?.st_ino();
        for (_, name) in hooks {
            load(loaded(&mut self.programs)?, name)?;
        }
        for (hook, name) in hooks {
            self.put(hook, name, &folder, id).map_err(|error| match error {
                Error::Kernel { source, .. } => {
                    Error::SocketHooks { what: format!("attach {name} to {}", cgroup.display()), source }
                }
                other => other,
            })?;
        }
        Ok(())
    }

    /// Tells the hooks where processes are: these, and no others.
    pub fn set_pods(&mut self, pods: &BTreeMap<PodKey, Pod>) -> Result<(), Error> {
        let map = &mut self.pinned.pods;
        let old: BTreeMap<PodKey, Pod> = map.iter().collect::<Result<_, _>>().map_err(failed(map::PODS, "read"))?;
        for (key, pod) in pods.iter().filter(|(key, pod)| old.get(*key) != Some(*pod)) {
            map.insert(key, pod, 0).map_err(failed(map::PODS, "write"))?;
        }
        for key in old.keys().filter(|key| !pods.contains_key(*key)) {
            ignore_missing(map.remove(key)).map_err(failed(map::PODS, "delete"))?;
        }
        Ok(())
    }

    /// Removes the socket hooks. Connections live on, and are no longer counted.
    pub fn detach_sockets(&mut self) -> Result<Vec<SocketHook>, Error> {
        let removed = detach(&self.pin_path)?;
        self.pinned.clear_sockets()?;
        Ok(removed)
    }

    fn put(&mut self, hook: &str, name: &str, folder: &File, id: u64) -> Result<(), Error> {
        let path = pin(&self.pin_path, hook);
        let program = loaded(&mut self.programs)?.program_mut(name).ok_or_else(|| missing(name))?;
        let old = open(&path)?;
        if let Some(link) = &old
            && link.info().is_ok_and(|info| info.cgroup == id)
        {
            let program = program.fd().map_err(|e| kernel(format!("find program {name}"), e))?;
            return link.update(program).map_err(|e| kernel(format!("replace the program of {hook}"), e));
        }
        let link = attach(program, folder).map_err(|e| kernel(format!("attach {name}"), e))?;
        // Another cgroup than before, or one that is gone: the new link is in force before the old one ends.
        if old.is_some() {
            fs::remove_file(&path).map_err(|e| kernel(format!("remove {}", path.display()), e))?;
        }
        link.pin(&path).map(drop).map_err(|e| kernel(format!("pin {}", path.display()), e))
    }
}

fn load(programs: &mut Ebpf, name: &str) -> Result<(), Error> {
    let program = programs.program_mut(name).ok_or_else(|| missing(name))?;
    let result = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    match result {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(source) => Err(Error::SocketHooks { what: format!("load program {name}"), source: Box::new(source) }),
    }
}

/// Attaches a program by a link. Links stand beside those of others; the mode is for who has none.
fn attach(program: &mut Program, cgroup: &File) -> Result<FdLink, ProgramError> {
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    fn unpinnable(_: LinkError) -> ProgramError {
        ProgramError::IOError(io::Error::other("the kernel has no links for cgroups"))
    }
    match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, MODE)?;
            program.take_link(id)?.try_into().map_err(unpinnable)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, MODE)?;
            program.take_link(id)?.try_into().map_err(unpinnable)
        }
        Program::SockOps(program) => {
            let id = program.attach(cgroup, MODE)?;
            program.take_link(id)?.try_into().map_err(unpinnable)
        }
        Program::CgroupSkb(program) => {
            let kind = (*program.expected_attach_type()).ok_or(ProgramError::UnexpectedProgramType)?;
            let id = program.attach(cgroup, kind, MODE)?;
            program.take_link(id)?.try_into().map_err(unpinnable)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
