//! The numbers of one way's turn.

use serde::Serialize;
use weir_tests::evaluation::Numbers;

use crate::ways::Way;

/// What came of a turn.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    pub(crate) way: Way,
    pub(crate) name: &'static str,
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) numbers: Numbers,
}
