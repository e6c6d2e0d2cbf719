//! The demo's time line as a picture: requests per second, p99, active connections by backend and replicas, one above the other.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plotters::{coord::Shift, prelude::*};

use super::{
    report::{Record, by_second},
    stage::{SERVERS_MAX, SLOW},
};
use crate::plot::{Chart, INK, PALE, mesh, use_own_font, write};

const SIZE: (u32, u32) = (1200, 1060);
const COLORS: [RGBColor; SERVERS_MAX] = [
    RGBColor(214, 39, 40),
    RGBColor(31, 119, 180),
    RGBColor(72, 160, 220),
    RGBColor(20, 80, 130),
    RGBColor(44, 160, 44),
    RGBColor(120, 190, 70),
];

/// Draws `timeline.svg` and `timeline.png` into a folder and returns their paths.
pub(crate) fn draw(record: &Record, folder: &Path) -> Result<[PathBuf; 2]> {
    use_own_font()?;
    let paths = ["timeline.svg", "timeline.png"].map(|name| folder.join(name));
    draw_on(record, &SVGBackend::new(&paths[0], SIZE).into_drawing_area())?;
    draw_on(record, &BitMapBackend::new(&paths[1], SIZE).into_drawing_area())?;
    Ok(paths)
}

struct Panel<'a> {
    title: &'a str,
    series: Vec<Series>,
}

struct Series {
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

fn draw_on<DB: DrawingBackend>(record: &Record, root: &DrawingArea<DB, Shift>) -> Result<()>
where
    DB::ErrorType: 'static,
{
    root.fill(&WHITE)?;
    let (top, rest) = root.split_vertically(92);
    headline(&top)?;
    let end = by_second(record).len() as f64;
    for (number, (panel, area)) in panels(record).iter().zip(rest.split_evenly((4, 1))).enumerate() {
        draw_panel(record, panel, &area, end, number == 0)?;
    }
    Ok(root.present()?)
}

fn headline<DB: DrawingBackend>(area: &DrawingArea<DB, Shift>) -> Result<()>
where
    DB::ErrorType: 'static,
{
    write(area, "cargo xtask demo", (20, 12), 26, INK)?;
    let subtitle = "Weir in front of nginx servers, one of them (red) with a quarter of the others' CPU; every request is a new connection";
    write(area, subtitle, (20, 42), 16, PALE)?;
    for (index, color) in COLORS.iter().enumerate() {
        let x = 20 + 130 * index as i32;
        area.draw(&PathElement::new([(x, 74), (x + 18, 74)], color.stroke_width(3)))?;
        write(area, &label(index), (x + 24, 66), 15, INK)?;
    }
    Ok(())
}

fn label(index: usize) -> String {
    if index == SLOW { format!("server {index} (slow)") } else { format!("server {index}") }
}

fn panels(record: &Record) -> Vec<Panel<'static>> {
    let seconds = by_second(record);
    let line = |value: &dyn Fn(usize) -> f64| (0..seconds.len()).map(|at| (at as f64 + 0.5, value(at))).collect();
    let plain = |points| vec![Series { color: INK, points }];
    let replicas = record.observations.iter().map(|seen| (seen.at.as_secs_f64(), seen.replicas() as f64));
    vec![
        Panel { title: "requests per second", series: plain(line(&|at| seconds[at].answered as f64)) },
        Panel { title: "p99, ms", series: plain(line(&|at| seconds[at].p99.as_secs_f64() * 1e3)) },
        Panel { title: "active connections by backend", series: active(record) },
        Panel { title: "replicas", series: plain(steps(replicas)) },
    ]
}

fn active(record: &Record) -> Vec<Series> {
    let of = |index: usize| {
        let seen = record.observations.iter();
        seen.filter_map(|seen| Some((seen.at.as_secs_f64(), seen.active[index]? as f64))).collect()
    };
    (0..SERVERS_MAX).map(|index| Series { color: COLORS[index], points: of(index) }).collect()
}

/// A line that changes at once and not on a slope.
fn steps(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut line: Vec<(f64, f64)> = Vec::new();
    for (x, y) in points {
        if let Some((_, before)) = line.last().copied() {
            line.push((x, before));
        }
        line.push((x, y));
    }
    line
}

fn draw_panel<DB: DrawingBackend>(
    record: &Record,
    panel: &Panel<'_>,
    area: &DrawingArea<DB, Shift>,
    end: f64,
    named: bool,
) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let highest = panel.series.iter().flat_map(|series| &series.points).map(|point| point.1).fold(1.0, f64::max);
    let top = highest * 1.25;
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 17).into_font().color(&INK))
        .margin_right(24)
        .x_label_area_size(24)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    bands(record, &mut chart, top, named)?;
    mesh(&mut chart, &|value| format!("{value:.0}"))?;
    for series in &panel.series {
        chart.draw_series(LineSeries::new(series.points.iter().copied(), series.color.stroke_width(2)))?;
    }
    Ok(())
}

/// Every second phase on a shade, each event a line; with names and texts where wanted.
fn bands<DB: DrawingBackend>(record: &Record, chart: &mut Chart<'_, DB>, top: f64, named: bool) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let small = ("sans-serif", 13).into_font();
    for (number, phase) in record.phases.iter().enumerate() {
        let (from, to) = (phase.from.as_secs_f64(), phase.to.as_secs_f64());
        let shade = if number % 2 == 0 { PALE.mix(0.10) } else { PALE.mix(0.02) };
        chart.draw_series([Rectangle::new([(from, 0.0), (to, top)], shade.filled())])?;
        let text = if named { format!("{}, {} clients", phase.name, phase.clients) } else { String::new() };
        chart.draw_series([Text::new(text, (from + 0.2, top * 0.98), small.clone().color(&PALE))])?;
    }
    for event in &record.events {
        let at = event.at.as_secs_f64();
        chart.draw_series([PathElement::new([(at, 0.0), (at, top * 0.86)], RED.mix(0.7))])?;
        chart.draw_series([Text::new(
            if named { event.text } else { "" },
            (at + 0.15, top * 0.86),
            small.clone().color(&RED),
        )])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::{
        load::Sample,
        report::{Event, Observation, Phase},
    };

    /// Twenty seconds with what a demo has: two phases, an event, servers that come later.
    fn record() -> Record {
        let second = Duration::from_secs;
        let phase = |name, clients, from, to| Phase { name, clients, from: second(from), to: second(to) };
        let sample = |index: u64| Sample {
            begun: Duration::from_millis(index * 10),
            took: Duration::from_millis(5 + index % 70),
            result: Ok(index as usize % 4),
        };
        let seen = |at| Observation {
            at: second(at),
            active: std::array::from_fn(|index| (index < 4 || at > 12).then_some((at + index as u64 * 3) % 11)),
        };
        Record {
            phases: vec![phase("random", 24, 0, 10), phase("more load", 72, 10, 20)],
            events: vec![Event { at: second(12), text: "two servers started" }],
            samples: (0..2000).map(sample).collect(),
            observations: (1..20).map(seen).collect(),
        }
    }

    #[test]
    fn both_pictures_hold_what_was_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let [svg, png] = draw(&record(), folder.path()).unwrap();
        let text = std::fs::read_to_string(svg).unwrap();
        for wanted in
            ["random, 24 clients", "more load, 72 clients", "two servers started", "server 0 (slow)", "replicas"]
        {
            assert!(text.contains(wanted), "{wanted} is not in the SVG");
        }
        let bytes = std::fs::read(png).unwrap();
        assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
        assert_eq!(bytes[16..24], [SIZE.0.to_be_bytes(), SIZE.1.to_be_bytes()].concat());
    }
}
