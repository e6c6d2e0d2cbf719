//! The picture in docs/scaling.md: load and bound over time.

use std::{ops::Range, path::Path};

use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

const SIZE: (u32, u32) = (1200, 960);
const INK: RGBColor = RGBColor(40, 44, 52);
const PALE: RGBColor = RGBColor(150, 156, 168);
const ON: RGBColor = RGBColor(31, 119, 180);
const OFF: RGBColor = RGBColor(230, 150, 60);

/// One trace: the load, and for each sample the bound that was issued for it, with whether it was in force.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) load: Vec<f64>,
    pub(super) bounds: Vec<Option<(f64, bool)>>,
}

type Failure = Box<dyn std::error::Error>;

pub(super) fn draw(file: &Path, panels: &[Panel]) -> Result<(), Failure> {
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT).map_err(|_| "font")?;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, area) in panels.iter().zip(root.split_evenly((panels.len(), 1))) {
        draw_panel(panel, &area)?;
    }
    Ok(root.present()?)
}

fn draw_panel(panel: &Panel, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Failure> {
    let end = panel.load.len() as f64 / 240.0;
    let bounds = panel.bounds.iter().flatten().map(|(upper, _)| *upper);
    let top = panel.load.iter().copied().chain(bounds).fold(0.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 18).into_font().color(&INK))
        .margin(10)
        .x_label_area_size(26)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE.mix(0.25))
        .axis_style(PALE)
        .x_label_formatter(&|hours| format!("{hours:.1} h"))
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .draw()?;
    let at = |slot: usize| slot as f64 / 240.0;
    chart.draw_series(LineSeries::new(panel.load.iter().enumerate().map(|(slot, load)| (at(slot), *load)), PALE))?;
    for run in runs(&panel.bounds) {
        let on = panel.bounds[run.start].is_some_and(|(_, on)| on);
        let line = run.filter_map(|slot| Some((at(slot), panel.bounds[slot]?.0)));
        chart.draw_series(LineSeries::new(line, if on { ON } else { OFF }.stroke_width(2)))?;
    }
    Ok(())
}

/// Stretches in force, out of force, and without a bound.
fn runs(bounds: &[Option<(f64, bool)>]) -> Vec<Range<usize>> {
    let kind = |slot: usize| bounds[slot].map(|(_, on)| on);
    let changes = (1..bounds.len()).filter(|slot| kind(*slot) != kind(slot - 1));
    let starts: Vec<_> = std::iter::once(0).chain(changes).chain([bounds.len()]).collect();
    starts.windows(2).map(|pair| pair[0]..pair[1]).filter(|run| !run.is_empty()).collect()
}
