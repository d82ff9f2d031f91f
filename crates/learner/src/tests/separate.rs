//! What packed steps are compared with: the model's plain forward, one sequence at a time, and
//! libtorch's autograd.

use super::*;
use algo::advantage::Baseline;

/// Rewards of 1 with no baseline: every action pulls by its own log-probabilities.
pub(crate) fn plain_policy() -> LearnerConfig {
    LearnerConfig {
        baseline: Baseline::None,
        temperature: 0.7,
        ..config()
    }
}

/// What the model's plain forward says of one action: one number for each of its tokens.
pub(crate) struct Separate {
    pub logprobs: Tensor,
    pub entropies: Tensor,
    pub behaviour: Tensor,
    pub reward: f64,
}

/// The gradient of `loss` by the model's plain forward, one sequence at a time, and libtorch's
/// autograd.
pub(crate) fn separate_gradient(
    learner: &mut Learner,
    groups: &[StateGroup],
    loss: impl Fn(&[Separate]) -> Tensor,
) -> Vec<f32> {
    let decoder = learner.decoder();
    let temperature = f64::from(learner.config().temperature);
    let actions: Vec<Separate> = groups
        .iter()
        .flat_map(|g| g.samples.iter().map(move |s| (g, s)))
        .map(|(group, sample)| {
            let ids: Vec<i64> = group
                .prompt
                .iter()
                .chain(&sample.tokens)
                .map(|t| i64::from(*t))
                .collect();
            let positions: Vec<i64> = (0..ids.len() as i64).collect();
            let positions = Tensor::from_slice(&positions).unsqueeze(0);
            let ids = Tensor::from_slice(&ids).unsqueeze(0);
            let mut attention = model::FullAttention::new(model::Visibility::Causal, &positions);
            let hidden = decoder.forward(&ids, &positions, &mut attention);
            let (start, count) = (group.prompt.len() as i64, sample.tokens.len() as i64);
            let logprobs = (decoder.logits(&hidden) / temperature)
                .log_softmax(-1, Kind::Float)
                .narrow(1, start - 1, count);
            let entropies = -(logprobs.exp() * &logprobs).sum_dim_intlist(
                [-1i64].as_slice(),
                false,
                Kind::Float,
            );
            let labels = ids.narrow(1, start, count).unsqueeze(2);
            Separate {
                logprobs: logprobs.gather(2, &labels, false).view(-1),
                entropies: entropies.view(-1),
                behaviour: Tensor::from_slice(&sample.logprobs),
                reward: f64::from(sample.reward),
            }
        })
        .collect();
    let loss = loss(&actions);
    let trained: Vec<_> = decoder
        .parameters()
        .iter()
        .chain(decoder.adapter_parameters())
        .filter(|p| p.tensor.requires_grad())
        .collect();
    let leaves: Vec<&Tensor> = trained.iter().map(|p| &p.tensor).collect();
    let found = Tensor::run_backward(&[loss], &leaves, false, false);
    tch::no_grad(|| {
        for (parameter, gradient) in trained.iter().zip(found) {
            let mut sum = learner.flat.gradient_of(&parameter.slot.name).unwrap();
            sum += gradient;
        }
    });
    take_gradient(learner)
}

/// Sum over all tokens of what `of` makes of an action, divided by their number.
pub(crate) fn token_mean(actions: &[Separate], of: impl Fn(&Separate) -> Tensor) -> Tensor {
    let tokens: i64 = actions.iter().map(|a| a.logprobs.size()[0]).sum();
    let sum: Tensor = actions.iter().map(|a| of(a).sum(Kind::Float)).sum();
    sum / tokens as f64
}

/// Two states of one trajectory and one of another, whose actions were sampled elsewhere: some
/// tokens got likelier since, some less likely.
pub(crate) fn stale_groups() -> Vec<StateGroup> {
    let later = [3, 4, 5, 6, 7, 11];
    let mut groups = vec![
        group(
            &later[..3],
            &[(&[6, 7], 1.0), (&[8, 1, 2], -0.5), (&[6, 9], 0.3)],
        ),
        group(&later, &[(&[9, 9, 1, 2], -1.0), (&[8], 0.8)]),
        group(&[12, 13], &[(&[1, 2, 3], 0.7), (&[1, 3], -0.9)]),
    ];
    groups[1].trajectory_id = groups[0].trajectory_id.clone();
    let mut place: f32 = 0.0;
    for logprob in groups
        .iter_mut()
        .flat_map(|g| &mut g.samples)
        .flat_map(|s| &mut s.logprobs)
    {
        place += 1.0;
        *logprob = -3.4 + 1.5 * (place * 1.3).sin();
    }
    groups
}
