//! The Service API as a table: each case is a Service, and from where which of its frontends is answered by whom, refused or left silent.
//!
//! The same table holds for kube-proxy, which proves the table; what differs there is marked.

mod check;
mod stage;
mod table;

use anyhow::{Result, ensure};
use weir_tests::cluster::Cluster;

use self::stage::Stage;
use crate::world;

#[test]
fn weir_passes_the_table_of_cases() -> Result<()> {
    check_all(&*world::enter_with_weir(weir_tests::cluster::Proxy::None)?, Proxy::Weir)
}

/// Checks every case on a cluster; says all that failed.
pub(crate) fn check_all(cluster: &Cluster, proxy: check::Proxy) -> Result<()> {
    let stage = Stage::new(cluster)?;
    let mut wrong = Vec::new();
    for case in table::CASES {
        for check in case.checks {
            if let Err(error) = stage.check(case.name, check, proxy) {
                wrong.push(format!("{}: {check:?}: {error:#}", case.name));
            }
        }
    }
    ensure!(wrong.is_empty(), "{} checks failed:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

pub(crate) use self::check::Proxy;
