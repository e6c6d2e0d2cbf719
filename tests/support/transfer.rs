//! Bytes to send and their checksums: a stream that differs everywhere, so that nothing lost, doubled or moved goes unseen.

use std::io::{ErrorKind, Read, Write};

use sha2::{Digest as _, Sha256};

const BLOCK: usize = 64 * 1024;

/// How much passed and its SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of all of them.
    pub sha256: String,
}

/// Writes so many bytes; each block differs from the next by its number.
pub fn send(to: &mut impl Write, bytes: u64) -> std::io::Result<Checked> {
    let mut block = noise();
    let mut digest = Sha256::new();
    let mut left = bytes;
    let mut number = 0u64;
    while left > 0 {
        block[..8].copy_from_slice(&number.to_be_bytes());
        let part = &block[..left.min(BLOCK as u64) as usize];
        to.write_all(part)?;
        digest.update(part);
        left -= part.len() as u64;
        number += 1;
    }
    Ok(Checked { bytes, sha256: hex(digest) })
}

/// Reads to the end.
pub fn receive(from: &mut impl Read) -> std::io::Result<Checked> {
    let mut block = vec![0; BLOCK];
    let mut digest = Sha256::new();
    let mut bytes = 0;
    loop {
        match from.read(&mut block) {
            Ok(0) => {
                return Ok(Checked { bytes, sha256: hex(digest) });
            }
            Ok(count) => {
                digest.update(&block[..count]);
                bytes += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn noise() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.take(BLOCK / 8).flat_map(u64::to_ne_bytes).collect()
}

fn hex(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_received_and_a_change_is_seen() {
        let mut wire = Vec::new();
        let sent = send(&mut wire, 200_001).unwrap();
        assert_eq!(wire.len(), 200_001);
        assert_eq!(receive(&mut wire.as_slice()).unwrap(), sent);

        let mut swapped = wire.clone();
        swapped.copy_within(0..BLOCK, BLOCK);
        assert_ne!(receive(&mut swapped.as_slice()).unwrap().sha256, sent.sha256);
    }
}
