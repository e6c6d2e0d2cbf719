//! The residual plot: what the model says against what was, and what is left over, row by row.

use std::path::Path;

use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

const SIZE: (u32, u32) = (1000, 760);
const INK: RGBColor = RGBColor(40, 44, 52);
const PALE: RGBColor = RGBColor(120, 126, 138);
const DOT: RGBColor = RGBColor(31, 119, 180);

/// Points that are drawn at most, evenly spread, so that the file stays small.
const POINTS: usize = 4000;

/// A row's value by the model, and as it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    /// By the model.
    pub(super) fitted: f64,
    /// As it was.
    pub(super) actual: f64,
}

type Failure = Box<dyn std::error::Error>;

/// Draws the plot as SVG.
pub(super) fn draw(file: &Path, target: &str, points: &[Point]) -> Result<(), Failure> {
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| "the built-in font cannot be read")?;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let every = points.len().div_ceil(POINTS).max(1);
    let shown: Vec<_> = points.iter().enumerate().step_by(every).collect();
    let (top, bottom) = root.split_vertically(SIZE.1 / 2);
    let by_fit = shown.iter().map(|(_, point)| (point.fitted, point.actual)).collect::<Vec<_>>();
    panel(&top, &format!("{target}, as it was, against the fit"), &by_fit, Line::Diagonal)?;
    let by_row = shown.iter().map(|(row, point)| (*row as f64, point.actual - point.fitted)).collect::<Vec<_>>();
    panel(&bottom, "residual, by row", &by_row, Line::Zero)?;
    Ok(root.present()?)
}

#[derive(Clone, Copy)]
enum Line {
    Diagonal,
    Zero,
}

fn panel(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    points: &[(f64, f64)],
    line: Line,
) -> Result<(), Failure> {
    let (x, y) = (range(points.iter().map(|point| point.0)), range(points.iter().map(|point| point.1)));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18).into_font().color(&INK))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(76)
        .build_cartesian_2d(x.clone(), y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE.mix(0.25))
        .axis_style(PALE)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .draw()?;
    chart.draw_series(points.iter().map(|point| Circle::new(*point, 2, DOT.mix(0.5).filled())))?;
    let right = match line {
        Line::Diagonal => [(x.start, x.start), (x.end, x.end)],
        Line::Zero => [(x.start, 0.0), (x.end, 0.0)],
    };
    chart.draw_series(LineSeries::new(right, INK.stroke_width(1)))?;
    Ok(())
}

/// From the least to the greatest, with a margin.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let margin = if high > low { (high - low) * 0.05 } else { high.abs().max(1.0) * 0.05 };
    low - margin..high + margin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_dot() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fit.svg");
        let points: Vec<_> =
            (0..20).map(|at| Point { fitted: f64::from(at), actual: f64::from(at + at % 3) }).collect();
        draw(&file, "cpuCores", &points).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(text.matches("<circle").count(), 40);
        assert!(text.contains("cpuCores, as it was, against the fit"), "{text}");
    }

    #[test]
    fn a_flat_residual_has_a_range() {
        assert_eq!(range([3.0, 3.0].into_iter()), 2.85..3.15);
        assert_eq!(range(std::iter::empty()), 0.0..1.0);
    }
}
