//! `cargo xtask setup`: finds what is missing for a purpose, says what it will install, installs it, and looks again.

mod findings;
mod install;
mod needs;
mod steps;

use anyhow::{Result, bail};
use comfy_table::{Table, presets};
use xshell::Shell;

use self::{
    findings::{Finding, State},
    install::Outcome,
    steps::Steps,
};
use crate::shell;

pub(crate) use self::needs::Purpose;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What the machine is prepared for
    #[arg(long = "for", value_enum, default_value = "all")]
    purpose: Purpose,
    /// Only say what is found and what is missing; exit code 1 when something is
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let shell = shell::in_root()?;
    let found = findings::look(&shell, args.purpose, false);
    println!("{}", table(&found));
    if Steps::of(&found).is_empty() {
        return Ok(());
    }
    if args.check {
        bail!("something is missing\n  remedy: the same command without --check");
    }
    mend(&shell, args.purpose, found).map(|found| println!("{}", table(&found)))
}

/// Makes sure that everything `purpose` needs is there; silent when it is.
pub(crate) fn ensure(purpose: Purpose) -> Result<()> {
    let shell = shell::in_root()?;
    let found = findings::look(&shell, purpose, false);
    if !Steps::of(&found).is_empty() {
        eprintln!("{}", table(&found));
        mend(&shell, purpose, found)?;
    }
    Ok(())
}

/// Carries out what is missing and returns what is found then; a second round follows only where rustup failed.
fn mend(shell: &Shell, purpose: Purpose, mut found: Vec<Finding>) -> Result<Vec<Finding>> {
    let mut rustup_failed = false;
    loop {
        let steps = Steps::of(&found);
        eprintln!("{steps}");
        match install::run(shell, &steps)? {
            Outcome::RustupFailed => rustup_failed = true,
            Outcome::Done => break,
        }
        found = findings::look(shell, purpose, rustup_failed);
    }
    let found = findings::look(shell, purpose, rustup_failed);
    match Steps::of(&found).is_empty() {
        true => Ok(found),
        false => bail!("still missing after the installation:\n{}", table(&found)),
    }
}

fn table(found: &[Finding]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["NEED", "STATE", "VERSION"]);
    for finding in found {
        let (state, version) = match &finding.state {
            State::Found(version) => ("found", version),
            State::NotNeeded(why) => ("not needed", why),
            State::Missing(why, _) => ("missing", why),
        };
        table.add_row([finding.need, state, version]);
    }
    table
}
