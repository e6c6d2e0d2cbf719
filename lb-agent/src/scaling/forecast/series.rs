//! The history of a load: one sample for every 15 s of the wall clock, with gaps where nothing was known.
//!
//! A sample takes two bytes: its logarithm, to 0.03 %. It is rounded when it is recorded, so that a history that was written down and
//! read again is the same history, and what is decided from it the same decision.

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, SystemTime},
};

/// The time between two samples.
pub const STEP: Duration = Duration::from_secs(15);

/// Samples that are remembered: two weeks, so that every day of the week was there twice, and what a horizon takes.
pub const ROOM: usize = 14 * DAY as usize + 240;

/// Samples of a day.
pub const DAY: u64 = 86_400 / STEP.as_secs();

/// A clock that was put back by more samples than this starts a new history.
const PUT_BACK: u64 = 240;

const MISSING: u16 = u16::MAX;
const SMALLEST: f64 = 1e-6;
const GREATEST: f64 = 1e12;

/// Which sample a time falls into, counted from the Unix epoch.
pub fn slot(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / STEP.as_secs()
}

/// How many samples a time takes, rounded.
pub fn slots(time: Duration) -> u64 {
    (time.as_secs_f64() / STEP.as_secs_f64()).round() as u64
}

/// The samples of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Series {
    first: u64,
    codes: VecDeque<u16>,
}

impl Series {
    /// A history from its parts.
    pub(super) fn from_parts(first: u64, codes: VecDeque<u16>) -> Self {
        Self { first, codes }
    }

    /// The number of the first sample, and all of them as they are written down.
    pub(super) fn parts(&self) -> (u64, impl Iterator<Item = u16> + '_) {
        (self.first, self.codes.iter().copied())
    }

    /// How many samples there are, gaps included.
    pub fn len(&self) -> u64 {
        self.codes.len() as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// The number of the first sample.
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// The number after the last sample's.
    pub fn end(&self) -> u64 {
        self.first + self.len()
    }

    /// Takes a sample; nothing for a gap. One that is not newer than the last is refused, unless the clock was put back for good.
    pub fn record(&mut self, slot: u64, value: Option<f64>) -> bool {
        if slot + PUT_BACK < self.end() || slot > self.end() + ROOM as u64 {
            self.codes.clear();
        }
        if self.is_empty() {
            self.first = slot;
        } else if slot < self.end() {
            return false;
        }
        for _ in self.end()..slot {
            self.codes.push_back(MISSING);
        }
        self.codes.push_back(code(value));
        let over = self.codes.len().saturating_sub(ROOM);
        self.codes.drain(..over);
        self.first += over as u64;
        true
    }

    /// The value of a sample.
    pub fn value(&self, slot: u64) -> Option<f64> {
        let at = usize::try_from(slot.checked_sub(self.first)?).ok()?;
        Some(self.codes.get(at).copied().map(decoded)?).filter(|value| value.is_finite())
    }

    /// A part of the samples, ready to compute with.
    pub fn window(&self, slots: Range<u64>) -> Window {
        let start = slots.start.clamp(self.first, self.end());
        let end = slots.end.clamp(start, self.end());
        let part = (start - self.first) as usize..(end - self.first) as usize;
        Window::new(start, self.codes.range(part).copied().map(decoded).collect())
    }
}

/// A sample as it is remembered.
fn code(value: Option<f64>) -> u16 {
    let Some(value) = value.filter(|value| value.is_finite()) else {
        return MISSING;
    };
    if value < SMALLEST {
        return 0;
    }
    let part = (value.min(GREATEST) / SMALLEST).ln() / (GREATEST / SMALLEST).ln();
    1 + (part * f64::from(MISSING - 2)).round() as u16
}

/// A remembered sample's value; no number where it is missing.
fn decoded(code: u16) -> f64 {
    match code {
        MISSING => f64::NAN,
        0 => 0.0,
        code => SMALLEST * (f64::from(code - 1) / f64::from(MISSING - 2) * (GREATEST / SMALLEST).ln()).exp(),
    }
}

/// Consecutive samples.
#[derive(Clone, Debug)]
pub struct Window {
    first: u64,
    values: Vec<f64>,
    sums: Vec<f64>,
    counts: Vec<u32>,
}

impl Window {
    fn new(first: u64, values: Vec<f64>) -> Self {
        let (mut sums, mut counts) = (vec![0.0], vec![0]);
        let (mut sum, mut count) = (0.0, 0);
        for value in &values {
            if value.is_finite() {
                sum += value;
                count += 1;
            }
            sums.push(sum);
            counts.push(count);
        }
        Self { first, values, sums, counts }
    }

    /// The numbers of its samples.
    pub fn slots(&self) -> Range<u64> {
        self.first..self.first + self.values.len() as u64
    }

    /// The value of a sample.
    pub fn value(&self, slot: u64) -> Option<f64> {
        let at = usize::try_from(slot.checked_sub(self.first)?).ok()?;
        self.values.get(at).copied().filter(|value| value.is_finite())
    }

    /// The mean of so many samples up to and with this one, of which at least half must be known.
    pub fn mean(&self, last: u64, samples: u64) -> Option<f64> {
        let Range { start, end } = self.part(last, samples)?;
        let known = self.counts[end] - self.counts[start];
        (u64::from(known) * 2 >= samples && known > 0).then(|| (self.sums[end] - self.sums[start]) / f64::from(known))
    }

    /// The greatest of so many samples up to and with this one, of which at least half must be known.
    pub fn max(&self, last: u64, samples: u64) -> Option<f64> {
        let part = self.part(last, samples)?;
        let known = self.counts[part.end] - self.counts[part.start];
        (u64::from(known) * 2 >= samples).then(|| self.values[part].iter().copied().fold(f64::NAN, f64::max))
    }

    fn part(&self, last: u64, samples: u64) -> Option<Range<usize>> {
        let start = (last + 1).checked_sub(samples)?.checked_sub(self.first)?;
        let end = (last + 1).checked_sub(self.first)?;
        let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
        (end <= self.values.len()).then_some(start..end)
    }
}

/// Gathers readings into samples: the mean of those within a step.
#[derive(Clone, Debug, Default)]
pub struct Gather {
    slot: u64,
    sum: f64,
    count: u32,
}

impl Gather {
    /// Takes a reading, nothing where there is none; gives the sample that has become complete.
    pub fn take(&mut self, slot: u64, reading: Option<f64>) -> Option<(u64, Option<f64>)> {
        let complete = (slot != self.slot && self.slot != 0)
            .then(|| (self.slot, (self.count > 0).then(|| self.sum / f64::from(self.count))));
        if slot != self.slot {
            *self = Self { slot, ..Self::default() };
        }
        if let Some(reading) = reading {
            self.sum += reading;
            self.count += 1;
        }
        complete
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn series(first: u64, values: &[Option<f64>]) -> Series {
        let mut series = Series::default();
        for (slot, value) in (first..).zip(values) {
            assert!(series.record(slot, *value));
        }
        series
    }

    #[test]
    fn a_gap_is_a_gap() {
        let mut series = series(100, &[Some(1.0), None, Some(3.0)]);
        assert!(series.record(105, Some(9.0)));
        let known: Vec<_> = (99..107).map(|slot| series.value(slot).map(f64::round)).collect();
        assert_eq!(known, [None, Some(1.0), None, Some(3.0), None, None, Some(9.0), None]);
        assert_eq!((series.first(), series.end()), (100, 106));
    }

    #[test]
    fn clocks_jump() {
        let mut series = series(1000, &[Some(1.0); 10]);
        assert!(!series.record(1005, Some(2.0)), "a little back: not again");
        assert_eq!(series.len(), 10);
        assert!(series.record(700, Some(2.0)), "put back for good");
        assert_eq!((series.first(), series.len()), (700, 1));
        assert!(series.record(700 + 2 * ROOM as u64, Some(3.0)), "far ahead: nothing of before counts");
        assert_eq!(series.len(), 1);
    }

    #[test]
    fn room_is_bounded() {
        let mut series = Series::default();
        for slot in 0..ROOM as u64 + 50 {
            series.record(slot, Some(slot as f64));
        }
        assert_eq!((series.first(), series.len()), (50, ROOM as u64));
    }

    #[test]
    fn windows_average_over_gaps() {
        let window = series(10, &[Some(2.0), None, Some(4.0), Some(0.0), None, None]).window(0..99);
        let near = |value: Option<f64>| value.map(|value| (value * 100.0).round() / 100.0);
        assert_eq!(near(window.mean(12, 3)), Some(3.0));
        assert_eq!(near(window.max(13, 4)), Some(4.0));
        assert_eq!(window.mean(15, 3), None, "less than half is known");
        assert_eq!(window.mean(12, 4), None, "it reaches back beyond the first");
        assert_eq!(window.mean(16, 1), None, "not yet there");
        assert_eq!(window.slots(), 10..16);
    }

    #[test]
    fn readings_become_samples() {
        let mut gather = Gather::default();
        assert_eq!(gather.take(7, Some(1.0)), None);
        assert_eq!(gather.take(7, None), None);
        assert_eq!(gather.take(7, Some(2.0)), None);
        assert_eq!(gather.take(8, None), Some((7, Some(1.5))));
        assert_eq!(gather.take(9, Some(4.0)), Some((8, None)));
    }

    proptest! {
        #[test]
        fn rounding_is_small_and_happens_once(value in 1e-5..1e11f64) {
            let once = decoded(code(Some(value)));
            prop_assert!((once / value - 1.0).abs() < 4e-4, "{value} became {once}");
            prop_assert_eq!(code(Some(once)), code(Some(value)));
        }
    }
}
