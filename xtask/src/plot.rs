//! What all pictures share: colours and a font that needs none of the machine's.

use anyhow::{Result, anyhow};
use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::{FontStyle, register_font},
};

/// A chart of numbers over numbers.
pub(crate) type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Text and single lines.
pub(crate) const INK: RGBColor = RGBColor(40, 44, 52);
/// What stands back.
pub(crate) const PALE: RGBColor = RGBColor(120, 126, 138);

/// Makes `sans-serif` a font that is built in.
pub(crate) fn use_own_font() -> Result<()> {
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the built-in font cannot be read"))
}

/// Writes a line of text, whose upper left corner is there.
pub(crate) fn write<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    text: &str,
    at: (i32, i32),
    size: u32,
    color: RGBColor,
) -> Result<()>
where
    DB::ErrorType: 'static,
{
    Ok(area.draw(&Text::new(text, at, ("sans-serif", size).into_font().color(&color)))?)
}

/// Axes and horizontal lines of a chart over seconds; `value` writes the numbers of the other axis.
pub(crate) fn mesh<DB: DrawingBackend>(chart: &mut Chart<'_, DB>, value: &dyn Fn(&f64) -> String) -> Result<()>
where
    DB::ErrorType: 'static,
{
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE.mix(0.25))
        .axis_style(PALE)
        .x_labels(12)
        .y_labels(5)
        .x_label_formatter(&|second| format!("{second:.0} s"))
        .y_label_formatter(value)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .draw()?;
    Ok(())
}
