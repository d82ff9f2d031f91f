"""Trains SmolLM2 on CPU with TRL and transformers, one command at a time.

    pip install -r requirements-learner.txt
    python learner.py MODEL_DIR WORK.json --kind grpo --threads 2

The peer of a trainer in a benchmark. A driver sends one JSON command a line and reads one JSON
answer a line, so that it can let two programs take turns on one machine:

    {"op": "step", "items": [0, 1]}            one optimizer step, and how long it took
    {"op": "gradient", "items": [0], "out": F} writes the gradient to F, changes no weight
    {"op": "quit"}                             or end of input

The first line out says `ready`; an error is one last line and exit code 1. Whatever libraries print
goes to stderr. WORK.json holds

    {"temperature": 1.0,
     "states": [{"prompt": [ids], "actions": [[ids]], "logprobs": [[numbers]],
                 "advantages": [numbers]}],
     "dialogues": [[ids]]}

Items of kind `grpo` index `states`: every action of a state is one sequence, and the loss is the
one of TRL's GRPOTrainer without KL and entropy terms, averaged over all action tokens of a command.
It takes the sampling policy to be the current one unless told otherwise; its gradient is then that
of REINFORCE, and its value the mean advantage with its sign turned. Items of kind `sft` index
`dialogues`: every token but the first is learned, and the loss is the model's own cross-entropy,
averaged over all learned tokens of a command.

Weights, gradients and AdamW are float32; the forward pass runs under bfloat16 autocast.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version

import torch
import trl.trainer.utils
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import pad

PACKAGES = ("torch", "transformers", "trl", "accelerate")
IGNORED = -100
CLIP = 0.2
MAX_GRADIENT_NORM = 1.0


# --- Model -------------------------------------------------------------------------------------


def load_model(args):
    model = AutoModelForCausalLM.from_pretrained(
        args.model, dtype=torch.float32, attn_implementation=args.attention
    )
    model.config.use_cache = False
    # Its embedding gives the padding token no gradient, and here that is the token which ends every
    # turn. With one the gradients of two programs can be compared; it costs nothing.
    model.get_input_embeddings().padding_idx = None
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def padded(rows, side, value):
    return pad([torch.tensor(row) for row in rows], padding_value=value, padding_side=side)


def padded_ids(rows, side, pad_token):
    """Token ids and the mask that says which of them are no padding."""
    mask = padded([[1] * len(row) for row in rows], side, 0)
    return padded(rows, side, pad_token), mask


# --- GRPO --------------------------------------------------------------------------------------


@dataclass
class Rollout:
    """One action in one state."""

    prompt: list
    action: list
    logprobs: list
    advantage: float

    @property
    def tokens(self):
        return len(self.prompt) + len(self.action)

    @property
    def trained(self):
        return len(self.action)


def score_completions_only():
    """Let TRL's language-model head skip positions whose log-probability nobody asks for.

    TRL does so by itself on CUDA and XPU. Elsewhere it scores the prompts too, to keep shapes the
    same for devices that compile per shape, which a CPU has no use for. This name decides nothing
    else: the kernels look at their own one, and go on in plain torch.
    """
    trl.trainer.utils._use_triton = lambda device: True


class Grpo:
    def __init__(self, args, model, tokenizer, work, folder):
        if not args.stock_head:
            score_completions_only()
        self.model = model
        self.pad_token = tokenizer.pad_token_id
        self.states = work["states"]
        self.off_policy = args.off_policy
        self.trainer = grpo_trainer(args, model, tokenizer, work["temperature"], folder)

    def sequences(self, items):
        """Rollouts in an order whose neighbours share a prompt, or at least nearly its length."""
        states = sorted((self.states[i] for i in items), key=lambda s: -len(s["prompt"]))
        return [rollout for state in states for rollout in rollouts(state)]

    def loss(self, batch, trained):
        prompt_ids, prompt_mask = padded_ids([r.prompt for r in batch], "left", self.pad_token)
        action_ids, action_mask = padded_ids([r.action for r in batch], "right", self.pad_token)
        old = padded([r.logprobs for r in batch], "right", 0.0) if self.off_policy else None
        inputs = {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": action_ids,
            "completion_mask": action_mask,
            "advantages": torch.tensor([r.advantage for r in batch]),
            "old_per_token_logps": old,
            "num_items_in_batch": torch.tensor(trained),
        }
        loss = self.trainer.compute_loss(self.model, inputs)
        self.trainer._metrics["train"].clear()  # would grow for as long as nothing logs them
        return loss


def rollouts(state):
    rows = zip(state["actions"], state["logprobs"], state["advantages"], strict=True)
    found = [Rollout(state["prompt"], *row) for row in rows]
    return sorted(found, key=lambda r: -r.tokens)


def grpo_trainer(args, model, tokenizer, temperature, folder):
    """A trainer that is only asked for losses: it neither samples nor scores nor steps."""
    config = GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=args.dtype == "bf16",
        gradient_checkpointing=args.gradient_checkpointing,
        temperature=temperature,
        loss_type="dapo",
        beta=0.0,
        epsilon=CLIP,
        epsilon_high=CLIP,
        steps_per_generation=1,
        report_to="none",
    )
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": [""]}),
    )
    # `train` sets it. The loss divides by `num_items_in_batch` times this over
    # `steps_per_generation`; with both one, that is the number of action tokens of the command.
    trainer.current_gradient_accumulation_steps = 1
    return trainer


# --- Supervised fine-tuning --------------------------------------------------------------------


@dataclass
class Dialogue:
    ids: list

    @property
    def tokens(self):
        return len(self.ids)

    @property
    def trained(self):
        return len(self.ids) - 1


class Sft:
    def __init__(self, args, model, tokenizer, work):
        self.model = model
        self.pad_token = tokenizer.pad_token_id
        self.dialogues = work["dialogues"]
        self.in_bf16 = args.dtype == "bf16"

    def sequences(self, items):
        return sorted((Dialogue(self.dialogues[i]) for i in items), key=lambda d: -d.tokens)

    def loss(self, batch, trained):
        ids, mask = padded_ids([d.ids for d in batch], "right", self.pad_token)
        labels = ids.masked_fill(mask == 0, IGNORED)
        # Accelerate prepares a model for `bf16=True` with just this around its forward.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.in_bf16):
            outputs = self.model(
                input_ids=ids,
                attention_mask=mask,
                labels=labels,
                use_cache=False,
                num_items_in_batch=torch.tensor(trained),
            )
        return outputs.loss


# --- Commands ----------------------------------------------------------------------------------


class Learner:
    def __init__(self, args, folder):
        torch.set_num_threads(args.threads)
        with open(args.work, encoding="utf-8") as file:
            work = json.load(file)
        self.batch_size = args.batch
        self.model = load_model(args)
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        if args.kind == "grpo":
            self.task = Grpo(args, self.model, tokenizer, work, folder)
        else:
            self.task = Sft(args, self.model, tokenizer, work)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=args.learning_rate,
            betas=(0.9, 0.99),
            eps=1e-8,
            weight_decay=0.0,
            fused=True,
        )

    def accumulate(self, sequences):
        """Adds the gradient of the loss, and returns the loss."""
        trained = sum(s.trained for s in sequences)
        total = 0.0
        for start in range(0, len(sequences), self.batch_size):
            loss = self.task.loss(sequences[start : start + self.batch_size], trained)
            loss.backward()
            total += loss.item()
        return total

    def step(self, items):
        start = time.perf_counter()
        sequences = self.task.sequences(items)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.accumulate(sequences)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        return {
            "seconds": time.perf_counter() - start,
            "sequences": len(sequences),
            "tokens": sum(s.tokens for s in sequences),
            "loss": loss,
        }

    def gradient(self, items, out):
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.accumulate(self.task.sequences(items))
        # Tied weights come up once, under the name that checkpoints use.
        save_file({name: p.grad for name, p in self.model.named_parameters()}, out)
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss}

    def answer(self, command):
        if command["op"] == "step":
            return self.step(command["items"])
        if command["op"] == "gradient":
            return self.gradient(command["items"], command["out"])
        raise ValueError(f"unknown op {command['op']!r}")


def take_stdout():
    """A function that writes an answer to stdout, where nothing else can write from now on."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return lambda value: print(json.dumps(value), file=out, flush=True)


def serve(args, write):
    with tempfile.TemporaryDirectory() as folder:
        learner = Learner(args, folder)
        write({"ready": True, "versions": {package: version(package) for package in PACKAGES}})
        for line in sys.stdin:
            command = json.loads(line)
            if command["op"] == "quit":
                break
            write(learner.answer(command))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the model, as a Hugging Face folder")
    parser.add_argument("work", help="the JSON file that items index")
    parser.add_argument("--kind", choices=("grpo", "sft"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--batch", type=int, default=8, help="sequences of a forward pass")
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument(
        "--off-policy", action="store_true", help="clip ratios to the log-probabilities given"
    )
    parser.add_argument(
        "--stock-head", action="store_true", help="score prompts too, as TRL does on a CPU"
    )
    return parser.parse_args()


def main():
    args = parse_arguments()
    write = take_stdout()
    try:
        serve(args, write)
    except Exception as error:
        write({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)


if __name__ == "__main__":
    main()
