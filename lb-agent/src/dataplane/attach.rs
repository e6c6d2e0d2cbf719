//! Which program sits at which interface. Every attachment is a link, pinned as `link_<interface index>_<hook>`: it outlives the
//! agent, and the next agent puts its own program into the same link without a gap.

use std::{collections::BTreeSet, fmt, fs, io, path::Path};

use aya::programs::{
    ProgramError, ProgramInfo, SchedClassifier, TcAttachType, XdpMode,
    links::{FdLink, LinkInfo, PinnedLink},
    tc::SchedClassifierLink,
    xdp::XdpLink,
};
use lb_common::names::{INTERFACE_INSIDE, INTERFACE_PEER, INTERFACE_XDP, map, program};

use super::{
    Error,
    bpf::{Bpf, find, kernel, loaded},
    cgroup::{self, SocketHook},
    pins::{failed, ignore_missing, map_folder},
    sys,
};
use crate::node::{
    Role,
    link::{Kind, Link},
};

/// `--datapath`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Datapath {
    /// XDP with tc beside it where the interface is a device with a driver that can, else tc.
    #[default]
    Auto,
    /// tc alone.
    Tc,
    /// XDP in the driver, with tc beside it; an error where that is not possible.
    Xdp,
    /// XDP in the kernel's generic form, with tc beside it.
    XdpGeneric,
}

/// A place in the kernel where a program of ours is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookKind {
    /// tcx ingress.
    TcxIngress,
    /// tcx egress.
    TcxEgress,
    /// XDP in the driver.
    XdpNative,
    /// XDP in the kernel's generic form.
    XdpGeneric,
}

impl HookKind {
    const ALL: [Self; 4] = [Self::TcxIngress, Self::TcxEgress, Self::XdpNative, Self::XdpGeneric];

    /// The name in output and pins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcxIngress => "tcx-ingress",
            Self::TcxEgress => "tcx-egress",
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
        }
    }

    const fn is_xdp(self) -> bool {
        matches!(self, Self::XdpNative | Self::XdpGeneric)
    }
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A pinned link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The interface's name; `None` if it is not in this network namespace.
    pub interface: Option<String>,
    /// The interface's index.
    pub index: u32,
    /// Where.
    pub kind: HookKind,
    /// The program's id.
    pub program: u32,
}

fn pin_name(index: u32, kind: HookKind) -> String {
    format!("link_{index}_{kind}")
}

fn parse_pin(name: &str) -> Option<(u32, HookKind)> {
    let (index, hook) = name.strip_prefix("link_")?.split_once('_')?;
    Some((index.parse().ok()?, HookKind::ALL.into_iter().find(|kind| kind.name() == hook)?))
}

/// The links that are pinned in a pin path, by interface.
fn pinned(pin_path: &Path) -> Result<BTreeSet<(u32, HookKind)>, Error> {
    let folder = fs::read_dir(pin_path).map_err(|_| Error::NotPinned { path: pin_path.into() })?;
    Ok(folder.filter_map(|file| file.ok()?.file_name().to_str().and_then(parse_pin)).collect())
}

/// The pinned links of a pin path.
pub fn hooks(pin_path: &Path) -> Result<Vec<Hook>, Error> {
    let hook = |(index, kind)| {
        let path = pin_path.join(pin_name(index, kind));
        let link = PinnedLink::from_pin(&path).map_err(|e| kernel(format!("open {}", path.display()), e))?;
        let program = link_program(&FdLink::from(link)).unwrap_or(0);
        Ok(Hook { interface: interface_of(index, kind, program), index, kind, program })
    };
    pinned(pin_path)?.into_iter().map(hook).collect()
}

/// An interface's name. In another network namespace the index may be another interface's, at which this program is not.
fn interface_of(index: u32, kind: HookKind, program: u32) -> Option<String> {
    let name = sys::interface_name(index)?;
    let holds = |attach_type| {
        let programs = SchedClassifier::query_tcx(&name, attach_type);
        // Without the right to ask, it is taken for the one.
        programs.ok().is_none_or(|(_, programs)| programs.iter().any(|there| there.id() == program))
    };
    let is_there = match kind {
        HookKind::TcxIngress => holds(TcAttachType::Ingress),
        HookKind::TcxEgress => holds(TcAttachType::Egress),
        HookKind::XdpNative | HookKind::XdpGeneric => sys::xdp_program(&name) == Some(program),
    };
    is_there.then_some(name)
}

fn link_program(link: &FdLink) -> Option<u32> {
    link.info().ok().map(|info: LinkInfo| info.program_id())
}

/// What `detach` has removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Links at interfaces.
    pub hooks: Vec<Hook>,
    /// Links at cgroups.
    pub sockets: Vec<SocketHook>,
    /// Maps.
    pub maps: usize,
}

/// Removes every link and map of a pin path, and the folder. Refused while an agent runs.
pub fn detach(pin_path: &Path) -> Result<Detached, Error> {
    let lock = sys::lock(pin_path).map_err(|_| Error::NotPinned { path: pin_path.into() })?;
    let _lock = lock.ok_or_else(|| Error::AgentRunning { path: pin_path.into() })?;
    let sockets = cgroup::detach(pin_path)?;
    let hooks = hooks(pin_path)?;
    let gone = |path: &Path| kernel_io(format!("remove {}", path.display()));
    for hook in &hooks {
        let path = pin_path.join(pin_name(hook.index, hook.kind));
        fs::remove_file(&path).map_err(gone(&path))?;
    }
    let folder = map_folder(pin_path);
    let mut maps = 0;
    for file in fs::read_dir(&folder).into_iter().flatten().filter_map(Result::ok) {
        fs::remove_file(file.path()).map_err(gone(&file.path()))?;
        maps += 1;
    }
    for path in [folder.as_path(), pin_path] {
        if path.exists() {
            fs::remove_dir(path).map_err(gone(path))?;
        }
    }
    Ok(Detached { hooks, sockets, maps })
}

fn kernel_io(what: String) -> impl FnOnce(io::Error) -> Error {
    move |source| kernel(what, source)
}

impl Bpf {
    /// Attaches what an interface of this role needs; what is attached already gets this agent's programs. Returns the hooks.
    pub fn attach(&mut self, link: &Link, role: Role, datapath: Datapath) -> Result<Vec<HookKind>, Error> {
        let Link { name, index, .. } = link;
        if sys::interface_index(name) != Some(*index) {
            return Err(Error::NoInterface { interface: name.clone() });
        }
        let mut kinds = Vec::new();
        if role == Role::Uplink {
            kinds.extend(self.attach_xdp(link, datapath)?);
        }
        // Known before the first packet is seen.
        self.flag(link, role, !kinds.is_empty())?;
        // From here on tc takes what XDP leaves.
        self.attach_tc(name, *index, HookKind::TcxIngress)?;
        kinds.push(HookKind::TcxIngress);
        // What leaves towards clients, outside or in a pod, may be the node's own reply.
        if role != Role::Transit {
            self.attach_tc(name, *index, HookKind::TcxEgress)?;
            kinds.push(HookKind::TcxEgress);
        }
        Ok(kinds)
    }

    /// Says in the `interfaces` map what an interface is.
    fn flag(&mut self, link: &Link, role: Role, xdp: bool) -> Result<(), Error> {
        let is_inside = role == Role::Inside;
        let has_peer = is_inside && link.kind == Kind::Pair && link.peer_elsewhere;
        let flag = |is_so, flag| if is_so { flag } else { 0 };
        let flags = flag(is_inside, INTERFACE_INSIDE) | flag(has_peer, INTERFACE_PEER) | flag(xdp, INTERFACE_XDP);
        let interfaces = &mut self.pinned.interfaces;
        let result = match flags {
            0 => ignore_missing(interfaces.remove(&link.index)),
            _ => interfaces.insert(link.index, flags, 0),
        };
        result.map_err(failed(map::INTERFACES, "write"))
    }

    /// Removes all links of an interface, which may be gone.
    pub fn let_go(&mut self, index: u32) -> Result<(), Error> {
        for kind in HookKind::ALL {
            let path = self.pin_path.join(pin_name(index, kind));
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(kernel(format!("remove {}", path.display()), error));
                }
                _ => {}
            }
        }
        ignore_missing(self.pinned.interfaces.remove(&index)).map_err(failed(map::INTERFACES, "delete"))
    }

    /// Removes the links of all interfaces but these.
    pub fn let_go_of_others(&mut self, keep: &BTreeSet<u32>) -> Result<(), Error> {
        let others: BTreeSet<u32> = pinned(&self.pin_path)?.into_iter().map(|(index, _)| index).collect();
        others.difference(keep).try_for_each(|index| self.let_go(*index))
    }

    /// The link pinned for a hook, if there is one.
    fn pinned_link(&self, index: u32, kind: HookKind) -> Option<FdLink> {
        PinnedLink::from_pin(self.pin_path.join(pin_name(index, kind))).ok().map(FdLink::from)
    }

    fn pin(&self, link: FdLink, index: u32, kind: HookKind) -> Result<(), Error> {
        let path = self.pin_path.join(pin_name(index, kind));
        link.pin(&path).map(drop).map_err(|e| kernel(format!("pin {}", path.display()), e))
    }

    fn attach_tc(&mut self, interface: &str, index: u32, kind: HookKind) -> Result<(), Error> {
        let (name, attach_type) = match kind {
            HookKind::TcxEgress => (program::EGRESS, TcAttachType::Egress),
            _ => (program::INGRESS, TcAttachType::Ingress),
        };
        let context = |e: ProgramError| kernel(format!("attach {name} to {interface}"), e);
        let old = self.pinned_link(index, kind);
        let program: &mut SchedClassifier = find(loaded(&mut self.programs)?, name)?;
        if let Some(link) = old {
            let link = SchedClassifierLink::try_from(link).map_err(|e| kernel(format!("take over {kind}"), e))?;
            let id = program.attach_to_link(link).map_err(context)?;
            // The pin keeps the link; this handle of it is not needed.
            return program.take_link(id).map(drop).map_err(context);
        }
        let id = program.attach(interface, attach_type).map_err(|source| Error::Unsupported {
            what: format!("attach {name} to {interface}"),
            source: Box::new(source),
        })?;
        let link = program.take_link(id).map_err(context)?;
        let link = FdLink::try_from(link).map_err(|e| kernel(format!("attach {name} to {interface} by tcx"), e))?;
        self.pin(link, index, kind)
    }

    /// Attaches XDP if it is wanted, and `auto` finds it possible.
    fn attach_xdp(&mut self, link: &Link, datapath: Datapath) -> Result<Option<HookKind>, Error> {
        let kind = match datapath {
            Datapath::Tc => return Ok(None),
            // On a virtual interface XDP costs segmentation offload.
            Datapath::Auto if !link.device => return Ok(None),
            Datapath::Auto | Datapath::Xdp => HookKind::XdpNative,
            Datapath::XdpGeneric => HookKind::XdpGeneric,
        };
        let interface = link.name.as_str();
        match self.put_xdp(interface, link.index, kind) {
            Ok(()) => Ok(Some(kind)),
            Err(error) if datapath == Datapath::Auto => {
                tracing::info!(interface, %error, "no XDP here, tc alone");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn put_xdp(&mut self, interface: &str, index: u32, kind: HookKind) -> Result<(), Error> {
        let context = |e: ProgramError| kernel(format!("attach {} to {interface} ({kind})", program::XDP), e);
        let old = self.pinned_link(index, kind);
        let xdp = self.xdp()?;
        if let Some(link) = old {
            let link = XdpLink::try_from(link).map_err(|e| kernel(format!("take over {kind}"), e))?;
            let id = xdp.attach_to_link(link).map_err(context)?;
            return xdp.take_link(id).map(drop).map_err(context);
        }
        let mode = if kind == HookKind::XdpNative { XdpMode::Driver } else { XdpMode::Skb };
        let id = match xdp.attach_to_if_index(index, mode) {
            Ok(id) => id,
            Err(error) if is_busy(&error) => {
                return Err(Error::XdpHeld { interface: interface.into(), holder: holder(interface) });
            }
            Err(error) => return Err(context(error)),
        };
        let link = xdp.take_link(id).map_err(context)?;
        // aya falls back to netlink without a word; such an attachment cannot be pinned and would end with us.
        let link = FdLink::try_from(link).map_err(|e| kernel(format!("attach XDP to {interface} by a link"), e))?;
        self.pin(link, index, kind)
    }
}

impl Hook {
    /// Whether it is an XDP hook.
    pub const fn is_xdp(&self) -> bool {
        self.kind.is_xdp()
    }
}

fn is_busy(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(e)
        if matches!(e.io_error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)))
}

/// The XDP program at an interface, as `NAME (id N)`.
fn holder(interface: &str) -> String {
    let Some(id) = sys::xdp_program(interface) else { return "of someone else".into() };
    let name = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|info: &ProgramInfo| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned));
    match name {
        Some(name) => format!("{name} (id {id})"),
        None => format!("id {id}"),
    }
}
