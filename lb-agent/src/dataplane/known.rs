//! The agent's side of the filter before the maps of frontends and endpoints ([`lb_common::known`]): a key that is in a map has its bit,
//! at every moment. What an agent that was killed has left set for no key, the next one clears.

use std::collections::HashMap;

use aya::{
    Pod,
    maps::{HashMap as Hash, MapData, MapError},
};
use lb_common::{
    SocketKey,
    known::{WORDS, bit, place},
};

use super::{pins::ignore_missing, sys::Mapped};

/// `BPF_NOEXIST`.
const NEW_ONLY: u64 = 1;

/// The filter, and what it takes to change it.
pub(super) struct Known {
    words: Mapped<u64>,
    /// Of bits that several keys have, how many beyond the first.
    others: HashMap<u32, u32>,
}

impl Known {
    /// The filter of maps that have these keys, and of which nobody but the caller adds or deletes any.
    pub(super) fn of(words: Mapped<u64>, keys: impl Iterator<Item = SocketKey>) -> Self {
        let mut right = vec![0; WORDS as usize];
        let mut others = HashMap::new();
        for bit in keys.map(|key| bit(&key)) {
            let (word, mask) = place(bit);
            if right[word as usize] & mask != 0 {
                *others.entry(bit).or_default() += 1;
            }
            right[word as usize] |= mask;
        }
        // Whatever has a bit in `right` has it in the map already: nothing is unknown for a moment.
        for (index, word) in right.into_iter().enumerate().filter(|(index, word)| words.get(*index) != Some(*word)) {
            words.set(index, word);
        }
        Self { words, others }
    }

    /// Writes an entry of one of the maps.
    pub(super) fn put<V: Pod>(
        &mut self,
        map: &mut Hash<MapData, SocketKey, V>,
        key: &SocketKey,
        value: &V,
    ) -> Result<(), MapError> {
        self.add(key);
        match map.insert(key, value, NEW_ONLY) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.take(key);
                if exists(&error) { map.insert(key, value, 0) } else { Err(error) }
            }
        }
    }

    /// Deletes an entry of one of the maps, if it is there.
    pub(super) fn delete<V: Pod>(
        &mut self,
        map: &mut Hash<MapData, SocketKey, V>,
        key: &SocketKey,
    ) -> Result<(), MapError> {
        match map.remove(key) {
            Ok(()) => {
                self.take(key);
                Ok(())
            }
            error => ignore_missing(error),
        }
    }

    /// One more entry has this key.
    fn add(&mut self, key: &SocketKey) {
        let (word, mask) = place(bit(key));
        let old = self.word(word);
        if old & mask != 0 {
            *self.others.entry(bit(key)).or_default() += 1;
        }
        self.words.set(word as usize, old | mask);
    }

    /// One entry fewer has it.
    fn take(&mut self, key: &SocketKey) {
        match self.others.remove(&bit(key)) {
            Some(others) if others > 1 => drop(self.others.insert(bit(key), others - 1)),
            Some(_) => {}
            None => {
                let (word, mask) = place(bit(key));
                self.words.set(word as usize, self.word(word) & !mask);
            }
        }
    }

    fn word(&self, index: u32) -> u64 {
        self.words.get(index as usize).unwrap_or_default()
    }
}

fn exists(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EEXIST))
}
