//! Attention over a row of trees.

use algo::pack::{MicroBatch, TreeSpan};
use model::{Attend, DecoderSpec, FullAttention, Visibility};
use tch::{Device, Kind, Tensor};

/// Queries that attend together on a CPU. Keys behind the last of them are left out, so smaller
/// blocks compute less of what is masked anyway, and larger ones make better matrix products.
const BLOCK_QUERIES: usize = 128;

/// Trees up to this many tokens attend in blocks on a CPU, where plain matrix products are two to
/// three times faster than the fused kernel, forward and backward. They keep probabilities for the
/// backward pass, which grow with the square of the length: about 1 GiB at this one for 9 heads and
/// 30 layers.
const LONGEST_IN_BLOCKS: usize = 2048;

/// Each tree of a micro-batch attends within itself only, so scores between trees are never
/// computed.
pub(crate) struct ForestAttention {
    trees: Vec<(i64, i64, TreeAttention)>, // first token, number of tokens
}

/// How one tree attends.
enum TreeAttention {
    Blocks(BlockAttention),
    Fused(FullAttention),
}

impl ForestAttention {
    pub(crate) fn new(batch: &MicroBatch, device: Device) -> Self {
        let longest = if device == Device::Cpu {
            LONGEST_IN_BLOCKS
        } else {
            0
        };
        Self::with_limit(batch, device, longest)
    }

    fn with_limit(batch: &MicroBatch, device: Device, longest_in_blocks: usize) -> Self {
        let trees = batch
            .trees
            .iter()
            .map(|tree| {
                let positions = &batch.positions[tree.range.clone()];
                let attention = if tree.range.len() <= longest_in_blocks {
                    TreeAttention::Blocks(BlockAttention::new(tree, positions, device))
                } else {
                    TreeAttention::Fused(fused(tree, positions, device))
                };
                (tree.range.start as i64, tree.range.len() as i64, attention)
            })
            .collect();
        Self { trees }
    }
}

fn fused(tree: &TreeSpan, positions: &[i64], device: Device) -> FullAttention {
    let length = tree.range.len() as i64;
    let positions = Tensor::from_slice(positions).unsqueeze(0).to_device(device); // [1, t]
    let visibility = if tree.is_chain() {
        Visibility::Causal
    } else {
        let matrix = Tensor::from_slice(&tree.visibility()).view([1, length, length]);
        Visibility::Matrix(matrix.to_device(device))
    };
    FullAttention::new(visibility, &positions)
}

impl Attend for ForestAttention {
    fn attend(
        &mut self,
        spec: &DecoderSpec,
        layer: usize,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
    ) -> Tensor {
        let mut mixed = Vec::with_capacity(self.trees.len());
        for (start, length, attention) in &mut self.trees {
            let part = |x: &Tensor| x.narrow(2, *start, *length);
            let (query, key, value) = (part(query), part(key), part(value));
            match attention {
                TreeAttention::Fused(fused) => {
                    mixed.push(fused.attend(spec, layer, &query, &key, &value));
                }
                TreeAttention::Blocks(blocks) => {
                    blocks.attend(spec, layer, [&query, &key, &value], &mut mixed);
                }
            }
        }
        Tensor::cat(&mixed, 2) // [1, Hq, T, D]
    }
}

/// Attention of one tree by matrix products, some queries at a time.
struct BlockAttention {
    visible: Tensor,   // [t, t], boolean
    positions: Tensor, // [t]
    /// Masks by window, made once per pass: one for each block.
    masks: Vec<(Option<i64>, Vec<Tensor>)>,
}

impl BlockAttention {
    fn new(tree: &TreeSpan, positions: &[i64], device: Device) -> Self {
        let length = tree.range.len() as i64;
        let visible = Tensor::from_slice(&tree.visibility()).view([length, length]);
        Self {
            visible: visible.to_device(device),
            positions: Tensor::from_slice(positions).to_device(device),
            masks: Vec::new(),
        }
    }

    /// `(first query, number of queries, number of keys)` of each block. Parents come before their
    /// children, so no query sees a key behind its block.
    fn blocks(&self) -> impl Iterator<Item = (i64, i64, i64)> + use<> {
        let length = self.positions.size()[0];
        (0..length).step_by(BLOCK_QUERIES).map(move |first| {
            let end = length.min(first + BLOCK_QUERIES as i64);
            (first, end - first, end)
        })
    }

    /// Appends what each block's queries (`[1, Hq, t, D]`) make of keys and values (`[1, Hkv, t, D]`).
    fn attend(
        &mut self,
        spec: &DecoderSpec,
        layer: usize,
        [query, key, value]: [&Tensor; 3],
        mixed: &mut Vec<Tensor>,
    ) {
        let window = spec.layers[layer].window;
        let index = self.masks_for(window, query.kind());
        for ((first, count, keys), mask) in self.blocks().zip(&self.masks[index].1) {
            let query = query.narrow(2, first, count);
            let part = |x: &Tensor| x.narrow(2, 0, keys);
            mixed.push(products(spec, &query, &part(key), &part(value), mask));
        }
    }

    /// Where in `masks` those of `window` are.
    fn masks_for(&mut self, window: Option<i64>, kind: Kind) -> usize {
        if let Some(index) = self.masks.iter().position(|(known, _)| *known == window) {
            return index;
        }
        let visible = match window {
            Some(window) => {
                let distance = self.positions.unsqueeze(1) - self.positions.unsqueeze(0); // [t, t]
                self.visible.logical_and(&distance.lt(window))
            }
            None => self.visible.shallow_clone(),
        };
        let additive = Tensor::zeros(visible.size(), (kind, visible.device()))
            .masked_fill(&visible.logical_not(), f64::NEG_INFINITY);
        let masks = self.blocks().map(|(first, count, keys)| {
            additive
                .narrow(0, first, count)
                .narrow(1, 0, keys)
                .contiguous()
        });
        self.masks.push((window, masks.collect()));
        self.masks.len() - 1
    }
}

/// Softmax attention of queries `[1, Hq, t, D]` over keys and values `[1, Hkv, s, D]` under an
/// additive mask `[t, s]`. The query heads that share a key head are one taller matrix, so keys and
/// values are not repeated.
fn products(
    spec: &DecoderSpec,
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: &Tensor,
) -> Tensor {
    let (count, keys) = (query.size()[2], key.size()[2]);
    let shared = spec.heads / spec.kv_heads;
    let tall = [1, spec.kv_heads, shared * count, spec.head_dim];
    let query = (query * spec.attention_scale).reshape(tall);
    let scores = query.matmul(&key.transpose(2, 3)); // [1, Hkv, shared · t, s]
    let scores = match spec.attention_softcap {
        Some(cap) => (scores / cap).tanh() * cap,
        None => scores,
    };
    let mut scores = scores.view([1, spec.kv_heads, shared, count, keys]);
    scores += mask;
    let probabilities = scores.softmax(-1, query.kind()); // sums in f32
    probabilities
        .view([1, spec.kv_heads, shared * count, keys])
        .matmul(value)
        .view([1, spec.heads, count, spec.head_dim])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{ARCHITECTURES, config, folder, learner};
    use algo::pack::{Sequence, Tree, pack};

    /// Trees of more than one block, a chain among them.
    fn batch() -> MicroBatch {
        let ids = |from: u32, count: u32| (from..from + count).collect::<Vec<u32>>();
        let groups = [
            vec![Sequence::action(0, &ids(0, 150), &ids(500, 60))],
            vec![
                Sequence::action(0, &ids(0, 100), &ids(500, 60)),
                Sequence::action(1, &ids(0, 100), &ids(600, 90)),
                Sequence::action(2, &ids(0, 100), &[ids(500, 30), ids(900, 40)].concat()),
            ],
        ];
        let trees: Vec<Tree> = groups
            .iter()
            .flat_map(|g| Tree::build(g, 1000).unwrap())
            .collect();
        pack(&trees, 1000).remove(0)
    }

    #[test]
    fn blocks_give_what_the_fused_kernel_gives() {
        let batch = batch();
        let length = batch.tokens.len() as i64;
        for (name, json) in ARCHITECTURES {
            let home = folder(json);
            let learner = learner(home.path(), config());
            let spec = learner.decoder().spec();
            let random = |heads| {
                let shape = [1, heads, length, spec.head_dim];
                let count: i64 = shape.iter().product();
                let ramp = Tensor::arange(count, (Kind::Double, Device::Cpu)) + heads;
                (ramp * 1.7)
                    .sin()
                    .view(shape)
                    .to_kind(Kind::Float)
                    .set_requires_grad(true)
            };
            let inputs = [
                random(spec.heads),
                random(spec.kv_heads),
                random(spec.kv_heads),
            ];
            let run = |longest| {
                let mut forest = ForestAttention::with_limit(&batch, Device::Cpu, longest);
                let mut found = Vec::new();
                for layer in 0..spec.layers.len() {
                    let [query, key, value] = &inputs;
                    let mixed = forest.attend(spec, layer, query, key, value);
                    let loss = (&mixed * mixed.detach().sin()).sum(Kind::Float);
                    found.extend(Tensor::run_backward(&[loss], &inputs, false, false));
                    found.push(mixed);
                }
                found
            };
            for (blocks, fused) in run(1000).iter().zip(run(0)) {
                let difference = (blocks - fused).abs().max().double_value(&[]);
                assert!(difference < 1e-5, "{name}: {difference}");
            }
        }
    }
}
