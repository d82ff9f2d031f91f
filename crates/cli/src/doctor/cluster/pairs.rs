//! Who pulls from whom, and when.

/// Every pair of `0..count` in both directions, once each, in rounds: within a round nobody is in two
/// pairs.
pub fn rounds(count: usize) -> Vec<Vec<(usize, usize)>> {
    // The circle method: one stands still and the others go round; with an odd number the one who
    // would meet nobody rests.
    let seats = count + count % 2;
    let mut circle: Vec<usize> = (0..seats).collect();
    let mut rounds = Vec::new();
    for _ in 1..seats.max(1) {
        let half = seats / 2;
        let pairs: Vec<(usize, usize)> = (0..half)
            .map(|i| (circle[i], circle[seats - 1 - i]))
            .filter(|&(a, b)| a < count && b < count)
            .collect();
        let back = pairs.iter().map(|&(a, b)| (b, a)).collect();
        rounds.extend([pairs, back]);
        circle[1..].rotate_right(1);
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn everybody_meets_everybody_and_nobody_two_at_once() {
        for count in 0..20 {
            let mut all = BTreeSet::new();
            for round in rounds(count) {
                let mut busy = BTreeSet::new();
                for (from, to) in round {
                    assert!(busy.insert(from) && busy.insert(to), "{count} nodes");
                    assert!(all.insert((from, to)), "{count} nodes");
                }
            }
            assert_eq!(all.len(), count * count.saturating_sub(1));
        }
    }
}
