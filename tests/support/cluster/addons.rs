//! What every cluster has inside: the image that holds pods' namespaces, and CoreDNS.

use std::path::PathBuf;

use anyhow::Result;

use super::{
    layout::{API_PORT, DNS_SERVICE, FABRIC4, Name},
    programs::Programs,
};
use crate::image::Image;

/// The image that holds a pod's namespaces.
pub(super) const PAUSE_IMAGE: &str = "weir.dev/pause:1";
const COREDNS_IMAGE: &str = "weir.dev/coredns:1";

/// Writes the archive of the pause image.
pub(super) fn pause_archive(cluster: &Name, programs: &Programs) -> Result<PathBuf> {
    let archive = cluster.folder().join("pause.tar");
    Image::new(PAUSE_IMAGE, &["/pause"]).program("/pause", &programs.path("pause"))?.write(&archive)?;
    Ok(archive)
}

/// Writes the archive of CoreDNS' image.
pub(super) fn coredns_archive(cluster: &Name, programs: &Programs) -> Result<PathBuf> {
    let archive = cluster.folder().join("coredns.tar");
    let image = Image::new(COREDNS_IMAGE, &["/coredns"]).users();
    image.program("/coredns", &programs.path("coredns"))?.write(&archive)?;
    Ok(archive)
}

/// CoreDNS' objects.
pub(super) fn coredns_manifest(cluster: &Name) -> String {
    let first = cluster.nodes(1)[0].name();
    [
        ("FIRST_NODE", first.as_str()),
        ("IMAGE", COREDNS_IMAGE),
        ("API_ADDRESS", FABRIC4),
        ("API_PORT", &API_PORT.to_string()),
        ("DNS_SERVICE", DNS_SERVICE),
    ]
    .iter()
    .fold(include_str!("coredns.yaml").to_owned(), |text, (name, value)| {
        text.replace(&format!("\"{name}\""), &format!("\"{value}\""))
    })
}
