//! A forecast's memory as bytes, so that a new leader goes on where the last one was: the history, what it was wrong by, and what still
//! waits for what comes. At most 256 KiB, for a ConfigMap.
//!
//! A version byte, then gzip over numbers in little endian. Samples are written as two planes, all high bytes before all low bytes:
//! loads of neighbouring samples have the same high byte, and gzip takes the whole plane for almost nothing.

use std::io::{Read, Write};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};

use super::{
    capacity::{self, Pairs},
    conformal::{Conformal, Issued},
    engine::{COMPARED, Compared, Forecaster, Pending},
    series::{ROOM, Series},
};

/// The version of the form.
pub const VERSION: u8 = 1;

/// The most bytes that a memory takes.
pub const LIMIT: usize = 256 * 1024;

/// Residuals that are written of each forecaster; more are only kept for quantiles near 1.
const RESIDUALS: usize = 2000;

/// Forecasts that wait which are written, evenly spread; more are only there for long horizons.
const PENDING: usize = 500;

/// Why a memory is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// It is of another version.
    #[error("the forecast's history has version {found}, this program knows {VERSION}; it begins anew")]
    Version {
        /// Its version.
        found: u8,
    },
    /// It is damaged.
    #[error("the forecast's history is damaged ({why}); it begins anew")]
    Damaged {
        /// Where.
        why: String,
    },
}

fn damaged(why: impl ToString) -> HistoryError {
    HistoryError::Damaged { why: why.to_string() }
}

impl Forecaster {
    /// Its memory.
    pub fn remember(&self) -> Vec<u8> {
        let mut out = Out::default();
        out.text(&self.settings.key());
        let (first, codes) = self.series.parts();
        let codes: Vec<_> = codes.collect();
        out.number(first);
        out.number(codes.len() as u64);
        out.0.extend(codes.iter().map(|code| (code >> 8) as u8));
        out.0.extend(codes.iter().map(|code| *code as u8));
        out.floats(self.pairs.parts().flat_map(|(load, signal)| [load, signal]));
        out.number(self.fitted);
        for conformal in [&self.ours, &self.last] {
            let (alpha, residuals) = conformal.parts();
            let residuals: Vec<_> = residuals.collect();
            out.floats(
                [alpha as f32]
                    .into_iter()
                    .chain(residuals[residuals.len().saturating_sub(RESIDUALS)..].iter().copied()),
            );
        }
        let every = self.pending.len().div_ceil(PENDING).max(1);
        let pending: Vec<_> = self.pending.iter().rev().step_by(every).rev().collect();
        out.floats(pending.iter().flat_map(|one| issued(one.ours).into_iter().chain(issued(Some(one.last)))));
        pending.iter().for_each(|one| out.number(one.slot));
        out.floats(self.compared.iter().flat_map(|one| [one.ours, one.last, f32::from(u8::from(one.held))]));
        out.compressed()
    }

    /// Takes up a memory, before the first reading. What was learned about another question than the policy's is left out.
    pub fn recall(&mut self, bytes: &[u8]) -> Result<(), HistoryError> {
        let mut from = In::new(bytes)?;
        let same = from.text()? == self.settings.key();
        let mut recalled = Self::new(self.settings.clone());
        recalled.series = series(&mut from)?;
        recalled.pairs =
            Pairs::from_parts(from.floats(2 * capacity::ROOM)?.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        let end = recalled.series.end();
        recalled.fitted = from.number()?.min(end);
        for conformal in [&mut recalled.ours, &mut recalled.last] {
            let floats = from.floats(RESIDUALS + 1)?;
            if let ([alpha, residuals @ ..], true) = (floats.as_slice(), same) {
                let quantile = self.settings.quantile;
                *conformal = Conformal::from_parts(quantile, f64::from(*alpha), residuals.iter().copied());
            }
        }
        let pending = from.floats(4 * PENDING)?;
        for one in pending.chunks_exact(4) {
            let slot = from.number()?;
            if let (Some(last), true) = (reissued(&one[2..]), same && slot < end) {
                recalled.pending.push_back(Pending { slot, ours: reissued(&one[..2]), last });
            }
        }
        let compared = from.floats(3 * COMPARED)?;
        let compared = compared.chunks_exact(3).filter(|_| same);
        recalled.compared = compared.map(|one| Compared { ours: one[0], last: one[1], held: one[2] > 0.5 }).collect();
        recalled.refit();
        recalled.measure();
        *self = recalled;
        Ok(())
    }
}

fn series(from: &mut In) -> Result<Series, HistoryError> {
    let (first, length) = (from.number()?, from.number()? as usize);
    if length > ROOM || first > u64::MAX / 2 {
        return Err(damaged("too many samples"));
    }
    let (high, low) = (from.bytes(length)?, from.bytes(length)?);
    Ok(Series::from_parts(
        first,
        high.into_iter().zip(low).map(|(high, low)| u16::from_be_bytes([high, low])).collect(),
    ))
}

/// Not a number stands for what is not there.
fn issued(issued: Option<Issued>) -> [f32; 2] {
    let point = issued.map_or(f32::NAN, |issued| issued.point as f32);
    [point, issued.and_then(|issued| issued.upper).map_or(f32::NAN, |upper| upper as f32)]
}

fn reissued(floats: &[f32]) -> Option<Issued> {
    let known = |at: usize| floats.get(at).copied().filter(|value| value.is_finite()).map(f64::from);
    Some(Issued { point: known(0)?, upper: known(1) })
}

#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn number(&mut self, number: u64) {
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    fn floats(&mut self, floats: impl Iterator<Item = f32>) {
        let floats: Vec<_> = floats.collect();
        self.number(floats.len() as u64);
        floats.into_iter().for_each(|float| self.0.extend(float.to_le_bytes()));
    }

    fn compressed(self) -> Vec<u8> {
        let mut gzip = GzEncoder::new(vec![VERSION], Compression::default());
        // Writing to a vector cannot fail.
        let _ = gzip.write_all(&self.0);
        gzip.finish().unwrap_or_default()
    }
}

struct In {
    bytes: Vec<u8>,
    at: usize,
}

impl In {
    fn new(bytes: &[u8]) -> Result<Self, HistoryError> {
        let Some((version, gzipped)) = bytes.split_first() else {
            return Err(damaged("it is empty"));
        };
        if *version != VERSION {
            return Err(HistoryError::Version { found: *version });
        }
        let mut bytes = Vec::new();
        // No more than a memory can have, whoever wrote it.
        GzDecoder::new(gzipped).take(2 * LIMIT as u64).read_to_end(&mut bytes).map_err(damaged)?;
        Ok(Self { bytes, at: 0 })
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>, HistoryError> {
        let part = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let part = part.ok_or_else(|| damaged("it ends too early"))?.to_vec();
        self.at += length;
        Ok(part)
    }

    fn number(&mut self) -> Result<u64, HistoryError> {
        let mut number = [0; 8];
        number.copy_from_slice(&self.bytes(8)?);
        Ok(u64::from_le_bytes(number))
    }

    fn length(&mut self, most: usize) -> Result<usize, HistoryError> {
        usize::try_from(self.number()?)
            .ok()
            .filter(|length| *length <= most)
            .ok_or_else(|| damaged("a list is too long"))
    }

    fn text(&mut self) -> Result<String, HistoryError> {
        let length = self.length(LIMIT)?;
        String::from_utf8(self.bytes(length)?).map_err(damaged)
    }

    fn floats(&mut self, most: usize) -> Result<Vec<f32>, HistoryError> {
        let length = self.length(most)?;
        let float = |part: &[u8]| f32::from_le_bytes([part[0], part[1], part[2], part[3]]);
        Ok(self.bytes(4 * length)?.chunks_exact(4).map(float).collect())
    }
}

#[cfg(test)]
#[path = "history_tests.rs"]
mod tests;
