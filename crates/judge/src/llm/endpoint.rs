//! The endpoint: one HTTP request per try, within the limits of rate, concurrency and time.

use super::config::{LlmJudgeConfig, Temperature};
use super::exchange::{Exchange, Fault, RawReply};
use super::headers::Headers;
use super::memo::Memo;
use super::pace::{RetryPolicy, TokenBucket};
use super::refusal::{Concern, Sent};
use super::reply::Reply;
use super::setup_error::LlmSetupError;
use crate::JudgeError;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::{Client, Response, Url};
use serde::Serialize;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Largest body that is read. A reply of 8,192 tokens with 20 alternatives each takes about 10 MB.
const MAX_BODY_BYTES: usize = 32 << 20;

/// Verdicts that are kept for prompts that come again; with rationales of 4 KiB at most, 64 MiB.
const KEPT_VERDICTS: usize = 16_384;

/// A chat-completions endpoint and its limits. Cheap to clone; clones share the limits and the
/// verdicts that are known, so judges that use the same endpoint should share one.
#[derive(Debug, Clone)]
pub struct LlmEndpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: Client,
    url: Url,
    headers: Headers,
    config: LlmJudgeConfig,
    sent: Sent,
    retry: RetryPolicy,
    jitter: Mutex<ChaCha8Rng>,
    concurrent: Semaphore,
    rate: Option<RateLimit>,
    memo: Memo,
}

/// One message of a dialogue.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Message {
    role: &'static str,
    content: Cow<'static, str>,
}

impl Message {
    pub fn system(content: &'static str) -> Self {
        Self {
            role: "system",
            content: content.into(),
        }
    }

    pub fn user(content: String) -> Self {
        Self {
            role: "user",
            content: content.into(),
        }
    }

    pub fn assistant(content: String) -> Self {
        Self {
            role: "assistant",
            content: content.into(),
        }
    }
}

impl LlmEndpoint {
    /// Sets the client up. The endpoint is not contacted yet.
    ///
    /// # Errors
    /// When the configuration is unusable, or an environment variable that it names is.
    pub fn new(config: &LlmJudgeConfig) -> Result<Self, LlmSetupError> {
        Self::with_environment(config, |variable| std::env::var(variable).ok())
    }

    /// The same with the environment as an argument.
    pub(super) fn with_environment(
        config: &LlmJudgeConfig,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, LlmSetupError> {
        config.validate()?;
        let url = config.chat_url()?;
        Ok(Self(Arc::new(Inner {
            http: client(&url, config.timeout_ms)?,
            url,
            headers: Headers::new(config, environment)?,
            sent: Sent::of(config),
            retry: RetryPolicy {
                max_tries: config.max_tries,
                first: Duration::from_millis(config.backoff_ms),
                longest: Duration::from_millis(config.max_backoff_ms),
            },
            jitter: Mutex::new(ChaCha8Rng::seed_from_u64(config.seed)),
            concurrent: Semaphore::new(config.max_concurrent.min(Semaphore::MAX_PERMITS)),
            rate: config.requests_per_minute.map(RateLimit::per_minute),
            memo: Memo::new(KEPT_VERDICTS),
            config: config.clone(),
        })))
    }

    /// As configured.
    pub fn config(&self) -> &LlmJudgeConfig {
        &self.0.config
    }

    pub(super) fn memo(&self) -> &Memo {
        &self.0.memo
    }

    /// The reply to a dialogue, after as many tries as the configuration allows; what is
    /// sent and what comes back is added to `record`.
    pub(super) async fn chat(
        &self,
        messages: &[Message],
        mut record: Option<&mut Vec<Exchange>>,
    ) -> Result<Reply, JudgeError> {
        let inner = &*self.0;
        let request = request(&inner.config, messages);
        let mut tries = 0;
        loop {
            let raw = inner.attempt(&request).await;
            let read = match &raw {
                Ok(raw) => raw.read(SystemTime::now(), &inner.sent),
                Err(fault) => Err(fault.clone()),
            };
            if let Some(record) = &mut record {
                record.push(Exchange {
                    request: request.clone(),
                    reply: raw.map_err(|fault| inner.error(fault, 1).to_string()),
                });
            }
            let fault = match read {
                Ok(reply) => return Ok(reply),
                Err(fault) => fault,
            };
            tries += 1;
            match inner.pause(&fault, tries) {
                Some(pause) => {
                    tracing::debug!(tries, ?pause, ?fault, "The judge failed; trying again.");
                    tokio::time::sleep(pause).await;
                }
                None => return Err(inner.error(fault, tries)),
            }
        }
    }

    /// Error that a fault is for the caller.
    pub(super) fn error(&self, fault: Fault, tries: u32) -> JudgeError {
        self.0.error(fault, tries)
    }

    /// Settings that were sent, for the reading of refusals.
    pub(super) fn sent(&self) -> &Sent {
        &self.0.sent
    }
}

impl Sent {
    fn of(config: &LlmJudgeConfig) -> Self {
        Self {
            max_tokens_field: config.max_tokens_field.name(),
            body: config.body.keys().cloned().collect(),
        }
    }
}

/// The body of a request.
pub(super) fn request(config: &LlmJudgeConfig, messages: &[Message]) -> Value {
    let mut request = serde_json::json!({
        "model": config.model,
        "messages": messages,
    });
    request[config.max_tokens_field.name()] = config.max_tokens.into();
    if let Temperature::Value(temperature) = config.temperature {
        // Through text: 0.7 and not 0.699999988079071.
        let exact = serde_json::from_str(&temperature.to_string());
        request["temperature"] = exact.unwrap_or_else(|_| temperature.into());
    }
    if config.use_logprobs {
        request["logprobs"] = true.into();
        request["top_logprobs"] = config.top_logprobs.into();
    }
    for (field, value) in &config.body {
        request[field.as_str()] = value.clone();
    }
    request
}

fn client(url: &Url, timeout_ms: u64) -> Result<Client, LlmSetupError> {
    // A redirect would turn the POST into a GET; a proxy cannot reach this machine's own loopback.
    let mut builder = Client::builder()
        .timeout(Duration::from_millis(timeout_ms))
        .redirect(reqwest::redirect::Policy::none());
    if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(LlmSetupError::Client)
}

/// What lies at the bottom: `Connection refused` says more than `error sending request`.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

impl Inner {
    async fn attempt(&self, request: &Value) -> Result<RawReply, Fault> {
        let _permit = self
            .concurrent
            .acquire()
            .await
            .expect("the semaphore is never closed");
        if let Some(rate) = &self.rate {
            rate.wait().await;
        }
        let post = self.http.post(self.url.clone()).json(request);
        let post = post.headers(self.headers.map.clone());
        let response = post.send().await.map_err(|error| fault_of(&error))?;
        let status = response.status().as_u16();
        let text = |value: &reqwest::header::HeaderValue| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        };
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), text(value)));
        let headers = headers.collect();
        let body = read_body(response).await?;
        Ok(RawReply {
            status,
            headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }

    fn pause(&self, fault: &Fault, tries: u32) -> Option<Duration> {
        // A panic while the lock is held cannot leave a random generator half-changed.
        let jitter = self
            .jitter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random();
        fault
            .may_pass()
            .then(|| self.retry.pause(tries, fault.asked(), jitter))
            .flatten()
    }

    /// Neither the address's query, which may hold a key, nor any other secret is in an error.
    fn error(&self, fault: Fault, tries: u32) -> JudgeError {
        let mut url = self.url.clone();
        url.set_query(None);
        let url = url.to_string();
        let asked_ms = fault.asked().map(|asked| asked.as_millis() as u64);
        match fault {
            Fault::Connection(reason) => JudgeError::Unreachable { url, tries, reason },
            Fault::TimedOut => JudgeError::TimedOut {
                url,
                timeout_ms: self.config.timeout_ms,
                tries,
            },
            Fault::Protocol(detail) => JudgeError::Protocol {
                url,
                tries,
                detail: self.headers.redact(&detail),
            },
            Fault::Status {
                status,
                body,
                refusal,
                ..
            } => {
                let asked = asked_ms.map(|ms| format!("asks to wait {} s, ", ms.div_ceil(1000)));
                let body = self.headers.redact(&body);
                let detail = format!("{}`{body}`", asked.unwrap_or_default());
                match refusal {
                    None => JudgeError::Busy {
                        url,
                        status,
                        tries,
                        detail,
                        asked_ms,
                    },
                    Some(refusal) => JudgeError::Refused {
                        url,
                        status,
                        detail,
                        advice: refusal.advice,
                        is_setup: refusal.concerns == Concern::Settings,
                    },
                }
            }
        }
    }
}

fn fault_of(error: &reqwest::Error) -> Fault {
    match error.is_timeout() {
        true => Fault::TimedOut,
        false => Fault::Connection(root_cause(error)),
    }
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, Fault> {
    let mut body = vec![];
    while let Some(chunk) = response.chunk().await.map_err(|error| fault_of(&error))? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(Fault::Protocol(format!(
                "its body is over {MAX_BODY_BYTES} bytes"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The token bucket with a clock.
#[derive(Debug)]
struct RateLimit {
    bucket: Mutex<TokenBucket>,
    origin: Instant,
}

impl RateLimit {
    fn per_minute(requests: u32) -> Self {
        Self {
            bucket: Mutex::new(TokenBucket::per_minute(requests)),
            origin: Instant::now(),
        }
    }

    async fn wait(&self) {
        let now = self.origin.elapsed();
        let pause = self
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(now);
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_limit_spreads_requests_over_time() {
        let rate = RateLimit::per_minute(60);
        let start = Instant::now();
        for _ in 0..10 {
            rate.wait().await;
        }
        assert_eq!(start.elapsed().as_secs(), 9);
    }

    #[test]
    fn requests_hold_what_the_configuration_says() {
        use crate::llm::MaxTokensField;
        type Change = fn(&mut LlmJudgeConfig);
        let usual = serde_json::json!({
            "model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0,
            "max_tokens": 1024, "logprobs": true, "top_logprobs": 20,
        });
        let rows: [(Change, Value); 6] = [
            (|_| {}, serde_json::json!({})),
            (
                |c| c.max_tokens_field = MaxTokensField::MaxCompletionTokens,
                serde_json::json!({"max_tokens": null, "max_completion_tokens": 1024}),
            ),
            (
                |c| c.temperature = Temperature::Default,
                serde_json::json!({"temperature": null}),
            ),
            (
                |c| c.temperature = Temperature::Value(0.7),
                serde_json::json!({"temperature": 0.7}),
            ),
            (
                |c| (c.top_logprobs, c.max_tokens) = (5, 9),
                serde_json::json!({"top_logprobs": 5, "max_tokens": 9}),
            ),
            (
                |c| {
                    c.use_logprobs = false;
                    c.body.insert("reasoning_effort".into(), "low".into());
                },
                serde_json::json!({
                    "logprobs": null, "top_logprobs": null, "reasoning_effort": "low"
                }),
            ),
        ];
        for (change, differs) in rows {
            let mut config = LlmJudgeConfig {
                model: "m".into(),
                ..Default::default()
            };
            change(&mut config);
            let mut wanted = usual.clone();
            for (field, value) in differs.as_object().unwrap() {
                let fields = wanted.as_object_mut().unwrap();
                match value {
                    Value::Null => drop(fields.remove(field)),
                    value => drop(fields.insert(field.clone(), value.clone())),
                }
            }
            let found = request(&config, &[Message::user("x".into())]);
            assert_eq!(found, wanted);
        }
    }
}
