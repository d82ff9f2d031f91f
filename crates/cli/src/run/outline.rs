//! The pieces of work that a run consists of, before it begins.

use super::{arms, evaluate, generate};
use crate::config::Config;
use crate::progress::{Kind, Piece, WholeRun};
use crate::questions::Sources;
use control::phases::{Phase, RunState};

/// Work still to be done in a run, piece by piece, under the names that progress is shown by.
pub fn of(config: &Config, sources: &Sources, state: &RunState) -> WholeRun {
    let mut pieces = pieces(config, sources);
    pieces.retain(|piece| !state.completed().contains(&piece.phase));
    WholeRun::new(state.plan().phases().to_vec(), pieces)
}

fn pieces(config: &Config, sources: &Sources) -> Vec<Piece> {
    let piece = |name: &str, phase, kind, units, per_unit| Piece {
        name: name.to_owned(),
        phase,
        kind,
        units,
        per_unit,
    };
    let mut pieces = Vec::new();
    if let Some(warm) = &config.warm_start {
        let (steps, batch) = (warm.steps, warm.batch as u64);
        pieces.push(piece(
            arms::WARM_START,
            Phase::WarmStart,
            Kind::Dialogue,
            steps,
            batch,
        ));
    }
    let items = sources.questions.len() as u64 * u64::from(config.rollout.samples);
    pieces.push(piece(
        generate::TRAJECTORIES,
        Phase::Generate,
        Kind::Item,
        items,
        1,
    ));
    if let Some(imitation) = &config.imitation {
        let (steps, batch) = (imitation.steps, imitation.batch as u64);
        let name = arms::IMITATION;
        pieces.push(piece(name, Phase::Train, Kind::Dialogue, steps, batch));
    }
    if let Some(train) = &config.train {
        for &seed in &train.seeds {
            let name = arms::swirl(seed);
            pieces.push(piece(&name, Phase::Train, Kind::PolicyStep, train.steps, 1));
        }
    }
    for evaluation in evaluate::plan(config) {
        let questions = sources.sets[evaluation.index].len() as u64;
        let items = questions * u64::from(config.evaluation.samples);
        let name = evaluation.title();
        pieces.push(piece(&name, Phase::Evaluate, Kind::Item, items, 1));
    }
    pieces
}
