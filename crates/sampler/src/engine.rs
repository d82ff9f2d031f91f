//! The engine: continuous batching over one decoder and one cache.
//!
//! - **EN-1 (batch-free).** What a request gets depends on the request and the weights, up to
//!   rounding within the decoder, and not on what else is decoded with it.
//! - **EN-2 (one prefill).** A prompt is prefilled once, however many samples it has: while some of
//!   them are not started, at least one row of the request holds the prompt's keys.
//! - **EN-3 (one version).** All tokens of a completion are of one weight version: weights change
//!   only while nothing is decoded, and the cache goes with them.
//! - **EN-4 (beginnings are shared).** A prompt that begins like a finished sequence, or like one
//!   that waits beside it, takes over the keys of that beginning, and only the rest is computed. It
//!   gets what it would get without, up to rounding within the decoder.

use crate::draw::{Draw, Drawn, NotFinite, draw, uniform};
use crate::error::{EngineError, GenerateError, RequestError, WeightsError};
use crate::plan::{self, Waiting};
use crate::request::{self, RequestId};
use crate::reuse::{self, Reuse};
use crate::rows::{Job, Row};
use model::{CachedPrefix, Decoder, KvCache, Tokenizer};
use proto::{Completion, FinishReason, GenerateRequest, WeightSnapshot, WeightVersion};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use tch::{Kind, Tensor};

/// Limits of an engine. Each is at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Sequences decoded together. Default 32: beyond it, two CPU cores gain little.
    pub max_batch: usize,
    /// Tokens of one sequence, prompt and sampled together; at most the model's context. Default
    /// 2048. The cache takes at most
    /// [`KvCache::estimate_bytes`]`(spec, kind, max_batch, max_context_tokens)` and half of that
    /// again, and only as much as the sequences at hand need.
    pub max_context_tokens: usize,
    /// Prompt tokens, padding included, of one prefill call. Default 2048. It bounds the memory of
    /// activations; a prompt that is longer by itself is a call of its own.
    pub max_prefill_tokens: usize,
    /// Finished sequences whose keys are kept for prompts that begin like them, as the next step of
    /// a trajectory does; 0 turns it off. Default 64. They take what as many rows of the cache take.
    pub kept_sequences: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_batch: 32,
            max_context_tokens: 2048,
            max_prefill_tokens: 2048,
            kept_sequences: 64,
        }
    }
}

/// What an engine did since it was built.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineStats {
    /// Prompt tokens that were computed, each prompt once whatever its samples.
    pub prompt_tokens: u64,
    /// Prompt tokens whose keys were taken over from finished sequences (EN-4).
    pub reused_tokens: u64,
    /// Tokens that were sampled.
    pub sampled_tokens: u64,
    /// Completed samples.
    pub completions: u64,
    /// Forward passes over one token of each active sequence.
    pub decode_steps: u64,
    /// Time in prefill, in seconds.
    pub prefill_seconds: f64,
    /// Time in decoding, first tokens included, in seconds.
    pub decode_seconds: f64,
}

/// What became of a request: its completions in the order of its samples.
pub type Outcome = Result<Vec<Completion>, GenerateError>;

/// Batched generation on one device; lives on that device's owner thread.
#[derive(Debug)]
pub struct Engine {
    decoder: Decoder,
    tokenizer: Arc<Tokenizer>,
    version: WeightVersion,
    config: EngineConfig,
    cache: KvCache,
    reuse: Reuse<CachedPrefix>,
    rows: Vec<Row>,
    jobs: HashMap<RequestId, Job>,
    /// Requests with samples that have no row, oldest first.
    queue: VecDeque<RequestId>,
    finished: Vec<(RequestId, Outcome)>,
    stats: EngineStats,
}

impl Engine {
    /// An engine without work. `version` names the decoder's weights.
    ///
    /// # Errors
    /// A limit is 0 or beyond the model's context.
    pub fn new(
        decoder: Decoder,
        tokenizer: Arc<Tokenizer>,
        version: WeightVersion,
        config: EngineConfig,
    ) -> Result<Self, EngineError> {
        let limits = [
            ("max_batch", config.max_batch),
            ("max_context_tokens", config.max_context_tokens),
            ("max_prefill_tokens", config.max_prefill_tokens),
        ];
        if let Some((name, _)) = limits.into_iter().find(|(_, limit)| *limit == 0) {
            return Err(EngineError::ZeroLimit(name));
        }
        let model = decoder.spec().max_context.max(0) as usize;
        if config.max_context_tokens > model {
            return Err(EngineError::ContextTooLong {
                asked: config.max_context_tokens,
                model,
            });
        }
        let cache = KvCache::new(decoder.spec(), decoder.kind(), decoder.device());
        Ok(Self {
            decoder,
            tokenizer,
            version,
            config,
            cache,
            reuse: Reuse::new(config.kept_sequences),
            rows: Vec::new(),
            jobs: HashMap::new(),
            queue: VecDeque::new(),
            finished: Vec::new(),
            stats: EngineStats::default(),
        })
    }

    /// Queues a request, which the next steps serve.
    ///
    /// # Errors
    /// The request cannot be served; nothing was queued.
    pub fn submit(&mut self, id: RequestId, request: GenerateRequest) -> Result<(), RequestError> {
        let context = self.config.max_context_tokens;
        request::check(&request, context, self.decoder.spec().vocab_size)?;
        if self.jobs.contains_key(&id) {
            return Err(RequestError::DuplicateId(id.0));
        }
        self.jobs.insert(id, Job::new(request));
        self.queue.push_back(id);
        Ok(())
    }

    /// Gives free rows to queued requests, samples one token for each active sequence, and returns
    /// the requests that are finished with it.
    pub fn step(&mut self) -> Vec<(RequestId, Outcome)> {
        tch::no_grad(|| {
            let prefill = Instant::now();
            self.admit();
            self.stats.prefill_seconds += prefill.elapsed().as_secs_f64();
            let decode = Instant::now();
            self.draw_first_tokens();
            self.decode();
            self.stats.decode_seconds += decode.elapsed().as_secs_f64();
        });
        std::mem::take(&mut self.finished)
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Drops a request and its sequences; unknown ids are ignored.
    pub fn abort(&mut self, id: RequestId) {
        self.jobs.remove(&id);
        self.queue.retain(|queued| *queued != id);
        for index in (0..self.rows.len()).rev() {
            if self.rows[index].id == id {
                self.remove_row(index);
            }
        }
    }

    /// Serves other weights from now on. The cache is dropped with the old ones (EN-3).
    ///
    /// # Errors
    /// Requests are being served, or the snapshot is damaged or of another model: the engine goes
    /// on with the weights it has.
    pub fn apply_weights(&mut self, snapshot: &WeightSnapshot) -> Result<(), WeightsError> {
        if !self.is_idle() {
            return Err(WeightsError::Busy(self.jobs.len()));
        }
        self.decoder.apply(snapshot)?;
        self.cache.clear();
        self.reuse.clear();
        self.version = snapshot.manifest.version;
        Ok(())
    }

    /// The weights that are served.
    pub fn version(&self) -> WeightVersion {
        self.version
    }

    /// What was done so far.
    pub fn stats(&self) -> EngineStats {
        self.stats
    }

    fn free_rows(&self) -> usize {
        self.config.max_batch - self.rows.len()
    }

    /// Fills free rows: first with more samples of prompts that are in the cache, then with prompts
    /// that are prefilled for it.
    fn admit(&mut self) {
        if self.free_rows() == 0 {
            return;
        }
        for id in self.queue.clone() {
            self.start_samples(id);
        }
        while self.free_rows() > 0 {
            let waiting: Vec<(RequestId, Waiting)> = self
                .queue
                .iter()
                .take(self.free_rows())
                .map(|id| (*id, self.waiting(*id)))
                .collect();
            if self.first_leads(&waiting) {
                let first = waiting[0].0;
                self.prefill(&[first]);
                self.keep_prompt(self.rows.len() - 1);
                self.start_samples(first);
                continue;
            }
            let plan: Vec<Waiting> = waiting.iter().map(|(_, waiting)| *waiting).collect();
            let group: Vec<RequestId> =
                plan::group(&plan, self.free_rows(), self.config.max_prefill_tokens)
                    .into_iter()
                    .map(|index| waiting[index].0)
                    .collect();
            if group.is_empty() {
                return;
            }
            self.prefill(&group);
            for id in group {
                self.start_samples(id);
            }
        }
    }

    /// Whether the oldest prompt is prefilled alone, because others that wait begin like it: a call of
    /// its own is worth it where they are saved as many tokens as it has.
    fn first_leads(&self, waiting: &[(RequestId, Waiting)]) -> bool {
        let Some(((first, own), others)) = waiting.split_first() else {
            return false;
        };
        if !self.reuse.is_on() {
            return false;
        }
        let first = &self.jobs[first].request.prompt;
        let saved = others.iter().map(|(id, other)| {
            let prompt = &self.jobs[id].request.prompt;
            let held = prompt.len() - other.tokens;
            reuse::taken_over(first, prompt).saturating_sub(held)
        });
        saved.sum::<usize>() >= own.tokens
    }

    fn waiting(&self, id: RequestId) -> Waiting {
        let job = &self.jobs[&id];
        let prompt = &job.request.prompt;
        let held = self.reuse.find(prompt).map_or(0, |found| found.tokens);
        Waiting {
            tokens: prompt.len() - held,
            samples: job.unstarted(),
        }
    }

    /// Gives free rows to samples of a request whose prompt is in some row, by copying it.
    fn start_samples(&mut self, id: RequestId) {
        let Some(from) = self.rows.iter().position(|row| row.id == id) else {
            return;
        };
        let prompt_tokens = self.rows[from].prompt_tokens;
        let job = self.jobs.get_mut(&id).expect("a row's request is known");
        while job.unstarted() > 0 && self.rows.len() < self.config.max_batch {
            let sample = job.start();
            self.cache.copy_row(from, self.rows.len(), prompt_tokens);
            self.rows.push(Row::new(id, sample, &job.request));
        }
        if job.unstarted() == 0 {
            self.queue.retain(|queued| *queued != id);
        }
    }

    /// Runs the prompts of requests, less what is taken over, through the decoder in one padded call
    /// and gives each request its first row. Only the last position of each prompt is projected to
    /// the vocabulary.
    fn prefill(&mut self, group: &[RequestId]) {
        let first = self.rows.len();
        let held = self.take_over(group, first);
        let prompts: Vec<&[u32]> = group
            .iter()
            .map(|id| self.jobs[id].request.prompt.as_slice())
            .collect();
        let new = prompts
            .iter()
            .zip(&held)
            .map(|(prompt, held)| prompt.len() - held);
        let longest = new.max().expect("a group is not empty");
        let mut ids = vec![0i64; group.len() * longest];
        let mut last = Vec::new();
        for (row, (prompt, &held)) in prompts.iter().zip(&held).enumerate() {
            let start = row * longest;
            for (slot, token) in ids[start..].iter_mut().zip(&prompt[held..]) {
                *slot = i64::from(*token);
            }
            last.push((start + prompt.len() - held - 1) as i64);
        }
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let shape = [group.len() as i64, longest as i64];
        let device = self.decoder.device();
        let ids = Tensor::from_slice(&ids).view(shape).to_device(device); // [P, T]
        let before: Vec<i64> = held.iter().map(|&held| held as i64).collect();
        let positions = Tensor::from_slice(&before).to_device(device).unsqueeze(1)
            + Tensor::arange(longest as i64, (Kind::Int64, device)); // [P, T]
        if held.iter().all(|&held| held == 0) {
            self.cache.begin_prefill(first, group.len(), longest);
        } else {
            self.cache.begin_extend(first, &before, longest);
        }
        let hidden = self.decoder.forward(&ids, &positions, &mut self.cache); // [P, T, H]
        let last = Tensor::from_slice(&last).to_device(device);
        let hidden = hidden.flatten(0, 1).index_select(0, &last); // [P, H]
        let logits = self.decoder.logits(&hidden); // [P, V]
        for (row, id) in group.iter().enumerate() {
            let job = self.jobs.get_mut(id).expect("a queued request is known");
            job.prompt_logits = Some(logits.narrow(0, row as i64, 1).copy());
            let sample = job.start();
            self.rows.push(Row::new(*id, sample, &job.request));
        }
        let reused = held.iter().sum::<usize>() as u64;
        self.stats.reused_tokens += reused;
        self.stats.prompt_tokens += lengths.iter().sum::<usize>() as u64 - reused;
    }

    /// Puts the beginnings of prompts that are at hand into the rows from `first` on; returns how
    /// many tokens of each prompt (EN-4).
    fn take_over(&mut self, group: &[RequestId], first: usize) -> Vec<usize> {
        let mut held = Vec::with_capacity(group.len());
        for (row, id) in group.iter().enumerate() {
            let found = self.reuse.find(&self.jobs[id].request.prompt);
            if let Some(found) = found {
                let prefix = self.reuse.keys(found);
                self.cache.load_prefix(prefix, first + row, found.tokens);
            }
            held.push(found.map_or(0, |found| found.tokens));
        }
        held
    }

    /// Keeps the keys of a request's last row: of the sequence if it is the only one, else of the
    /// prompt.
    fn keep(&mut self, index: usize, sample: usize) {
        if !self.reuse.is_on() {
            return;
        }
        let job = &self.jobs[&self.rows[index].id];
        let mut tokens = job.request.prompt.clone();
        if let (1, Some(only)) = (job.request.samples, &job.completions[sample]) {
            // The last sampled token was never fed, so the cache has no key of it.
            tokens.extend(&only.tokens[..only.tokens.len().saturating_sub(1)]);
        }
        let prefix = self.cache.save_prefix(index, tokens.len());
        self.reuse.keep(tokens, prefix);
    }

    /// Keeps the keys of a row's prompt.
    fn keep_prompt(&mut self, index: usize) {
        let prompt = self.jobs[&self.rows[index].id].request.prompt.clone();
        let prefix = self.cache.save_prefix(index, prompt.len());
        self.reuse.keep(prompt, prefix);
    }

    /// Samples the first token of rows that have none, from the logits of their prompts. A row that
    /// ends at once may start another sample in its place, hence the loop.
    fn draw_first_tokens(&mut self) {
        loop {
            let fresh: Vec<usize> = (0..self.rows.len())
                .filter(|&row| self.rows[row].tokens.is_empty())
                .collect();
            if fresh.is_empty() {
                break;
            }
            let logits: Vec<&Tensor> = fresh
                .iter()
                .map(|&row| {
                    let logits = &self.jobs[&self.rows[row].id].prompt_logits;
                    logits
                        .as_ref()
                        .expect("kept while a sample of the prompt needs them")
                })
                .collect();
            let logits = Tensor::cat(&logits, 0); // [F, V]
            self.sample(&fresh, &logits);
        }
        for job in self.jobs.values_mut().filter(|job| job.unstarted() == 0) {
            job.prompt_logits = None;
        }
    }

    /// Feeds each row's last token and samples the next.
    fn decode(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let device = self.decoder.device();
        let column = |values: Vec<i64>| Tensor::from_slice(&values).to_device(device).unsqueeze(1);
        let lengths: Vec<i64> = self.rows.iter().map(|row| row.cached() as i64).collect();
        let last = |row: &Row| i64::from(*row.tokens.last().expect("first tokens were drawn"));
        let ids = column(self.rows.iter().map(last).collect()); // [B, 1]
        self.cache.begin_decode(&lengths);
        let hidden = self
            .decoder
            .forward(&ids, &column(lengths), &mut self.cache); // [B, 1, H]
        let logits = self.decoder.logits(&hidden.squeeze_dim(1)); // [B, V]
        self.stats.decode_steps += 1;
        let all: Vec<usize> = (0..self.rows.len()).collect();
        self.sample(&all, &logits);
    }

    /// Draws one token for each of `rows` from `logits` `[rows, V]` and ends what ends with it.
    fn sample(&mut self, rows: &[usize], logits: &Tensor) {
        let draws: Vec<Draw> = rows
            .iter()
            .map(|&index| {
                let row = &self.rows[index];
                let request = &self.jobs[&row.id].request;
                let uniform = uniform(request.seed, row.sample, row.tokens.len());
                Draw {
                    params: &request.params,
                    uniform,
                }
            })
            .collect();
        let drawn = draw(logits, &draws);
        // From the last row on, since removing a row moves the last one into its place.
        for (&index, drawn) in rows.iter().zip(drawn).rev() {
            self.take(index, drawn);
        }
        self.fail_broken();
    }

    fn take(&mut self, index: usize, drawn: Result<Drawn, NotFinite>) {
        let row = &mut self.rows[index];
        let Ok(drawn) = drawn else {
            let error = GenerateError::NotFinite(self.version);
            if !self.finished.iter().any(|(id, _)| *id == row.id) {
                self.finished.push((row.id, Err(error)));
            }
            return;
        };
        self.stats.sampled_tokens += 1;
        let request = &self.jobs[&row.id].request;
        let context = self.config.max_context_tokens;
        if let Some(finish) = row.take(drawn, request, &self.tokenizer, context) {
            self.finish(index, finish);
        }
    }

    /// Hands in a row's completion; the row goes to the request's next sample, or is free.
    fn finish(&mut self, index: usize, finish: FinishReason) {
        let row = &mut self.rows[index];
        let id = row.id;
        let completion = row.complete(finish, &self.tokenizer, self.version);
        self.stats.completions += 1;
        let job = self.jobs.get_mut(&id).expect("a row's request is known");
        let sample = row.sample as usize;
        job.completions[sample] = Some(completion);
        if job.unstarted() > 0 {
            // The prompt's part of the cache is as it was: the next sample needs no copy (EN-2).
            let sample = job.start();
            *row = Row::new(id, sample, &job.request);
            if job.unstarted() == 0 {
                self.queue.retain(|queued| *queued != id);
            }
            return;
        }
        if job.is_done() {
            self.keep(index, sample);
            let job = self.jobs.remove(&id).expect("it was there a moment ago");
            self.finished
                .push((id, Ok(job.completions.into_iter().flatten().collect())));
        }
        self.remove_row(index);
    }

    /// Requests whose logits were not finite leave with all their rows.
    fn fail_broken(&mut self) {
        let broken: Vec<RequestId> = self
            .finished
            .iter()
            .filter(|(id, outcome)| outcome.is_err() && self.jobs.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        for id in broken {
            self.abort(id);
        }
    }

    /// Frees a row; the last one moves into its place, so that active rows stay contiguous.
    fn remove_row(&mut self, index: usize) {
        let last = self.rows.len() - 1;
        if index != last {
            self.cache.copy_row(last, index, self.rows[last].cached());
        }
        self.rows.swap_remove(index);
    }
}
