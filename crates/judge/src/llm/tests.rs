//! The judges against a small HTTP server that plays a script, one entry per connection.

use super::*;
use crate::samples::{answer, call, malformed, question, solved};
use proto::MalformedKind;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// What the server does with a connection.
#[derive(Debug, Clone)]
enum Play {
    /// Status line, further headers, body.
    Http(&'static str, &'static str, String),
    /// Reads the request and never answers.
    Silence,
    /// Reads the request and hangs up.
    HangUp,
}

#[derive(Debug, Default)]
struct Seen {
    script: VecDeque<Play>,
    /// Head and body of each request.
    requests: Vec<(String, Value)>,
    under_way: usize,
    most_under_way: usize,
}

struct Server {
    base_url: String,
    seen: Arc<Mutex<Seen>>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(script: impl IntoIterator<Item = Play>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let script = script.into_iter().collect();
        let seen = Arc::new(Mutex::new(Seen {
            script,
            ..Default::default()
        }));
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            base_url,
            seen,
            task: task.abort_handle(),
        }
    }

    fn config(&self) -> LlmJudgeConfig {
        LlmJudgeConfig {
            base_url: self.base_url.clone(),
            model: "grader".into(),
            backoff_ms: 1,
            max_tries: 3,
            ..Default::default()
        }
    }

    fn judge(&self) -> LlmJudge {
        LlmJudge::new(&self.config()).unwrap()
    }

    fn requests(&self) -> Vec<(String, Value)> {
        self.seen.lock().unwrap().requests.clone()
    }

    fn prompt(&self) -> String {
        self.requests()[0].1["messages"][1]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let request = read_request(&mut stream).await;
    let play = {
        let mut seen = seen.lock().unwrap();
        seen.requests.push(request);
        seen.under_way += 1;
        seen.most_under_way = seen.most_under_way.max(seen.under_way);
        seen.script
            .pop_front()
            .expect("the script has an entry for each request")
    };
    for _ in 0..200 {
        tokio::task::yield_now().await; // Lets further requests come in, if they are let out.
    }
    seen.lock().unwrap().under_way -= 1;
    match play {
        Play::Http(status, headers, body) => {
            let length = body.len();
            let text = format!(
                "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(text.as_bytes()).await.unwrap();
        }
        Play::Silence => std::future::pending().await,
        Play::HangUp => {}
    }
}

async fn read_request(stream: &mut TcpStream) -> (String, Value) {
    let mut bytes = vec![];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            if body.len() == length.unwrap().trim().parse::<usize>().unwrap() {
                return (head, serde_json::from_str(body).unwrap());
            }
        }
        assert!(
            stream.read_buf(&mut bytes).await.unwrap() > 0,
            "the client hung up"
        );
    }
}

fn says(content: &str) -> Play {
    let body = json!({
        "model": "grader-2024",
        "choices": [{"message": {"role": "assistant", "content": content}}],
    });
    Play::Http("200 OK", "", body.to_string())
}

fn status(line: &'static str) -> Play {
    Play::Http(line, "", format!("{{\"error\": \"played {line}\"}}"))
}

fn context() -> StepContext {
    let history = vec![call("48/2", "24")];
    let question = solved(
        "How many {step} clips?",
        "KEY-72",
        &[("48+24", "REFERENCE-72")],
    );
    StepContext::new(question, history, call("48+24", "UNSEEN"))
}

#[tokio::test]
async fn a_reply_becomes_a_verdict() {
    let server = Server::start([says("24 was found and 48 is given.\nGOOD")]).await;
    let judge = server.judge();
    let verdict = judge.judge(&context()).await.unwrap();
    assert_eq!((verdict.label, verdict.score), (Label::Good, 1.0));
    assert_eq!(verdict.rationale, "24 was found and 48 is given.");
    assert_eq!((verdict.judge.as_str(), judge.name()), ("llm", "llm"));
    assert_eq!(verdict.model, "grader-2024");
    assert_eq!(verdict.prompt_hash.len(), 64);
    assert!(!judge.uses_reference());

    let (head, body) = &server.requests()[0];
    assert!(
        head.starts_with("post /v1/chat/completions http/1.1"),
        "{head}"
    );
    assert!(!head.contains("authorization"), "{head}");
    assert_eq!(body["model"], "grader");
    assert_eq!(body["temperature"], 0);
    assert_eq!(body["max_tokens"], 1024);
    assert_eq!(
        (&body["logprobs"], &body["top_logprobs"]),
        (&json!(true), &json!(20))
    );
}

#[tokio::test]
async fn ll_1_the_prompt_holds_the_step_and_neither_key_nor_what_follows() {
    let server = Server::start([says("GOOD")]).await;
    server.judge().judge(&context()).await.unwrap();
    let prompt = server.prompt();
    let shown = [
        "How many {step} clips?", // LL-2: the question's own braces stay
        "Message 1:\n<calculator>48/2</calculator>\nResult:\n24",
        "<last_message>\n<calculator>48+24</calculator>\n</last_message>",
    ];
    for part in shown {
        assert!(prompt.contains(part), "{part} is missing in {prompt}");
    }
    for hidden in ["KEY-72", "REFERENCE-72", "UNSEEN"] {
        assert!(!prompt.contains(hidden), "{hidden} leaked");
    }
}

#[tokio::test]
async fn logprobs_become_the_score() {
    let token = |token: &str, top: &[(&str, f64)]| {
        let top: Vec<_> = top
            .iter()
            .map(|(t, p)| json!({"token": t, "logprob": p.ln(), "bytes": null}))
            .collect();
        json!({"token": token, "logprob": -0.1, "bytes": [1], "top_logprobs": top})
    };
    let body = json!({"choices": [{
        "message": {"content": "Hm.\nGOOD"},
        "finish_reason": "stop",
        "logprobs": {"content": [
            token("Hm.\n", &[("Hm.\n", 0.9)]),
            token("GOOD", &[("GOOD", 0.6), ("BAD", 0.2)]),
        ]},
    }]});
    let server = Server::start([Play::Http("200 OK", "", body.to_string())]).await;
    let verdict = server.judge().judge(&context()).await.unwrap();
    assert_eq!(verdict.label, Label::Good);
    assert!((verdict.score - 0.75).abs() < 1e-6, "{}", verdict.score);
    assert_eq!(
        verdict.model, "grader",
        "the configured name where the reply has none"
    );
}

#[tokio::test]
async fn logprobs_are_only_asked_for_where_wanted() {
    let server = Server::start([says("BAD")]).await;
    let config = LlmJudgeConfig {
        use_logprobs: false,
        max_tokens: 7,
        ..server.config()
    };
    let verdict = LlmJudge::new(&config)
        .unwrap()
        .judge(&context())
        .await
        .unwrap();
    assert_eq!((verdict.label, verdict.score), (Label::Bad, 0.0));
    let body = &server.requests()[0].1;
    assert_eq!(
        (body.get("logprobs"), body.get("top_logprobs")),
        (None, None)
    );
    assert_eq!(body["max_tokens"], 7);
}

#[tokio::test]
async fn passing_faults_are_tried_again() {
    let rows = [
        Play::Http("429 Too Many Requests", "Retry-After: 0\r\n", String::new()),
        status("500 Internal Server Error"),
        status("503 Service Unavailable"),
        Play::HangUp,
        Play::Http("200 OK", "", "<html>starting up</html>".into()),
    ];
    for fault in rows {
        let server = Server::start([fault.clone(), fault.clone(), says("GOOD")]).await;
        let verdict = server.judge().judge(&context()).await;
        assert_eq!(verdict.map(|v| v.label), Ok(Label::Good), "{fault:?}");
        assert_eq!(server.requests().len(), 3, "{fault:?}");
    }
}

#[tokio::test]
async fn ju_2_lasting_faults_are_errors_with_advice() {
    // play, tries, is retriable, what the message says
    let later = "Retry-After: 3600\r\n";
    let rows = [
        (
            status("500 Internal Server Error"),
            3,
            true,
            "answered 500 (3 tries)",
        ),
        (
            status("429 Too Many Requests"),
            3,
            true,
            "lower [judge.llm] requests_per_minute",
        ),
        (
            Play::Http("429 Slow", later, "x".into()),
            1,
            true,
            "asks to wait 3600 s",
        ),
        (Play::HangUp, 3, true, "cannot be reached (3 tries)"),
        (
            status("401 Unauthorized"),
            1,
            false,
            "refused the request with 401",
        ),
        (
            status("404 Not Found"),
            1,
            false,
            "`{\"error\": \"played 404 Not Found\"}`",
        ),
        (
            Play::Http("302 Found", "Location: /x\r\n", String::new()),
            1,
            false,
            "with 302",
        ),
        (
            Play::Http("200 OK", "", "<html>hi</html>".into()),
            3,
            false,
            "not answer with a chat",
        ),
        (
            Play::Http("200 OK", "", "{\"choices\": []}".into()),
            3,
            false,
            "choices is empty",
        ),
        (
            says("I cannot say."),
            3,
            false,
            "gave no verdict in 3 replies; the last one ends `I can",
        ),
        (says(""), 3, false, "raise [judge.llm] max_tokens"),
    ];
    for (play, tries, retriable, advice) in rows {
        let server = Server::start(vec![play.clone(); 3]).await;
        let error = server.judge().judge(&context()).await.unwrap_err();
        assert_eq!(server.requests().len(), tries, "{play:?}");
        assert_eq!(error.is_retriable(), retriable, "{error}");
        assert!(error.to_string().contains(advice), "{error}");
    }
}

#[tokio::test]
async fn a_slow_endpoint_is_given_up() {
    let server = Server::start([Play::Silence, Play::Silence]).await;
    let config = LlmJudgeConfig {
        timeout_ms: 5,
        max_tries: 2,
        ..server.config()
    };
    let error = LlmJudge::new(&config)
        .unwrap()
        .judge(&context())
        .await
        .unwrap_err();
    assert!(error.is_retriable());
    let url = format!("{}/v1/chat/completions", server.base_url);
    assert_eq!(
        error,
        JudgeError::TimedOut {
            url,
            timeout_ms: 5,
            tries: 2
        }
    );
}

#[tokio::test]
async fn a_closed_port_gives_one_clear_error() {
    let address = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let config = LlmJudgeConfig {
        base_url: format!("http://{address}/v1"),
        model: "grader".into(),
        backoff_ms: 1,
        max_tries: 3,
        ..Default::default()
    };
    let error = LlmJudge::new(&config)
        .unwrap()
        .judge(&context())
        .await
        .unwrap_err();
    assert!(error.is_retriable());
    let wanted = format!(
        "judge endpoint http://{address}/v1/chat/completions cannot be reached (3 tries): start \
         it or change [judge.llm] base_url ("
    );
    assert!(error.to_string().starts_with(&wanted), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_reply_without_verdict_is_asked_again_with_a_reminder() {
    let server = Server::start([says("It is fine."), says("It is fine.\nGOOD")]).await;
    let verdict = server.judge().judge(&context()).await.unwrap();
    assert_eq!(verdict.label, Label::Good);
    let messages = server.requests()[1].1["messages"].clone();
    let roles: Vec<_> = messages
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["role"])
        .collect();
    assert_eq!(roles, ["system", "user", "assistant", "user"]);
    assert_eq!(messages[2]["content"], "It is fine.");
    assert!(
        messages[3]["content"]
            .as_str()
            .unwrap()
            .contains("GOOD or BAD")
    );
}

#[tokio::test]
async fn malformed_steps_are_bad_without_a_request() {
    let server = Server::start([]).await;
    let judge = server.judge();
    for kind in MalformedKind::ALL {
        let context = StepContext::new(question("q", "1"), vec![], malformed(kind));
        let verdict = judge.judge(&context).await.unwrap();
        assert_eq!((verdict.label, verdict.score), (Label::Bad, 0.0));
        assert!(
            verdict.rationale.contains(kind.name()),
            "{}",
            verdict.rationale
        );
    }
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed() {
    let server = Server::start(vec![says("GOOD"); 12]).await;
    let judge = LlmJudge::new(&LlmJudgeConfig {
        max_concurrent: 2,
        ..server.config()
    })
    .unwrap();
    let judge = Arc::new(judge);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let judge = Arc::clone(&judge);
        tasks.spawn(async move { judge.judge(&context()).await.unwrap().label });
    }
    assert_eq!(tasks.join_all().await, [Label::Good; 12]);
    assert!(server.seen.lock().unwrap().most_under_way <= 2);
}

#[tokio::test]
async fn the_outcome_judge_compares_with_the_key() {
    let server = Server::start([says("Same number.\nYES"), says("Other.\nNO")]).await;
    let judge = LlmOutcomeJudge::new(&server.config()).unwrap();
    let mut question = question("How much?", "10");
    question.answer_aliases = vec!["ten".into()];
    let right = judge.judge(&question, Some("$10.00")).await.unwrap();
    assert_eq!((right.label, right.score), (Label::Good, 1.0));
    let wrong = judge.judge(&question, Some("11")).await.unwrap();
    assert_eq!(
        (wrong.label, wrong.rationale.as_str()),
        (Label::Bad, "Other.")
    );
    let none = judge.judge(&question, None).await.unwrap();
    let blank = judge.judge(&question, Some("  ")).await.unwrap();
    assert_eq!((none.label, blank.label), (Label::Bad, Label::Bad));
    assert_eq!(server.requests().len(), 2);
    let prompt = server.prompt();
    for part in ["How much?", "10\nalso accepted: ten", "$10.00"] {
        assert!(prompt.contains(part), "{part} is missing in {prompt}");
    }
}

#[tokio::test]
async fn a_rubric_of_ones_own_is_used_and_hashed() {
    let server = Server::start([says("GOOD")]).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.md");
    std::fs::write(&path, "Q={question} H={history} S={step}").unwrap();
    let config = LlmJudgeConfig {
        rubric: Some(path.clone()),
        ..server.config()
    };
    let first = StepContext::new(question("why", "1"), vec![], answer("because"));
    let verdict = LlmJudge::new(&config).unwrap().judge(&first).await.unwrap();
    assert_eq!(
        server.prompt(),
        "Q=why H=(none: the last message is the first step) S=<answer>because</answer>"
    );
    assert_ne!(verdict.prompt_hash, server.judge().grader.prompt_hash);

    std::fs::write(&path, "{question} {stop}").unwrap();
    let error = LlmJudge::new(&config).unwrap_err().to_string();
    assert!(
        error.contains("mine.md: {stop} is no placeholder"),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    let error = LlmJudge::new(&config).unwrap_err().to_string();
    assert!(error.contains("mine.md cannot be read"), "{error}");
}

#[tokio::test]
async fn the_key_comes_from_the_environment_and_is_never_shown() {
    let server = Server::start([says("GOOD")]).await;
    let config = LlmJudgeConfig {
        api_key_env: Some("JUDGE_KEY".into()),
        ..server.config()
    };
    let endpoint = LlmEndpoint::with_environment(&config, |name| {
        (name == "JUDGE_KEY").then(|| " sesame \n".to_owned())
    })
    .unwrap();
    assert!(!format!("{endpoint:?}").contains("sesame"));
    LlmJudge::on(endpoint, None)
        .unwrap()
        .judge(&context())
        .await
        .unwrap();
    let head = &server.requests()[0].0;
    assert!(head.contains("authorization: bearer sesame\r\n"), "{head}");

    let rows = [
        (None, "is not set"),
        (Some(" "), "is empty"),
        (Some("a\nb"), "no HTTP header"),
    ];
    for (value, wanted) in rows {
        let error = LlmEndpoint::with_environment(&config, |_| value.map(str::to_owned));
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("JUDGE_KEY") && error.contains(wanted),
            "{error}"
        );
        assert!(!error.contains("a\nb"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for() {
    // Paused time runs ahead to the next timer whenever nothing else is to be done, so the request
    // itself has no time limit to speak of.
    let busy = Play::Http("429 Slow", "Retry-After: 20\r\n", String::new());
    let server = Server::start([busy, says("GOOD")]).await;
    let config = LlmJudgeConfig {
        timeout_ms: 1_000_000_000_000,
        ..server.config()
    };
    let start = tokio::time::Instant::now();
    LlmJudge::new(&config)
        .unwrap()
        .judge(&context())
        .await
        .unwrap();
    assert!(
        start.elapsed() >= Duration::from_secs(20),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn the_built_in_rubrics_have_their_placeholders() {
    let config = LlmJudgeConfig {
        model: "m".into(),
        ..Default::default()
    };
    LlmJudge::new(&config).unwrap();
    LlmOutcomeJudge::new(&config).unwrap();
}
