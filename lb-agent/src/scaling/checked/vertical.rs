//! The size of a replica.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    Resize, Rule, Target,
    error::{Checked, wrong},
    text::{self, name},
};
use crate::scaling::policy::{SignalName, VerticalMode, VerticalSpec};

/// How much CPU and memory a container of each replica requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Vertical {
    /// Whether sizes are applied.
    pub mode: VerticalMode,
    /// The container.
    pub container: String,
    /// The bounds of its CPU request, in thousandths of a CPU.
    pub cpu: Option<Bounds>,
    /// The bounds of its memory request, in bytes.
    pub memory: Option<Bounds>,
    /// Thresholds that change the size.
    pub rules: Vec<Rule<Resize>>,
}

/// The bounds of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The least, greater than 0.
    pub min: u64,
    /// The most, not less than `min`.
    pub max: u64,
}

/// Checks the sizes against the rules that change them, and against those of CPU that change the number of replicas.
pub(super) fn vertical(
    spec: Option<&VerticalSpec>,
    resize: Vec<Rule<Resize>>,
    rules: &[Rule],
    targets: &[Target],
) -> Checked<Option<Vertical>> {
    let Some(spec) = spec else {
        return match resize.first() {
            None => Ok(None),
            Some(rule) => unbounded(rule),
        };
    };
    let checked = Vertical {
        mode: spec.mode,
        container: name("spec.vertical.container", &spec.container, 63)?,
        cpu: bounds("spec.vertical.cpu", spec.cpu.as_ref().map(|it| (&it.min, &it.max)), text::millicores)?,
        memory: bounds("spec.vertical.memory", spec.memory.as_ref().map(|it| (&it.min, &it.max)), text::bytes)?,
        rules: resize,
    };
    let is_bounded = |rule: &&Rule<Resize>| match rule.action {
        Resize::Cpu(_) => checked.cpu.is_some(),
        Resize::Memory(_) => checked.memory.is_some(),
    };
    if let Some(rule) = checked.rules.iter().find(|rule| !is_bounded(rule)) {
        return unbounded(rule);
    }
    if checked.mode == VerticalMode::Off {
        return Ok(Some(checked));
    }
    if checked.cpu.is_none() && checked.memory.is_none() {
        return wrong("spec.vertical", "there is nothing to size", "give cpu or memory with its bounds");
    }
    one_use_of_cpu(&checked, rules, targets)?;
    Ok(Some(checked))
}

fn unbounded<T>(rule: &Rule<Resize>) -> Checked<T> {
    let field = match rule.action {
        Resize::Cpu(_) => "cpu",
        Resize::Memory(_) => "memory",
    };
    let problem = format!("rule {:?} changes the {field} without bounds", rule.name);
    wrong("spec.rules", problem, &format!("give spec.vertical.{field}"))
}

/// A larger request lowers the percentage, which would take replicas away.
fn one_use_of_cpu(vertical: &Vertical, rules: &[Rule], targets: &[Target]) -> Checked<()> {
    let cpu = SignalName::Cpu.into();
    let reads = rules.iter().any(|rule| rule.signal == cpu) || targets.iter().any(|target| target.signal == cpu);
    if vertical.cpu.is_some() && reads {
        let problem = "cpu decides the number of replicas and vertical.cpu their size";
        return wrong(
            "spec.vertical.cpu",
            problem,
            "let CPU do one of them: remove vertical.cpu, or use another signal",
        );
    }
    Ok(())
}

fn bounds(
    path: &str,
    spec: Option<(&IntOrString, &IntOrString)>,
    read: fn(&str, &IntOrString) -> Checked<u64>,
) -> Checked<Option<Bounds>> {
    let Some((min, max)) = spec else {
        return Ok(None);
    };
    let (min, max) = (read(&format!("{path}.min"), min)?, read(&format!("{path}.max"), max)?);
    if min == 0 {
        return wrong(format!("{path}.min"), "0 is no size", "use more than 0");
    }
    if max < min {
        return wrong(format!("{path}.max"), "it is less than min", "use an amount that is not less than min");
    }
    Ok(Some(Bounds { min, max }))
}
