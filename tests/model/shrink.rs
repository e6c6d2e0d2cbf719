//! Makes a failing list short: leaves out what can be left out, in pieces that get smaller ("delta debugging", Zeller and Hildebrandt,
//! IEEE Transactions on Software Engineering 28(2), 2002, without its complements).

/// A shorter list that fails too, in so many attempts at most; nothing if the list does not fail again. `fails` says after which item a
/// list fails.
pub(crate) fn shrink<T: Clone>(
    list: &[T],
    mut attempts: usize,
    mut fails: impl FnMut(&[T]) -> Option<usize>,
) -> Option<Vec<T>> {
    let at = fails(list).filter(|at| *at < list.len())?;
    let mut shortest = list[..=at].to_vec();
    let mut piece = shortest.len().div_ceil(2);
    loop {
        let before = shortest.len();
        let mut start = 0;
        while start < shortest.len() {
            if attempts == 0 {
                return Some(shortest);
            }
            attempts -= 1;
            let end = (start + piece).min(shortest.len());
            let without = [&shortest[..start], &shortest[end..]].concat();
            match fails(&without) {
                Some(at) if at < without.len() => shortest = without[..=at].to_vec(),
                _ => start = end,
            }
        }
        // What one item was needed for may have gone with another one.
        if piece == 1 && shortest.len() == before {
            return Some(shortest);
        }
        piece = (piece / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails where a multiple of 7 comes after 500, both of which are needed.
    fn fails(list: &[u32]) -> Option<usize> {
        let first = list.iter().position(|n| *n == 500)?;
        list.iter().skip(first).position(|n| n % 7 == 0).map(|at| first + at)
    }

    #[test]
    fn what_is_needed_stays_and_all_else_goes() {
        let list: Vec<u32> = (0..1000).collect();
        assert_eq!(shrink(&list, 200, fails), Some(vec![500, 504]));
    }

    #[test]
    fn attempts_are_limited_and_what_was_found_by_then_fails_too() {
        let list: Vec<u32> = (0..1000).collect();
        let mut asked = 0;
        let short = shrink(&list, 3, |list| {
            asked += 1;
            fails(list)
        });
        let short = short.expect("it fails");
        assert_eq!(asked, 4, "once to see it fail, and three times without something");
        assert!(short.len() < 505 && fails(&short).is_some(), "{} items", short.len());
    }

    #[test]
    fn what_does_not_fail_again_is_not_shortened() {
        assert_eq!(shrink(&[1, 2, 3], 10, |_| None), None);
        assert_eq!(shrink(&[], 10, |_: &[u32]| None), None);
    }
}
