//! Attention over a row of trees.

use algo::pack::{MicroBatch, TreeSpan};
use model::{Attend, DecoderSpec, FullAttention, Visibility};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Queries that attend together on a CPU. Smaller blocks compute less of what is masked anyway, and
/// larger ones make better matrix products.
const BLOCK_QUERIES: usize = 128;

/// Unseen keys in a row that are scored and masked rather than cut out.
const SHORT_GAP: usize = 48;

/// Trees up to this many tokens attend in blocks on a CPU, where plain matrix products are two to
/// three times faster than the fused kernel, forward and backward. They keep probabilities for the
/// backward pass, which grow with the square of the length: about 1 GiB at this one for 9 heads and
/// 30 layers.
const LONGEST_IN_BLOCKS: usize = 2048;

/// Each tree of a micro-batch attends within itself only, so scores between trees are never
/// computed.
pub(crate) struct ForestAttention {
    trees: Vec<(i64, TreeAttention)>, // number of tokens
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
                (tree.range.len() as i64, attention)
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
        // One split instead of many slices: its backward pass is one concatenation.
        let lengths: Vec<i64> = self.trees.iter().map(|(length, _)| *length).collect();
        let split = |x: &Tensor| x.split_with_sizes(&lengths[..], 2).into_iter();
        let parts = split(query).zip(split(key)).zip(split(value));
        for ((_, attention), ((query, key), value)) in self.trees.iter_mut().zip(parts) {
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

/// Attention of one tree by matrix products, some queries at a time, over the keys that at least one
/// of them sees: branches of other states, most of a trajectory's tree, are not even scored.
struct BlockAttention {
    visible: Tensor,   // [t, t], boolean
    positions: Tensor, // [t]
    /// The tree cut into stretches that a block of queries sees or does not see as a whole.
    stretches: Vec<i64>,
    blocks: Vec<Block>,
    /// Masks by window, made once per pass: one for each block.
    masks: Vec<(Option<i64>, Vec<Tensor>)>,
}

/// Queries that attend together.
struct Block {
    first: i64,
    count: i64,
    /// Which stretches they see, ascending.
    sees: Vec<usize>,
    keys: Tensor, // [s], the tokens of these stretches
}

impl BlockAttention {
    fn new(tree: &TreeSpan, positions: &[i64], device: Device) -> Self {
        let length = tree.range.len();
        let visible = tree.visibility();
        let (stretches, sees) = stretches(&visible, length);
        let mut ends = 0;
        let ranges: Vec<Range<i64>> = stretches
            .iter()
            .map(|stretch| {
                ends += stretch;
                ends - stretch..ends
            })
            .collect();
        let block = |(number, sees): (usize, Vec<usize>)| {
            let first = number * BLOCK_QUERIES;
            let keys: Vec<i64> = sees.iter().flat_map(|s| ranges[*s].clone()).collect();
            Block {
                first: first as i64,
                count: BLOCK_QUERIES.min(length - first) as i64,
                sees,
                keys: Tensor::from_slice(&keys).to_device(device),
            }
        };
        let shape = [length as i64; 2];
        Self {
            visible: Tensor::from_slice(&visible).view(shape).to_device(device),
            positions: Tensor::from_slice(positions).to_device(device),
            blocks: sees.into_iter().enumerate().map(block).collect(),
            stretches,
            masks: Vec::new(),
        }
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
        let counts: Vec<i64> = self.blocks.iter().map(|block| block.count).collect();
        let queries = query.split_with_sizes(&counts[..], 2);
        // Split, not sliced: so a block's gradient touches the stretches it sees only.
        let keys = key.split_with_sizes(&self.stretches[..], 2);
        let values = value.split_with_sizes(&self.stretches[..], 2);
        let blocks = self.blocks.iter().zip(queries).zip(&self.masks[index].1);
        for ((block, query), mask) in blocks {
            let seen = |of: &[Tensor]| {
                let seen: Vec<&Tensor> = block.sees.iter().map(|s| &of[*s]).collect();
                Tensor::cat(&seen, 2)
            };
            mixed.push(products(spec, &query, &seen(&keys), &seen(&values), mask));
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
        let mask = |block: &Block| {
            let visible = visible
                .narrow(0, block.first, block.count)
                .index_select(1, &block.keys);
            Tensor::zeros(visible.size(), (kind, visible.device()))
                .masked_fill(&visible.logical_not(), f64::NEG_INFINITY)
        };
        self.masks
            .push((window, self.blocks.iter().map(mask).collect()));
        self.masks.len() - 1
    }
}

/// Cuts `length` keys so that each block of queries sees whole stretches or nothing of them.
/// `visible` is `[length, length]`. Returns the stretches' lengths, and which of them each block sees.
fn stretches(visible: &[bool], length: usize) -> (Vec<i64>, Vec<Vec<usize>>) {
    let seen: Vec<Vec<bool>> = (0..length)
        .step_by(BLOCK_QUERIES)
        .map(|first| {
            let rows = first..length.min(first + BLOCK_QUERIES);
            let mut seen = vec![false; length];
            for row in rows.map(|row| &visible[row * length..][..length]) {
                seen.iter_mut().zip(row).for_each(|(seen, v)| *seen |= v);
            }
            close_gaps(&mut seen);
            seen
        })
        .collect();
    let is_cut = |at: &usize| seen.iter().any(|seen| seen[*at] != seen[at - 1]);
    let cuts: Vec<usize> = std::iter::once(0)
        .chain((1..length).filter(is_cut))
        .chain([length])
        .collect();
    let lengths = cuts
        .windows(2)
        .map(|cut| (cut[1] - cut[0]) as i64)
        .collect();
    let starts = &cuts[..cuts.len() - 1];
    let sees = seen.iter().map(|seen| {
        let seen = starts.iter().enumerate().filter(|(_, start)| seen[**start]);
        seen.map(|(stretch, _)| stretch).collect()
    });
    (lengths, sees.collect())
}

/// What lies unseen between seen keys is scored all the same where it is short: many small pieces
/// cost more than some masked scores.
fn close_gaps(seen: &mut [bool]) {
    let mut last = None;
    for at in 0..seen.len() {
        if !seen[at] {
            continue;
        }
        if let Some(last) = last
            && at - last <= SHORT_GAP
        {
            seen[last..at].fill(true);
        }
        last = Some(at);
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
    fn blocks_see_what_one_of_their_queries_sees() {
        // 200 keys that all see, then a branch of 150 and one of 50: the last block's queries are
        // of the second branch only.
        let length = 400;
        let mut visible = vec![false; length * length];
        for query in 0..length {
            for key in 0..=query {
                let hidden = query >= 350 && (200..350).contains(&key);
                visible[query * length + key] = !hidden;
            }
        }
        let (lengths, sees) = stretches(&visible, length);
        // Cut where a block ends, and around the first branch for the last block, 384..400.
        assert_eq!(lengths, [128, 72, 56, 94, 34, 16]);
        assert_eq!(sees[0], [0]);
        assert_eq!(sees[1], [0, 1, 2]);
        assert_eq!(sees[2], [0, 1, 2, 3, 4]);
        assert_eq!(sees[3], [0, 1, 4, 5]);
        let mut gaps = vec![true, false, false, true, false];
        close_gaps(&mut gaps);
        assert_eq!(gaps, [true, true, true, true, false]);
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
