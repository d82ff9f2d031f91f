//! The endpoint: one HTTP request per try, within the limits of rate, concurrency and time.

use super::config::{LlmJudgeConfig, LlmSetupError};
use super::pace::{RetryPolicy, TokenBucket, retry_after};
use super::reply::{self, Reply};
use crate::JudgeError;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};
use serde::Serialize;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// Largest body that is read. A reply of 8,192 tokens with 20 alternatives each takes about 10 MB.
const MAX_BODY_BYTES: usize = 32 << 20;
/// Alternatives asked for at each token; the protocol's upper limit.
const TOP_LOGPROBS: u32 = 20;

/// A chat-completions endpoint and its limits. Cheap to clone; clones share the limits, so judges
/// that use the same endpoint should share one.
#[derive(Debug, Clone)]
pub struct LlmEndpoint(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: Client,
    url: Url,
    /// `Bearer …`, marked sensitive: its `Debug` does not show it.
    key: Option<HeaderValue>,
    model: String,
    max_tokens: u32,
    use_logprobs: bool,
    timeout_ms: u64,
    retry: RetryPolicy,
    jitter: Mutex<ChaCha8Rng>,
    concurrent: Semaphore,
    rate: Option<RateLimit>,
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
    /// When the configuration is unusable, or the API key's environment variable is.
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
        let key = config
            .api_key_env
            .as_deref()
            .map(|name| bearer(name, environment))
            .transpose()?;
        Ok(Self(Arc::new(Inner {
            http: client(&url, config.timeout_ms)?,
            url,
            key,
            model: config.model.clone(),
            max_tokens: config.max_tokens,
            use_logprobs: config.use_logprobs,
            timeout_ms: config.timeout_ms,
            retry: RetryPolicy {
                max_tries: config.max_tries,
                first: Duration::from_millis(config.backoff_ms),
                longest: Duration::from_millis(config.max_backoff_ms),
            },
            jitter: Mutex::new(ChaCha8Rng::seed_from_u64(config.seed)),
            concurrent: Semaphore::new(config.max_concurrent.min(Semaphore::MAX_PERMITS)),
            rate: config.requests_per_minute.map(RateLimit::per_minute),
        })))
    }

    /// The model's name as configured.
    pub fn model(&self) -> &str {
        &self.0.model
    }

    pub(super) fn max_tries(&self) -> u32 {
        self.0.retry.max_tries
    }

    /// The reply to a dialogue, after as many tries as the configuration allows.
    pub(super) async fn chat(&self, messages: &[Message]) -> Result<Reply, JudgeError> {
        let inner = &*self.0;
        let request = inner.request(messages);
        let mut tries = 0;
        loop {
            let fault = match inner.attempt(&request).await {
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

fn bearer(
    variable: &str,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<HeaderValue, LlmSetupError> {
    let fail = |reason| LlmSetupError::ApiKey {
        variable: variable.to_owned(),
        reason,
    };
    let key = environment(variable).ok_or_else(|| fail("is not set"))?;
    let key = key.trim();
    if key.is_empty() {
        return Err(fail("is empty"));
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| fail("holds characters that no HTTP header can carry"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Why one try failed.
#[derive(Debug)]
enum Fault {
    Connection(String),
    TimedOut,
    Status {
        status: StatusCode,
        asked: Option<Duration>,
        body: String,
    },
    Protocol(String),
}

impl Fault {
    fn of(error: &reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::TimedOut
        } else {
            Self::Connection(root_cause(error))
        }
    }

    /// Whether another try may help. Not a chat completion may be a proxy's hiccup, so it is.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connection(_) | Self::TimedOut | Self::Protocol(_) => true,
            Self::Status { status, .. } => is_temporary(*status),
        }
    }

    fn asked(&self) -> Option<Duration> {
        match self {
            Self::Status { asked, .. } => *asked,
            Self::Connection(_) | Self::TimedOut | Self::Protocol(_) => None,
        }
    }
}

fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
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
    fn request(&self, messages: &[Message]) -> serde_json::Value {
        let mut request = serde_json::json!({
            "model": self.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self.max_tokens,
        });
        if self.use_logprobs {
            request["logprobs"] = true.into();
            request["top_logprobs"] = TOP_LOGPROBS.into();
        }
        request
    }

    async fn attempt(&self, request: &serde_json::Value) -> Result<Reply, Fault> {
        let _permit = self
            .concurrent
            .acquire()
            .await
            .expect("the semaphore is never closed");
        if let Some(rate) = &self.rate {
            rate.wait().await;
        }
        let mut post = self.http.post(self.url.clone()).json(request);
        if let Some(key) = &self.key {
            post = post.header(reqwest::header::AUTHORIZATION, key);
        }
        let response = post.send().await.map_err(|error| Fault::of(&error))?;
        let status = response.status();
        let asked = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|h| retry_after(h.to_str().ok()?));
        let body = read_body(response).await?;
        if status.is_success() {
            return reply::parse(&body).map_err(Fault::Protocol);
        }
        let body = reply::beginning(&String::from_utf8_lossy(&body));
        Err(Fault::Status {
            status,
            asked,
            body,
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

    fn error(&self, fault: Fault, tries: u32) -> JudgeError {
        let url = self.url.to_string();
        match fault {
            Fault::Connection(reason) => JudgeError::Unreachable { url, tries, reason },
            Fault::TimedOut => JudgeError::TimedOut {
                url,
                timeout_ms: self.timeout_ms,
                tries,
            },
            Fault::Protocol(detail) => JudgeError::Protocol { url, tries, detail },
            Fault::Status {
                status,
                asked,
                body,
            } => {
                let asked = asked.map(|a| format!("asks to wait {} s, ", a.as_secs()));
                let detail = format!("{}`{body}`", asked.unwrap_or_default());
                let (temporary, status) = (is_temporary(status), status.as_u16());
                if temporary {
                    JudgeError::Busy {
                        url,
                        status,
                        tries,
                        detail,
                    }
                } else {
                    JudgeError::Refused {
                        url,
                        status,
                        detail,
                    }
                }
            }
        }
    }
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, Fault> {
    let mut body = vec![];
    while let Some(chunk) = response.chunk().await.map_err(|error| Fault::of(&error))? {
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
    fn statuses() {
        let temporary = [408, 425, 429, 500, 502, 503, 504, 529];
        let lasting = [301, 400, 401, 403, 404, 413, 422];
        let is = |status: &u16| is_temporary(StatusCode::from_u16(*status).unwrap());
        assert!(temporary.iter().all(is));
        assert!(!lasting.iter().any(is));
    }
}
