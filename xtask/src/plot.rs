//! What all pictures share: colours and a font that needs none of the machine's.

use anyhow::{Result, anyhow};
use plotters::{
    prelude::*,
    style::{FontStyle, register_font},
};

/// Text and single lines.
pub(crate) const INK: RGBColor = RGBColor(40, 44, 52);
/// What stands back.
pub(crate) const PALE: RGBColor = RGBColor(120, 126, 138);

/// Makes `sans-serif` a font that is built in.
pub(crate) fn use_own_font() -> Result<()> {
    register_font("sans-serif", FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the built-in font cannot be read"))
}
