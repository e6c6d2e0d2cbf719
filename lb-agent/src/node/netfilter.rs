//! Rules of others in netfilter's way of forwarded packets: what a redirect would pass by, such as NetworkPolicy.
//!
//! nftables (and iptables on top of it) is asked for its chains when its generation number has changed; the older iptables for the
//! tables of /proc/net/ip_tables_names. A chain counts when it is hooked where forwarded packets pass, and has a rule or drops by itself.
//! The chains of kube-proxy's nftables mode do not count: they are about addresses of Services only.

use std::{io, mem::size_of, os::fd::AsRawFd as _, path::Path, time::Duration};

use futures::StreamExt;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    nftables::{
        ChainAttribute, ChainMessage, GenAttribute, GenMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage,
    },
};
use rtnetlink::{
    packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    proto::{ConnectionHandle, new_connection},
    sys::{SocketAddr, protocols::NETLINK_NETFILTER},
};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

/// So often it is asked whether anything has changed.
const INTERVAL: Duration = Duration::from_secs(2);
/// Rules count as gone when so many looks have found none: who writes all of his anew is not without any meanwhile.
const CALM: u32 = 5;
/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Follows where rules of others are; it ends with this.
#[derive(Debug)]
pub struct Netfilter {
    found: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Netfilter {
    /// Looks, and goes on looking. `proc` is where procfs is mounted. Needs a tokio runtime.
    pub async fn start(proc: &Path) -> Self {
        let mut looker = Looker { proc: proc.to_owned(), generation: None, nftables: None };
        let (sender, found) = watch::channel(looker.look().await);
        let task = tokio::spawn(async move {
            let mut none = 0;
            loop {
                sleep(INTERVAL).await;
                let now = looker.look().await;
                none = if now.is_none() { none + 1 } else { 0 };
                sender.send_if_modified(|found| settle(found, now, none));
            }
        });
        Self { found, task }
    }

    /// Where rules are, for people; none: nowhere.
    pub fn found(&self) -> Option<String> {
        self.found.borrow().clone()
    }

    /// Waits until that is other than when it was last asked.
    pub async fn changed(&mut self) {
        // The task ends only with this.
        if self.found.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Netfilter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes in what was found now, after so many looks that have found nothing. Returns whether that is news.
fn settle(found: &mut Option<String>, now: Option<String>, none: u32) -> bool {
    let is_news = *found != now && (now.is_some() || none >= CALM);
    if is_news {
        *found = now;
    }
    is_news
}

struct Looker {
    proc: std::path::PathBuf,
    generation: Option<u32>,
    nftables: Option<String>,
}

impl Looker {
    async fn look(&mut self) -> Option<String> {
        let asked = tokio::time::timeout(PATIENCE, self.look_at_nftables()).await;
        if let Ok(Err(error)) = &asked {
            tracing::debug!(%error, "nftables does not answer");
        }
        self.nftables.clone().or_else(|| iptables(&self.proc))
    }

    async fn look_at_nftables(&mut self) -> io::Result<()> {
        let (connection, handle, _) = new_connection::<NetfilterMessage>(NETLINK_NETFILTER)?;
        let connection = tokio::spawn(connection);
        let result = self.ask(&handle).await;
        connection.abort();
        result
    }

    async fn ask(&mut self, handle: &ConnectionHandle<NetfilterMessage>) -> io::Result<()> {
        let generation = generation(handle).await?;
        if generation.is_none() || generation != self.generation {
            self.nftables = chains(handle).await?.iter().find_map(|(family, chain)| in_the_way(*family, chain));
            self.generation = generation;
        }
        Ok(())
    }
}

type Answer = Vec<(NetfilterProtoFamily, NfTablesMessage)>;

async fn request(
    handle: &ConnectionHandle<NetfilterMessage>,
    message: NfTablesMessage,
    flags: u16,
) -> io::Result<Answer> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, message));
    message.header.flags = NLM_F_REQUEST | flags;
    let mut answers = handle.request(message, SocketAddr::new(0, 0)).map_err(io::Error::other)?;
    let mut found = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(message) => {
                if let NetfilterMessageInner::NfTables(inner) = message.inner {
                    found.push((message.header.family, inner));
                }
            }
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            _ => {}
        }
    }
    Ok(found)
}

/// The number that every change of the rules raises.
async fn generation(handle: &ConnectionHandle<NetfilterMessage>) -> io::Result<Option<u32>> {
    let question = NfTablesMessage::GetGen(GenMessage { attributes: Vec::new() });
    let id = |attribute: &GenAttribute| if let GenAttribute::Id(id) = attribute { Some(*id) } else { None };
    Ok(request(handle, question, 0).await?.iter().find_map(|(_, answer)| match answer {
        NfTablesMessage::NewGen(generation) => generation.attributes.iter().find_map(id),
        _ => None,
    }))
}

async fn chains(handle: &ConnectionHandle<NetfilterMessage>) -> io::Result<Vec<(NetfilterProtoFamily, ChainMessage)>> {
    let question = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    let answers = request(handle, question, NLM_F_DUMP).await?.into_iter();
    let chain =
        |(family, answer)| if let NfTablesMessage::NewChain(chain) = answer { Some((family, chain)) } else { None };
    Ok(answers.filter_map(chain).collect())
}

/// The chain's name for people, if forwarded packets are judged by it.
fn in_the_way(family: NetfilterProtoFamily, chain: &ChainMessage) -> Option<String> {
    let (mut table, mut name, mut kind, mut hook, mut rules, mut drops) = ("", "", "", None, 0, false);
    for attribute in &chain.attributes {
        match attribute {
            ChainAttribute::Table(text) => table = text,
            ChainAttribute::Name(text) => name = text,
            ChainAttribute::Type(text) => kind = text,
            ChainAttribute::Hook(hooks) => hook = hooks.iter().find_map(hook_number),
            // The uses of a chain that is hooked are its rules: nobody can jump to it.
            ChainAttribute::Use(number) => rules = *number,
            ChainAttribute::Policy(verdict) => drops = *verdict == 0,
            _ => {}
        }
    }
    let family = match family {
        NetfilterProtoFamily::Inet => "inet",
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::IPv6 => "ip6",
        _ => return None,
    };
    let judges = match hook? {
        InetHookNumber::Forward => true,
        InetHookNumber::PostRouting => kind == "filter",
        _ => false,
    };
    (judges && table != "kube-proxy" && (rules > 0 || drops)).then(|| format!("nftables chain {family} {table} {name}"))
}

fn hook_number(hook: &Hook) -> Option<InetHookNumber> {
    if let Hook::Number(HookNumber::Inet(number)) = hook { Some(*number) } else { None }
}

/// The first table of the older iptables with a rule for forwarded packets.
fn iptables(proc: &Path) -> Option<String> {
    let families = [
        ("ip_tables_names", libc::AF_INET, libc::IPPROTO_IP, "iptables"),
        ("ip6_tables_names", libc::AF_INET6, libc::IPPROTO_IPV6, "ip6tables"),
    ];
    families.into_iter().find_map(|(file, domain, level, program)| {
        // Tables that nobody has used are not in there; asking for one would make it.
        let names = std::fs::read_to_string(proc.join("net").join(file)).ok()?;
        let has_rules = |name: &&str| match table_info(domain, level, name) {
            Ok(info) => info.has_forward_rules(),
            Err(_) => false,
        };
        names.lines().find(has_rules).map(|table| format!("{program} table {table}"))
    })
}

/// `struct ipt_getinfo` and `struct ip6t_getinfo` of linux/netfilter_ipv4/ip_tables.h and linux/netfilter_ipv6/ip6_tables.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct TableInfo {
    name: [u8; 32],
    valid_hooks: u32,
    hook_entry: [u32; 5],
    underflow: [u32; 5],
    num_entries: u32,
    size: u32,
}

impl TableInfo {
    /// Between a built-in chain's first entry and its policy are its rules.
    const fn has_forward_rules(&self) -> bool {
        const NF_INET_FORWARD: usize = 2;
        self.valid_hooks & (1 << NF_INET_FORWARD) != 0
            && self.hook_entry[NF_INET_FORWARD] != self.underflow[NF_INET_FORWARD]
    }
}

fn table_info(domain: libc::c_int, level: libc::c_int, table: &str) -> io::Result<TableInfo> {
    /// `IPT_SO_GET_INFO`, and `IP6T_SO_GET_INFO`.
    const GET_INFO: libc::c_int = 64;
    let family =
        if domain == libc::AF_INET { rustix::net::AddressFamily::INET } else { rustix::net::AddressFamily::INET6 };
    let socket = rustix::net::socket(family, rustix::net::SocketType::DGRAM, None)?;
    let mut info = TableInfo::default();
    let bytes = table.as_bytes();
    let room = info.name.get_mut(..bytes.len()).filter(|name| name.len() < 32);
    room.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?.copy_from_slice(bytes);
    let mut length = size_of::<TableInfo>() as libc::socklen_t;
    // SAFETY: the structure has the size and the layout that the kernel fills, and outlives the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, GET_INFO, std::ptr::from_mut(&mut info).cast(), &raw mut length)
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(table: &str, hook: u32, kind: &str, rules: u32, policy: u32) -> ChainMessage {
        ChainMessage {
            attributes: vec![
                ChainAttribute::Table(table.into()),
                ChainAttribute::Name("one".into()),
                ChainAttribute::Type(kind.into()),
                ChainAttribute::Hook(vec![Hook::Number(HookNumber::Inet(hook.into())), Hook::Priority(0)]),
                ChainAttribute::Use(rules),
                ChainAttribute::Policy(policy),
            ],
        }
    }

    #[test]
    fn chains_in_the_way_of_forwarded_packets() {
        use NetfilterProtoFamily::{Bridge, IPv4, Inet};
        let cases = [
            (Inet, chain("filter", 2, "filter", 1, 1), Some("nftables chain inet filter one")),
            (IPv4, chain("filter", 2, "filter", 0, 0), Some("nftables chain ip filter one")),
            (Inet, chain("policies", 4, "filter", 3, 1), Some("nftables chain inet policies one")),
            (Inet, chain("filter", 2, "filter", 0, 1), None),
            (Inet, chain("nat", 4, "nat", 3, 1), None),
            (Inet, chain("filter", 1, "filter", 3, 1), None),
            (Bridge, chain("filter", 2, "filter", 3, 1), None),
            (IPv4, chain("kube-proxy", 2, "filter", 3, 1), None),
        ];
        for (family, chain, wanted) in cases {
            assert_eq!(in_the_way(family, &chain).as_deref(), wanted, "{chain:?}");
        }
        let plain = ChainMessage { attributes: vec![ChainAttribute::Use(7)] };
        assert_eq!(in_the_way(Inet, &plain), None, "not hooked");
    }

    #[test]
    fn rules_are_gone_when_they_stay_away() {
        let (rules, mut found) = (Some("nftables chain".to_owned()), None);
        assert!(settle(&mut found, rules.clone(), 0) && found == rules);
        assert!(!settle(&mut found, rules.clone(), 0));
        for looks in 1..CALM {
            assert!(!settle(&mut found, None, looks) && found == rules, "{looks}");
        }
        assert!(settle(&mut found, None, CALM) && found.is_none());
        assert!(!settle(&mut found, None, CALM + 1));
    }

    #[test]
    fn a_table_has_rules_where_its_chain_is_longer_than_its_policy() {
        let mut info = TableInfo { valid_hooks: 0b01110, ..TableInfo::default() };
        info.hook_entry[2] = 152;
        info.underflow[2] = 152;
        assert!(!info.has_forward_rules());
        info.underflow[2] = 304;
        assert!(info.has_forward_rules());
        info.valid_hooks = 0b01010;
        assert!(!info.has_forward_rules(), "a table without that hook");
    }
}
