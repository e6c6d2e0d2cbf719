//! A row for each variant with two bars: the goodput of who was served before, and the part of new clients that is served.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plotters::{coord::Shift, prelude::*};

use super::{Report, table};
use crate::plot::{INK, PALE, use_own_font, write};

const WIDTH: u32 = 1000;
const ROW: i32 = 52;
/// Where rows begin, and what is below them.
const TOP: i32 = 96;
const BOTTOM: i32 = 24;
/// Where the names begin, and the bars, which are so long at 1.
const NAMES: i32 = 20;
const BARS: i32 = 240;
const LENGTH: f64 = 620.0;
/// A bar that is longer than this many times what is wanted says nothing more.
const MOST: f64 = 1.15;
const THICK: i32 = 14;
const COLORS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(255, 152, 40)];

type Area<'a, DB> = DrawingArea<DB, Shift>;

/// Draws `flood.svg` into a folder and returns its path.
pub(super) fn draw(report: &Report, folder: &Path) -> Result<PathBuf> {
    use_own_font()?;
    let path = folder.join("flood.svg");
    let height = TOP + ROW * report.runs.len() as i32 + BOTTOM;
    draw_on(report, &SVGBackend::new(&path, (WIDTH, height as u32)).into_drawing_area())?;
    Ok(path)
}

fn draw_on<DB: DrawingBackend>(report: &Report, root: &Area<'_, DB>) -> Result<()>
where
    DB::ErrorType: 'static,
{
    root.fill(&WHITE)?;
    write(root, "cargo xtask bench flood", (NAMES, 10), 24, INK)?;
    let kept = "goodput of open connections, of that under the same flood at an address that is no frontend";
    write(root, kept, (NAMES, 44), 15, COLORS[0])?;
    write(root, "part of new clients that is served within five seconds", (NAMES, 64), 15, COLORS[1])?;
    for (index, run) in report.runs.iter().enumerate() {
        let top = TOP + ROW * index as i32;
        write(root, &run.name, (NAMES, top + THICK - 8), 16, INK)?;
        bar(root, top, run.goodput(), COLORS[0])?;
        bar(root, top + THICK + 2, run.flood.served(), COLORS[1])?;
    }
    let bottom = TOP + ROW * report.runs.len() as i32;
    for wanted in [table::GOODPUT, table::SERVED] {
        let at = BARS + (wanted * LENGTH) as i32;
        root.draw(&PathElement::new([(at, TOP - 8), (at, bottom - 8)], PALE))?;
        write(root, &format!("wanted: {wanted}"), (at - 40, bottom - 4), 14, PALE)?;
    }
    Ok(root.present()?)
}

/// A bar with its number beside it; nothing where there is no number.
fn bar<DB: DrawingBackend>(root: &Area<'_, DB>, top: i32, value: f64, color: RGBColor) -> Result<()>
where
    DB::ErrorType: 'static,
{
    if !value.is_finite() {
        return Ok(());
    }
    let end = BARS + (value.clamp(0.0, MOST) * LENGTH) as i32;
    root.draw(&Rectangle::new([(BARS, top), (end.max(BARS + 1), top + THICK)], color.filled()))?;
    write(root, &format!("{value:.2}"), (end + 6, top), 14, INK)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::report, *};

    #[test]
    fn every_variant_has_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(draw(&report(), folder.path()).unwrap()).unwrap();
        for wanted in ["weir, local, deaf", "nftables, local, deaf", "0.91", "0.89", "wanted: 0.9"] {
            assert!(text.contains(wanted), "{wanted} is not in the SVG");
        }
    }
}
