//! What may be asked of an engine.

use crate::error::RequestError;
use proto::{GenerateRequest, Thinking};

/// Names a request within one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Refuses what cannot be sampled.
pub(crate) fn check(
    request: &GenerateRequest,
    context: usize,
    vocab_size: i64,
) -> Result<(), RequestError> {
    let tokens = request.prompt.len();
    if tokens == 0 {
        return Err(RequestError::EmptyPrompt);
    }
    if tokens >= context {
        return Err(RequestError::PromptTooLong { tokens, context });
    }
    if let Some(&id) = request
        .prompt
        .iter()
        .find(|id| i64::from(**id) >= vocab_size)
    {
        return Err(RequestError::UnknownToken { id, vocab_size });
    }
    check_parameters(request)
}

fn check_parameters(request: &GenerateRequest) -> Result<(), RequestError> {
    let params = &request.params;
    let tags = |thinking: &Thinking| !thinking.open.is_empty() && !thinking.close.is_empty();
    let rules: [(bool, &'static str, String, &'static str); 6] = [
        (
            request.samples >= 1,
            "samples",
            request.samples.to_string(),
            "at least 1",
        ),
        (
            params.temperature.is_finite() && params.temperature >= 0.0,
            "temperature",
            params.temperature.to_string(),
            "a number from 0 (greedy) up",
        ),
        (
            params.top_p > 0.0 && params.top_p <= 1.0,
            "top_p",
            params.top_p.to_string(),
            "above 0 and at most 1 (off)",
        ),
        (
            params.max_tokens >= 1,
            "max_tokens",
            params.max_tokens.to_string(),
            "at least 1",
        ),
        (
            params.stop.iter().all(|stop| !stop.is_empty()),
            "stop",
            "\"\"".to_owned(),
            "a text of at least one character, since every text contains the empty one",
        ),
        (
            params.thinking.as_ref().is_none_or(tags),
            "thinking",
            "\"\"".to_owned(),
            "two tags of at least one character each",
        ),
    ];
    match rules.into_iter().find(|(holds, ..)| !holds) {
        Some((_, name, value, range)) => Err(RequestError::Parameter { name, value, range }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::SamplingParams;

    #[test]
    fn bad_requests_are_refused_with_what_to_do() {
        type Spoil = fn(&mut GenerateRequest);
        let cases: [(Spoil, &str); 13] = [
            (|r| r.prompt.clear(), "prompt is empty"),
            (
                |r| r.prompt = vec![1; 16],
                "16 tokens, but the context holds 16",
            ),
            (|r| r.prompt[1] = 100, "token 100"),
            (|r| r.samples = 0, "`samples` is 0"),
            (|r| r.params.temperature = -0.5, "`temperature` is -0.5"),
            (|r| r.params.temperature = f32::NAN, "`temperature` is NaN"),
            (
                |r| r.params.temperature = f32::INFINITY,
                "`temperature` is inf",
            ),
            (|r| r.params.top_p = 0.0, "`top_p` is 0"),
            (|r| r.params.top_p = 1.5, "`top_p` is 1.5"),
            (|r| r.params.top_p = f32::NAN, "`top_p` is NaN"),
            (|r| r.params.max_tokens = 0, "`max_tokens` is 0"),
            (|r| r.params.stop.push(String::new()), "`stop` is \"\""),
            (
                |r| {
                    r.params.thinking = Some(Thinking {
                        open: "<think>".into(),
                        close: String::new(),
                        begins_open: false,
                    });
                },
                "`thinking` is \"\"",
            ),
        ];
        let good = GenerateRequest {
            prompt: vec![1, 2],
            samples: 1,
            params: SamplingParams::greedy(4, vec!["x".into()]),
            seed: 0,
        };
        assert_eq!(check(&good, 16, 100), Ok(()));
        for (spoil, expected) in cases {
            let mut bad = good.clone();
            spoil(&mut bad);
            let error = check(&bad, 16, 100).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
