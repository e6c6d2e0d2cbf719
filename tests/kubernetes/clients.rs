//! Who asks: a client outside of the cluster, a process of a node, or a process in a pod. All run the same program.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{
    cluster::{Cluster, Node},
    process::text,
    report::Report,
};

use crate::space::Pod;

const PEER: &str = env!("CARGO_BIN_EXE_peer");

/// Somebody who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Client<'a> {
    /// In the nodes' subnet, outside of the cluster.
    Outside,
    /// A process of a node, in the node's own network.
    Host(&'a Node),
    /// A process in a pod.
    Pod(&'a Pod),
}

impl Client<'_> {
    /// Asks and waits for the end.
    pub(crate) fn ask(self, cluster: &Cluster, arguments: &[&str]) -> Result<Report> {
        let mut command = self.command(cluster)?;
        let output = command.args(arguments).output().with_context(|| format!("start {command:?}"))?;
        read(&command, &output)
    }

    /// Starts to ask again and again.
    pub(crate) fn load(self, cluster: &Cluster, arguments: &[&str]) -> Result<Load> {
        let mut command = self.command(cluster)?;
        command.args(arguments).arg("--until-eof");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        Ok(Load { child, command })
    }

    fn command(self, cluster: &Cluster) -> Result<Command> {
        let mut command = match self {
            Self::Outside => cluster.client().command(PEER)?,
            Self::Host(node) => node.command(PEER)?,
            Self::Pod(pod) => pod.host(cluster)?.command_in_pod(&pod.uid, "/peer")?,
        };
        command.arg("ask");
        Ok(command)
    }
}

/// Requests that go on until they are told to stop.
pub(crate) struct Load {
    child: Child,
    command: Command,
}

impl Load {
    /// Ends it: every request that was begun is waited for.
    pub(crate) fn finish(self) -> Result<Report> {
        let Self { mut child, command } = self;
        drop(child.stdin.take());
        let output = child.wait_with_output()?;
        read(&command, &output)
    }
}

fn read(command: &Command, output: &std::process::Output) -> Result<Report> {
    ensure!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} printed {}", text(&output.stdout)))
}
