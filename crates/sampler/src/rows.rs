//! What the engine knows of requests and of the sequences it decodes for them. No tensors are
//! computed here.

use crate::draw::Drawn;
use crate::request::RequestId;
use crate::stop::StopWatch;
use model::Tokenizer;
use proto::{Completion, FinishReason, GenerateRequest, WeightVersion};
use tch::Tensor;

/// A request from its submission to its last completion.
#[derive(Debug)]
pub(crate) struct Job {
    pub request: GenerateRequest,
    /// Samples with an index below this were given a row.
    pub started: u32,
    pub completions: Vec<Option<Completion>>,
    /// Logits `[1, V]` behind the prompt, while samples that need them are to be started.
    pub prompt_logits: Option<Tensor>,
}

impl Job {
    pub fn new(request: GenerateRequest) -> Self {
        let completions = vec![None; request.samples as usize];
        Self {
            request,
            started: 0,
            completions,
            prompt_logits: None,
        }
    }

    /// Samples that have no row yet.
    pub fn unstarted(&self) -> usize {
        (self.request.samples - self.started) as usize
    }

    /// The index of the next sample, which has a row from now on.
    pub fn start(&mut self) -> u32 {
        self.started += 1;
        self.started - 1
    }

    pub fn is_done(&self) -> bool {
        self.completions.iter().all(Option::is_some)
    }
}

/// One sequence that is being decoded; its index is its row in the cache.
#[derive(Debug)]
pub(crate) struct Row {
    pub id: RequestId,
    pub sample: u32,
    pub prompt_tokens: usize,
    pub tokens: Vec<u32>,
    logprobs: Vec<f32>,
    watch: StopWatch,
}

impl Row {
    /// A row whose cache holds the prompt and which has no token yet.
    pub fn new(id: RequestId, sample: u32, request: &GenerateRequest) -> Self {
        Self {
            id,
            sample,
            prompt_tokens: request.prompt.len(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
            watch: StopWatch::new(&request.params),
        }
    }

    /// Tokens in the cache: all but the last sampled one, which the next step feeds.
    pub fn cached(&self) -> usize {
        (self.prompt_tokens + self.tokens.len())
            .saturating_sub(1)
            .max(self.prompt_tokens)
    }

    /// Takes a sampled token; says whether the sequence ends with it.
    pub fn take(
        &mut self,
        drawn: Drawn,
        request: &GenerateRequest,
        tokenizer: &Tokenizer,
        context: usize,
    ) -> Option<FinishReason> {
        self.tokens.push(drawn.token);
        self.logprobs.push(drawn.logprob);
        let params = &request.params;
        if tokenizer.end_of_turn().contains(&drawn.token) {
            Some(FinishReason::EndOfTurn)
        } else if self.watch.push(tokenizer, drawn.token, params) {
            Some(FinishReason::StopText)
        } else if self.tokens.len() >= params.max_tokens as usize
            || self.prompt_tokens + self.tokens.len() >= context
        {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    pub fn complete(
        &mut self,
        finish: FinishReason,
        tokenizer: &Tokenizer,
        weight_version: WeightVersion,
    ) -> Completion {
        let tokens = std::mem::take(&mut self.tokens);
        let text = tokenizer.decode(&tokens, true);
        Completion {
            tokens,
            logprobs: std::mem::take(&mut self.logprobs),
            finish,
            text,
            weight_version,
        }
    }
}
