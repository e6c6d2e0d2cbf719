//! Where the kernel's structures have a member: the little of BTF (Documentation/bpf/btf.rst) that one pass over its types takes, without
//! keeping any of them.

use std::{collections::BTreeMap, fs, path::Path};

const MAGIC: u16 = 0xeb9f;
/// The kernel's own types.
pub(super) const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// Kinds of types; each has data of its own behind the twelve bytes that all have.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// The offsets in bytes of these members of a structure; `None` if there is no such structure, or one of them is not in it itself.
pub(super) fn offsets<const N: usize>(btf: &[u8], structure: &str, members: [&str; N]) -> Option<[u32; N]> {
    let word = |at: usize| Some(u32::from_ne_bytes(btf.get(at..at + 4)?.try_into().ok()?));
    if u16::from_ne_bytes(btf.get(..2)?.try_into().ok()?) != MAGIC {
        return None;
    }
    let header = word(4)? as usize;
    let (mut at, types) = (header + word(8)? as usize, word(12)? as usize);
    let (end, strings) = (at + types, header + word(16)? as usize);
    let named = |offset: u32, name: &str| {
        let text = btf.get(strings + offset as usize..);
        text.and_then(|text| text.get(..=name.len()))
            .is_some_and(|t| t.ends_with(&[0]) && t.starts_with(name.as_bytes()))
    };
    while at < end {
        let (name, info) = (word(at)?, word(at + 4)?);
        let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
        at += 12;
        if kind == kind::STRUCT && named(name, structure) {
            // With bit fields the upper byte is their size.
            let mask = if info >> 31 == 0 { u32::MAX } else { 0x00ff_ffff };
            let mut found = BTreeMap::new();
            for member in 0..count {
                let (name, bits) = (word(at + member * 12)?, word(at + member * 12 + 8)? & mask);
                for wanted in members.iter().filter(|wanted| named(name, wanted)) {
                    found.insert(*wanted, bits / 8);
                }
            }
            let all: Option<Vec<u32>> = members.iter().map(|member| found.get(member).copied()).collect();
            return all?.try_into().ok();
        }
        at += data(kind, count);
    }
    None
}

/// The bytes behind a type.
const fn data(kind: u32, count: usize) -> usize {
    match kind {
        kind::INT | kind::VAR | kind::DECL_TAG => 4,
        kind::ARRAY => 12,
        kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
        kind::ENUM | kind::FUNC_PROTO => 8 * count,
        _ => 0,
    }
}

/// Where the kernel counts a TCP connection's `bytes_acked`, `bytes_received`, `segs_out` and `segs_in`; zeros if it does not say.
pub(super) fn tcp_counts() -> [u32; 4] {
    let btf = fs::read(Path::new(KERNEL)).unwrap_or_default();
    offsets(&btf, "tcp_sock", ["bytes_acked", "bytes_received", "segs_out", "segs_in"]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn btf() -> Vec<u8> {
        let strings = b"\0int\0pair\0first\0second\0";
        let words: &[u32] = &[
            1,
            1 << 24,
            4,
            32, // int
            5,
            4 << 24 | 2,
            8,
            10,
            1,
            0,
            16,
            1,
            32, // struct pair { int first; int second; }
        ];
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let header = [u32::from(MAGIC) | 1 << 16, 24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        let mut btf: Vec<u8> = header.iter().flat_map(|word| word.to_ne_bytes()).collect();
        btf.extend(types);
        btf.extend(strings);
        btf
    }

    #[test]
    fn members_are_found_by_name() {
        assert_eq!(offsets(&btf(), "pair", ["second", "first"]), Some([4, 0]));
        assert_eq!(offsets(&btf(), "pair", ["third"]), None);
        assert_eq!(offsets(&btf(), "pai", ["first"]), None, "a name is a whole name");
    }

    #[test]
    fn what_is_cut_short_or_no_btf_is_nothing() {
        for end in 0..btf().len() - 1 {
            let _ = offsets(&btf()[..end], "pair", ["second"]);
        }
        assert_eq!(offsets(b"ELF", "pair", ["second"]), None);
        assert_eq!(offsets(&[], "pair", ["second"]), None);
    }
}
