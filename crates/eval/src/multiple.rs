//! Several tests at once.

/// Holm's adjusted p-values (Holm 1979, Scandinavian Journal of Statistics 6:65): rejecting those of
/// at most .05 is wrong about any of the tests with a probability of at most .05, whatever they have
/// to do with each other. In the order of `p`; never below the p-value itself, and at most 1.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; p.len()];
    let mut largest: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        let tests_left = (p.len() - rank) as f64;
        largest = largest.max(tests_left * p[index]).min(1.0);
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn holm_has_the_known_values() {
        let cases: [(&[f64], &[f64]); 5] = [
            (&[], &[]),
            (&[0.03], &[0.03]),
            (&[0.01, 0.04, 0.03, 0.005], &[0.03, 0.06, 0.06, 0.02]),
            (&[0.5, 0.5, 0.5], &[1.0, 1.0, 1.0]),
            (&[0.02, 0.02], &[0.04, 0.04]),
        ];
        for (p, expected) in cases {
            let found = holm(p);
            let near = found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-12);
            assert!(near && found.len() == expected.len(), "{p:?}: {found:?}");
        }
    }

    proptest! {
        #[test]
        fn adjusting_keeps_the_order_and_never_lowers(
            p in proptest::collection::vec(1e-6..=1.0_f64, 0..30),
        ) {
            let adjusted = holm(&p);
            for i in 0..p.len() {
                prop_assert!(p[i] <= adjusted[i] && adjusted[i] <= 1.0);
                prop_assert!(adjusted[i] <= (p.len() as f64 * p[i]).min(1.0) + 1e-12);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j]);
                }
            }
        }
    }
}
