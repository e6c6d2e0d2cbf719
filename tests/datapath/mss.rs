//! Largest segment sizes in the options of a SYN, wherever they stand.

use lb_ebpf::{
    checksum, mss,
    parse::{Parsed, protocol},
};

use crate::frame::Frame;

const L4: u32 = 34;

/// The sum of the segment as its receiver computes it, without the pseudo header, which nobody changes.
fn sum(segment: &Frame) -> u16 {
    let words = segment.bytes[L4 as usize..].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    checksum::fold(words.map(u32::from).sum())
}

fn clamped(options: &[u8], limit: u32) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let mut header = vec![0x11; L4 as usize + 20];
    header.extend(options);
    let mut segment = Frame::new(&header);
    let parsed =
        Parsed { l4: L4 as u16, l4_header: 20 + options.len() as u32, protocol: protocol::TCP, ..Parsed::default() };
    let before = sum(&segment);
    assert_eq!(mss::clamp(&mut segment, &parsed, limit), Some(()));
    assert_eq!(sum(&segment), before, "{options:?}");
    segment.bytes.split_off(L4 as usize + 20)
}

#[test]
fn a_larger_one_is_lowered_wherever_it_stands() {
    let cases: [(&[u8], &[u8]); 5] = [
        (&[2, 4, 0x05, 0xb4], &[2, 4, 0x05, 0x78]),
        (&[1, 2, 4, 0x05, 0xb4, 1, 1, 1], &[1, 2, 4, 0x05, 0x78, 1, 1, 1]),
        (&[4, 2, 3, 3, 7, 2, 4, 0x22, 0xb4, 1, 1, 0], &[4, 2, 3, 3, 7, 2, 4, 0x05, 0x78, 1, 1, 0]),
        (
            &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0xff, 0xff, 1, 1],
            &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0x05, 0x78, 1, 1],
        ),
        (&[1, 1, 1, 1, 2, 4, 0x05, 0x79], &[1, 1, 1, 1, 2, 4, 0x05, 0x78]),
    ];
    for (options, wanted) in cases {
        assert_eq!(clamped(options, 1400), wanted);
    }
}

#[test]
fn what_is_small_or_absent_or_makes_no_sense_stays() {
    let cases: [&[u8]; 7] = [
        &[],
        &[2, 4, 0x05, 0x78],
        &[2, 4, 0x00, 0x01],
        &[0, 2, 4, 0x05, 0xb4, 0, 0, 0],
        &[8, 0, 2, 4, 0x05, 0xb4, 0, 0],
        &[2, 3, 0x05, 0xb4],
        &[1, 1, 2, 4],
    ];
    for options in cases {
        assert_eq!(clamped(options, 1400), options);
    }
}
