//! Quantities of other objects, read as those of a ScalePolicy are.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::text;

/// CPU in thousandths, rounded up; none for a form that no ScalePolicy may have.
pub fn millicores(value: &IntOrString) -> Option<u64> {
    text::millicores("", value).ok()
}

/// Memory in bytes, rounded up; none for a form that no ScalePolicy may have.
pub fn bytes(value: &IntOrString) -> Option<u64> {
    text::bytes("", value).ok()
}
