//! Sampling: of single requests by a sampler that is named, and of whole batches by all of them.
//!
//! - **SA-1 (one result each).** A batch has one result for each request, in order, whichever sampler it
//!   is from: each request has a seed of its own.
//! - **SA-2 (nobody holds it up).** What a sampler refuses, does not answer in time, or is lost with goes
//!   to others; shares follow the samplers' pace. One that is on trial or was slow works on copies, and
//!   so does one that joins while no pace is known.
//! - **SA-3 (whose fault).** A request that alone fails again and again, on different samplers that answer
//!   others, ends the batch; samplers that fail are left out, and waited for as long as the run has
//!   patience.

use crate::fleet::{Fleet, FleetError};
use crate::pool::{CallError, LOSSES, MemberId, Who, Word};
use crate::ports::EngineError;
use crate::workers::{Caller, SamplerMessage};
use control::shares::Took;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::{Completion, GenerateRequest};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Pause before requests are given again to samplers that have all failed at them.
const AGAIN: Duration = Duration::from_secs(1);

/// Pause before requests are given to another node after a loss; doubled after each. Where this process
/// is cut off, all are lost within seconds.
const LOSS_PAUSE: Duration = Duration::from_millis(100);

/// Failures of a request alone that may be its own fault.
const TRIES: usize = 3;

/// Continuations by request and sample.
type Generated = Vec<Vec<Completion>>;

impl Fleet {
    /// Continuations of one request from one sampler.
    pub(crate) async fn sample(
        &self,
        sampler: MemberId,
        request: GenerateRequest,
    ) -> Result<Vec<Completion>, FleetError> {
        let sampled = self.sample_on(sampler, vec![request]).await?;
        Ok(sampled.into_iter().flatten().collect())
    }

    /// Continuations of requests that one sampler works on together.
    async fn sample_on(
        &self,
        sampler: MemberId,
        requests: Vec<GenerateRequest>,
    ) -> Result<Generated, FleetError> {
        let (caller, began) = (Caller::new(), Instant::now());
        let message = |port| SamplerMessage::Generate(requests.clone(), caller.waiting(), port);
        let tokens = requests.iter().map(|request| request.params.max_tokens);
        let tokens = tokens.max().unwrap_or(0);
        let vitals = &self.samplers.vitals;
        vitals.asks(tokens);
        let word = |answer: &Result<Generated, EngineError>| match check(answer, &requests) {
            Ok(()) => Word::Well,
            Err(error) => Word::Sick(error.to_string()),
        };
        let who = self.samplers.who(sampler);
        let asked = self
            .samplers
            .call_on(sampler, message, || vitals.limit(tokens), word);
        let answer = asked.await?;
        check(&answer, &requests)?;
        let sampled = answer?;
        let lengths = sampled.iter().flatten().map(|c| c.tokens.len());
        if let (Some(who), Some(longest)) = (who, lengths.max()) {
            vitals.took(&who, longest, began.elapsed());
        }
        Ok(sampled)
    }

    /// Continuations of every request, in order (SA-1 to SA-3).
    ///
    /// # Errors
    /// When a request fails wherever it is tried, or no sampler has worked for longer than the run has
    /// patience.
    pub async fn sample_all(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Generated, FleetError> {
        Batch::new(self, requests).run().await
    }
}

/// Whether an answer is one to all requests, and numbers that can be trained on.
fn check(
    answer: &Result<Generated, EngineError>,
    requests: &[GenerateRequest],
) -> Result<(), EngineError> {
    let sampled = answer.as_ref().map_err(Clone::clone)?;
    let (answered, asked) = (sampled.len(), requests.len());
    if answered != asked {
        let reason = format!("the sampler answered {answered} of {asked} requests");
        return Err(EngineError(reason));
    }
    let is_sound = |c: &Completion| {
        c.logprobs.len() == c.tokens.len() && c.logprobs.iter().all(|p| p.is_finite())
    };
    if !sampled.iter().flatten().all(is_sound) {
        let reason = "the sampler gave log-probabilities that are missing or no finite numbers";
        return Err(EngineError(reason.to_owned()));
    }
    Ok(())
}

/// Requests that are asked for together.
#[derive(Debug, Clone)]
struct Piece {
    /// Their places in the batch.
    ids: Vec<usize>,
    /// Who failed at them, and at what they were cut from, since everybody had.
    tried: BTreeSet<Who>,
    /// Who failed at this request alone, one by one.
    failed_on: Vec<Who>,
    /// Nodes lost with it.
    losses: u32,
    /// Not before.
    due: Instant,
}

impl Piece {
    fn of(ids: Vec<usize>) -> Self {
        Self {
            ids,
            tried: BTreeSet::new(),
            failed_on: Vec::new(),
            losses: 0,
            due: Instant::now(),
        }
    }

    /// Both halves, so that what is wrong with one request does not stay with the others.
    fn halves(mut self) -> Vec<Self> {
        if self.ids.len() < 2 {
            return vec![self];
        }
        let rest = self.ids.split_off(self.ids.len() / 2);
        let other = Self {
            ids: rest,
            ..self.clone()
        };
        vec![self, other]
    }
}

/// The end of a call.
struct Ended {
    sampler: MemberId,
    who: Who,
    piece: Piece,
    began: Instant,
    /// One of the shares that were dealt at first.
    is_share: bool,
    result: Result<Generated, FleetError>,
}

/// A batch under way.
struct Batch<'a> {
    fleet: &'a Fleet,
    requests: Vec<GenerateRequest>,
    done: Vec<Option<Vec<Completion>>>,
    waiting: VecDeque<Piece>,
    calls: FuturesUnordered<futures::future::BoxFuture<'a, Ended>>,
    /// Who is asked at the moment.
    busy: BTreeSet<MemberId>,
    took: Vec<Took<Who>>,
    is_dealt: bool,
    /// Samplers that were there when it was dealt, or were probed since.
    known: BTreeSet<MemberId>,
}

impl<'a> Batch<'a> {
    fn new(fleet: &'a Fleet, requests: Vec<GenerateRequest>) -> Self {
        Self {
            fleet,
            done: vec![None; requests.len()],
            requests,
            waiting: VecDeque::new(),
            calls: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            took: Vec::new(),
            is_dealt: false,
            known: BTreeSet::new(),
        }
    }

    async fn run(mut self) -> Result<Generated, FleetError> {
        if self.requests.is_empty() {
            return Ok(Vec::new());
        }
        loop {
            match self.is_dealt {
                true => self.give(),
                false => self.deal(),
            }
            self.probe_arrivals();
            if self.is_dealt && self.waiting.is_empty() && self.calls.is_empty() {
                break;
            }
            self.next().await?;
        }
        self.fleet.samplers.vitals.shared(&self.took);
        Ok(self.done.into_iter().flatten().collect())
    }

    /// Waits for what comes next: the end of a call, somebody to ask, or the end of a pause.
    async fn next(&mut self) -> Result<(), FleetError> {
        let fleet = self.fleet;
        let samplers = &fleet.samplers;
        if self.calls.is_empty() {
            samplers.wait().await?;
            // Everybody may be busy elsewhere, or have failed at what is left.
            let until = samplers.look()?.min(Instant::now() + AGAIN);
            samplers.arrival(until).await;
            return Ok(());
        }
        let is_waiting = !self.waiting.is_empty() || samplers.vitals.is_unmeasured();
        let ended = tokio::select! {
            biased;
            ended = self.calls.next() => ended,
            () = samplers.arrival(Instant::now() + AGAIN), if is_waiting => None,
        };
        match ended {
            Some(ended) => self.ended(ended),
            None => Ok(()),
        }
    }

    /// Deals the batch out to all that are idle, by their pace. Those on trial work on copies, unless
    /// there is nobody else.
    fn deal(&mut self) {
        let idle = self.fleet.samplers.idle();
        self.known.extend(idle.iter().map(|(id, ..)| *id));
        let (on_trial, trusted): (Vec<_>, Vec<_>) =
            idle.into_iter().partition(|(.., trial)| *trial);
        let count = self.requests.len();
        if trusted.is_empty() {
            if !on_trial.is_empty() {
                self.is_dealt = true;
                self.waiting.push_back(Piece::of((0..count).collect()));
                self.give();
            }
            return;
        }
        self.is_dealt = true;
        let names: Vec<Who> = trusted.iter().map(|(_, who, _)| who.clone()).collect();
        let dealt = self.fleet.samplers.vitals.deal(&names, count);
        let mut first = 0;
        for ((id, who, _), share) in trusted.iter().zip(&dealt.shares) {
            let ids: Vec<usize> = (first..first + share).collect();
            first += share;
            if !ids.is_empty() {
                self.ask(*id, who.clone(), Piece::of(ids), true);
            }
        }
        let probed = dealt.probes.iter().filter_map(|place| trusted.get(*place));
        // As long as no pace is known, one more is asked than has to be: another one may hang.
        let unshared = trusted
            .iter()
            .zip(&dealt.shares)
            .find(|(_, share)| **share == 0);
        let unshared = unshared.filter(|_| self.fleet.samplers.vitals.is_unmeasured());
        let probed = probed.chain(unshared.map(|(sampler, _)| sampler));
        // Which request it is does not matter: another sampler works on it too.
        for (i, (id, who, _)) in on_trial.iter().chain(probed).enumerate() {
            self.probe(*id, who.clone(), i % count);
        }
    }

    /// As long as no pace is known, those that join are probed: the ones that are asked may hang, and
    /// would be given up by the limit of an unknown pace alone.
    fn probe_arrivals(&mut self) {
        if !self.is_dealt || !self.fleet.samplers.vitals.is_unmeasured() {
            return;
        }
        for (id, who, _) in self.fleet.samplers.idle() {
            if self.known.insert(id) {
                self.probe(id, who, 0);
            }
        }
    }

    /// Gives what waits to whoever is idle and has not failed at it.
    fn give(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let everybody = self.fleet.samplers.everybody();
        let now = Instant::now();
        for piece in &mut self.waiting {
            if everybody.is_subset(&piece.tried) {
                piece.tried.clear();
                piece.due = piece.due.max(now + AGAIN);
            }
        }
        for (id, who, is_on_trial) in self.fleet.samplers.idle() {
            if self.busy.contains(&id) {
                continue;
            }
            // Others may be busy for long.
            let is_for = |piece: &Piece| {
                let is_long = piece.due + 2 * AGAIN <= now;
                piece.due <= now && (is_long || !piece.tried.contains(&who))
            };
            let Some(place) = self.waiting.iter().position(is_for) else {
                continue;
            };
            let Some(mut piece) = self.waiting.remove(place) else {
                continue;
            };
            if is_on_trial && piece.ids.len() > 1 {
                let rest = piece.ids.split_off(1);
                let rest = Piece {
                    ids: rest,
                    ..piece.clone()
                };
                self.waiting.push_front(rest);
            }
            self.ask(id, who, piece, false);
        }
    }

    fn ask(&mut self, sampler: MemberId, who: Who, piece: Piece, is_share: bool) {
        let fleet = self.fleet;
        let requests = piece.ids.iter().map(|id| self.requests[*id].clone());
        let requests: Vec<GenerateRequest> = requests.collect();
        self.busy.insert(sampler);
        self.calls.push(Box::pin(async move {
            let began = Instant::now();
            let result = fleet.sample_on(sampler, requests).await;
            Ended {
                sampler,
                who,
                piece,
                began,
                is_share,
                result,
            }
        }));
    }

    fn ended(&mut self, ended: Ended) -> Result<(), FleetError> {
        let Ended {
            sampler,
            who,
            mut piece,
            began,
            is_share,
            result,
        } = ended;
        self.busy.remove(&sampler);
        let error = match result {
            Ok(sampled) => {
                if is_share {
                    self.took.push(Took {
                        worker: who,
                        requests: piece.ids.len(),
                        ms: began.elapsed().as_millis() as u64,
                    });
                }
                for (id, completions) in piece.ids.into_iter().zip(sampled) {
                    self.done[id] = Some(completions);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if error.is_gone() && !self.fleet.samplers.was_put_out(sampler) {
            piece.due = Instant::now() + LOSS_PAUSE * (1 << piece.losses);
            piece.losses += 1;
            if piece.losses >= LOSSES {
                let (role, tries) = ("sampler", piece.losses);
                return Err(CallError::Lost { role, tries }.into());
            }
            self.waiting.push_front(piece);
            return Ok(());
        }
        let is_alone = piece.ids.len() == 1;
        tracing::info!(worker = %who, %error, "Requests go to another sampler.");
        if is_alone && !self.fleet.samplers.was_put_out(sampler) {
            piece.failed_on.push(who.clone());
        }
        piece.tried.insert(who);
        piece.due = Instant::now();
        if self.is_lost(&piece) {
            return Err(error);
        }
        for half in piece.halves().into_iter().rev() {
            self.waiting.push_front(half);
        }
        Ok(())
    }

    /// SA-3: whether a request is at fault itself. Where nobody is ever left out, whoever asks is told at
    /// once of what everybody failed at.
    fn is_lost(&self, piece: &Piece) -> bool {
        let samplers = &self.fleet.samplers;
        if !samplers.vitals.is_on() {
            return samplers.everybody().is_subset(&piece.tried);
        }
        let distinct: BTreeSet<Who> = piece.failed_on.iter().cloned().collect();
        let is_everywhere = distinct.len() >= TRIES || samplers.everybody().is_subset(&distinct);
        let others_work = self.done.iter().any(Option::is_some);
        piece.failed_on.len() >= TRIES && is_everywhere && others_work
    }

    /// Has a sampler work on a copy of a request; nobody waits for it.
    fn probe(&self, sampler: MemberId, who: Who, request: usize) {
        let (fleet, request) = (self.fleet.clone(), self.requests[request].clone());
        let began = Instant::now();
        tokio::spawn(async move {
            if fleet.sample_on(sampler, vec![request]).await.is_ok() {
                fleet.samplers.vitals.probed(&who, began.elapsed());
            }
        });
    }
}
