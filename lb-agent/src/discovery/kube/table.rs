//! The objects of one kind as a watch tells of them, and what each event changes.

use std::collections::{BTreeMap, BTreeSet};

use super::watch::{Event, Name};
use crate::pack::pack;

/// The objects of one kind.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    known: BTreeMap<Name, T>,
    /// What the list that is being read has had so far.
    listing: Option<BTreeSet<Name>>,
    complete: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), listing: None, complete: false }
    }
}

/// An object that is other than before, and what was known of it.
pub(super) type Changed<T> = (Name, Option<T>);

impl<T: PartialEq> Table<T> {
    /// Takes in an event. Returns the objects that it changes. Of those that a list leaves out nothing goes before it has ended, so that
    /// one which breaks off takes nothing away.
    pub(super) fn take(&mut self, event: Event<T>) -> Vec<Changed<T>> {
        match event {
            Event::Listing => self.listing = Some(BTreeSet::new()),
            Event::Set(name, object) => return self.set(name, object.map(|object| *object)).into_iter().collect(),
            Event::Gone(name) => return self.set(name, None).into_iter().collect(),
            Event::Listed => {
                self.complete = true;
                pack(&mut self.known);
                let listed = self.listing.take().unwrap_or_default();
                let gone: Vec<Name> = self.known.keys().filter(|name| !listed.contains(*name)).cloned().collect();
                return gone.into_iter().map(|name| (name.clone(), self.known.remove(&name))).collect();
            }
            Event::Denied => {}
        }
        Vec::new()
    }

    fn set(&mut self, name: Name, object: Option<T>) -> Option<Changed<T>> {
        if let Some(listed) = &mut self.listing {
            listed.insert(name.clone());
        }
        if self.known.get(&name) == object.as_ref() {
            return None;
        }
        let old = match object {
            Some(object) => self.known.insert(name.clone(), object),
            None => self.known.remove(&name),
        };
        Some((name, old))
    }

    pub(super) fn get(&self, name: &Name) -> Option<&T> {
        self.known.get(name)
    }

    /// Whether a list is being read.
    pub(super) const fn is_listing(&self) -> bool {
        self.listing.is_some()
    }

    pub(super) const fn all(&self) -> &BTreeMap<Name, T> {
        &self.known
    }

    /// Whether all there are were told once.
    pub(super) const fn is_complete(&self) -> bool {
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        ("n".into(), text.into())
    }

    fn set(text: &str, value: Option<u32>) -> Event<u32> {
        Event::Set(name(text), value.map(Box::new))
    }

    #[test]
    fn a_list_takes_away_what_it_leaves_out_when_it_has_ended() {
        let mut table = Table::default();
        let mut take = |event| {
            let changed = table.take(event).into_iter().map(|((_, name), old)| (name, old));
            (changed.collect::<Vec<_>>(), table.all().len(), table.is_complete())
        };
        let changed = |name: &str, old| vec![(name.to_owned(), old)];
        assert_eq!(take(Event::Listing), (vec![], 0, false));
        assert_eq!(take(set("a", Some(1))), (changed("a", None), 1, false));
        assert_eq!(take(set("b", Some(1))).1, 2);
        assert_eq!(take(set("c", None)), (vec![], 2, false), "one that is not for us");
        assert_eq!(take(Event::Listed), (vec![], 2, true));
        assert_eq!(take(set("a", Some(1))).0, vec![], "nothing new");
        assert_eq!(take(set("a", Some(2))).0, changed("a", Some(1)));
        assert_eq!(take(Event::Listing).1, 2);
        assert_eq!(take(set("a", Some(2))).0, vec![]);
        assert_eq!(take(Event::Listing).1, 2, "it broke off");
        assert_eq!(take(set("b", Some(1))).0, vec![]);
        assert_eq!(take(Event::Listed), (changed("a", Some(2)), 1, true));
        assert_eq!(take(Event::Gone(name("b"))), (changed("b", Some(1)), 0, true));
        assert_eq!(take(Event::Gone(name("b"))).0, vec![]);
        assert_eq!(take(Event::Denied), (vec![], 0, true));
    }
}
