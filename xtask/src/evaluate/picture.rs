//! The time line: for each way the replicas that were ready beside those that the load needed, and the response times of all.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plotters::{coord::Shift, prelude::*};

use super::{Outcome, Report};
use crate::plot::{INK, PALE, mesh, use_own_font, write};

const SIZE: (u32, u32) = (1200, 1200);
const COLORS: [RGBColor; 4] =
    [RGBColor(214, 39, 40), RGBColor(255, 152, 40), RGBColor(31, 119, 180), RGBColor(44, 140, 44)];
/// Seconds of one value of `p95_by_window`.
const WINDOW: f64 = 10.0;

type Area<'a, DB> = DrawingArea<DB, Shift>;
type Points = Vec<(f64, f64)>;

/// Draws `evaluation.svg` and `evaluation.png` into a folder and returns their paths.
pub(super) fn draw(report: &Report, folder: &Path) -> Result<[PathBuf; 2]> {
    use_own_font()?;
    let paths = ["evaluation.svg", "evaluation.png"].map(|name| folder.join(name));
    draw_on(report, &SVGBackend::new(&paths[0], SIZE).into_drawing_area())?;
    draw_on(report, &BitMapBackend::new(&paths[1], SIZE).into_drawing_area())?;
    Ok(paths)
}

fn draw_on<DB: DrawingBackend>(report: &Report, root: &Area<'_, DB>) -> Result<()>
where
    DB::ErrorType: 'static,
{
    root.fill(&WHITE)?;
    let (top, rest) = root.split_vertically(64);
    write(&top, "cargo xtask evaluate", (20, 10), 26, INK)?;
    let subtitle = "Ready pods (lines, one for each turn) beside the fewest that carry the requests of the last ten seconds (grey)";
    write(&top, subtitle, (20, 40), 16, PALE)?;
    let ways = report.by_way();
    let panels = rest.split_evenly((ways.len() + 2, 1));
    for (index, ((name, turns), area)) in ways.iter().zip(&panels).enumerate() {
        replicas(report, name, turns, COLORS[index % COLORS.len()], area)?;
    }
    // What is looked at longest has the room of two.
    let (_, last) = rest.split_vertically((ways.len() as u32) * rest.dim_in_pixel().1 / (ways.len() as u32 + 2));
    response_times(report, &ways, &last)?;
    Ok(root.present()?)
}

fn replicas<DB: DrawingBackend>(
    report: &Report,
    name: &str,
    turns: &[&Outcome],
    color: RGBColor,
    area: &Area<'_, DB>,
) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let needed = steps(report.asked.iter().map(|asked| (asked / report.pod_cpus).ceil().max(1.0)));
    let ready: Vec<_> = turns.iter().map(|turn| steps(turn.ready.iter().copied().map(f64::from))).collect();
    let highest = ready.iter().chain([&needed]).flatten().map(|point| point.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(name, ("sans-serif", 17).into_font().color(&INK))
        .margin_right(24)
        .x_label_area_size(24)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..report.seconds, 0.0..highest + 0.5)?;
    mesh(&mut chart, &|value| format!("{value:.0}"))?;
    let area = [(0.0, 0.0)].into_iter().chain(needed).chain([(report.seconds, 0.0)]);
    chart.draw_series([Polygon::new(area.collect::<Points>(), PALE.mix(0.25))])?;
    for points in ready {
        chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
    }
    Ok(())
}

fn response_times<DB: DrawingBackend>(
    report: &Report,
    ways: &[(&str, Vec<&Outcome>)],
    area: &Area<'_, DB>,
) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let of = |turn: &Outcome| -> Points {
        let values = turn.p95_by_window.iter().enumerate();
        values.filter_map(|(index, value)| Some(((index as f64 + 0.5) * WINDOW, (*value)?.log10()))).collect()
    };
    let title = "95th percentile of the response time of requests that came in each ten seconds, in seconds";
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 17).into_font().color(&INK))
        .margin_right(24)
        .x_label_area_size(24)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..report.seconds, -1.0..1.6)?;
    mesh(&mut chart, &|value| format!("{:.2}", 10f64.powf(*value)))?;
    for (index, (name, turns)) in ways.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        for (turn, outcome) in turns.iter().enumerate() {
            let series = chart.draw_series(LineSeries::new(of(outcome), color.stroke_width(2)))?;
            if turn == 0 {
                let line = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2));
                series.label(*name).legend(line);
            }
        }
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 14).into_font().color(&INK))
        .draw()?;
    Ok(())
}

/// A line that changes at once, of one value for each second.
fn steps(values: impl Iterator<Item = f64>) -> Points {
    values.enumerate().flat_map(|(second, value)| [(second as f64, value), (second as f64 + 1.0, value)]).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::table::tests::report, *};

    #[test]
    fn both_pictures_name_all_ways() {
        let folder = tempfile::tempdir().unwrap();
        let [svg, png] = draw(&report(), folder.path()).unwrap();
        let text = std::fs::read_to_string(svg).unwrap();
        for wanted in ["kube-proxy", "Weir", "95th percentile", "ten seconds (grey)"] {
            assert!(text.contains(wanted), "{wanted} is not in the SVG");
        }
        assert_eq!(std::fs::read(png).unwrap()[..8], *b"\x89PNG\r\n\x1a\n");
    }
}
