use std::vec::Vec;

use lb_common::{Addr, Port};
use proptest::{collection::vec, prelude::*};

use super::{add, address, apply, fold, half, port, word};

/// The Internet checksum of words, computed over all of them.
fn whole(words: &[u16]) -> u16 {
    let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Words among which those with which one's complement arithmetic is easily got wrong are frequent.
fn words() -> impl Strategy<Value = Vec<u16>> {
    let corner = prop_oneof![Just(0u16), Just(0xffff), Just(1), Just(0xfffe), Just(0x8000), any::<u16>()];
    // Never all of them 0: there is always a version, a length, a protocol in what is summed up.
    vec(corner, 12).prop_map(|mut words| {
        words.push(0x4500);
        words
    })
}

fn halves(word: u32) -> [u16; 2] {
    [word as u16, (word >> 16) as u16]
}

#[test]
fn rfc_1624_section_4() {
    assert_eq!(apply(0xdd2f, half(0x5555, 0x3285)), 0x0000);
}

#[test]
fn nothing_changed_is_no_change() {
    for field in 0..=u16::MAX {
        for same in [0u16, 1, 0x7fff, 0x8000, 0xffff] {
            // 0xffff as a field is what no sum of something other than 0 gives.
            let expected = if field == 0xffff { 0 } else { field };
            assert_eq!(apply(field, half(same, same)) % 0xffff, expected % 0xffff, "{field:#x} {same:#x}");
        }
    }
}

#[test]
fn sums_carry_around() {
    assert_eq!(add(0xffff_ffff, 1), 1);
    assert_eq!(add(0xffff_ffff, 0xffff_ffff), 0xffff_ffff);
    assert_eq!(fold(0xffff_ffff), 0xffff);
    assert_eq!(fold(0x0001_ffff), 1);
    assert_eq!(fold(0), 0);
}

proptest! {
    #[test]
    fn a_half_changed_is_as_if_computed_anew(mut words in words(), at in 0..12usize, new in any::<u16>()) {
        let (before, old) = (whole(&words), words[at]);
        words[at] = new;
        prop_assert_eq!(apply(before, half(old, new)), whole(&words));
        words[at] = old;
        prop_assert_eq!(apply(before, port(Port(old), Port(old))), before);
    }

    #[test]
    fn every_corner_of_a_half(mut words in words(), at in 0..12usize) {
        for new in [0, 1, 0x7fff, 0x8000, 0xfffe, 0xffff] {
            let (before, old) = (whole(&words), words[at]);
            words[at] = new;
            prop_assert_eq!(apply(before, half(old, new)), whole(&words), "{:#x} -> {:#x}", old, new);
        }
    }

    #[test]
    fn addresses_and_ports_changed_together(old in any::<[u32; 4]>(), new in any::<[u32; 4]>(), ports in any::<[u16; 2]>(), rest in words()) {
        let with = |address: [u32; 4], port: u16| {
            let mut words = rest.clone();
            words.extend(address.into_iter().flat_map(halves));
            words.push(port);
            whole(&words)
        };
        let change = add(address(&Addr(old), &Addr(new)), port(Port(ports[0]), Port(ports[1])));
        // A random address is no mapped IPv4 address but once in 2^96.
        prop_assert_eq!(apply(with(old, ports[0]), change), with(new, ports[1]));
        // In parts, in any order.
        let parts = (0..4).rev().fold(port(Port(ports[0]), Port(ports[1])), |sum, i| add(word(old[i], new[i]), sum));
        prop_assert_eq!(apply(with(old, ports[0]), parts), with(new, ports[1]));
    }

    #[test]
    fn of_ipv4_only_its_word_counts(old in any::<u32>(), new in any::<u32>(), rest in words()) {
        let with = |address: u32| whole(&[rest.clone(), halves(address).to_vec()].concat());
        let change = address(&Addr::from_v4_word(old), &Addr::from_v4_word(new));
        prop_assert_eq!(apply(with(old), change), with(new));
    }
}
