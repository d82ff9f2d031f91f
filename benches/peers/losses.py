"""Reference values of losses and advantages, as TRL and verl compute them.

    pip install -r requirements-losses.txt
    python losses.py OUT.json

Every expected value comes out of a function those packages publish, and every gradient out of
their own autograd graph; this script only draws inputs, pads them and writes down what came back.
Trainer methods are called on a stand-in that holds just the attributes they read, so that no model
is needed. Everything is computed in float64 (see `compute_in_double`).

The file holds `versions` and `cases`. Batches are ragged lists, one inner list per sample with one
number per token: the padding the peers need stays in here.
"""

import argparse
import json
import math
import random
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import torch
from transformers.loss.loss_utils import ForCausalLMLoss
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import entropy_from_logits, selective_log_softmax
from verl.trainer.config import RolloutCorrectionConfig
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
from verl.workers.config.actor import ActorConfig, PolicyLossConfig

SEED = 77
GROUP_SIZE = 4
CLIP_LOW = 0.2
CLIP_HIGH = 0.28
DUAL_CLIP = 3.0
# Stands for "no dual clip": verl always applies it, and no ratio drawn here comes near this.
NO_DUAL_CLIP = 1e6
# Both differ from what the padded batch would give, so that a test can tell them apart.
FIXED_LENGTH = 10
TOKENS_OF_WINDOW = 90
IS_THRESHOLD = 2.0
IGNORED = -100

# Where some loss here has a kink. A ratio that close to one would make the gradient hang on
# rounding, so none is drawn.
KINKS = (0.5, 0.8, 1.2, 1.28, 2.0, 3.0)
KINK_MARGIN = 0.005
# verl clamps its k3 to 10, which a log-ratio of 2.58 reaches. Other clamps of the peers lie
# further out.
MAX_LOG_RATIO = 2.3


# --- Precision ---------------------------------------------------------------------------------


def compute_in_double():
    """Make the peers compute in float64 throughout.

    They create tensors in the default type, and convert masks and logits with `.float()`, which is
    float32 whatever the default. Both are meant as "full precision", so both become float64.
    """
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double


# --- Inputs ------------------------------------------------------------------------------------


@dataclass
class Batch:
    """Samples of one policy update, group after group."""

    logprobs: list  # under the policy in training, the leaf of every gradient
    old: list  # under the policy that sampled
    ref: list  # under the reference
    rollout: list  # as the engine that sampled said, where `old` is recomputed
    rewards: list  # one list per group

    @property
    def lengths(self):
        return [len(tokens) for tokens in self.logprobs]

    def mask(self):
        width = max(self.lengths)
        return torch.tensor([[int(t < n) for t in range(width)] for n in self.lengths])

    def advantages(self):
        """GRPO advantages of the rewards, one per sample."""
        values, _ = core_algos.compute_grpo_outcome_advantage(**verl_rewards(self))
        return values[:, 0]


def distance_to_kink(ratio):
    return min(abs(ratio - kink) for kink in KINKS)


def draw_near(rng, logprob):
    """Another policy's log-probability of the same token, often inside the clip range."""
    while True:
        value = round(logprob + rng.gauss(0.0, rng.choice((0.15, 0.9))), 6)
        log_ratio = logprob - value
        in_range = -4.0 < value < -0.01 and abs(log_ratio) < MAX_LOG_RATIO
        if in_range and distance_to_kink(math.exp(log_ratio)) > KINK_MARGIN:
            return value


def draw_batch():
    """Three groups: mixed binary rewards, equal rewards, and rewards that are not binary."""
    rng = random.Random(SEED)
    rewards = [
        [1.0, 0.0, 0.0, 1.0],
        [1.0] * GROUP_SIZE,
        [round(rng.uniform(-0.5, 1.5), 6) for _ in range(GROUP_SIZE)],
    ]
    lengths = [rng.randint(2, 7) for _ in range(len(rewards) * GROUP_SIZE)]
    logprobs = [[round(rng.uniform(-3.5, -0.2), 6) for _ in range(n)] for n in lengths]
    old = [[draw_near(rng, x) for x in tokens] for tokens in logprobs]
    ref = [[draw_near(rng, x) for x in tokens] for tokens in logprobs]
    rollout = [[draw_near(rng, x) for x in tokens] for tokens in old]
    batch = Batch(logprobs, old, ref, rollout, rewards)
    check_coverage(batch)
    return batch


def clip_region(ratio):
    """Which side of the bounds of any loss here a ratio lies on."""
    bounds = (1 - CLIP_LOW, 1 + CLIP_LOW, 1 + CLIP_HIGH, DUAL_CLIP)
    return sum(ratio > bound for bound in bounds)


def check_coverage(batch):
    """Fail when the seed leaves a branch of the losses without a token."""
    tokens = set()
    for row, old_row, advantage in zip(batch.logprobs, batch.old, batch.advantages().tolist()):
        sign = (advantage > 0) - (advantage < 0)
        tokens.update((sign, clip_region(math.exp(new - old))) for new, old in zip(row, old_row))
    wanted = {(sign, region) for sign in (1, -1) for region in range(5)}
    assert wanted <= tokens, f"no token in {wanted - tokens}"


# --- Padding and gradients ---------------------------------------------------------------------


def pad(rows, fill=0.0):
    width = max(len(row) for row in rows)
    return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])


def unpad(tensor, lengths):
    return [row[:n] for row, n in zip(tensor.tolist(), lengths)]


def leaf(rows):
    return pad(rows).requires_grad_()


def gradients(value, tensor, lengths):
    """Gradient of a scalar by each token's number; padding must have none."""
    (gradient,) = torch.autograd.grad(value, tensor)
    rows = unpad(gradient, lengths)
    assert gradient.count_nonzero().item() == sum(x != 0 for row in rows for x in flatten(row))
    return rows


def flatten(value):
    return [x for v in value for x in flatten(v)] if isinstance(value, list) else [value]


def grouped(values):
    return [values[i : i + GROUP_SIZE] for i in range(0, len(values), GROUP_SIZE)]


def case(name, peer, function, settings, inputs, expected):
    return {
        "name": name,
        "peer": peer,
        "function": f"{function.__module__}.{function.__qualname__}",
        "settings": settings,
        "inputs": inputs,
        "expected": expected,
    }


# --- verl: advantages --------------------------------------------------------------------------


def verl_rewards(batch):
    """What verl's estimators take: the reward of a sample sits on its last token."""
    mask = batch.mask()
    rewards = torch.zeros(mask.shape)
    for i, (length, reward) in enumerate(zip(batch.lengths, flatten(batch.rewards))):
        rewards[i, length - 1] = reward
    index = np.repeat(np.arange(len(batch.rewards)), GROUP_SIZE)
    return {"token_level_rewards": rewards, "response_mask": mask, "index": index}


def one_per_sample(advantages, lengths):
    """All tokens of a sample share the advantage of an outcome."""
    rows = unpad(advantages, lengths)
    assert all(x == row[0] for row in rows for x in row)
    return grouped([row[0] for row in rows])


def advantage_cases(batch):
    grpo = core_algos.compute_grpo_outcome_advantage
    rloo = core_algos.compute_rloo_outcome_advantage
    plans = [
        ("advantage_grpo", grpo, {"norm_adv_by_std_in_grpo": True, "epsilon": 1e-6}),
        ("advantage_dr_grpo", grpo, {"norm_adv_by_std_in_grpo": False, "epsilon": 1e-6}),
        ("advantage_rloo", rloo, {}),
    ]
    for name, function, settings in plans:
        values, _ = function(**verl_rewards(batch), **settings)
        yield case(
            name,
            "verl",
            function,
            settings,
            {"rewards": batch.rewards, "tokens": grouped(batch.lengths)},
            {"advantages": one_per_sample(values, batch.lengths)},
        )


# --- verl: policy losses -----------------------------------------------------------------------


def actor_config(clip_low, clip_high, dual_clip, scale_factor, correction=None):
    return ActorConfig(
        strategy="fsdp",
        rollout_n=GROUP_SIZE,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio=clip_low,
        clip_ratio_low=clip_low,
        clip_ratio_high=clip_high,
        clip_ratio_c=NO_DUAL_CLIP if dual_clip is None else dual_clip,
        global_batch_info={"loss_scale_factor": scale_factor},
        policy_loss=PolicyLossConfig(rollout_correction=correction or RolloutCorrectionConfig()),
    )


def verl_policy_case(batch, name, function, settings, config):
    logprobs = leaf(batch.logprobs)
    mask = batch.mask()
    advantages = batch.advantages()
    loss, metrics = function(
        old_log_prob=pad(batch.old),
        log_prob=logprobs,
        advantages=advantages.unsqueeze(-1) * mask,
        response_mask=mask,
        loss_agg_mode=settings["loss_agg_mode"],
        config=config,
    )
    expected = {"loss": loss.item(), "gradients": gradients(loss, logprobs, batch.lengths)}
    expected["approx_kl"] = metrics["actor/ppo_kl"]
    if "actor/pg_clipfrac" in metrics:
        expected["clip_fraction"] = metrics["actor/pg_clipfrac"]
        expected["clip_fraction_lower"] = metrics["actor/pg_clipfrac_lower"]
    inputs = {
        "logprobs": batch.logprobs,
        "old_logprobs": batch.old,
        "advantages": advantages.tolist(),
    }
    return case(name, "verl", function, settings, inputs, expected)


def clipped_case(batch, name, clip, mode):
    low, high, dual = clip
    scale = FIXED_LENGTH if mode == "seq-mean-token-sum-norm" else None
    settings = {
        "clip_low": low,
        "clip_high": high,
        "dual_clip": dual,
        "loss_agg_mode": mode,
        "loss_scale_factor": scale,
    }
    config = actor_config(low, high, dual, scale)
    function = core_algos.compute_policy_loss_vanilla
    return verl_policy_case(batch, f"ppo_{name}_{mode}", function, settings, config)


def clipped_cases(batch):
    modes = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")
    symmetric = (CLIP_LOW, CLIP_LOW, None)
    asymmetric = (CLIP_LOW, CLIP_HIGH, None)
    dual = (CLIP_LOW, CLIP_HIGH, DUAL_CLIP)
    for name, clip in (("symmetric", symmetric), ("asymmetric", asymmetric), ("dual", dual)):
        for mode in modes:
            yield clipped_case(batch, name, clip, mode)


def reinforce_cases(batch):
    """REINFORCE, plain and with truncated importance weights the loss works out itself."""
    for name, cap in (("plain", None), ("truncated", IS_THRESHOLD)):
        correction = RolloutCorrectionConfig(
            loss_type="reinforce",
            rollout_is=None if cap is None else "token",
            rollout_is_threshold=IS_THRESHOLD,
            rollout_rs=None,
        )
        config = actor_config(CLIP_LOW, CLIP_LOW, None, None, correction)
        for mode in ("token-mean", "seq-mean-token-mean"):
            settings = {"importance_cap": cap, "loss_agg_mode": mode}
            yield verl_policy_case(
                batch,
                f"reinforce_{name}_{mode}",
                core_algos.compute_policy_loss_bypass_mode,
                settings,
                config,
            )


# --- verl: KL estimates and importance weights -------------------------------------------------


def kl_cases(batch):
    for name, penalty in (("k1", "kl"), ("k2", "mse"), ("k3", "low_var_kl")):
        logprobs = leaf(batch.logprobs)
        values = core_algos.kl_penalty(logprobs, pad(batch.ref), penalty)
        total = (values * batch.mask()).sum()
        yield case(
            f"kl_{name}",
            "verl",
            core_algos.kl_penalty,
            {"kl_penalty": penalty},
            {"logprobs": batch.logprobs, "ref_logprobs": batch.ref},
            {
                "values": unpad(values, batch.lengths),
                "gradients": gradients(total, logprobs, batch.lengths),
            },
        )


def importance_cases(batch):
    """Truncated weights (one bound) and masked weights (two bounds, written "lower_upper")."""
    log_ratio = pad(batch.logprobs) - pad(batch.old)
    inputs = {"logprobs": batch.logprobs, "old_logprobs": batch.old}
    plans = (
        ("truncated", str(IS_THRESHOLD)),
        ("masked", f"0.5_{IS_THRESHOLD}"),
    )
    for name, threshold in plans:
        weights, _ = compute_rollout_correction_weights(
            log_ratio, batch.mask(), rollout_is="token", rollout_is_threshold=threshold
        )
        yield case(
            f"importance_{name}",
            "verl",
            compute_rollout_correction_weights,
            {"rollout_is": "token", "rollout_is_threshold": threshold},
            inputs,
            {"weights": unpad(weights, batch.lengths)},
        )


def decoupled_cases(batch):
    """The clip on recomputed old log-probabilities, with weights for what the engine said beside it."""
    function = core_algos.compute_policy_loss_vanilla
    plans = (("truncated", str(IS_THRESHOLD)), ("masked", f"0.5_{IS_THRESHOLD}"))
    for name, threshold in plans:
        weights, _ = compute_rollout_correction_weights(
            pad(batch.old) - pad(batch.rollout),
            batch.mask(),
            rollout_is="token",
            rollout_is_threshold=threshold,
        )
        logprobs = leaf(batch.logprobs)
        advantages = batch.advantages()
        loss, _ = function(
            old_log_prob=pad(batch.old),
            log_prob=logprobs,
            advantages=advantages.unsqueeze(-1) * batch.mask(),
            response_mask=batch.mask(),
            loss_agg_mode="token-mean",
            config=actor_config(CLIP_LOW, CLIP_HIGH, DUAL_CLIP, None),
            rollout_is_weights=weights,
        )
        yield case(
            f"decoupled_{name}",
            "verl",
            function,
            {
                "clip_low": CLIP_LOW,
                "clip_high": CLIP_HIGH,
                "dual_clip": DUAL_CLIP,
                "rollout_is_threshold": threshold,
                "loss_agg_mode": "token-mean",
            },
            {
                "logprobs": batch.logprobs,
                "old_logprobs": batch.old,
                "rollout_logprobs": batch.rollout,
                "advantages": advantages.tolist(),
            },
            {"loss": loss.item(), "gradients": gradients(loss, logprobs, batch.lengths)},
        )


# --- TRL: what every trainer stand-in needs ----------------------------------------------------


def trainer(**attributes):
    """Stands in for a trainer in training, on one process, without gradient accumulation."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        parallelism_config=None,
        gather=lambda value: value,
        gather_for_metrics=lambda value: value,
        reduce=lambda value, reduction: value,
    )
    return SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        aux_loss_enabled=False,
        current_gradient_accumulation_steps=1,
        _metrics={"train": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        **attributes,
    )


def metric(stand_in, name):
    (value,) = stand_in._metrics["train"][name]
    return value


# --- TRL: GRPO ---------------------------------------------------------------------------------


def grpo_trainer(settings, logprobs):
    arguments = SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1)
    entropies = torch.zeros(logprobs.shape)  # logged only
    return trainer(
        args=arguments,
        loss_type=settings["loss_type"],
        beta=settings["beta"],
        epsilon_low=settings["epsilon_low"],
        epsilon_high=settings["epsilon_high"],
        importance_sampling_level="token",
        max_completion_length=settings["max_completion_length"],
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, entropies, None),
    )


def grpo_case(batch, loss_type, beta):
    settings = {
        "loss_type": loss_type,
        "beta": beta,
        "epsilon_low": CLIP_LOW,
        "epsilon_high": CLIP_HIGH,
        "max_completion_length": FIXED_LENGTH,
        "num_items_in_batch": TOKENS_OF_WINDOW,
    }
    logprobs, mask, advantages = leaf(batch.logprobs), batch.mask(), batch.advantages()
    stand_in = grpo_trainer(settings, logprobs)
    prompt = torch.ones((len(batch.lengths), 1), dtype=torch.long)
    tensors = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": mask,  # any ids: the stand-in for the model does not look at them
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": pad(batch.old),
        "ref_per_token_logps": pad(batch.ref),
        "num_items_in_batch": torch.tensor(TOKENS_OF_WINDOW),
    }
    loss = GRPOTrainer._compute_loss(stand_in, stand_in.model, tensors)
    expected = {
        "loss": loss.item(),
        "gradients": gradients(loss, logprobs, batch.lengths),
        "clip_fraction_low": metric(stand_in, "clip_ratio/low_mean"),
        "clip_fraction_high": metric(stand_in, "clip_ratio/high_mean"),
        "clip_fraction": metric(stand_in, "clip_ratio/region_mean"),
    }
    inputs = {
        "logprobs": batch.logprobs,
        "old_logprobs": batch.old,
        "advantages": advantages.tolist(),
    }
    if beta:
        inputs["ref_logprobs"] = batch.ref
        expected["kl"] = metric(stand_in, "kl")
    name = f"{loss_type}_beta{beta}"
    return case(name, "trl", GRPOTrainer._compute_loss, settings, inputs, expected)


def grpo_cases(batch):
    for beta in (0.0, 0.05):
        for loss_type in ("grpo", "dr_grpo", "bnpo", "dapo"):
            yield grpo_case(batch, loss_type, beta)


# --- TRL: DPO ----------------------------------------------------------------------------------


@dataclass
class Pair:
    """Log-probabilities and token counts of (chosen, rejected) completions."""

    policy: tuple
    reference: tuple
    tokens: tuple


def draw_pairs(count=6, spread=7.0):
    rng = random.Random(SEED)

    def draw():
        policy = tuple(round(rng.uniform(-30.0, -8.0), 6) for _ in range(2))
        reference = tuple(round(min(p + rng.gauss(0.0, spread), -1.0), 6) for p in policy)
        return Pair(policy, reference, tuple(rng.randint(3, 9) for _ in range(2)))

    pairs = [draw() for _ in range(count)]
    margins = [p[0] - r[0] - p[1] + r[1] for p, r in ((q.policy, q.reference) for q in pairs)]
    assert min(margins) < 0 < max(margins)
    return pairs


def halves(rows):
    """TRL stacks all chosen completions on top of all rejected ones."""
    return [row[0] for row in rows] + [row[1] for row in rows]


def dpo_outputs(sums, width):
    """Model outputs whose completions have the given summed log-probabilities.

    The loss only sees the sum over a completion, so its first token carries all of it.
    """
    rest = torch.zeros((sums.shape[0], width - 1))
    log_probs = torch.cat([sums.unsqueeze(1), rest], dim=1)
    logged = torch.zeros(log_probs.shape)
    return SimpleNamespace(
        log_probs=log_probs, entropy=logged, mean_logits=logged, is_top1=logged.bool()
    )


def dpo_loss(settings, pairs, sums):
    """The mean loss of the pairs, with `sums` as the policy's log-probabilities."""
    tokens = halves([pair.tokens for pair in pairs])
    width = max(tokens)
    completion = torch.tensor([[0] + [int(t < n) for t in range(width)] for n in tokens])
    references = torch.tensor(halves([pair.reference for pair in pairs]))
    stand_in = trainer(
        loss_types=[settings["loss_type"]],
        loss_weights=[1.0],
        beta=settings["beta"],
        label_smoothing=settings["label_smoothing"],
        f_divergence_type="reverse_kl",
        precompute_ref_logps=True,
        ld_alpha=None,
        use_weighting=False,
    )
    inputs = {
        "input_ids": torch.ones_like(completion),
        "attention_mask": torch.ones_like(completion),
        "completion_mask": completion,
        "ref_chosen_logps": references[: len(pairs)],
        "ref_rejected_logps": references[len(pairs) :],
    }
    return DPOTrainer._compute_loss(
        stand_in, lambda **_: dpo_outputs(sums, width), inputs, return_outputs=False
    )


def dpo_case(pairs, loss_type, smoothing):
    settings = {"loss_type": loss_type, "beta": 0.1, "label_smoothing": smoothing}
    losses, slopes = [], []
    for pair in pairs:  # one call per pair, because the trainer returns the mean of a batch
        sums = torch.tensor(pair.policy).requires_grad_()
        loss = dpo_loss(settings, [pair], sums)
        (gradient,) = torch.autograd.grad(loss, sums)
        losses.append(loss.item())
        slopes.append(gradient.tolist())
    expected = {
        "losses": losses,
        "chosen_gradients": [s[0] for s in slopes],
        "rejected_gradients": [s[1] for s in slopes],
    }
    if loss_type != "aot":  # sorts within the batch, so only for one pair is it the loss of pairs
        batch_sums = torch.tensor(halves([pair.policy for pair in pairs]))
        expected["mean_loss"] = dpo_loss(settings, pairs, batch_sums).item()
    inputs = {
        "chosen": [p.policy[0] for p in pairs],
        "rejected": [p.policy[1] for p in pairs],
        "ref_chosen": [p.reference[0] for p in pairs],
        "ref_rejected": [p.reference[1] for p in pairs],
        "chosen_tokens": [p.tokens[0] for p in pairs],
        "rejected_tokens": [p.tokens[1] for p in pairs],
    }
    return case(f"dpo_{loss_type}", "trl", DPOTrainer._compute_loss, settings, inputs, expected)


def dpo_cases():
    """TRL smooths labels in `aot`, which for a single pair is conservative DPO."""
    pairs = draw_pairs()
    for loss_type, smoothing in (("sigmoid", 0.0), ("aot", 0.1)):
        yield dpo_case(pairs, loss_type, smoothing)


# --- TRL and transformers: cross-entropy -------------------------------------------------------


def draw_logits(lengths=(4, 6, 3), vocabulary=7):
    """Logits at each position with the token each should predict; some are not to be learned."""
    rng = random.Random(SEED)

    def draw():
        return [round(rng.gauss(0.0, 2.0), 6) for _ in range(vocabulary)]

    logits = [[draw() for _ in range(n)] for n in lengths]
    labels = [[rng.randrange(vocabulary) for _ in range(n)] for n in lengths]
    for i, j in ((0, 0), (1, 0), (1, 1), (2, 2)):
        labels[i][j] = IGNORED
    return logits, labels


def pad_logits(logits):
    vocabulary = len(logits[0][0])
    return pad(logits, fill=[0.0] * vocabulary).requires_grad_()


def sft_outputs(logits, labels):
    """What the language-model head of TRL returns, which itself works in float32 only."""
    mask = labels != IGNORED
    index = labels.clamp(min=0)
    return SimpleNamespace(
        log_probs=selective_log_softmax(logits, index, row_mask=mask),
        entropy=entropy_from_logits(logits).masked_fill(~mask, 0.0),
        is_top1=(logits.argmax(-1) == index) & mask,
        label_mask=mask,
    )


def trl_cross_entropy(logits, labels):
    arguments = SimpleNamespace(loss_type="nll", average_tokens_across_devices=False)
    stand_in = trainer(args=arguments, compute_loss_func=None, label_smoother=None)
    inputs = {"labels": labels, "attention_mask": torch.ones_like(labels)}
    loss = SFTTrainer.compute_loss(stand_in, lambda **_: sft_outputs(logits, labels), inputs)
    return loss, {"mean_entropy": metric(stand_in, "entropy")}


def transformers_cross_entropy(logits, labels):
    # `shift_labels` says that labels are aligned with the logits that predict them.
    loss = ForCausalLMLoss(logits, None, logits.shape[-1], shift_labels=labels)
    return loss, {}


def sft_cases():
    logits, labels = draw_logits()
    lengths = [len(row) for row in labels]
    padded_labels = pad(labels, fill=IGNORED)
    plans = (
        ("trl", SFTTrainer.compute_loss, trl_cross_entropy),
        ("transformers", ForCausalLMLoss, transformers_cross_entropy),
    )
    for peer, function, compute in plans:
        tensor = pad_logits(logits)
        loss, extra = compute(tensor, padded_labels)
        yield case(
            f"sft_{peer}",
            peer,
            function,
            {"ignore_index": IGNORED},
            {"logits": logits, "labels": labels},
            {"loss": loss.item(), "gradients": gradients(loss, tensor, lengths), **extra},
        )
    entropy = entropy_from_logits(pad_logits(logits).detach())
    yield case(
        "entropy",
        "trl",
        entropy_from_logits,
        {},
        {"logits": logits},
        {"entropy": unpad(entropy, lengths)},
    )


# --- Output ------------------------------------------------------------------------------------


def all_cases():
    batch = draw_batch()
    yield from advantage_cases(batch)
    yield from clipped_cases(batch)
    yield from reinforce_cases(batch)
    yield from kl_cases(batch)
    yield from importance_cases(batch)
    yield from decoupled_cases(batch)
    yield from grpo_cases(batch)
    yield from dpo_cases()
    yield from sft_cases()


def write(path, cases):
    """One case a line, so that a change of one shows as a change of one line."""
    packages = ("torch", "transformers", "trl", "verl")
    versions = json.dumps({package: version(package) for package in packages})
    lines = ",\n".join(json.dumps(c, allow_nan=False, separators=(",", ":")) for c in cases)
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'{{"versions":{versions},\n"cases":[\n{lines}\n]}}\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", help="the JSON file to write")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    compute_in_double()
    write(out, list(all_cases()))


if __name__ == "__main__":
    main()
