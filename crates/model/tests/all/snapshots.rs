//! Snapshots are applied whole or not at all (SN-1).

use crate::support::fixture;
use model::{ApplyError, Decoder, load, snapshot, snapshot_of};
use proto::{SnapshotScope, WeightManifest, WeightSnapshot, WeightVersion};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

fn tiny(kind: Kind) -> Decoder {
    load(&fixture("gemma2"), Device::Cpu, kind).unwrap()
}

/// Moves every weight.
fn shift(decoder: &Decoder) {
    tch::no_grad(|| {
        for parameter in decoder.parameters() {
            let _ = parameter.tensor.shallow_clone().g_add_scalar_(0.5);
        }
    });
}

fn values(decoder: &Decoder) -> Vec<Tensor> {
    decoder
        .parameters()
        .iter()
        .map(|parameter| parameter.tensor.copy())
        .collect()
}

#[test]
fn a_snapshot_brings_the_weights_over() {
    for (from, to) in [
        (Kind::Float, Kind::Float),
        (Kind::Float, Kind::BFloat16),
        (Kind::BFloat16, Kind::BFloat16),
    ] {
        let (learner, mut sampler) = (tiny(from), tiny(to));
        shift(&learner);
        let snapshot = snapshot(&learner, WeightVersion(3), SnapshotScope::All);
        assert_eq!(snapshot.manifest.version, WeightVersion(3));
        sampler.apply(&snapshot).unwrap();
        for (a, b) in learner.parameters().iter().zip(sampler.parameters()) {
            assert_eq!(a.tensor.to_kind(to), b.tensor, "{}", a.slot.name);
        }
    }
}

#[test]
fn masters_in_f32_may_be_sent_in_bf16() {
    let (learner, mut sampler) = (tiny(Kind::Float), tiny(Kind::BFloat16));
    shift(&learner);
    let full = snapshot_of(learner.parameters(), Kind::Float, WeightVersion(1));
    let half = snapshot_of(learner.parameters(), Kind::BFloat16, WeightVersion(1));
    assert_eq!(half.bytes.len() * 2, full.bytes.len());
    sampler.apply(&half).unwrap();
    let expected = values(&sampler);
    sampler.apply(&full).unwrap();
    assert_eq!(values(&sampler), expected);
}

type Expected<'a> = &'a dyn Fn(&ApplyError) -> bool;

/// Logits in f32: those that the same weights in f32 have, up to what the layers below round; and they
/// follow new weights.
#[test]
fn a_wide_head_follows_new_weights() {
    let hidden = Tensor::randn([5, 8], (Kind::Float, Device::Cpu));
    let learner = tiny(Kind::BFloat16);
    let width = learner.spec().hidden_size;
    let hidden = hidden
        .repeat([1, 1 + width / 8])
        .narrow(1, 0, width)
        .to_kind(Kind::BFloat16);
    shift(&learner);
    let mut sampler = tiny(Kind::BFloat16);
    sampler.widen_head();
    assert_eq!(sampler.logits(&hidden).kind(), Kind::Float);
    sampler
        .apply(&snapshot(&learner, WeightVersion(1), SnapshotScope::All))
        .unwrap();
    let mut exact = tiny(Kind::Float);
    exact
        .apply(&snapshot(&learner, WeightVersion(1), SnapshotScope::All))
        .unwrap();
    let expected = exact.logits(&hidden.to_kind(Kind::Float));
    assert!(
        sampler
            .logits(&hidden)
            .allclose(&expected, 1e-5, 1e-5, false)
    );
    let rounded = learner.logits(&hidden).to_kind(Kind::Float);
    assert!(!rounded.allclose(&expected, 1e-5, 1e-5, false));
}

/// A version is served only when complete: a refused snapshot leaves every weight as it was.
#[test]
fn sn_1_nothing_half_applied() {
    let learner = tiny(Kind::Float);
    shift(&learner);
    let good = snapshot(&learner, WeightVersion(1), SnapshotScope::All);
    let with = |change: &dyn Fn(&mut WeightManifest, &mut Vec<u8>)| {
        let (mut manifest, mut bytes) = ((*good.manifest).clone(), (*good.bytes).clone());
        change(&mut manifest, &mut bytes);
        WeightSnapshot {
            manifest: Arc::new(manifest),
            bytes: Arc::new(bytes),
        }
    };
    let damaged = ApplyError::Damaged {
        version: WeightVersion(1),
    };
    let last = good.manifest.tensors.len() - 1;
    let name = good.manifest.tensors[last].name.clone();
    let unfit =
        |error: &ApplyError| matches!(error, ApplyError::Unfit { name: n, .. } if *n == name);
    let cases: [(&str, WeightSnapshot, Expected); 8] = [
        (
            "a flipped bit",
            with(&|_, bytes| *bytes.last_mut().unwrap() ^= 1),
            &|e| *e == damaged,
        ),
        (
            "bytes missing",
            with(&|_, bytes| bytes.truncate(bytes.len() - 4)),
            &|e| *e == damaged,
        ),
        ("bytes too many", with(&|_, bytes| bytes.push(0)), &|e| {
            *e == damaged
        }),
        (
            "renamed",
            with(&|m, _| m.tensors[last].name = "other".into()),
            &|e| *e == ApplyError::Missing(name.clone()),
        ),
        (
            "another shape",
            with(&|m, _| m.tensors[last].shape[0] += 1),
            &unfit,
        ),
        (
            "another type",
            with(&|m, _| m.tensors[last].dtype = "f16".into()),
            &unfit,
        ),
        (
            "unknown type",
            with(&|m, _| m.tensors[last].dtype = "i8".into()),
            &unfit,
        ),
        (
            "one too many",
            with(&|m, _| {
                let mut extra = m.tensors[0].clone();
                extra.name = "extra".into();
                m.tensors.push(extra);
            }),
            &|e| *e == ApplyError::Unexpected("extra".into()),
        ),
    ];
    for (what, snapshot, expected) in cases {
        let mut sampler = tiny(Kind::Float);
        let before = values(&sampler);
        let error = sampler.apply(&snapshot).unwrap_err();
        assert!(expected(&error), "{what}: {error}");
        assert_eq!(values(&sampler), before, "{what}");
    }
}
