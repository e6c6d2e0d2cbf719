//! Draws a replay (load, capacity and violations of each scaler, one above the other) or fronts (violations over cost) as SVG.

use std::path::Path;

use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

use super::{
    run::{Run, Trial},
    score::Score,
    workload::{SECOND, seconds},
};

/// Why a plot was not drawn.
#[derive(Debug, thiserror::Error)]
#[error("drawing: {0}")]
pub struct PlotError(String);

type Drawn<T = ()> = Result<T, PlotError>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const WIDTH: u32 = 900;
const ROW: u32 = 150;
const FRONT: u32 = 520;
/// Points of a line: more are not seen.
const POINTS: usize = 450;

const INK: RGBColor = RGBColor(40, 44, 52);
const LOAD: RGBColor = RGBColor(190, 198, 210);
const LATE: RGBColor = RGBColor(214, 39, 40);
const COLOURS: [(&str, RGBColor); 7] = [
    ("weir-no-forecast", RGBColor(120, 178, 226)),
    ("weir", RGBColor(31, 119, 180)),
    ("hpa", RGBColor(230, 126, 20)),
    ("hpa-60s", RGBColor(44, 140, 44)),
    ("kpa", RGBColor(148, 103, 189)),
    ("fixed", RGBColor(127, 127, 127)),
    ("oracle", RGBColor(23, 160, 170)),
];

fn colour(scaler: &str) -> RGBColor {
    COLOURS.iter().find(|(name, _)| *name == scaler).map_or(INK, |(_, colour)| *colour)
}

fn failed(error: impl std::fmt::Display) -> PlotError {
    PlotError(error.to_string())
}

fn font() -> Drawn {
    let font = register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
    font.map_err(|_| failed("the built-in font cannot be read"))
}

/// Draws the replays of a trial.
pub fn replays(file: &Path, title: &str, trial: &Trial, runs: &[&Run]) -> Drawn {
    font()?;
    let root = SVGBackend::new(file, (WIDTH, 40 + ROW * runs.len() as u32)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let (head, rows) = root.split_vertically(40);
    let legend = "grey: slots that requests need; line: slots that are ready; red: share of requests that wait too long, to 100 %";
    text(&head, title, (10, 4), 17)?;
    text(&head, legend, (10, 24), 12)?;
    for (run, area) in runs.iter().zip(rows.split_evenly((runs.len(), 1))) {
        row(&area, trial, run)?;
    }
    root.present().map_err(failed)
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: i32) -> Drawn {
    area.draw(&Text::new(text.to_owned(), at, ("sans-serif", size).into_font().color(&INK))).map_err(failed)
}

fn row(area: &Area<'_>, trial: &Trial, run: &Run) -> Drawn {
    let slots = f64::from(trial.concurrency());
    let step = run.record.ticks.len().div_ceil(POINTS).max(1);
    let load = bins(trial.busy().iter().map(|busy| f64::from(*busy)), step);
    let ready = bins(run.record.ticks.iter().map(|tick| f64::from(tick.ready) * slots), step);
    let late = late(trial, run, step);
    let top = load.iter().chain(&ready).copied().fold(1.0, f64::max) * 1.05;
    let end = (load.len() * step) as f64 / 60.0;
    let Score { scaler, slo_violation_ratio, replica_seconds, .. } = &run.score;
    let hours = replica_seconds / 3600.0;
    let caption = format!("{scaler}: {:.2} % wait too long, {hours:.1} replica-hours", slo_violation_ratio * 100.0);
    let mut chart = ChartBuilder::on(area)
        .caption(caption, ("sans-serif", 14).into_font().color(&colour(scaler)))
        .margin(4)
        .x_label_area_size(18)
        .y_label_area_size(40)
        .build_cartesian_2d(0.0..end, 0.0..top)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .x_labels(8)
        .y_labels(4)
        .x_label_formatter(&|x| format!("{x:.0} min"))
        .draw()
        .map_err(failed)?;
    let minute = |index: usize| (index * step) as f64 / 60.0;
    let bars = late.iter().enumerate().filter(|(_, share)| **share > 0.0);
    let bar = |(index, share): (usize, &f64)| {
        Rectangle::new([(minute(index), 0.0), (minute(index + 1), share * top)], LATE.mix(0.55).filled())
    };
    chart.draw_series(line(&load, minute, LOAD)).map_err(failed)?;
    chart.draw_series(bars.map(bar)).map_err(failed)?;
    chart.draw_series(line(&ready, minute, colour(scaler))).map_err(failed)?;
    Ok(())
}

fn line(
    values: &[f64],
    minute: impl Fn(usize) -> f64,
    colour: RGBColor,
) -> LineSeries<SVGBackend<'static>, (f64, f64)> {
    LineSeries::new(values.iter().enumerate().map(|(index, value)| (minute(index), *value)), colour.stroke_width(1))
}

/// Means over so many values each.
fn bins(values: impl Iterator<Item = f64>, step: usize) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    values.chunks(step).map(|chunk| chunk.iter().sum::<f64>() / chunk.len() as f64).collect()
}

/// The share of the requests of each bin that waited too long.
fn late(trial: &Trial, run: &Run, step: usize) -> Vec<f64> {
    let mut counts = vec![(0.0, 0.0); run.record.ticks.len().div_ceil(step)];
    for (arrived, waited) in &run.record.waits {
        let bin = usize::try_from(arrived / SECOND).unwrap_or(0) / step;
        if let Some((late, all)) = counts.get_mut(bin) {
            *all += 1.0;
            *late += f64::from(u8::from(*waited > trial.slo()));
        }
    }
    counts.into_iter().map(|(late, all): (f64, f64)| if all > 0.0 { late / all } else { 0.0 }).collect()
}

/// Draws the fronts of a sweep.
pub fn fronts(file: &Path, title: &str, trial: &Trial, scores: &[&Score]) -> Drawn {
    font()?;
    let root = SVGBackend::new(file, (WIDTH, FRONT)).into_drawing_area();
    root.fill(&WHITE).map_err(failed)?;
    let percent = |score: &Score| (score.slo_violation_ratio * 100.0).max(0.01);
    let hours = |score: &Score| score.replica_seconds / 3600.0;
    let ours: Vec<f64> = scores.iter().filter(|score| score.scaler == "weir").map(|score| hours(score)).collect();
    let low = ours.iter().copied().fold(f64::INFINITY, f64::min) * 0.8;
    let high = ours.iter().copied().fold(0.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 17).into_font().color(&INK))
        .margin(8)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(low..high, (0.01..100.0_f64).log_scale())
        .map_err(failed)?;
    let wait = format!("requests that wait longer than {} s, % (log)", seconds(trial.slo()));
    chart.configure_mesh().light_line_style(WHITE).x_desc("replica-hours").y_desc(wait).draw().map_err(failed)?;
    for (name, colour) in COLOURS {
        let points: Vec<_> = scores.iter().filter(|score| score.scaler == name && hours(score) <= high).collect();
        if points.is_empty() {
            continue;
        }
        let dots = points.iter().map(|score| Circle::new((hours(score), percent(score)), 3, colour.filled()));
        let dots = chart.draw_series(dots).map_err(failed)?;
        dots.label(name).legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart.configure_series_labels().border_style(INK).background_style(WHITE).draw().map_err(failed)?;
    root.present().map_err(failed)
}
