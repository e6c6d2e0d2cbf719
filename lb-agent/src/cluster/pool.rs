//! AddressPool: the addresses that Services of type LoadBalancer get.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{
    CustomResource, ResourceExt,
    core::{Selector, SelectorExt},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Addresses for Services of type LoadBalancer.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "weir.dev",
    version = "v1alpha1",
    kind = "AddressPool",
    plural = "addresspools",
    shortname = "apool",
    status = "AddressPoolStatus",
    derive = "PartialEq",
    doc = "Addresses for Services of type LoadBalancer.",
    printcolumn = r#"{"name":"Addresses","type":"string","jsonPath":".spec.addresses"}"#,
    printcolumn = r#"{"name":"Total","type":"string","jsonPath":".status.total"}"#,
    printcolumn = r#"{"name":"Used","type":"integer","jsonPath":".status.used"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressPoolSpec {
    /// CIDRs (192.0.2.0/28), ranges (192.0.2.10-192.0.2.20) or single addresses, IPv4 and IPv6. Every one of them is given away.
    #[schemars(length(min = 1))]
    pub addresses: Vec<String>,
    /// The Services that may have them; none: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_selector: Option<LabelSelector>,
    /// Whether Services get them without naming one.
    #[serde(default = "yes")]
    pub auto_assign: bool,
}

const fn yes() -> bool {
    true
}

/// What became of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPoolStatus {
    /// The generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How many addresses it has; a text because IPv6 has more than a number of JSON can count.
    #[serde(default)]
    pub total: String,
    /// How many of them Services have.
    #[serde(default)]
    pub used: u32,
    /// `Ready`: whether addresses are given from it; `Exhausted`: whether all are given away.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// What is wrong with a pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// An entry of `addresses` cannot be read.
    #[error(
        "spec.addresses[{index}]: {value:?} is no CIDR, range or address: write 192.0.2.0/28, 192.0.2.10-192.0.2.20 or 192.0.2.10"
    )]
    Addresses {
        /// Which entry.
        index: usize,
        /// What it says.
        value: String,
    },
    /// The selector cannot be read.
    #[error("spec.serviceSelector: {0}: use matchLabels, or matchExpressions with In, NotIn, Exists or DoesNotExist")]
    Selector(String),
    /// An older pool has some of the addresses.
    #[error(
        "spec.addresses: {range} overlaps {other} of AddressPool {pool}, which is older: take the addresses out of one of the two"
    )]
    Overlap {
        /// Ours.
        range: AddressRange,
        /// Theirs.
        other: AddressRange,
        /// Who has it.
        pool: String,
    },
}

/// Addresses from the first to the last, both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressRange {
    /// The first.
    pub first: IpAddr,
    /// The last.
    pub last: IpAddr,
}

/// `FIRST-LAST`.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl AddressRange {
    /// Reads a CIDR, a range or an address.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(network) = text.parse::<IpNet>() {
            return Some(Self { first: network.network(), last: network.broadcast() });
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last): (IpAddr, IpAddr) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(Self { first, last })
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// How many addresses it has; `u128::MAX` for all of IPv6.
    pub fn count(&self) -> u128 {
        number(self.last).saturating_sub(number(self.first)).saturating_add(1)
    }

    /// Its addresses.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.first.is_ipv4();
        (number(self.first)..=number(self.last)).map(move |n| address(n, v4))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    if v4 { Ipv4Addr::from(number as u32).into() } else { Ipv6Addr::from(number).into() }
}

/// A pool that addresses are given from.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub ranges: Vec<AddressRange>,
    /// Whether Services get them without naming one.
    pub auto_assign: bool,
    pub(super) selector: Option<Selector>,
}

impl Pool {
    /// Reads a pool's spec.
    pub fn new(name: &str, spec: &AddressPoolSpec) -> Result<Self, PoolError> {
        let range = |(index, text): (usize, &String)| {
            AddressRange::parse(text).ok_or_else(|| PoolError::Addresses { index, value: text.clone() })
        };
        let ranges = spec.addresses.iter().enumerate().map(range).collect::<Result<_, _>>()?;
        let selector = spec.service_selector.clone().map(Selector::try_from).transpose();
        let selector = selector.map_err(|error| PoolError::Selector(error.to_string()))?;
        Ok(Self { name: name.to_owned(), ranges, auto_assign: spec.auto_assign, selector })
    }

    /// Whether an address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// Whether a Service with these labels may have its addresses.
    pub fn allows(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }

    /// How many addresses it has.
    pub fn total(&self) -> u128 {
        self.ranges.iter().fold(0, |sum, range| sum.saturating_add(range.count()))
    }
}

/// The pools in order of their names, and what is wrong with each of the others. Of two that overlap the older one is used.
pub fn usable(objects: &[AddressPool]) -> (Vec<Pool>, BTreeMap<String, PoolError>) {
    let mut by_age: Vec<&AddressPool> = objects.iter().collect();
    by_age.sort_by_key(|pool| (pool.creation_timestamp().map(|time| time.0), pool.name_any()));
    let (mut pools, mut problems): (Vec<Pool>, _) = (Vec::new(), BTreeMap::new());
    for object in by_age {
        let name = object.name_any();
        match Pool::new(&name, &object.spec).and_then(|pool| apart(pool, &pools)) {
            Ok(pool) => pools.push(pool),
            Err(error) => drop(problems.insert(name, error)),
        }
    }
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    (pools, problems)
}

/// The pool, if it has no address of the others.
fn apart(pool: Pool, others: &[Pool]) -> Result<Pool, PoolError> {
    for range in &pool.ranges {
        for other in others {
            if let Some(theirs) = other.ranges.iter().find(|theirs| theirs.overlaps(range)) {
                return Err(PoolError::Overlap { range: *range, other: *theirs, pool: other.name.clone() });
            }
        }
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, addresses: &[&str]) -> AddressPool {
        let addresses = addresses.iter().map(ToString::to_string).collect();
        AddressPool::new(name, AddressPoolSpec { addresses, auto_assign: true, ..AddressPoolSpec::default() })
    }

    #[test]
    fn ranges() {
        let cases = [
            ("192.0.2.0/30", Some(("192.0.2.0", "192.0.2.3", 4))),
            ("192.0.2.7/30", Some(("192.0.2.4", "192.0.2.7", 4))),
            (" 192.0.2.1 - 192.0.2.9 ", Some(("192.0.2.1", "192.0.2.9", 9))),
            ("fd00::1", Some(("fd00::1", "fd00::1", 1))),
            ("fd00::/64", Some(("fd00::", "fd00::ffff:ffff:ffff:ffff", 1 << 64))),
            ("192.0.2.9-192.0.2.1", None),
            ("192.0.2.1-fd00::1", None),
            ("192.0.2.0/33", None),
            ("", None),
        ];
        for (text, wanted) in cases {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            let wanted = wanted.map(|(first, last, n)| (AddressRange { first: ip(first), last: ip(last) }, n));
            assert_eq!(AddressRange::parse(text).map(|range| (range, range.count())), wanted, "{text:?}");
        }
        let all = AddressRange::parse("::/0").unwrap();
        assert_eq!(all.count(), u128::MAX);
    }

    #[test]
    fn a_bad_pool_is_named_and_the_others_go_on() {
        let (pools, problems) = usable(&[
            object("a", &["192.0.2.0/24"]),
            object("b", &["198.51.100.1", "192.0.2.200-192.0.3.9"]),
            object("c", &["198.51.100.1", "nonsense"]),
        ]);
        assert_eq!(pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert!(problems["b"].to_string().contains("overlaps 192.0.2.0-192.0.2.255 of AddressPool a"), "{problems:?}");
        assert!(problems["c"].to_string().starts_with("spec.addresses[1]: \"nonsense\""), "{problems:?}");
    }

    #[test]
    fn selectors() {
        let selector = LabelSelector {
            match_labels: Some([("tier".to_owned(), "gold".to_owned())].into()),
            ..LabelSelector::default()
        };
        let spec = AddressPoolSpec {
            addresses: vec!["192.0.2.1".into()],
            service_selector: Some(selector),
            auto_assign: true,
        };
        let pool = Pool::new("p", &spec).unwrap();
        assert!(pool.allows(&[("tier".to_owned(), "gold".to_owned())].into()));
        assert!(!pool.allows(&BTreeMap::new()));
    }
}
