//! Who was asked for while it had no replica, and when: what [`super::Observation::knocked`] is taken from, on the nodes, at the
//! coordinator, and on a node by itself.

use std::{collections::BTreeMap, time::Duration};

/// Who has been asked for within so long is known to be wanted: that somebody asks again is heard with the next tick.
const KNOWN: Duration = Duration::from_secs(5);

/// When a client last asked for each Service, by namespace and name, in the node's uptime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Knocks(BTreeMap<(String, String), Duration>);

impl Knocks {
    /// Notes that a client has asked. Returns whether that is news, of which whoever decides should hear at once.
    pub fn note(&mut self, service: (String, String), at: Duration) -> bool {
        match self.0.get_mut(&service) {
            Some(known) => {
                let is_news = at.saturating_sub(*known) > KNOWN;
                *known = at.max(*known);
                is_news
            }
            None => self.0.insert(service, at).is_none(),
        }
    }

    /// When a client last asked for a Service.
    pub fn last(&self, service: &(String, String)) -> Option<Duration> {
        self.0.get(service).copied()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&(String, String), Duration)> {
        self.0.iter().map(|(service, at)| (service, *at))
    }

    /// Keeps those that are wanted.
    pub fn retain(&mut self, wanted: impl Fn(&(String, String), Duration) -> bool) {
        self.0.retain(|service, at| wanted(service, *at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_ask_is_news_and_who_asks_soon_after_is_not() {
        let mut knocks = Knocks::default();
        let service = |name: &str| ("shop".to_owned(), name.to_owned());
        let mut note = |name, at| knocks.note(service(name), Duration::from_secs(at));
        let told = [("web", 0), ("api", 1), ("web", 1), ("web", 3), ("web", 8), ("web", 14), ("web", 2)];
        assert_eq!(told.map(|(name, at)| note(name, at)), [true, true, false, false, false, true, false]);
        assert_eq!(knocks.last(&service("web")), Some(Duration::from_secs(14)), "what is heard late is not the last");
        knocks.retain(|(_, name), _| name == "web");
        assert_eq!(knocks.iter().count(), 1);
    }
}
