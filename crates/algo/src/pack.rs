//! Token tries: sequences that begin alike share the tokens they have in common.
//!
//! In step-wise RL all actions of a state share the state, and often their first tokens too. A
//! [`Tree`] holds each shared prefix once; a [`MicroBatch`] is several trees laid end to end in one
//! row without padding.
//!
//! - **PK-1 (one shift).** A trained token is predicted at the position of the token before it in
//!   its own sequence: [`Target::row`] names that position. Nothing downstream shifts again.
//! - **PK-2 (no leak).** A token sees its ancestors and itself. It sees no other branch and no other
//!   tree.
//! - **PK-3 (positions).** A token's position is its index in its own sequence, whatever else is in
//!   the row.
//! - **PK-4 (nothing wasted).** A token that predicts no trained token, directly or through a
//!   descendant, is not in the tree: so the last trained token of a sequence is a target only.

use std::collections::HashMap;
use std::ops::Range;

/// One sequence and which of its tokens are trained.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Whose loss it is: an index the caller chooses, given back in [`Target::sample`].
    pub sample: usize,
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Whether each token is trained, as long as `tokens`.
    pub trained: Vec<bool>,
}

impl Sequence {
    /// `action` behind `prompt`, with every token of the action trained.
    pub fn action(sample: usize, prompt: &[u32], action: &[u32]) -> Self {
        let trained = (0..prompt.len() + action.len())
            .map(|i| i >= prompt.len())
            .collect();
        Self {
            sample,
            tokens: [prompt, action].concat(),
            trained,
        }
    }

    /// How many of its tokens are trained.
    pub fn trained_tokens(&self) -> usize {
        self.trained.iter().filter(|trained| **trained).count()
    }
}

/// Why sequences cannot be packed. Each names the sample as the caller numbered it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The mask is not as long as the tokens.
    #[error("sample {sample}: {mask} mask entries for {tokens} tokens; give one for each token")]
    MaskLength {
        /// The sample.
        sample: usize,
        /// Entries in the mask.
        mask: usize,
        /// Number of tokens.
        tokens: usize,
    },
    /// The first token is trained, but no token comes before it to predict it.
    #[error("sample {sample}: its first token is marked as trained, but nothing predicts it")]
    FirstTokenTrained {
        /// The sample.
        sample: usize,
    },
}

/// A trained token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Which of [`MicroBatch::predictors`] predicts it.
    pub row: usize,
    /// Its id.
    pub token: u32,
    /// [`Sequence::sample`] of the sequence it is from.
    pub sample: usize,
    /// Its index in that sequence.
    pub offset: usize,
}

/// A trie of tokens, parents before children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    tokens: Vec<u32>,
    parents: Vec<Option<usize>>,
    positions: Vec<usize>,
    /// `(predicting node, target)`, with [`Target::row`] not yet set.
    targets: Vec<(usize, Target)>,
    sequence_tokens: usize,
}

/// Nodes by parent and token, while a tree grows.
type Children = HashMap<(Option<usize>, u32), usize>;

impl Tree {
    /// Puts `sequences` into as few tries as needed for none to hold more than `budget_tokens`,
    /// in the order given. A sequence longer than the budget gets a trie of its own. Sequences
    /// without a trained token are left out.
    ///
    /// # Errors
    /// When a mask has another length than its tokens, or trains a first token.
    pub fn build(sequences: &[Sequence], budget_tokens: usize) -> Result<Vec<Self>, PackError> {
        let mut trees = Vec::new();
        let mut tree = Self::default();
        let mut children = Children::new();
        for sequence in sequences {
            let Some(needed) = needed(sequence)? else {
                continue;
            };
            let fresh = tree.fresh(&children, needed);
            if !tree.is_empty() && tree.len() + fresh > budget_tokens {
                trees.push(std::mem::take(&mut tree));
                children.clear();
            }
            tree.insert(&mut children, needed, sequence);
        }
        if !tree.is_empty() {
            trees.push(tree);
        }
        Ok(trees)
    }

    /// Number of tokens, each shared one once.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it holds no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many of `tokens` are not in the tree yet.
    fn fresh(&self, children: &Children, tokens: &[u32]) -> usize {
        let mut node = None;
        for (depth, token) in tokens.iter().enumerate() {
            match children.get(&(node, *token)) {
                Some(child) => node = Some(*child),
                None => return tokens.len() - depth,
            }
        }
        0
    }

    fn insert(&mut self, children: &mut Children, needed: &[u32], sequence: &Sequence) {
        let mut node = None;
        for (position, token) in needed.iter().enumerate() {
            let child = *children.entry((node, *token)).or_insert_with(|| {
                self.tokens.push(*token);
                self.parents.push(node);
                self.positions.push(position);
                self.tokens.len() - 1
            });
            let offset = position + 1;
            if sequence.trained[offset] {
                let target = Target {
                    row: 0,
                    token: sequence.tokens[offset],
                    sample: sequence.sample,
                    offset,
                };
                self.targets.push((child, target)); // PK-1
            }
            node = Some(child);
        }
        self.sequence_tokens += needed.len();
    }
}

/// A tree that shares less than this part of its tokens with another one stays apart: one branch more
/// costs attention more than it saves everything else.
const LEAST_SHARED: f64 = 0.2;

/// Puts trees that begin alike, as all do that have the same system message, into one, as long as it
/// holds at most `limit_tokens`: first fit, in the order given.
pub fn join(trees: Vec<Tree>, limit_tokens: usize) -> Vec<Tree> {
    let mut joined: Vec<(Tree, Children)> = Vec::new();
    for tree in trees {
        let takes = |(into, children): &&mut (Tree, Children)| {
            let shared = tree.len() - tree.new_to(children);
            shared as f64 >= LEAST_SHARED * tree.len() as f64
                && into.len() + tree.len() - shared <= limit_tokens
        };
        match joined.iter_mut().find(takes) {
            Some((into, children)) => into.graft(children, &tree),
            None => {
                let children = tree.children();
                joined.push((tree, children));
            }
        }
    }
    joined.into_iter().map(|(tree, _)| tree).collect()
}

impl Tree {
    fn children(&self) -> Children {
        let nodes = self.parents.iter().zip(&self.tokens).enumerate();
        nodes
            .map(|(node, (parent, token))| ((*parent, *token), node))
            .collect()
    }

    /// For each node of this tree the one of another tree that stands for it, where there is one.
    fn nodes_in(&self, children: &Children) -> Vec<Option<usize>> {
        let mut found: Vec<Option<usize>> = Vec::with_capacity(self.len());
        for (parent, token) in self.parents.iter().zip(&self.tokens) {
            let place = match parent {
                None => Some(None),
                Some(parent) => found[*parent].map(Some),
            };
            found.push(place.and_then(|parent| children.get(&(parent, *token)).copied()));
        }
        found
    }

    /// Number of its nodes that the other tree does not have.
    fn new_to(&self, children: &Children) -> usize {
        let found = self.nodes_in(children);
        found.iter().filter(|node| node.is_none()).count()
    }

    /// Takes in all paths and targets of another tree.
    fn graft(&mut self, children: &mut Children, other: &Self) {
        let mut places = Vec::with_capacity(other.len());
        for (node, token) in other.tokens.iter().enumerate() {
            let parent = other.parents[node].map(|parent| places[parent]);
            let place = *children.entry((parent, *token)).or_insert_with(|| {
                self.tokens.push(*token);
                self.parents.push(parent);
                self.positions.push(other.positions[node]);
                self.tokens.len() - 1
            });
            places.push(place);
        }
        let targets = other.targets.iter();
        self.targets
            .extend(targets.map(|(node, target)| (places[*node], *target)));
        self.sequence_tokens += other.sequence_tokens;
    }
}

/// The tokens that have to run for `sequence` (PK-4); `None` if nothing is trained.
fn needed(sequence: &Sequence) -> Result<Option<&[u32]>, PackError> {
    let Sequence {
        sample,
        tokens,
        trained,
    } = sequence;
    if trained.len() != tokens.len() {
        return Err(PackError::MaskLength {
            sample: *sample,
            mask: trained.len(),
            tokens: tokens.len(),
        });
    }
    if trained.first() == Some(&true) {
        return Err(PackError::FirstTokenTrained { sample: *sample });
    }
    Ok(trained.iter().rposition(|t| *t).map(|last| &tokens[..last]))
}

/// One tree's place in a [`MicroBatch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeSpan {
    /// Its tokens in the row.
    pub range: Range<usize>,
    /// Parent of each token, counted from the tree's first; `None` for the first of a sequence.
    pub parents: Vec<Option<usize>>,
}

impl TreeSpan {
    /// Whether every token's parent is the one before it, so that visibility is plainly causal.
    pub fn is_chain(&self) -> bool {
        self.parents
            .iter()
            .enumerate()
            .all(|(i, parent)| *parent == i.checked_sub(1))
    }

    /// Who sees whom (PK-2): `[t, t]` in row-major order, `[query, key]`.
    pub fn visibility(&self) -> Vec<bool> {
        let length = self.parents.len();
        let mut visible = vec![false; length * length];
        for (token, parent) in self.parents.iter().enumerate() {
            let (before, row) = visible.split_at_mut(token * length);
            if let Some(parent) = parent {
                row[..token].copy_from_slice(&before[parent * length..][..token]);
            }
            row[token] = true;
        }
        visible
    }
}

/// What runs through the model at once: one row of trees, without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Token ids, `[T]`.
    pub tokens: Vec<i64>,
    /// Positions, `[T]` (PK-3).
    pub positions: Vec<i64>,
    /// The trees in the order of their tokens.
    pub trees: Vec<TreeSpan>,
    /// The places in the row that predict a trained token, ascending, `[P]`.
    pub predictors: Vec<i64>,
    /// The trained tokens, in the order of their rows.
    pub targets: Vec<Target>,
    /// How many tokens the sequences would have taken one by one.
    pub sequence_tokens: usize,
}

impl MicroBatch {
    fn push(&mut self, tree: &Tree) {
        let start = self.tokens.len();
        self.tokens
            .extend(tree.tokens.iter().map(|t| i64::from(*t)));
        self.positions
            .extend(tree.positions.iter().map(|p| *p as i64));
        self.trees.push(TreeSpan {
            range: start..self.tokens.len(),
            parents: tree.parents.clone(),
        });
        let mut targets = tree.targets.clone();
        targets.sort_by_key(|(node, _)| *node); // stable: by sequence within a node
        for (node, target) in targets {
            let place = (start + node) as i64;
            if self.predictors.last() != Some(&place) {
                self.predictors.push(place);
            }
            self.targets.push(Target {
                row: self.predictors.len() - 1,
                ..target
            });
        }
        self.sequence_tokens += tree.sequence_tokens;
    }
}

/// Distributes trees over micro-batches of at most `budget_tokens` tokens: first fit, longest tree
/// first, ties in the order given. A tree longer than the budget gets a micro-batch of its own.
pub fn pack(trees: &[Tree], budget_tokens: usize) -> Vec<MicroBatch> {
    let mut order: Vec<&Tree> = trees.iter().collect();
    order.sort_by_key(|tree| std::cmp::Reverse(tree.len())); // stable
    let mut bins: Vec<MicroBatch> = Vec::new();
    for tree in order {
        let fits = |bin: &&mut MicroBatch| bin.tokens.len() + tree.len() <= budget_tokens;
        match bins.iter_mut().find(fits) {
            Some(bin) => bin.push(tree),
            None => {
                let mut bin = MicroBatch::default();
                bin.push(tree);
                bins.push(bin);
            }
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(sample: usize, tokens: &[u32], mask: &[u8]) -> Sequence {
        Sequence {
            sample,
            tokens: tokens.to_vec(),
            trained: mask.iter().map(|m| *m == 1).collect(),
        }
    }

    fn one(sequences: &[Sequence]) -> MicroBatch {
        let batches = pack(&Tree::build(sequences, 1000).unwrap(), 1000);
        assert_eq!(batches.len(), 1);
        batches.into_iter().next().unwrap()
    }

    #[test]
    fn pk_1_a_state_and_its_actions_shift_once() {
        let prompt = [7, 8, 9];
        let batch = one(&[
            Sequence::action(0, &prompt, &[1, 2]),
            Sequence::action(1, &prompt, &[3, 4, 5]),
            Sequence::action(2, &prompt, &[1, 6]),
        ]);
        assert_eq!(batch.tokens, [7, 8, 9, 1, 3, 4]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 3, 4]);
        assert_eq!(batch.predictors, [2, 3, 4, 5]);
        let targets: Vec<_> = batch
            .targets
            .iter()
            .map(|t| (t.row, t.token, t.sample, t.offset))
            .collect();
        assert_eq!(
            targets,
            [
                (0, 1, 0, 3),
                (0, 3, 1, 3),
                (0, 1, 2, 3),
                (1, 2, 0, 4),
                (1, 6, 2, 4),
                (2, 4, 1, 4),
                (3, 5, 1, 5),
            ]
        );
        assert_eq!(batch.sequence_tokens, 4 + 5 + 4);
        assert!(!batch.trees[0].is_chain());
    }

    #[test]
    fn pk_2_a_token_sees_its_ancestors_and_itself() {
        let batch = one(&[
            Sequence::action(0, &[7], &[1, 2, 3]),
            Sequence::action(1, &[7], &[4, 2, 3]),
        ]);
        assert_eq!(batch.tokens, [7, 1, 2, 4, 2]);
        #[rustfmt::skip]
        let expected = [
            1, 0, 0, 0, 0,
            1, 1, 0, 0, 0,
            1, 1, 1, 0, 0,
            1, 0, 0, 1, 0,
            1, 0, 0, 1, 1,
        ];
        let seen: Vec<i32> = batch.trees[0]
            .visibility()
            .iter()
            .map(|v| i32::from(*v))
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn pk_4_what_predicts_nothing_is_left_out() {
        for (tokens, mask, kept) in [
            (&[1, 2, 3, 4][..], &[0, 1, 0, 0][..], &[1][..]),
            (&[1, 2, 3, 4], &[0, 0, 0, 1], &[1, 2, 3]),
            (&[1, 2, 3, 4], &[0, 1, 0, 1], &[1, 2, 3]),
        ] {
            assert_eq!(one(&[sequence(0, tokens, mask)]).tokens, kept);
        }
        assert!(
            Tree::build(&[sequence(0, &[1, 2], &[0, 0])], 9)
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn bad_masks_are_refused() {
        let build = |tokens: &[u32], mask: &[u8]| Tree::build(&[sequence(4, tokens, mask)], 9);
        assert_eq!(
            build(&[1, 2], &[1, 1]),
            Err(PackError::FirstTokenTrained { sample: 4 })
        );
        assert_eq!(
            build(&[1, 2], &[0]),
            Err(PackError::MaskLength {
                sample: 4,
                mask: 1,
                tokens: 2
            })
        );
    }

    #[test]
    fn a_group_larger_than_the_budget_repeats_its_prompt_and_no_target() {
        let sequences: Vec<_> = (0..4)
            .map(|s| Sequence::action(s, &[1, 2, 3], &[10 + s as u32, 9, 9]))
            .collect();
        let trees = Tree::build(&sequences, 8).unwrap();
        assert_eq!(trees.iter().map(Tree::len).collect::<Vec<_>>(), [7, 7]);
        assert_eq!(trees.iter().map(|t| t.targets.len()).sum::<usize>(), 12);
    }

    #[test]
    fn trees_that_begin_alike_become_one() {
        let tree = |sample: usize, prompt: &[u32], action: &[u32]| {
            let sequences = [Sequence::action(sample, prompt, action)];
            Tree::build(&sequences, 1000).unwrap().remove(0)
        };
        let system: Vec<u32> = (100..110).collect();
        let with = |own: &[u32]| [&system, own].concat();
        let trees = vec![
            tree(0, &with(&[1, 2]), &[3, 4]),
            tree(1, &[7, 8, 9], &[3, 4]), // nothing in common
            tree(2, &with(&[1, 5]), &[6, 4]),
            tree(3, &with(&(20..90).collect::<Vec<u32>>()), &[6]), // too little in common
            tree(4, &with(&[1, 2]), &[3, 4]),                      // nothing of its own
        ];
        let joined = join(trees.clone(), 1000);
        let lengths: Vec<usize> = joined.iter().map(Tree::len).collect();
        assert_eq!(lengths, [10 + 3 + 2, 4, 10 + 70]);
        let batch = &pack(&joined[..1], 1000)[0];
        let targets: Vec<_> = batch
            .targets
            .iter()
            .map(|t| {
                (
                    batch.positions[batch.predictors[t.row] as usize],
                    t.token,
                    t.sample,
                )
            })
            .collect();
        assert_eq!(
            targets,
            [
                (11, 3, 0),
                (11, 3, 4),
                (12, 4, 0),
                (12, 4, 4),
                (11, 6, 2),
                (12, 4, 2)
            ]
        );
        assert_eq!(batch.sequence_tokens, 3 * 13);
        let apart = join(trees, 14).len();
        assert_eq!(apart, 4, "the limit is kept");
    }

    fn random_groups() -> impl Strategy<Value = Vec<Vec<Sequence>>> {
        let tokens = proptest::collection::vec(0u32..3, 2..12);
        let group = proptest::collection::vec((tokens, any::<u64>()), 1..5);
        proptest::collection::vec(group, 1..5).prop_map(|groups| {
            let mut sample = 0;
            let mut sequence = |(tokens, bits): (Vec<u32>, u64)| {
                let trained = (0..tokens.len())
                    .map(|i| i > 0 && bits >> i & 1 == 1)
                    .collect();
                sample += 1;
                Sequence {
                    sample: sample - 1,
                    tokens,
                    trained,
                }
            };
            groups
                .into_iter()
                .map(|g| g.into_iter().map(&mut sequence).collect())
                .collect()
        })
    }

    proptest! {
        /// Following parents from each target's predictor spells the sequence up to the target;
        /// every trained token is a target exactly once; visibility is exactly the path.
        #[test]
        fn every_path_spells_its_sequence(
            groups in random_groups(),
            budget in 1usize..40,
            is_joined in any::<bool>(),
        ) {
            let mut trees: Vec<Tree> =
                groups.iter().flat_map(|g| Tree::build(g, budget).unwrap()).collect();
            if is_joined {
                trees = join(trees, budget);
            }
            let sequences: Vec<&Sequence> = groups.iter().flatten().collect();
            let mut seen = std::collections::BTreeSet::new();
            for batch in pack(&trees, budget) {
                prop_assert!(batch.tokens.len() <= budget || batch.trees.len() == 1);
                for target in &batch.targets {
                    let sequence = sequences[target.sample];
                    prop_assert!(sequence.trained[target.offset]);
                    prop_assert_eq!(sequence.tokens[target.offset], target.token);
                    prop_assert!(seen.insert((target.sample, target.offset)));
                    let place = batch.predictors[target.row] as usize;
                    let tree = batch.trees.iter().find(|t| t.range.contains(&place)).unwrap();
                    let visible = tree.visibility();
                    let length = tree.parents.len();
                    let query = place - tree.range.start;
                    let path: Vec<usize> =
                        (0..length).filter(|key| visible[query * length + key]).collect();
                    let spelled: Vec<u32> =
                        path.iter().map(|k| batch.tokens[tree.range.start + k] as u32).collect();
                    prop_assert_eq!(&spelled[..], &sequence.tokens[..target.offset]);
                    let positions: Vec<i64> =
                        path.iter().map(|k| batch.positions[tree.range.start + k]).collect();
                    prop_assert_eq!(positions, (0..target.offset as i64).collect::<Vec<_>>());
                }
            }
            let trained: usize =
                sequences.iter().map(|s| s.trained.iter().filter(|t| **t).count()).sum();
            prop_assert_eq!(seen.len(), trained);
        }
    }
}
