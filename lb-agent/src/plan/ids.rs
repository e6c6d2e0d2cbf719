//! Who holds which index of a map, and which are free: the lowest is given away first.

use std::collections::BTreeSet;

/// Larger than any map may be: an id above it was not given away by us.
const MOST: u32 = 1 << 24;

/// Ids with the number of their users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    /// Users of each id; the last is not 0.
    users: Vec<u32>,
    /// The ids without users among them.
    free: BTreeSet<u32>,
}

impl Ids {
    /// Adds a user.
    pub(super) fn hold(&mut self, id: u32) {
        if id >= MOST {
            return;
        }
        let known = self.users.len() as u32;
        if id >= known {
            self.users.resize(id as usize + 1, 0);
            self.free.extend(known..=id);
        }
        self.free.remove(&id);
        self.users[id as usize] += 1;
    }

    /// Takes a user away.
    pub(super) fn release(&mut self, id: u32) {
        let Some(users) = self.users.get_mut(id as usize).filter(|users| **users > 0) else { return };
        *users -= 1;
        if *users == 0 {
            self.free.insert(id);
        }
        while self.users.last() == Some(&0) {
            self.users.pop();
            self.free.remove(&(self.users.len() as u32));
        }
    }

    /// Its number of users.
    pub(super) fn users(&self, id: u32) -> u32 {
        self.users.get(id as usize).copied().unwrap_or(0)
    }

    /// One more than the highest id in use.
    pub(super) fn end(&self) -> u32 {
        self.users.len() as u32
    }

    /// The free ids below `capacity`, lowest first.
    pub(super) fn free(&self, capacity: u32) -> impl Iterator<Item = u32> + '_ {
        self.free.iter().copied().chain(self.end()..capacity).take_while(move |id| *id < capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_id_comes_first() {
        let mut ids = Ids::default();
        [0, 1, 4, 4].into_iter().for_each(|id| ids.hold(id));
        assert_eq!(ids.free(6).collect::<Vec<_>>(), [2, 3, 5]);
        assert_eq!(ids.free(3).collect::<Vec<_>>(), [2]);
        ids.release(0);
        ids.release(4);
        assert_eq!((ids.users(4), ids.end()), (1, 5), "it has another user");
        assert_eq!(ids.free(6).collect::<Vec<_>>(), [0, 2, 3, 5]);
        ids.release(4);
        ids.release(4);
        ids.hold(u32::MAX);
        assert_eq!(ids.end(), 2, "what is free at the end is forgotten");
        ids.release(1);
        assert_eq!(ids, Ids::default());
    }
}
