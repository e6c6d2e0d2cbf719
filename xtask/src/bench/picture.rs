//! The grid of cases: a bar for each subject, the hooks beside each other; below them the requests over veth and at sockets.

use std::path::Path;

use anyhow::Result;
use plotters::{coord::Shift, prelude::*};

use super::report::{Case, Report};
use crate::plot::{INK, PALE, use_own_font, write};

/// The hooks, as names of cases begin, with what stands above, and where their bars start.
const HOOKS: [(&str, &str, i32); 2] = [("xdp: ", "XDP, per packet", 340), ("tc: ", "tc, per packet", 940)];
/// The same of requests.
const REQUESTS: [(&str, &str, i32); 1] = [("", "veth and sockets, per request", 340)];
/// The subjects with their colours.
const SUBJECTS: [(&str, RGBColor); 10] = [
    ("weir", RGBColor(44, 140, 44)),
    ("lru-hash", RGBColor(214, 39, 40)),
    ("stateless-nat", RGBColor(31, 119, 180)),
    ("parse-and-pass", RGBColor(255, 152, 40)),
    ("send-back", RGBColor(150, 150, 150)),
    ("direct", RGBColor(200, 200, 200)),
    ("nftables", RGBColor(148, 103, 189)),
    ("iptables", RGBColor(140, 86, 75)),
    ("haproxy", RGBColor(23, 150, 190)),
    ("nginx-stream", RGBColor(188, 170, 34)),
];
const WIDTH: u32 = 1500;
/// Pixels of the longest bar of one of two panels beside each other, and of one that is alone.
const LONGEST: [f64; 2] = [540.0, 1100.0];
/// Pixels of a bar's height, between two cases, and above and below all of them.
const BAR: i32 = 11;
const GAP: i32 = 10;
const ABOVE: i32 = 130;
const BELOW: i32 = 24;
/// Pixels for what stands above a panel.
const HEAD: i32 = 46;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// Cases in their order, each with its subjects.
type Rows<'a> = Vec<(&'a str, Vec<&'a Case>)>;

/// Draws all cases.
pub(super) fn draw(report: &Report, path: &Path) -> Result<()> {
    use_own_font()?;
    let (packets, requests): (Vec<_>, Vec<_>) =
        report.cases.iter().partition(|case| HOOKS.iter().any(|(hook, ..)| case.case.starts_with(hook)));
    let second = ABOVE + if packets.is_empty() { 0 } else { tallest(&packets, &HOOKS) + HEAD + BELOW };
    let end = if requests.is_empty() { second - HEAD } else { second + tallest(&requests, &REQUESTS) + BELOW };
    let root = SVGBackend::new(path, (WIDTH, end as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    write(&root, "cargo xtask bench datapath", (20, 10), 26, INK)?;
    let subtitle = "Nanoseconds of CPU per packet, less the driver of the benchmark, and per request: medians (bars), least and most (lines)";
    write(&root, subtitle, (20, 40), 16, PALE)?;
    legend(&root, report)?;
    beside(&root, &packets, &HOOKS, ABOVE)?;
    beside(&root, &requests, &REQUESTS, second)?;
    Ok(root.present()?)
}

/// Panels beside each other, of cases that have the same names but for what they begin with; these stand to the left of them.
fn beside(root: &Area<'_>, cases: &[&Case], titles: &[(&str, &str, i32)], above: i32) -> Result<()> {
    if cases.is_empty() {
        return Ok(());
    }
    let end = above + tallest(cases, titles);
    for (prefix, title, left) in titles {
        write(root, title, (*left, above - HEAD), 17, INK)?;
        let longest = if titles.len() > 1 { LONGEST[0] } else { LONGEST[1] };
        panel(root, &rows(cases, prefix), longest, (*left, above, end))?;
    }
    let mut y = above;
    for (name, subjects) in
        titles.iter().map(|(prefix, ..)| rows(cases, prefix)).find(|rows| !rows.is_empty()).iter().flatten()
    {
        let bars = BAR * subjects.len() as i32;
        write(root, name, (20, y + (bars + GAP) / 2 - 8), 14, INK)?;
        y += bars + GAP;
    }
    Ok(())
}

fn tallest(cases: &[&Case], titles: &[(&str, &str, i32)]) -> i32 {
    titles.iter().map(|(prefix, ..)| height(&rows(cases, prefix))).max().unwrap_or_default()
}

fn rows<'a>(cases: &[&'a Case], prefix: &str) -> Rows<'a> {
    let mut rows: Rows<'a> = Vec::new();
    for case in cases {
        let Some(name) = case.case.strip_prefix(prefix) else { continue };
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

/// The subjects that are in the report.
fn legend(area: &Area<'_>, report: &Report) -> Result<()> {
    let mut x = 20;
    for (name, color) in SUBJECTS.iter().filter(|(name, _)| report.cases.iter().any(|case| case.subject == *name)) {
        area.draw(&Rectangle::new([(x, 66), (x + 12, 78)], color.filled()))?;
        write(area, name, (x + 18, 64), 14, INK)?;
        x += 40 + 8 * name.len() as i32;
    }
    Ok(())
}

/// Bars and scale.
fn panel(area: &Area<'_>, rows: &Rows<'_>, longest: f64, (left, above, end): (i32, i32, i32)) -> Result<()> {
    let most = rows.iter().flat_map(|(_, subjects)| subjects).map(|case| case.max_ns).fold(1.0, f64::max);
    let place = |nanoseconds: f64| left + (nanoseconds.max(0.0) / most * longest) as i32;
    let step = [50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4].into_iter().find(|step| most / step <= 8.0);
    let step = step.unwrap_or(5e4);
    for line in (0..=(most / step) as u32).map(|line| f64::from(line) * step) {
        area.draw(&PathElement::new([(place(line), above - 6), (place(line), end)], PALE.mix(0.3)))?;
        write(area, &format!("{line:.0}"), (place(line) - 8, above - 22), 13, INK)?;
    }
    let mut y = above + GAP / 2;
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
        for wanted in ["UDP", "new", "weir", "stateless-nat", "XDP", "veth: bulk", "haproxy"] {
            assert!(text.contains(wanted), "{wanted} is not in the picture");
        }
    }
}
