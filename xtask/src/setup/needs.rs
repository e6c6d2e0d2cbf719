//! What the tasks need from the machine: one table, from which everything else in `setup` follows.

use clap::ValueEnum;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Compile the BPF programs
    Ebpf,
    /// Run every test
    Test,
    /// Run the demo
    Demo,
    /// Run the benchmarks
    Bench,
    /// Run a Kubernetes cluster
    Kubernetes,
    /// All of these
    All,
}

use Purpose::{Bench, Demo, Kubernetes, Test};

/// A program that is found on the path and comes in Debian packages.
pub(crate) struct Tool {
    pub program: &'static str,
    pub version_argument: &'static str,
    pub packages: &'static [&'static str],
    pub purposes: &'static [Purpose],
}

/// The programs, beside the compiler and bpf-linker, that are looked for.
pub(crate) const TOOLS: &[Tool] = &[
    tool("ip", "-V", &["iproute2"], &[Test, Demo, Bench, Kubernetes]),
    tool("tc", "-V", &["iproute2"], &[Test, Demo, Bench]),
    tool("setpriv", "--version", &["util-linux"], &[Test]),
    tool("unshare", "--version", &["util-linux"], &[Test]),
    tool("nsenter", "--version", &["util-linux"], &[Test, Demo, Bench, Kubernetes]),
    tool("ethtool", "--version", &["ethtool"], &[Test, Demo, Bench]),
    tool("nginx", "-v", &["nginx-light"], &[Test, Demo, Bench]),
    tool("wrk", "-v", &["wrk"], &[Test, Demo, Bench]),
    tool("haproxy", "-v", &["haproxy"], &[Bench]),
    tool("nft", "--version", &["nftables"], &[Test, Bench, Kubernetes]),
    tool("strip", "--version", &["binutils"], &[Test, Kubernetes]),
    tool("runc", "--version", &["runc"], &[Test, Kubernetes]),
    tool("/usr/lib/cni/ptp", "--version", &["containernetworking-plugins"], &[Test, Kubernetes]),
    tool("conntrack", "--version", &["conntrack"], &[Test, Kubernetes]),
    tool("iptables", "--version", &["iptables"], &[Test, Bench, Kubernetes]),
    tool("curl", "--version", &["curl"], &[Test, Demo, Kubernetes]),
    tool("unzip", "-v", &["unzip"], &[Test, Kubernetes]),
    tool("promtool", "--version", &["prometheus"], &[Test]),
    tool("prometheus", "--version", &["prometheus"], &[Test]),
];

const fn tool(
    program: &'static str,
    version_argument: &'static str,
    packages: &'static [&'static str],
    purposes: &'static [Purpose],
) -> Tool {
    Tool { program, version_argument, packages, purposes }
}

/// Debian's packages of a recent compiler with its source, for machines where rustup cannot deliver one.
pub(crate) const COMPILER_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "rust-web-src"];
/// What bpf-linker is built against.
pub(crate) const LLVM_PACKAGES: &[&str] = &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev"];
/// nginx's module for connections that are not HTTP.
pub(crate) const NGINX_STREAM_PACKAGES: &[&str] = &["libnginx-mod-stream"];
/// bpf-linker links LLVM, which is C++.
pub(crate) const CXX_PACKAGES: &[&str] = &["g++"];

impl Purpose {
    /// Whether a thing for `purposes` is needed for this one.
    pub(crate) fn wants(self, purposes: &[Self]) -> bool {
        self == Self::All || purposes.contains(&self)
    }

    /// Whether the programs of a cluster are built.
    pub(crate) fn needs_go(self) -> bool {
        self.wants(&[Test, Kubernetes])
    }

    /// Whether nginx balances connections that are not HTTP.
    pub(crate) fn needs_nginx_stream(self) -> bool {
        self.wants(&[Bench])
    }

    /// Whether programs are loaded into the kernel, and so pinned.
    pub(crate) fn needs_bpffs(self) -> bool {
        self != Self::Ebpf
    }
}
