//! One request and what came back, read without a network or a clock.

use super::pace::retry_after;
use super::refusal::{self, Refusal, Sent};
use super::reply::{self, Reply};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// An answer of an endpoint as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawReply {
    /// The HTTP status.
    pub status: u16,
    /// The headers, by name in any case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

/// A request to a judge model and what came back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// The body of the request, as JSON.
    pub request: Value,
    /// The answer, or why there was none.
    pub reply: Result<RawReply, String>,
}

/// Why one try failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection, or it broke off.
    Connection(String),
    /// No reply in time.
    TimedOut,
    /// A status other than success, the pause that was asked for, and the beginning of the body.
    Status {
        status: u16,
        asked: Option<Duration>,
        body: String,
        refusal: Option<Refusal>,
    },
    /// It is no chat completion.
    Protocol(String),
}

impl Fault {
    /// Whether another try may help. Not a chat completion may be a proxy's hiccup, so it is.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Connection(_) | Self::TimedOut | Self::Protocol(_) => true,
            Self::Status { refusal, .. } => refusal.is_none(),
        }
    }

    /// The pause that the endpoint asked for.
    pub fn asked(&self) -> Option<Duration> {
        match self {
            Self::Status { asked, .. } => *asked,
            Self::Connection(_) | Self::TimedOut | Self::Protocol(_) => None,
        }
    }
}

/// Statuses that pass by themselves: overload, breakdown, and credit that is used up.
fn is_temporary(status: u16) -> bool {
    matches!(status, 402 | 408 | 425 | 429) || status >= 500
}

impl RawReply {
    fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The pause that is asked for, from `now` on.
    fn asked(&self, now: SystemTime) -> Option<Duration> {
        let precise = self
            .header("retry-after-ms")
            .and_then(|ms| ms.trim().parse().ok());
        let precise = precise.map(Duration::from_millis);
        precise.or_else(|| retry_after(self.header("retry-after")?, now))
    }

    /// The status that counts: some proxies answer 200 and say in the body what went wrong.
    fn true_status(&self) -> u16 {
        let is_success = StatusCode::from_u16(self.status).is_ok_and(|s| s.is_success());
        let inner = is_success.then(|| reply::json(self.body.as_bytes()).ok());
        let inner = inner.flatten().filter(|body| body["choices"].is_null());
        let code = inner.and_then(|body| body["error"]["code"].as_u64());
        match code.and_then(|code| u16::try_from(code).ok()) {
            Some(code) if (400..600).contains(&code) => code,
            _ => self.status,
        }
    }

    /// The chat completion in it, or why there is none.
    pub(super) fn read(&self, now: SystemTime, sent: &Sent) -> Result<Reply, Fault> {
        let status = self.true_status();
        if StatusCode::from_u16(status).is_ok_and(|status| status.is_success()) {
            return reply::parse(self.body.as_bytes()).map_err(Fault::Protocol);
        }
        let refusal = refusal::diagnose(status, &self.body, sent);
        // A gateway may call its content filter an error of the server.
        let lasts = !is_temporary(status) || (status == 500 && refusal.is_of_content);
        Err(Fault::Status {
            status,
            asked: self.asked(now),
            body: reply::beginning(&self.body),
            refusal: lasts.then_some(refusal),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(raw: &RawReply) -> Result<Reply, Fault> {
        raw.read(SystemTime::UNIX_EPOCH, &Sent::default())
    }

    fn raw(status: u16, body: &str) -> RawReply {
        RawReply {
            status,
            headers: Vec::new(),
            body: body.to_owned(),
        }
    }

    #[test]
    fn statuses_that_pass_and_statuses_that_last() {
        let passing = [402, 408, 425, 429, 500, 502, 503, 504, 529];
        let lasting = [301, 400, 401, 403, 404, 413, 422];
        for (statuses, wanted) in [(&passing[..], true), (&lasting[..], false)] {
            for &status in statuses {
                let fault = read(&raw(status, "no")).unwrap_err();
                assert_eq!(fault.may_pass(), wanted, "{status}");
            }
        }
    }

    #[test]
    fn an_error_in_a_success_is_an_error() {
        let rows = [
            (
                r#"{"error": {"code": 429, "message": "slow down"}}"#,
                429,
                true,
            ),
            (
                r#"{"error": {"code": 401, "message": "no key"}}"#,
                401,
                false,
            ),
        ];
        for (body, wanted, passes) in rows {
            let fault = read(&raw(200, body)).unwrap_err();
            assert_eq!(fault.may_pass(), passes, "{body}");
            assert!(
                matches!(fault, Fault::Status { status, .. } if status == wanted),
                "{fault:?}"
            );
        }
        let other = read(&raw(200, r#"{"error": {"code": "overloaded"}}"#)).unwrap_err();
        assert!(matches!(other, Fault::Protocol(_)), "{other:?}");
    }

    #[test]
    fn pauses_that_are_asked_for() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let date = httpdate::fmt_http_date(at + Duration::from_secs(2));
        let rows = [
            (vec![("Retry-After", "3".to_owned())], Some(3000)),
            (vec![("retry-after", date)], Some(2000)),
            (vec![("RETRY-AFTER", "soon".to_owned())], None),
            (
                vec![
                    ("retry-after", "1".to_owned()),
                    ("retry-after-ms", "250".to_owned()),
                ],
                Some(250),
            ),
            (vec![], None),
        ];
        for (headers, wanted) in rows {
            let reply = RawReply {
                headers: headers
                    .into_iter()
                    .map(|(n, v)| (n.to_owned(), v))
                    .collect(),
                ..raw(429, "")
            };
            let fault = reply.read(at, &Sent::default()).unwrap_err();
            assert_eq!(
                fault.asked(),
                wanted.map(Duration::from_millis),
                "{reply:?}"
            );
        }
    }

    #[test]
    fn a_content_filter_that_calls_itself_an_error_of_the_server_is_none() {
        let body = r#"{"error": {"code": "content_filter", "message": "filtered"}}"#;
        assert!(!read(&raw(500, body)).unwrap_err().may_pass());
        assert!(read(&raw(500, "context length")).unwrap_err().may_pass());
    }
}
