use super::*;
use crate::{Activation, Decoder, LayerSpec, RopeScaling, RopeSpec, slots};

fn llama() -> DecoderSpec {
    DecoderSpec {
        model_type: "llama".into(),
        vocab_size: 50,
        hidden_size: 32,
        intermediate_size: 48,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        max_context: 512,
        norm_eps: 1e-5,
        norm_plus_one: false,
        post_norms: false,
        qk_norm: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        tied_embeddings: true,
        embedding_scale: None,
        attention_scale: 8f64.powf(-0.5),
        attention_softcap: None,
        logit_softcap: None,
        activation: Activation::Silu,
        ropes: vec![RopeSpec {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        }],
        layers: vec![
            LayerSpec {
                window: None,
                rope: 0
            };
            3
        ],
    }
}

fn windows(spec: DecoderSpec) -> DecoderSpec {
    let layers = [Some(4), None, Some(7)]
        .map(|window| LayerSpec { window, rope: 0 })
        .to_vec();
    DecoderSpec { layers, ..spec }
}

fn gemma2() -> DecoderSpec {
    DecoderSpec {
        norm_plus_one: true,
        post_norms: true,
        embedding_scale: Some(32f64.sqrt()),
        attention_softcap: Some(2.0),
        logit_softcap: Some(3.0),
        activation: Activation::GeluTanh,
        ..windows(llama())
    }
}

fn random(spec: &DecoderSpec) -> Decoder {
    tch::manual_seed(7);
    let options = (Kind::Float, Device::Cpu);
    let tensors = slots(spec)
        .iter()
        .map(|slot| Tensor::randn(&slot.shape, options) * 0.3)
        .collect();
    Decoder::new(spec.clone(), tensors)
}

/// Logits `[T, V]` of one sequence, all keys at hand.
fn full(decoder: &Decoder, ids: &[i64]) -> Tensor {
    let positions = Tensor::arange(ids.len() as i64, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    let mut attention = FullAttention::new(Visibility::Causal, &positions);
    let ids = Tensor::from_slice(ids).unsqueeze(0);
    decoder
        .logits(&decoder.forward(&ids, &positions, &mut attention))
        .squeeze_dim(0)
}

fn assert_near(got: &Tensor, want: &Tensor, what: &str) {
    let error = (got - want).abs().max().double_value(&[]);
    assert!(error < 1e-5, "{what}: logits differ by {error}");
}

fn sequence(seed: i64, length: usize) -> Vec<i64> {
    (0..length as i64)
        .map(|i| (i * i * 7 + i * 3 + seed * 11) % 50)
        .collect()
}

/// Prefills `sequences[..][..prompts[..]]` in one padded call and decodes the rest token by token,
/// each row until its own sequence ends.
fn check(spec: &DecoderSpec, prompts: &[usize], total: usize, what: &str) {
    let decoder = random(spec);
    let mut cache = KvCache::new(spec, Kind::Float, Device::Cpu);
    let sequences: Vec<_> = (0..prompts.len())
        .map(|row| sequence(row as i64, total))
        .collect();
    let wanted: Vec<_> = sequences.iter().map(|ids| full(&decoder, ids)).collect();
    let longest = *prompts.iter().max().unwrap();
    let padded: Vec<i64> = prompts
        .iter()
        .zip(&sequences)
        .flat_map(|(&prompt, ids)| (0..longest).map(move |i| if i < prompt { ids[i] } else { 0 }))
        .collect();
    let shape = [prompts.len() as i64, longest as i64];
    let positions = Tensor::arange(longest as i64, (Kind::Int64, Device::Cpu)).expand(shape, false);
    cache.begin_prefill(0, prompts.len(), longest);
    let hidden = decoder.forward(
        &Tensor::from_slice(&padded).view(shape),
        &positions,
        &mut cache,
    );
    let logits = decoder.logits(&hidden);
    for (row, &prompt) in prompts.iter().enumerate() {
        let got = logits.select(0, row as i64).narrow(0, 0, prompt as i64);
        assert_near(&got, &wanted[row].narrow(0, 0, prompt as i64), what);
    }
    let mut lengths: Vec<i64> = prompts.iter().map(|&prompt| prompt as i64).collect();
    while lengths.iter().all(|&length| length < total as i64) {
        let next: Vec<i64> = lengths
            .iter()
            .zip(&sequences)
            .map(|(&at, ids)| ids[at as usize])
            .collect();
        cache.begin_decode(&lengths);
        let ids = Tensor::from_slice(&next).unsqueeze(1);
        let positions = Tensor::from_slice(&lengths).unsqueeze(1);
        let logits = decoder.logits(&decoder.forward(&ids, &positions, &mut cache));
        for (row, length) in lengths.iter_mut().enumerate() {
            let got = logits.select(0, row as i64).squeeze_dim(0);
            assert_near(
                &got,
                &wanted[row].select(0, *length),
                &format!("{what}, token {length}"),
            );
            *length += 1;
        }
    }
}

#[test]
fn cached_logits_are_those_of_a_full_forward_pass() {
    let cases: [(&str, DecoderSpec); 7] = [
        ("grouped queries", llama()),
        (
            "a key head per query head",
            DecoderSpec {
                kv_heads: 4,
                ..llama()
            },
        ),
        (
            "one key head",
            DecoderSpec {
                kv_heads: 1,
                ..llama()
            },
        ),
        (
            "query and key norms",
            DecoderSpec {
                qk_norm: true,
                qkv_bias: true,
                ..llama()
            },
        ),
        ("windows", windows(llama())),
        (
            "soft-cap",
            DecoderSpec {
                attention_softcap: Some(2.0),
                ..llama()
            },
        ),
        ("soft-caps and windows", gemma2()),
    ];
    for (what, spec) in cases {
        check(&spec, &[6], 40, what);
        check(&spec, &[3, 11, 1, 8], 45, what);
    }
}

#[test]
fn kv_2_growing_keeps_what_rows_hold() {
    // 120 tokens fit the first allocation, 140 do not.
    check(&llama(), &[120, 90], 150, "a growing cache");
}

#[test]
fn a_copied_row_continues_like_its_original() {
    let spec = windows(llama());
    let decoder = random(&spec);
    let ids = sequence(3, 9);
    let mut cache = KvCache::new(&spec, Kind::Float, Device::Cpu);
    let positions = Tensor::arange(8, (Kind::Int64, Device::Cpu)).unsqueeze(0);
    cache.begin_prefill(0, 1, 8);
    let _ = decoder.forward(
        &Tensor::from_slice(&ids[..8]).unsqueeze(0),
        &positions,
        &mut cache,
    );
    cache.copy_row(0, 1, 8);
    cache.copy_row(1, 4, 8);
    cache.copy_row(4, 0, 8);
    cache.begin_decode(&[8, 8, 0, 0, 8]); // the rows between hold nothing
    let next = Tensor::from_slice(&[ids[8], ids[8], 1, 1, ids[8]]).unsqueeze(1);
    let positions = Tensor::from_slice(&[8i64, 8, 0, 0, 8]).unsqueeze(1);
    let logits = decoder
        .logits(&decoder.forward(&next, &positions, &mut cache))
        .squeeze_dim(1);
    let want = full(&decoder, &ids).select(0, 8);
    for row in [0, 1, 4] {
        assert_near(&logits.select(0, row), &want, "a copied row");
    }
}

#[test]
fn memory_is_what_the_formula_says() {
    let spec = llama();
    let mut cache = KvCache::new(&spec, Kind::BFloat16, Device::Cpu);
    assert_eq!(cache.capacity(), (0, 0));
    cache.reserve(3, 100);
    let (rows, tokens) = cache.capacity();
    let held: i64 = cache
        .layers
        .iter()
        .flat_map(|layer| [&layer.key, &layer.value])
        .map(|tensor| tensor.numel() as i64 * 2)
        .sum();
    assert_eq!(
        held as u64,
        KvCache::estimate_bytes(&spec, Kind::BFloat16, rows, tokens)
    );
    assert!(rows >= 3 && tokens >= 100);
    cache.clear();
    assert_eq!(cache.capacity(), (0, 0));
}

/// Rows get the beginnings of sequences from elsewhere, then all their other tokens in one padded
/// call, then one more by decoding.
#[test]
fn a_saved_prefix_is_extended_as_a_full_pass_would() {
    for (what, spec) in [
        ("grouped queries", llama()),
        ("windows", windows(llama())),
        ("soft-caps and windows", gemma2()),
    ] {
        let decoder = random(&spec);
        let (held, total) = ([9usize, 0, 4], [14usize, 5, 6]);
        let sequences: Vec<_> = (0..3).map(|row| sequence(row, 15)).collect();
        let mut cache = KvCache::new(&spec, Kind::Float, Device::Cpu);
        let mut prefixes = Vec::new();
        for ids in &sequences {
            let positions = Tensor::arange(12, (Kind::Int64, Device::Cpu)).unsqueeze(0);
            cache.begin_prefill(0, 1, 12);
            let ids = Tensor::from_slice(&ids[..12]).unsqueeze(0);
            let _ = decoder.forward(&ids, &positions, &mut cache);
            prefixes.push(cache.save_prefix(0, 10));
        }
        let first = 2;
        for (row, (prefix, &tokens)) in prefixes.iter().zip(&held).enumerate() {
            cache.load_prefix(prefix, first + row, tokens);
        }
        let new = 5;
        let lengths = held.map(|tokens| tokens as i64);
        let padded: Vec<i64> = (0..3)
            .flat_map(|row| {
                let ids = &sequences[row];
                (held[row]..held[row] + new).map(move |i| if i < total[row] { ids[i] } else { 0 })
            })
            .collect();
        let positions: Vec<i64> = lengths.iter().flat_map(|&l| l..l + new as i64).collect();
        let shape = [3, new as i64];
        cache.begin_extend(first, &lengths, new);
        let logits = decoder.logits(&decoder.forward(
            &Tensor::from_slice(&padded).view(shape),
            &Tensor::from_slice(&positions).view(shape),
            &mut cache,
        ));
        for row in 0..3 {
            let real = (total[row] - held[row]) as i64;
            let got = logits.select(0, row as i64).narrow(0, 0, real);
            let want = full(&decoder, &sequences[row]).narrow(0, held[row] as i64, real);
            assert_near(&got, &want, what);
        }
        let lengths: Vec<i64> = total.iter().map(|&tokens| tokens as i64).collect();
        let next: Vec<i64> = (0..3).map(|row| sequences[row][total[row]]).collect();
        cache.begin_extend(first, &lengths, 1);
        let logits = decoder.logits(&decoder.forward(
            &Tensor::from_slice(&next).unsqueeze(1),
            &Tensor::from_slice(&lengths).unsqueeze(1),
            &mut cache,
        ));
        for row in 0..3 {
            let want = full(&decoder, &sequences[row]).select(0, lengths[row]);
            assert_near(&logits.select(0, row as i64).squeeze_dim(0), &want, what);
        }
    }
}
