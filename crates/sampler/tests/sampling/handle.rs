//! The async front: many callers, one engine, weights that change between requests.

use crate::support::{engine, random, sampled, serve};
use model::{DeviceHandle, DeviceThread, snapshot};
use proto::{GenerateRequest, SnapshotScope, WeightVersion};
use sampler::{GenerateError, PublishError, RequestError, SamplerHandle};
use std::sync::Arc;

fn start(max_batch: usize) -> (SamplerHandle, DeviceHandle) {
    let device = DeviceThread::spawn("device", 4).unwrap().handle();
    (
        SamplerHandle::spawn(engine(random(1), max_batch), device.clone()),
        device,
    )
}

fn requests() -> Vec<GenerateRequest> {
    (0..10)
        .map(|seed| sampled(seed, &[1 + seed as u32, 2, 3][..1 + seed as usize % 3], 2))
        .collect()
}

#[tokio::test]
async fn callers_get_their_own_completions() {
    let (sampler, _device) = start(8);
    let expected = serve(&mut engine(random(1), 8), &requests());
    let calls = requests()
        .into_iter()
        .map(|request| sampler.generate(request));
    for (got, want) in futures::future::join_all(calls)
        .await
        .into_iter()
        .zip(expected)
    {
        let tokens = |list: &[proto::Completion]| -> Vec<_> {
            list.iter()
                .map(|completion| completion.tokens.clone())
                .collect()
        };
        assert_eq!(tokens(&got.unwrap()), tokens(&want));
    }
    let stats = sampler.stats().await.unwrap();
    assert_eq!(stats.completions, 20);
    // They were decoded together: one after the other would take a step for each token.
    assert!(stats.decode_steps < stats.sampled_tokens / 2, "{stats:?}");
}

#[tokio::test]
async fn a_bad_request_is_refused_and_the_next_is_served() {
    let (sampler, _device) = start(2);
    let refused = sampler.generate(sampled(1, &[], 1)).await;
    assert_eq!(
        refused,
        Err(GenerateError::Request(RequestError::EmptyPrompt))
    );
    assert_eq!(
        sampler.generate(sampled(1, &[1], 3)).await.unwrap().len(),
        3
    );
}

#[tokio::test]
async fn a_publication_parts_old_requests_from_new_ones() {
    let (sampler, _device) = start(3);
    let (before, published, after) = tokio::join!(
        biased;
        futures::future::join_all(requests().into_iter().map(|r| sampler.generate(r))),
        sampler.publish(snapshot(&random(2), WeightVersion(5), SnapshotScope::All)),
        futures::future::join_all(requests().into_iter().map(|r| sampler.generate(r))),
    );
    published.unwrap();
    let mut expected = serve(&mut engine(random(2), 3), &requests());
    expected
        .iter_mut()
        .flatten()
        .for_each(|c| c.weight_version = WeightVersion(5));
    for list in before {
        assert!(
            list.unwrap()
                .iter()
                .all(|c| c.weight_version == WeightVersion(0))
        );
    }
    for (got, want) in after.into_iter().zip(expected) {
        for (got, want) in got.unwrap().iter().zip(want) {
            assert_eq!(
                (&got.tokens, got.weight_version),
                (&want.tokens, WeightVersion(5))
            );
        }
    }
}

#[tokio::test]
async fn a_damaged_publication_is_refused_and_the_old_weights_serve() {
    let (sampler, _device) = start(3);
    let expected = sampler.generate(sampled(1, &[1, 2], 2)).await.unwrap();
    let mut half = snapshot(&random(2), WeightVersion(1), SnapshotScope::All);
    half.bytes = Arc::new(half.bytes[..half.bytes.len() / 2].to_vec());
    assert!(matches!(
        sampler.publish(half).await,
        Err(PublishError::Weights(_))
    ));
    assert_eq!(
        sampler.generate(sampled(1, &[1, 2], 2)).await.unwrap(),
        expected
    );
}

#[tokio::test]
async fn a_caller_that_leaves_frees_the_engine() {
    let (sampler, device) = start(2);
    let mut left = Box::pin(sampler.generate(sampled(1, &[1, 2], 50)));
    assert!(futures::poll!(left.as_mut()).is_pending());
    drop(left);
    let served = sampler.generate(sampled(2, &[3], 1)).await.unwrap();
    assert_eq!(served.len(), 1);
    // A publication waits until nothing is decoded: without the abort it would wait for the fifty.
    sampler
        .publish(snapshot(&random(2), WeightVersion(1), SnapshotScope::All))
        .await
        .unwrap();
    assert!(sampler.stats().await.unwrap().completions < 50);
    drop(sampler);
    assert_eq!(device.run(|| 1).await, Ok(1));
}
