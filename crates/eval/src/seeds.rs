//! A mean over the models of several seeds, each measured on the same questions.
//!
//! - **SE-1 (seeds vary, too).** The interval is for seeds and questions like those at hand, not for
//!   these very seeds: it has the variance between seeds in it, and the few degrees of freedom that
//!   it is estimated with. One seed says nothing of that variance, and the interval says so.

use crate::{Interval, bootstrap_mean};
use serde::{Deserialize, Serialize};

/// A mean over seeds with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OverSeeds {
    /// The mean and its interval.
    pub interval: Interval,
    /// Number of seeds it is over.
    pub seeds: usize,
    /// Smallest and largest mean of a seed.
    pub range: [f64; 2],
    /// Whether the interval has the variance between seeds in it: it cannot for one seed.
    pub has_seed_variance: bool,
}

/// The mean of `values[seed][question]`, with questions in one order for all seeds; `None` without
/// values, or where seeds have different numbers of them.
///
/// Seeds and questions are crossed random effects. With the mean squares A of seeds, B of questions
/// and E of what is left, from S seeds and Q questions, the variance of the mean is estimated by
/// A / (S·Q), which has S − 1 degrees of freedom, and what questions add to it, max(B − E, 0) / (S·Q),
/// with Q − 1. The half-width is the root of the sum of the squares of the two half-widths by
/// Student's t (Howe 1974, "Approximate Confidence Limits on the Mean of X + Y Where X and Y are Two
/// Tabled Independent Random Variables"): one t for the whole by Satterthwaite's degrees of freedom
/// falls short of the level with two seeds. For one seed the bootstrap over questions with
/// `bootstrap_seed`, which knows nothing of seeds.
pub fn over_seeds(values: &[Vec<f64>], bootstrap_seed: u64) -> Option<OverSeeds> {
    let questions = values.first()?.len();
    if questions == 0 || values.iter().any(|seed| seed.len() != questions) {
        return None;
    }
    let by_seed: Vec<f64> = values.iter().map(|seed| mean(seed)).collect();
    let interval = match values {
        [only] => bootstrap_mean(only, bootstrap_seed)?,
        _ => crossed(values, &by_seed),
    };
    Some(OverSeeds {
        interval: interval.of_values_alike(questions, [-1.0, 1.0]),
        seeds: values.len(),
        range: [
            by_seed.iter().copied().fold(f64::INFINITY, f64::min),
            by_seed.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ],
        has_seed_variance: values.len() > 1,
    })
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The interval for at least two seeds. With one question, questions say nothing of their variance.
fn crossed(values: &[Vec<f64>], by_seed: &[f64]) -> Interval {
    let (s, q) = (values.len() as f64, values[0].len() as f64);
    let by_question: Vec<f64> = (0..values[0].len())
        .map(|question| values.iter().map(|seed| seed[question]).sum::<f64>() / s)
        .collect();
    let estimate = mean(by_seed);
    let squares = |means: &[f64]| means.iter().map(|m| (m - estimate).powi(2)).sum::<f64>();
    let of_seeds = q * squares(by_seed) / (s - 1.0);
    let of_questions = s * squares(&by_question) / (q - 1.0).max(1.0);
    let rest: f64 = values
        .iter()
        .zip(by_seed)
        .flat_map(|(seed, own)| {
            let cells = seed.iter().zip(&by_question);
            cells.map(move |(value, question)| (value - own - question + estimate).powi(2))
        })
        .sum();
    let rest = rest / ((s - 1.0) * (q - 1.0)).max(1.0);
    let by_seeds = t_975(s - 1.0).powi(2) * of_seeds;
    let by_questions = t_975(q - 1.0).powi(2) * (of_questions - rest).max(0.0);
    let half = ((by_seeds + by_questions) / (s * q)).sqrt();
    Interval {
        estimate,
        low: estimate - half,
        high: estimate + half,
    }
}

/// The 97.5 % quantile of Student's t with `freedom` degrees of freedom, at least 1: the limit of a
/// two-sided 95 % interval.
///
/// With x = √ν·tan θ the density is proportional to cos^(ν−1) θ, so the quantile is where the
/// integral of that from 0 reaches 95 % of the one up to π/2.
pub fn t_975(freedom: f64) -> f64 {
    // Beyond that, it is the normal one to five digits.
    const AS_NORMAL: f64 = 200_000.0;
    let freedom = freedom.max(1.0);
    if !freedom.is_finite() || freedom > AS_NORMAL {
        return crate::interval::Z_95;
    }
    // Of many degrees of freedom nothing is left beyond t = 40.
    let end = match freedom < 400.0 {
        true => std::f64::consts::FRAC_PI_2,
        false => (40.0 / freedom.sqrt()).atan(),
    };
    const CELLS: usize = 20_000;
    let width = end / CELLS as f64;
    // The middle of each cell: the density's slope at π/2 may be infinite.
    let density = |cell: usize| ((cell as f64 + 0.5) * width).cos().powf(freedom - 1.0);
    let target = 0.95 * (0..CELLS).map(density).sum::<f64>();
    let mut sum = 0.0;
    for cell in 0..CELLS {
        let next = sum + density(cell);
        if next >= target {
            let part = (target - sum) / (next - sum);
            return freedom.sqrt() * ((cell as f64 + part) * width).tan();
        }
        sum = next;
    }
    crate::interval::Z_95
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn quantiles_of_t_have_the_known_values() {
        for (freedom, expected) in [
            (1.0, 12.7062),
            (2.0, 4.3027),
            (3.0, 3.1824),
            (4.0, 2.7764),
            (10.0, 2.2281),
            (30.0, 2.0423),
            (120.0, 1.9799),
            (399.0, 1.9659),
            (1000.0, 1.9623),
            (100_000.0, 1.9600),
            (1e9, 1.9600),
            (f64::INFINITY, 1.9600),
        ] {
            let found = t_975(freedom);
            assert!(
                (found / expected - 1.0).abs() < 3e-4,
                "{freedom}: {found}, expected {expected}"
            );
        }
    }

    #[test]
    fn one_seed_does_not_know_how_seeds_vary() {
        let one = over_seeds(&[vec![0.0, 1.0, 0.0, 1.0]], 0).unwrap();
        assert!(!one.has_seed_variance);
        assert_eq!((one.seeds, one.range), (1, [0.5, 0.5]));
        assert_eq!(Some(one.interval), bootstrap_mean(&[0.0, 1.0, 0.0, 1.0], 0));
        assert_eq!(over_seeds(&[], 0), None);
        assert_eq!(over_seeds(&[vec![]], 0), None);
        assert_eq!(over_seeds(&[vec![1.0], vec![1.0, 0.0]], 0), None);
    }

    /// Three seeds of two questions by hand: means .5, 1, 0; A = 2·(.25 + .25)/2 = .5; questions 2/3
    /// and 1/3, B = 3·2·(1/6)² = 1/6; of the squares 1.5 in all 1/3 is left, E = 1/6: nothing by
    /// questions, and .5/6 by seeds with 2 degrees of freedom.
    #[test]
    fn the_interval_is_that_of_the_formula() {
        let found = over_seeds(&[vec![1.0, 0.0], vec![1.0, 1.0], vec![0.0, 0.0]], 0).unwrap();
        let half = 4.3027 * (0.5_f64 / 6.0).sqrt();
        assert!((found.interval.estimate - 0.5).abs() < 1e-12);
        assert!((found.interval.high - 0.5 - half).abs() < 1e-3, "{found:?}");
        assert_eq!(found.range, [0.0, 1.0]);
        // Seeds that agree in everything: the usual interval of four questions.
        let same = over_seeds(&vec![vec![0.0, 1.0, 1.0, 0.0]; 3], 0).unwrap();
        let half = 3.1824 * (0.25_f64 * 4.0 / 3.0 / 4.0).sqrt();
        assert!((same.interval.high - 0.5 - half).abs() < 1e-3, "{same:?}");
    }

    #[test]
    fn seeds_and_questions_that_are_all_alike_leave_something_open() {
        for seeds in [1, 3] {
            let found = over_seeds(&vec![vec![0.0; 10]; seeds], 0).unwrap().interval;
            assert!(
                (found.high - 0.2775).abs() < 1e-4 && found.low == -found.high,
                "{found:?}"
            );
        }
    }

    fn normal(rng: &mut ChaCha8Rng) -> f64 {
        let (u, v): (f64, f64) = (rng.random_range(f64::MIN_POSITIVE..1.0), rng.random());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Gains over one model that all seeds are compared with: right or wrong by the question's
    /// difficulty, the training's gain and the seed's luck.
    fn gains(rng: &mut ChaCha8Rng, seeds: usize, questions: usize, spread: f64) -> Vec<Vec<f64>> {
        let luck: Vec<f64> = (0..seeds).map(|_| spread * normal(rng)).collect();
        let mut values = vec![Vec::with_capacity(questions); seeds];
        for _ in 0..questions {
            let ease: f64 = rng.random_range(0.05..0.65);
            let before = f64::from(u8::from(rng.random_bool(ease)));
            for (seed, luck) in luck.iter().enumerate() {
                let right = rng.random_bool((ease + 0.1 + luck).clamp(0.0, 1.0));
                values[seed].push(f64::from(u8::from(right)) - before);
            }
        }
        values
    }

    /// Shares of simulated experiments whose interval has the true gain of .1 in it: this one, and
    /// one from questions alone.
    fn coverage(seeds: usize, questions: usize, spread: f64) -> (f64, f64) {
        const EXPERIMENTS: usize = 1_000;
        let mut rng = ChaCha8Rng::seed_from_u64(17);
        let (mut ours, mut questions_alone) = (0, 0);
        for _ in 0..EXPERIMENTS {
            let values = gains(&mut rng, seeds, questions, spread);
            let found = over_seeds(&values, 0)
                .expect("seeds and questions")
                .interval;
            ours += usize::from(found.low <= 0.1 && 0.1 <= found.high);
            let means: Vec<f64> = (0..questions)
                .map(|q| values.iter().map(|seed| seed[q]).sum::<f64>() / seeds as f64)
                .collect();
            let center = mean(&means);
            let squares: f64 = means.iter().map(|m| (m - center).powi(2)).sum();
            let half = 1.96 * (squares / (questions - 1) as f64 / questions as f64).sqrt();
            questions_alone += usize::from((center - 0.1).abs() <= half);
        }
        let share = |hits: usize| hits as f64 / EXPERIMENTS as f64;
        (share(ours), share(questions_alone))
    }

    #[test]
    fn se_1_nineteen_of_twenty_intervals_have_the_truth_in_them() {
        for (seeds, questions, spread) in [
            (2, 200, 0.0),
            (2, 400, 0.05),
            (3, 200, 0.0),
            (3, 400, 0.05),
            (3, 1000, 0.05),
            (5, 200, 0.05),
            (10, 400, 0.02),
        ] {
            let (ours, questions_alone) = coverage(seeds, questions, spread);
            let case = format!("{seeds} seeds, {questions} questions, spread {spread}");
            println!("{case}: {ours}; by questions alone {questions_alone}");
            assert!((0.94..=0.995).contains(&ours), "{case}: {ours}");
            if spread >= 0.05 && questions >= 400 {
                assert!(
                    questions_alone < 0.9,
                    "{case}, by questions alone: {questions_alone}"
                );
            }
        }
    }
}
