use super::*;
use proptest::prelude::*;
use tch::Device;

fn params(temperature: f32, top_k: u32, top_p: f32) -> SamplingParams {
    SamplingParams {
        temperature,
        top_k,
        top_p,
        ..SamplingParams::greedy(1, vec![])
    }
}

/// Kept ids with their log-probabilities, straight from the definition: sort everything.
fn reference(logits: &[f32], params: &SamplingParams) -> Vec<(usize, f64)> {
    let scaled: Vec<f64> = logits
        .iter()
        .map(|l| f64::from(l / params.temperature))
        .collect();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| scaled[b].total_cmp(&scaled[a]).then(a.cmp(&b)));
    if params.top_k > 0 {
        order.truncate(params.top_k as usize);
    }
    let sum = |ids: &[usize]| {
        ids.iter()
            .map(|&id| (scaled[id] - scaled[order[0]]).exp())
            .sum::<f64>()
    };
    let all = sum(&order);
    let kept = (1..=order.len())
        .find(|&n| sum(&order[..n]) / all >= f64::from(params.top_p))
        .unwrap_or(order.len());
    let total = sum(&order[..kept]);
    order[..kept]
        .iter()
        .map(|&id| (id, scaled[id] - scaled[order[0]] - total.ln()))
        .collect()
}

/// What a grid of uniform numbers draws: each id with its log-probability.
fn drawn_by_grid(logits: &[f32], params: &SamplingParams, grid: usize) -> Vec<(u32, f32)> {
    let matrix = Tensor::from_slice(logits)
        .unsqueeze(0)
        .expand([grid as i64, -1], false)
        .copy();
    let draws: Vec<Draw> = (0..grid)
        .map(|i| Draw {
            params,
            uniform: i as f64 / grid as f64,
        })
        .collect();
    let mut drawn: Vec<(u32, f32)> = draw(&matrix, &draws)
        .into_iter()
        .map(|d| d.unwrap())
        .map(|d| (d.token, d.logprob))
        .collect();
    drawn.sort_by_key(|(id, _)| *id);
    drawn.dedup_by_key(|(id, _)| *id);
    drawn
}

fn random_logits(count: usize, spread: f32, step: f32) -> Vec<f32> {
    (0..count)
        .map(|i| {
            let unit = uniform(9, i as u32, 0) as f32 * 2.0 - 1.0;
            (unit * spread / step).round() * step
        })
        .collect()
}

#[test]
fn kept_sets_and_logprobs_are_those_of_the_definition() {
    // (vocabulary, spread, grid of the logits: coarse ones are full of ties, parameters)
    let cases = [
        (40, 3.0, 1e-3, params(1.0, 0, 1.0)),
        (40, 3.0, 1e-3, params(0.7, 0, 1.0)),
        (40, 3.0, 1e-3, params(1.0, 5, 1.0)),
        (40, 3.0, 1e-3, params(0.8, 0, 0.6)),
        (40, 3.0, 1e-3, params(1.3, 12, 0.7)),
        (40, 3.0, 1.0, params(1.0, 7, 1.0)),
        (40, 3.0, 1.0, params(1.0, 0, 0.5)),
        (40, 3.0, 1.0, params(1.0, 60, 0.9)),
        (700, 0.5, 1e-3, params(1.0, 0, 0.3)), // flat: more candidates than looked at first
        (700, 0.5, 0.5, params(1.0, 0, 0.55)),
        (700, 0.5, 0.5, params(1.0, 200, 1.0)),
        (700, 0.0, 1.0, params(1.0, 3, 1.0)), // all equal: the lowest ids
    ];
    for (count, spread, step, params) in cases {
        let logits = random_logits(count, spread, step);
        let expected = reference(&logits, &params);
        let drawn = drawn_by_grid(&logits, &params, 20_000);
        let mut ids: Vec<u32> = expected.iter().map(|(id, _)| *id as u32).collect();
        ids.sort_unstable();
        let got: Vec<u32> = drawn.iter().map(|(id, _)| *id).collect();
        assert_eq!(got, ids, "{count} logits, {params:?}");
        for (id, logprob) in drawn {
            let (_, want) = expected.iter().find(|(e, _)| *e as u32 == id).unwrap();
            assert!(
                (f64::from(logprob) - want).abs() < 1e-5,
                "{id}: {logprob}, not {want}"
            );
        }
    }
}

#[test]
fn tokens_come_as_often_as_their_probability_says() {
    let logits = random_logits(600, 3.0, 1e-3);
    let grid = 4096;
    for params in [params(1.0, 0, 1.0), params(0.6, 20, 0.95)] {
        let matrix = Tensor::from_slice(&logits)
            .unsqueeze(0)
            .expand([grid, -1], false);
        let draws: Vec<Draw> = (0..grid)
            .map(|i| Draw {
                params: &params,
                uniform: (i as f64 + 0.5) / grid as f64,
            })
            .collect();
        let drawn = draw(&matrix, &draws);
        for (id, logprob) in reference(&logits, &params) {
            let share = drawn
                .iter()
                .filter(|d| d.unwrap().token == id as u32)
                .count() as f64
                / grid as f64;
            // An even grid of uniform numbers hits an interval exactly, but for its two ends.
            let error = (share - logprob.exp()).abs();
            assert!(
                error <= 1.1 / grid as f64,
                "{id}: share {share}, not {}",
                logprob.exp()
            );
        }
    }
}

#[test]
fn dr_2_no_impossible_token_is_drawn() {
    let uniforms = [0.0, f64::from(f32::EPSILON), 0.5, 1.0 - f64::EPSILON];
    // Impossible tokens first, between and last, in vocabularies shorter and longer than a block.
    for count in [5usize, 256, 600] {
        let mut logits = vec![f32::NEG_INFINITY; count];
        logits[1] = 1.0;
        logits[count - 2] = -3.0;
        for params in [
            params(0.0, 0, 1.0),
            params(1.0, 0, 1.0),
            params(2.0, 0, 0.9),
            params(1.0, 4, 1.0),
        ] {
            for uniform in uniforms {
                let row = Tensor::from_slice(&logits).unsqueeze(0);
                let drawn = draw(
                    &row,
                    &[Draw {
                        params: &params,
                        uniform,
                    }],
                )[0]
                .unwrap();
                assert!(
                    logits[drawn.token as usize].is_finite(),
                    "{params:?} {uniform}: {drawn:?}"
                );
                assert!(drawn.logprob.is_finite());
            }
        }
    }
}

#[test]
fn dr_3_greedy_takes_the_lowest_of_equals_under_the_plain_softmax() {
    let logits = [0.0f32, 2.0, 1.0, 2.0];
    let greedy = params(0.0, 0, 1.0);
    let row = Tensor::from_slice(&logits).unsqueeze(0);
    let drawn = draw(
        &row,
        &[Draw {
            params: &greedy,
            uniform: 0.9,
        }],
    )[0]
    .unwrap();
    let total: f32 = logits.iter().map(|l| l.exp()).sum();
    assert_eq!(drawn.token, 1);
    assert!((drawn.logprob - (2.0 - total.ln())).abs() < 1e-6);
}

#[test]
fn dr_1_a_row_is_drawn_as_if_it_were_alone() {
    let ways = [
        params(0.0, 0, 1.0),
        params(1.0, 0, 1.0),
        params(0.7, 0, 0.8),
        params(0.5, 9, 1.0),
    ];
    let logits = Tensor::from_slice(&random_logits(300 * 8, 3.0, 1e-3)).view([8, 300]);
    let draws: Vec<Draw> = (0..8)
        .map(|row| Draw {
            params: &ways[row % 4],
            uniform: uniform(5, row as u32, 3),
        })
        .collect();
    let together = draw(&logits, &draws);
    for row in 0..8 {
        let alone = draw(&logits.narrow(0, row as i64, 1), &draws[row..=row]);
        assert_eq!(together[row], alone[0]);
    }
}

#[test]
fn logits_that_are_not_finite_are_reported() {
    let good = [0.5f32, 1.0, 0.0, -1.0];
    for bad in [f32::NAN, f32::INFINITY] {
        for params in [
            params(0.0, 0, 1.0),
            params(1.0, 0, 1.0),
            params(1.0, 2, 1.0),
            params(1.0, 0, 0.5),
        ] {
            let logits = Tensor::from_slice(&[good, [0.0, bad, 0.0, 0.0]].concat())
                .view([2, 4])
                .to_device(Device::Cpu);
            let one = Draw {
                params: &params,
                uniform: 0.4,
            };
            let drawn = draw(&logits, &[one, one]);
            assert!(drawn[0].is_ok(), "{params:?}: {drawn:?}");
            assert_eq!(drawn[1], Err(NotFinite), "{params:?}");
        }
    }
}

#[test]
fn uniform_numbers_depend_on_seed_sample_and_position() {
    let all: Vec<f64> = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]
        .map(|(seed, sample, position)| uniform(seed, sample, position))
        .to_vec();
    for (i, a) in all.iter().enumerate() {
        assert!((0.0..1.0).contains(a));
        assert!(all[..i].iter().all(|b| a != b));
    }
    assert_eq!(uniform(1, 0, 7), uniform(1, 0, 7));
}

proptest! {
    #[test]
    fn dr_2_inversion_never_lands_on_a_zero(
        weights in prop::collection::vec(prop_oneof![Just(0f32), 0f32..1.0, Just(1e-38f32)], 1..300),
        uniform in 0f64..1.0,
    ) {
        match invert(&weights, uniform) {
            Some(choice) => {
                prop_assert!(weights[choice.index] > 0.0);
                prop_assert!((0.0..1.0).contains(&choice.rest));
            }
            None => prop_assert!(weights.iter().all(|w| *w == 0.0)),
        }
    }
}
