//! A replica.

use crate::late::Late;
use crate::words::{Answer, Ask};
use anyhow::{Context, Result};
use collective::ring::{Listener, Options, meeting};
use collective::{Group, Ring};
use learner::{Learner, LearnerConfig};
use proto::SftSample;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tch::Device;

#[derive(clap::Args)]
pub struct Arguments {
    /// The model's folder.
    model: PathBuf,
    #[arg(long)]
    rank: usize,
    #[arg(long)]
    world: usize,
    #[arg(long)]
    threads: i32,
    #[arg(long)]
    sequences: usize,
    #[arg(long)]
    length: usize,
    /// Keep shares of the optimizer's state.
    #[arg(long)]
    shares: bool,
}

const LIMIT: Duration = Duration::from_secs(300);

pub fn answer(arguments: &Arguments) -> Result<()> {
    tch::set_num_threads(arguments.threads);
    let listener = Listener::bind("127.0.0.1:0")?;
    let is_late = Arc::new(AtomicBool::new(false));
    let mut learner = None;
    let (input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    for line in input.lines() {
        let ask: Ask = serde_json::from_str(&line?)?;
        let mut answer = Answer::default();
        match ask {
            Ask::Ready => answer.address = Some(listener.address()?),
            Ask::Meet { next } => {
                let learner = learner.insert(arguments.learner()?);
                let ring = arguments.meet(&listener, next)?;
                learner.join(Box::new(Late::new(Box::new(ring), is_late.clone())))?;
                answer.kind = format!("{:?}", learner.decoder().kind());
            }
            Ask::Step { late } => {
                let learner: &mut Learner = learner.as_mut().context("they have not met")?;
                is_late.store(late, Ordering::Relaxed);
                let samples = arguments.samples(learner);
                answer.values = learner.sft_step(&samples)?.values();
            }
            Ask::Compare => {
                let learner: &mut Learner = learner.as_mut().context("they have not met")?;
                learner.compare_replicas()?;
            }
            Ask::Quit => {}
        }
        writeln!(output, "{}", serde_json::to_string(&answer)?)?;
        output.flush()?;
        if ask == Ask::Quit {
            break;
        }
    }
    Ok(())
}

impl Arguments {
    fn learner(&self) -> Result<Learner> {
        let config = LearnerConfig {
            learning_rate: 1e-6,
            // One pass: the backward pass of the last micro-batch is what sums run beside.
            micro_batch_tokens: self.sequences * self.length,
            shard_optimizer: self.shares,
            ..Default::default()
        };
        Ok(Learner::new(&self.model, Device::Cpu, config)?)
    }

    fn meet(&self, listener: &Listener, next: SocketAddr) -> Result<Ring> {
        let group = Group {
            rank: self.rank,
            world: self.world,
            epoch: 1,
        };
        let links = meeting::connect(&meeting::Meeting {
            group,
            run: *b"bench of replica",
            listener,
            own: listener.address()?,
            next,
            limit: LIMIT,
            patience: LIMIT,
            stop: &AtomicBool::new(false),
        })?;
        Ok(Ring::new(group, links, Options::default())?)
    }

    /// Tokens drawn at random, which cost what others cost; others in every step, and on every replica.
    fn samples(&self, learner: &Learner) -> Vec<SftSample> {
        let mut rng = ChaCha8Rng::seed_from_u64(learner.step());
        rng.set_stream(self.rank as u64);
        let vocabulary = learner.decoder().spec().vocab_size as u32;
        let sample = |_| SftSample {
            tokens: (0..self.length)
                .map(|_| rng.random_range(0..vocabulary))
                .collect(),
            mask: (0..self.length).map(|i| u8::from(i > 0)).collect(),
        };
        (0..self.sequences).map(sample).collect()
    }
}
