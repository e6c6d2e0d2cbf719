//! The grid of cases: a bar for each subject, the hooks beside each other.

use std::path::Path;

use anyhow::Result;
use plotters::{coord::Shift, prelude::*};

use super::report::{Case, Report};
use crate::plot::{INK, PALE, use_own_font, write};

/// The hooks, as names of cases begin, with what stands above, and where their bars start.
const HOOKS: [(&str, &str, i32); 2] = [("xdp: ", "XDP", 340), ("tc: ", "tc", 940)];
/// The subjects with their colours.
const SUBJECTS: [(&str, RGBColor); 5] = [
    ("weir", RGBColor(44, 140, 44)),
    ("lru-hash", RGBColor(214, 39, 40)),
    ("stateless-nat", RGBColor(31, 119, 180)),
    ("parse-and-pass", RGBColor(255, 152, 40)),
    ("send-back", RGBColor(150, 150, 150)),
];
const WIDTH: u32 = 1500;
/// Pixels of the longest bar.
const LONGEST: f64 = 540.0;
/// Pixels of a bar's height, between two cases, and above and below all of them.
const BAR: i32 = 11;
const GAP: i32 = 10;
const ABOVE: i32 = 130;
const BELOW: i32 = 24;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Cases in their order, each with its subjects.
type Rows<'a> = Vec<(&'a str, Vec<&'a Case>)>;

/// Draws the cases of both hooks.
pub(super) fn draw(report: &Report, path: &Path) -> Result<()> {
    use_own_font()?;
    let panels = HOOKS.map(|(hook, title, left)| (rows(report, hook), title, left));
    let end = ABOVE + panels.iter().map(|(rows, ..)| height(rows)).max().unwrap_or_default();
    let root = SVGBackend::new(path, (WIDTH, (end + BELOW) as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    write(&root, "cargo xtask bench datapath", (20, 10), 26, INK)?;
    let subtitle =
        "Nanoseconds of CPU per packet, less the driver of the benchmark: medians (bars), least and most (lines)";
    write(&root, subtitle, (20, 40), 16, PALE)?;
    legend(&root)?;
    for (rows, title, left) in &panels {
        write(&root, title, (*left, ABOVE - 46), 17, INK)?;
        panel(&root, rows, *left, end)?;
    }
    let mut y = ABOVE;
    for (name, subjects) in &panels[0].0 {
        let bars = BAR * subjects.len() as i32;
        write(&root, name, (20, y + (bars + GAP) / 2 - 8), 14, INK)?;
        y += bars + GAP;
    }
    Ok(root.present()?)
}

fn rows<'a>(report: &'a Report, hook: &str) -> Rows<'a> {
    let mut rows: Rows<'a> = Vec::new();
    for case in &report.cases {
        let Some(name) = case.case.strip_prefix(hook) else { continue };
        match rows.last_mut() {
            Some((last, subjects)) if *last == name => subjects.push(case),
            _ => rows.push((name, vec![case])),
        }
    }
    rows
}

fn height(rows: &Rows<'_>) -> i32 {
    rows.iter().map(|(_, subjects)| subjects.len() as i32 * BAR + GAP).sum()
}

fn legend(area: &Area<'_>) -> Result<()> {
    let mut x = 20;
    for (name, color) in SUBJECTS {
        area.draw(&Rectangle::new([(x, 66), (x + 12, 78)], color.filled()))?;
        write(area, name, (x + 18, 64), 14, INK)?;
        x += 40 + 8 * name.len() as i32;
    }
    Ok(())
}

/// Bars and scale of one hook.
fn panel(area: &Area<'_>, rows: &Rows<'_>, left: i32, end: i32) -> Result<()> {
    let most = rows.iter().flat_map(|(_, subjects)| subjects).map(|case| case.max_ns).fold(1.0, f64::max);
    let place = |nanoseconds: f64| left + (nanoseconds.max(0.0) / most * LONGEST) as i32;
    let step = [50.0, 100.0, 200.0, 500.0, 1000.0].into_iter().find(|step| most / step <= 8.0).unwrap_or(2000.0);
    for line in (0..=(most / step) as u32).map(|line| f64::from(line) * step) {
        area.draw(&PathElement::new([(place(line), ABOVE - 6), (place(line), end)], PALE.mix(0.3)))?;
        write(area, &format!("{line:.0}"), (place(line) - 8, ABOVE - 22), 13, INK)?;
    }
    let mut y = ABOVE + GAP / 2;
    for case in rows.iter().flat_map(|(_, subjects)| subjects.iter().map(Some).chain([None])) {
        let Some(case) = case else {
            y += GAP;
            continue;
        };
        let color = SUBJECTS.iter().find(|(name, _)| *name == case.subject).map_or(PALE, |(_, color)| *color);
        area.draw(&Rectangle::new([(left, y), (place(case.median_ns), y + BAR - 1)], color.filled()))?;
        let middle = y + BAR / 2;
        area.draw(&PathElement::new([(place(case.min_ns), middle), (place(case.max_ns), middle)], INK))?;
        y += BAR;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::report, *};

    #[test]
    fn every_case_and_subject_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        draw(&report(), file.path()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        for wanted in ["UDP", "new", "weir", "stateless-nat", "XDP"] {
            assert!(text.contains(wanted), "{wanted} is not in the picture");
        }
    }
}
