//! The forms that texts of a policy have: written once, as the patterns of the schema and of [`super::super::validate`]. They are
//! patterns that RE2 (of the API server) and the `regex` crate read alike.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A time as Go writes it: `30s`, `1m30s`.
pub const DURATION: &str = r"^([0-9]+(ms|s|m|h))+$";

/// The name of an object.
pub const NAME: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// A name that nothing else depends on.
pub const WORD: &str = r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$";

/// `v1`, `apps/v1`.
pub const API_VERSION: &str = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[a-z0-9]+$";

/// The name of a metric in the Prometheus format.
pub const METRIC: &str = r"^[a-zA-Z_:][a-zA-Z0-9_:]*$";

/// An HTTP server; names and passwords have no place in a policy.
pub const SERVER: &str = r"^https?://[^\s/?#@]+(/[^\s?#]*)?$";

/// A path on an HTTP server.
pub const PATH: &str = r"^/[^\s#]*$";

/// A change in percent.
pub const PERCENT: &str = r"^[1-9][0-9]{0,3}%$";

/// An amount of CPU.
pub const CPU: &str = r"^[0-9]{1,6}(\.[0-9]{1,3})?$|^[0-9]{1,9}m$";

/// An amount of memory.
pub const MEMORY: &str = r"^[0-9]{1,9}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)$|^[0-9]{1,15}$";

/// A feature of a forecast.
pub const FEATURE: &str = r"^((lag|mean|max):([0-9]+(ms|s|m|h))+|rate(:([0-9]+(ms|s|m|h))+)?|hourOfDay|dayOfWeek)$";

/// A time zone's name.
pub const TIMEZONE: &str = r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$";

/// Five fields of numbers, lists, ranges and steps.
pub const CRON: &str = concat!(
    r"^(\*|[0-5]?[0-9](-[0-5]?[0-9])?)(/[1-9][0-9]?)?(,(\*|[0-5]?[0-9](-[0-5]?[0-9])?)(/[1-9][0-9]?)?)*",
    r" (\*|([01]?[0-9]|2[0-3])(-([01]?[0-9]|2[0-3]))?)(/[1-9][0-9]?)?(,(\*|([01]?[0-9]|2[0-3])(-([01]?[0-9]|2[0-3]))?)(/[1-9][0-9]?)?)*",
    r" (\*|([1-9]|[12][0-9]|3[01])(-([1-9]|[12][0-9]|3[01]))?)(/[1-9][0-9]?)?(,(\*|([1-9]|[12][0-9]|3[01])(-([1-9]|[12][0-9]|3[01]))?)(/[1-9][0-9]?)?)*",
    r" (\*|([1-9]|1[0-2])(-([1-9]|1[0-2]))?)(/[1-9][0-9]?)?(,(\*|([1-9]|1[0-2])(-([1-9]|1[0-2]))?)(/[1-9][0-9]?)?)*",
    r" (\*|[0-6](-[0-6])?)(/[1-6])?(,(\*|[0-6](-[0-6])?)(/[1-6])?)*$",
);

/// The schema of a number of replicas, or of a percentage of those there are.
pub fn step(_: &mut SchemaGenerator) -> Schema {
    number_or_text("Replicas, as `2`, or a part of those there are, as `50%`.", PERCENT, 1)
}

/// The schema of an amount of CPU.
pub fn cpu(_: &mut SchemaGenerator) -> Schema {
    number_or_text("CPUs, as `2`, `0.5` or `500m`.", CPU, 0)
}

/// The schema of an amount of memory.
pub fn memory(_: &mut SchemaGenerator) -> Schema {
    number_or_text("Bytes, as `512Mi` or `2Gi`.", MEMORY, 0)
}

fn number_or_text(description: &str, pattern: &str, least: i64) -> Schema {
    json_schema!({
        "description": description,
        "x-kubernetes-int-or-string": true,
        "pattern": pattern,
        "minimum": least,
        "maximum": i32::MAX,
        "maxLength": 16,
    })
}
