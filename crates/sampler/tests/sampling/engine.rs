//! The engine from outside: what a request gets, whatever else is decoded with it.

use crate::support::{chain, engine, engine_that_keeps, random, sampled, serve, spec, tokenizer};
use model::{FullAttention, Visibility, snapshot};
use proto::{FinishReason, GenerateRequest, SamplingParams, SnapshotScope, WeightVersion};
use sampler::{
    Engine, EngineConfig, EngineError, GenerateError, RequestError, RequestId, WeightsError,
};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Requests of several lengths, sample counts and parameters.
fn mixture() -> Vec<GenerateRequest> {
    let prompts: [&[u32]; 6] = [
        &[1, 2, 3],
        &[4],
        &[5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 1, 2],
        &[2, 2],
        &[9, 8, 7, 6, 5],
        &[1, 2, 3],
    ];
    let mut requests: Vec<_> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| sampled(index as u64, prompt, 1 + index as u32 % 4))
        .collect();
    requests[1].params.top_k = 5;
    requests[2].params.top_p = 0.8;
    requests[3].params.temperature = 0.0;
    requests[4].params.max_tokens = 33;
    requests
}

#[test]
fn en_1_results_do_not_depend_on_the_batch() {
    let requests = mixture();
    let alone: Vec<_> = requests
        .iter()
        .flat_map(|request| serve(&mut engine(random(1), 1), std::slice::from_ref(request)))
        .collect();
    for max_batch in [1, 3, 8, 32] {
        let together = serve(&mut engine(random(1), max_batch), &requests);
        let mut reversed = requests.clone();
        reversed.reverse();
        let mut backwards = serve(&mut engine(random(1), max_batch), &reversed);
        backwards.reverse();
        for other in [together, backwards] {
            for (request, (one, two)) in alone.iter().zip(&other).enumerate() {
                for (one, two) in one.iter().zip(two) {
                    assert_eq!(
                        one.tokens, two.tokens,
                        "request {request}, batch {max_batch}"
                    );
                    assert_eq!(one.finish, two.finish);
                    for (a, b) in one.logprobs.iter().zip(&two.logprobs) {
                        assert!((a - b).abs() < 1e-4);
                    }
                }
            }
        }
    }
}

#[test]
fn samples_differ_and_seeds_repeat() {
    let request = sampled(3, &[1, 2], 6);
    let first = serve(&mut engine(random(2), 4), std::slice::from_ref(&request)).remove(0);
    let again = serve(&mut engine(random(2), 4), std::slice::from_ref(&request)).remove(0);
    assert_eq!(first, again);
    assert!(
        first
            .iter()
            .any(|completion| completion.tokens != first[0].tokens)
    );
    let other = serve(
        &mut engine(random(2), 4),
        &[GenerateRequest { seed: 4, ..request }],
    )
    .remove(0);
    assert!(first.iter().zip(&other).any(|(a, b)| a.tokens != b.tokens));
}

#[test]
fn en_2_a_prompt_is_prefilled_once_whatever_its_samples() {
    for max_batch in [1, 2, 5, 16] {
        let mut engine = engine(random(1), max_batch);
        let requests = [sampled(1, &[1, 2, 3, 4, 5], 7), sampled(2, &[6, 7, 8], 3)];
        let finished = serve(&mut engine, &requests);
        assert_eq!(finished.iter().map(Vec::len).collect::<Vec<_>>(), [7, 3]);
        let stats = engine.stats();
        assert_eq!(stats.prompt_tokens, 8, "batch {max_batch}");
        assert_eq!(stats.completions, 10);
        let tokens: usize = finished.iter().flatten().map(|c| c.tokens.len()).sum();
        assert_eq!(stats.sampled_tokens, tokens as u64);
    }
}

#[test]
fn logprobs_are_those_of_a_full_forward_pass() {
    let request = sampled(5, &[3, 1, 4, 1, 5], 3);
    let completions = serve(&mut engine(random(4), 2), std::slice::from_ref(&request)).remove(0);
    let decoder = random(4);
    for completion in completions {
        let ids: Vec<i64> = request
            .prompt
            .iter()
            .chain(&completion.tokens)
            .map(|id| i64::from(*id))
            .collect();
        let positions = Tensor::arange(ids.len() as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        let mut attention = FullAttention::new(Visibility::Causal, &positions);
        let hidden = decoder.forward(
            &Tensor::from_slice(&ids).unsqueeze(0),
            &positions,
            &mut attention,
        );
        let logits = decoder.logits(&hidden).squeeze_dim(0) / f64::from(request.params.temperature);
        let logprobs = logits.log_softmax(-1, Kind::Float);
        for (index, got) in completion.logprobs.iter().enumerate() {
            let at = (request.prompt.len() + index) as i64;
            let want = logprobs.double_value(&[at - 1, ids[at as usize]]);
            assert!(
                (f64::from(*got) - want).abs() < 1e-4,
                "token {index}: {got}, not {want}"
            );
        }
    }
}

#[test]
fn sequences_stop_where_they_should() {
    use FinishReason::{EndOfTurn, Length, StopText};
    let tag = &["</answer>"][..];
    // (successors, prompt, stop strings, sampled ids, text, reason); see support::TEXTS.
    type Case = (
        &'static [(i64, i64)],
        u32,
        &'static [&'static str],
        &'static [u32],
        &'static str,
        FinishReason,
    );
    let cases: [Case; 9] = [
        (&[(1, 2), (2, 0)], 1, tag, &[2, 0], "b", EndOfTurn),
        (&[(1, 0)], 1, tag, &[0], "", EndOfTurn), // sampled at once, and kept
        (
            &[(1, 3), (3, 4), (4, 1)],
            1,
            tag,
            &[3, 4],
            "</answer>",
            StopText,
        ), // split over two tokens
        (
            &[(1, 6), (6, 7), (7, 1)],
            1,
            tag,
            &[6, 7],
            "</answer>",
            StopText,
        ), // split elsewhere
        (
            &[(1, 3), (3, 5), (5, 1)],
            1,
            tag,
            &[3, 5],
            "</answer>!x",
            StopText,
        ), // more behind the tag
        (
            &[(1, 3), (3, 12), (12, 4)],
            1,
            tag,
            &[3, 12, 4],
            "</answer>",
            StopText,
        ), // a special between
        (
            &[(1, 10), (10, 9), (9, 1)],
            1,
            &["zz", ">"],
            &[10],
            ">\u{FFFD}",
            StopText,
        ), // a cut character behind
        (&[(1, 8), (8, 9), (9, 1)], 1, &["é"], &[8, 9], "é", StopText), // a character of two tokens
        (&[(1, 2), (2, 1)], 1, tag, &[2, 1, 2, 1, 2], "babab", Length),
    ];
    for (successors, prompt, stop, tokens, text, finish) in cases {
        let stop = stop.iter().map(|s| (*s).to_owned()).collect();
        let params = SamplingParams::greedy(5, stop);
        let request = GenerateRequest {
            prompt: vec![prompt],
            samples: 2,
            params,
            seed: 0,
        };
        for completion in serve(&mut engine(chain(successors), 4), &[request]).remove(0) {
            assert_eq!(
                (completion.tokens.as_slice(), completion.finish),
                (tokens, finish)
            );
            assert_eq!(completion.text, text);
            assert_eq!(completion.logprobs.len(), tokens.len());
            assert!(
                completion
                    .logprobs
                    .iter()
                    .all(|p| p.is_finite() && *p <= 0.0)
            );
        }
    }
}

#[test]
fn the_context_ends_a_sequence() {
    let params = SamplingParams::greedy(1000, vec![]);
    let prompt = vec![1u32; 60];
    let request = GenerateRequest {
        prompt,
        samples: 1,
        params,
        seed: 0,
    };
    let completion = serve(&mut engine(chain(&[(1, 2), (2, 1)]), 2), &[request])
        .remove(0)
        .remove(0);
    assert_eq!(
        (completion.tokens.len(), completion.finish),
        (4, FinishReason::Length)
    );
}

#[test]
fn an_aborted_request_leaves_the_others_as_they_were() {
    let requests = mixture();
    let expected = serve(&mut engine(random(1), 8), &requests);
    for aborted in 0..requests.len() {
        let mut engine = engine(random(1), 4);
        for (id, request) in requests.iter().enumerate() {
            engine
                .submit(RequestId(id as u64), request.clone())
                .unwrap();
        }
        let mut finished: Vec<_> = (0..3).flat_map(|_| engine.step()).collect();
        engine.abort(RequestId(aborted as u64));
        engine.abort(RequestId(99));
        while !engine.is_idle() {
            finished.extend(engine.step());
        }
        for (id, outcome) in finished {
            let tokens = |list: &[proto::Completion]| -> Vec<_> {
                list.iter()
                    .map(|completion| completion.tokens.clone())
                    .collect()
            };
            assert_ne!(id, RequestId(aborted as u64));
            assert_eq!(
                tokens(&outcome.unwrap()),
                tokens(&expected[id.0 as usize]),
                "{id:?}"
            );
        }
    }
}

#[test]
fn new_weights_are_refused_while_old_ones_are_used() {
    let mut engine = engine(random(1), 2);
    let fresh = snapshot(&random(2), WeightVersion(7), SnapshotScope::All);
    engine.submit(RequestId(0), sampled(1, &[1, 2], 1)).unwrap();
    engine.step();
    assert_eq!(engine.apply_weights(&fresh), Err(WeightsError::Busy(1)));
    while !engine.is_idle() {
        for (_, outcome) in engine.step() {
            assert!(
                outcome
                    .unwrap()
                    .iter()
                    .all(|c| c.weight_version == WeightVersion(0))
            );
        }
    }
    engine.apply_weights(&fresh).unwrap();
    assert_eq!(engine.version(), WeightVersion(7));
}

#[test]
fn en_3_after_new_weights_results_are_those_of_a_fresh_engine() {
    let requests = mixture();
    let mut swapped = engine(random(1), 4);
    let old = serve(&mut swapped, &requests);
    swapped
        .apply_weights(&snapshot(&random(2), WeightVersion(1), SnapshotScope::All))
        .unwrap();
    let new = serve(&mut swapped, &requests);
    let mut expected = serve(&mut engine(random(2), 4), &requests);
    expected
        .iter_mut()
        .flatten()
        .for_each(|c| c.weight_version = WeightVersion(1));
    assert_eq!(new, expected);
    assert!(
        old.iter()
            .flatten()
            .zip(new.iter().flatten())
            .any(|(a, b)| a.tokens != b.tokens)
    );
}

/// Dialogues of three turns, many at a time: each prompt is the last one with what was sampled and
/// an observation behind it.
fn dialogues(engine: &mut Engine, seed: u64) -> Vec<Vec<u32>> {
    let mut prompts: Vec<Vec<u32>> = (0..6u32)
        .map(|n| (0..18 + n).map(|i| 1 + (i * 7 + n / 2) % 11).collect())
        .collect();
    for turn in 0..3 {
        let requests: Vec<GenerateRequest> = prompts
            .iter()
            .enumerate()
            .map(|(n, prompt)| {
                let mut request = sampled(seed + n as u64, prompt, 1);
                request.params.max_tokens = 6;
                request
            })
            .collect();
        for (prompt, completions) in prompts.iter_mut().zip(serve(engine, &requests)) {
            prompt.extend(&completions[0].tokens);
            prompt.extend([3, 5 + turn, 4]);
        }
    }
    prompts
}

#[test]
fn en_4_a_shared_beginning_changes_nothing_but_the_work() {
    for max_batch in [1, 3, 8] {
        let mut plain = engine_that_keeps(0, random(1), max_batch);
        let mut sharing = engine_that_keeps(8, random(1), max_batch);
        for seed in [10, 20] {
            assert_eq!(dialogues(&mut sharing, seed), dialogues(&mut plain, seed));
        }
        let (plain, sharing) = (plain.stats(), sharing.stats());
        assert_eq!(plain.reused_tokens, 0);
        assert_eq!(
            sharing.prompt_tokens + sharing.reused_tokens,
            plain.prompt_tokens
        );
        assert!(
            sharing.prompt_tokens * 3 < plain.prompt_tokens,
            "batch {max_batch}: {sharing:?}, {plain:?}"
        );
    }
}

#[test]
fn en_4_prompts_that_wait_together_share_their_beginning() {
    let system = (0..20u32).map(|i| 1 + (i * 7) % 11);
    let requests: Vec<GenerateRequest> = (0..6u32)
        .map(|n| {
            let own = (0..6).map(|i| 1 + (i * 3 + n) % 11);
            let prompt: Vec<u32> = system.clone().chain(own).collect();
            sampled(u64::from(n), &prompt, 1 + n % 2)
        })
        .collect();
    for max_batch in [1, 3, 16] {
        let mut plain = engine_that_keeps(0, random(1), max_batch);
        let mut sharing = engine_that_keeps(8, random(1), max_batch);
        let tokens = |engine: &mut Engine| -> Vec<Vec<u32>> {
            let served = serve(engine, &requests);
            served.into_iter().flatten().map(|c| c.tokens).collect()
        };
        assert_eq!(tokens(&mut sharing), tokens(&mut plain));
        assert_eq!(plain.stats().prompt_tokens, 6 * 26);
        assert_eq!(sharing.stats().prompt_tokens, 26 + 5 * 6, "{max_batch}");
    }
}

#[test]
fn en_3_no_key_outlives_its_weights() {
    let mut swapped = engine(random(1), 4);
    dialogues(&mut swapped, 10);
    let before = swapped.stats().reused_tokens;
    swapped
        .apply_weights(&snapshot(&random(2), WeightVersion(1), SnapshotScope::All))
        .unwrap();
    let prompt: Vec<u32> = (0..20u32).map(|i| 1 + (i * 7) % 11).collect();
    let request = [sampled(1, &prompt, 1)];
    let found = serve(&mut swapped, &request);
    assert_eq!(swapped.stats().reused_tokens, before);
    let fresh = serve(&mut engine(random(2), 4), &request);
    assert_eq!(found[0][0].tokens, fresh[0][0].tokens);
    assert_eq!(found[0][0].logprobs, fresh[0][0].logprobs);
}

#[test]
fn a_damaged_or_foreign_snapshot_leaves_the_old_weights() {
    let requests = mixture();
    let expected = serve(&mut engine(random(1), 4), &requests);
    let good = snapshot(&random(2), WeightVersion(1), SnapshotScope::All);
    let mut half = good.clone();
    half.bytes = Arc::new(good.bytes[..good.bytes.len() / 2].to_vec());
    let mut flipped = good.clone();
    let mut bytes = good.bytes.to_vec();
    bytes[100] ^= 1;
    flipped.bytes = Arc::new(bytes);
    let mut foreign = good.clone();
    let mut manifest = (*good.manifest).clone();
    manifest.tensors[3].name = "model.layers.9.mlp.down_proj.weight".into();
    foreign.manifest = Arc::new(manifest);
    for bad in [half, flipped, foreign] {
        let mut engine = engine(random(1), 4);
        assert!(matches!(
            engine.apply_weights(&bad),
            Err(WeightsError::Snapshot(_))
        ));
        assert_eq!(engine.version(), WeightVersion(0));
        assert_eq!(serve(&mut engine, &requests), expected);
    }
}

#[test]
fn broken_weights_fail_requests_instead_of_sampling_noise() {
    let decoder = random(1);
    let norm = decoder
        .parameters()
        .iter()
        .find(|p| p.slot.name == "norm")
        .unwrap();
    let _ = norm.tensor.get(0).fill_(f64::NAN);
    let mut engine = engine(decoder, 4);
    engine.submit(RequestId(1), sampled(1, &[1, 2], 3)).unwrap();
    engine.submit(RequestId(2), sampled(1, &[3], 1)).unwrap();
    let mut finished = engine.step();
    finished.sort_by_key(|(id, _)| *id);
    let error = Err(GenerateError::NotFinite(WeightVersion(0)));
    assert_eq!(
        finished,
        [(RequestId(1), error.clone()), (RequestId(2), error)]
    );
    assert!(engine.is_idle());
}

#[test]
fn bad_limits_and_bad_requests_are_refused() {
    let with = |change: fn(&mut EngineConfig)| {
        let mut config = EngineConfig {
            max_context_tokens: 64,
            ..EngineConfig::default()
        };
        change(&mut config);
        Engine::new(random(1), tokenizer(), WeightVersion(0), config).map(drop)
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(
        with(|c| c.max_batch = 0),
        Err(EngineError::ZeroLimit("max_batch"))
    );
    assert_eq!(
        with(|c| c.max_context_tokens = 65),
        Err(EngineError::ContextTooLong {
            asked: 65,
            model: 64
        })
    );
    let mut engine = engine(random(1), 2);
    assert_eq!(
        engine.submit(RequestId(1), sampled(1, &[], 1)),
        Err(RequestError::EmptyPrompt)
    );
    assert!(engine.is_idle());
    engine.submit(RequestId(1), sampled(1, &[1], 1)).unwrap();
    let twice = engine.submit(RequestId(1), sampled(1, &[1], 1));
    assert_eq!(twice, Err(RequestError::DuplicateId(1)));
    assert_eq!(spec().max_context, 64);
}
