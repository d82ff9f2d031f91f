//! What stands in for models: a sampler that takes its time, and text of one token a byte.

use actors::ports::{EngineError, Generator, Turns};
use async_trait::async_trait;
use proto::{Completion, FinishReason, GenerateRequest, Question, WeightSnapshot, WeightVersion};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How the calculator's reply begins.
const REPLY: &str = " -> ";

fn tokens(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// One token a byte. Counts the items that were begun.
#[derive(Default)]
pub struct ByteTurns {
    pub begun: AtomicU64,
}

impl Turns for ByteTurns {
    fn prompt(&self, question: &Question) -> Vec<u32> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        tokens(&format!("{}\n", question.question))
    }

    fn observation(&self, text: &str, _: &[u32]) -> Vec<u32> {
        tokens(&format!("\n{text}\n"))
    }
}

/// Has the question calculated, then answers with the result. Each action takes its time.
pub struct Slow {
    pub takes: Duration,
}

#[async_trait]
impl Generator for Slow {
    async fn generate(
        &self,
        requests: Vec<GenerateRequest>,
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        tokio::time::sleep(self.takes).await;
        Ok(requests.iter().map(continuations).collect())
    }

    async fn publish(&self, _: WeightSnapshot) -> Result<(), EngineError> {
        Ok(())
    }
}

fn continuations(request: &GenerateRequest) -> Vec<Completion> {
    let prompt: String = request.prompt.iter().map(|&b| b as u8 as char).collect();
    let text = match prompt.rsplit_once(REPLY) {
        Some((_, result)) => format!("<answer>{}</answer>", result.trim()),
        None => format!("<math_exp>{}</math_exp>", prompt.trim()),
    };
    let tokens = tokens(&text);
    let completion = Completion {
        logprobs: vec![-0.5; tokens.len()],
        tokens,
        finish: FinishReason::StopText,
        text,
        weight_version: WeightVersion(0),
    };
    vec![completion; request.samples as usize]
}
