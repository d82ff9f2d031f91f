//! The smaller commands: `eval`, `data`, `doctor`, and a dry run.

use crate::support::{output, small_run, swirl, tiny_model};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

fn succeeds(folder: &Path, args: &[&str]) -> String {
    let out = output(folder, args);
    assert!(out.status.success(), "{args:?}: {}", stderr(&out));
    String::from_utf8(out.stdout).unwrap()
}

fn refuses(folder: &Path, args: &[&str], code: i32, says: &str) {
    let out = output(folder, args);
    let stderr = stderr(&out);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.contains(says), "{args:?}: {stderr}");
}

#[test]
fn made_questions_go_to_a_bare_file_name() {
    let dir = tempfile::tempdir().unwrap();
    for (generator, files) in [
        ("wordmath", vec!["q.jsonl"]),
        ("wikihop", vec!["q.jsonl", "q.articles.jsonl"]),
    ] {
        succeeds(
            dir.path(),
            &["data", "make", generator, "q.jsonl", "--count", "5"],
        );
        for file in files {
            let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
            assert!(text.lines().count() >= 5, "{generator}: {file}\n{text}");
        }
    }
    let names = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(names, 2, "nothing half written stays");
}

/// One line of JSON for each line of stdin.
fn tried(args: &[&str], rows: &str) -> Vec<serde_json::Value> {
    let folder = tempfile::tempdir().unwrap();
    let mut child = swirl(folder.path(), args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), rows.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{args:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn trying_one_thing() {
    let dir = tempfile::tempdir().unwrap();
    let try_ = |args: &[&str]| {
        let args: Vec<&str> = std::iter::once("try").chain(args.iter().copied()).collect();
        succeeds(dir.path(), &args)
    };
    assert!(try_(&["answer", "-8", "-8"]).starts_with("equal"));
    assert!(try_(&["answer", "8", "-8"]).starts_with("not equal"));
    assert_eq!(
        try_(&["answer", "1.5 hours", "It takes $15."]),
        "not equal\nkey:    quantity 1.5 hour\nanswer: money 15 dollar\n"
    );
    assert_eq!(try_(&["tool", "calculator", "48/2"]), "24\n");
    assert_eq!(
        try_(&["action", "<math_exp>1+1</math_exp>"]),
        "a call of calculator: 1+1\n"
    );
    let cut_off = [
        "action",
        "<think><answer>1</answer>",
        "--finish",
        "length",
        "--json",
    ];
    assert!(try_(&cut_off).contains("\"kind\":\"truncated\""));
    let inside = ["action", "<answer>1</answer>", "--inside-thinking"];
    assert!(try_(&inside).starts_with("malformed, unclosed_tag"));
    refuses(dir.path(), &["try", "tool", "abacus", "1"], 2, "abacus");
    refuses(dir.path(), &["try", "answer", "1"], 2, "ANSWER");
}

#[test]
fn trying_rows_of_stdin() {
    let equal: Vec<_> = tried(&["try", "answer", "--stdin"], "8\t8\n8\t9\tno\n8\n")
        .iter()
        .map(|line| line["equal"].as_bool())
        .collect();
    assert_eq!(equal, [Some(true), Some(false), None]);
    let read = tried(&["try", "answer", "--stdin"], "3 1/2\t\\frac{7}{2}\n");
    assert_eq!(
        (&read[0]["equal"], &read[0]["key"]["type"]),
        (&true.into(), &"number".into())
    );
    let rows = "calculator\t48/2\tx\ncalculator\t48/\nabacus\t1\n";
    let told = tried(&["try", "tool", "--stdin"], rows);
    assert_eq!(told[0]["result"], "24");
    assert!(told[1]["error"].is_string() && told[2]["error"].is_string());
    assert_eq!(
        tried(&["try", "tool", "calculator", "--stdin"], "1+1")[0]["result"],
        "2"
    );
    let rows = "a\\n<answer>2</answer>\tstop\n<answer>2\tlength\nx\tnever\n";
    let read = tried(&["try", "action", "--stdin"], rows);
    assert_eq!(
        (&read[0]["action"], &read[0]["text"]),
        (&"answer".into(), &"2".into())
    );
    assert_eq!(read[0]["thought"], "a\n");
    assert_eq!(
        (&read[1]["action"], &read[1]["kind"]),
        (&"malformed".into(), &"truncated".into())
    );
    assert!(read[2]["error"].is_string());
}

/// An endpoint that gives one reply, and then the request that it got.
fn endpoint(reply: &'static str) -> (String, std::thread::JoinHandle<String>) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        let is_whole = |request: &[u8]| {
            let text = String::from_utf8_lossy(request);
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
            let length = head.lines().find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length:")?
                    .trim()
                    .parse()
                    .ok()
            });
            length.is_some_and(|length: usize| body.len() >= length)
        };
        while !is_whole(&request) {
            let read = stream.read(&mut buffer).unwrap();
            request.extend(&buffer[..read]);
        }
        let length = reply.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{reply}"
        )
        .unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, serving)
}

#[test]
fn trying_a_judge() {
    let dir = tempfile::tempdir().unwrap();
    let config = "[judge]\nprocess = \"llm\"\n[judge.llm]\nmodel = \"m\"\n";
    std::fs::write(dir.path().join("j.toml"), config).unwrap();
    std::fs::write(dir.path().join("r.toml"), "[judge]\nprocess = \"rules\"\n").unwrap();
    let step = [
        "--question",
        "3 bags of 4?",
        "--step",
        "<math_exp>3*4</math_exp>",
    ];
    let judge = |rest: &[&str]| {
        let args: Vec<&str> = ["try", "judge"].iter().chain(rest).copied().collect();
        succeeds(dir.path(), &args)
    };
    let (address, serving) = endpoint(
        r#"{"model":"m","choices":[{"message":{"content":"It helps.\nGOOD"},"finish_reason":"stop"}]}"#,
    );
    let url = format!("judge.llm.base_url={address}");
    let asked = [
        "--config",
        "j.toml",
        "-s",
        &url,
        "--step",
        "<answer>12</answer>",
    ];
    let asked = judge(&[&asked[..4], &step, &asked[4..]].concat());
    for part in ["3*4 -> 12", "status 200", "It helps.", "verdict: GOOD"] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    assert!(serving.join().unwrap().contains("3 bags of 4?"));
    let rules = judge(&[&["--config", "r.toml"], &step[..]].concat());
    assert!(rules.starts_with("verdict: GOOD"), "{rules}");
    let answer = [
        "--config", "r.toml", "--key", "12", "--answer", "13", "--json",
    ];
    assert!(judge(&answer).contains("\"label\":\"bad\""));
    refuses(
        dir.path(),
        &["try", "judge", "--config", "r.toml"],
        2,
        "nothing to judge",
    );
}

#[test]
fn trying_replies_of_a_judge() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("j.toml");
    let config = "[judge]\noutcome = \"llm\"\n[judge.llm]\nmodel = \"m\"\n";
    std::fs::write(&file, config).unwrap();
    let choice = |message: &str, finish: &str, logprobs: &str| {
        format!(
            r#"{{"status": 200, "body": {{"model": "m", "choices": [{{"index": 0, "message":
            {{"role": "assistant", "content": {message}}}, "finish_reason": "{finish}"{logprobs}}}]}}}}"#
        )
        .replace('\n', " ")
    };
    let null = r#", "logprobs": {"content": [{"token": "NO", "logprob": -0.01, "top_logprobs": [
        {"token": "NO", "logprob": -0.01}, {"token": "YES", "logprob": null}]}]}"#;
    let parts = r#"[{"type": "thinking", "thinking": [{"type": "text", "text": "compare"}]},
        {"type": "text", "text": "They differ.\nNO"}]"#;
    let rows = [
        choice(r#""<think>\nOptions are:\nYES""#, "length", ""),
        choice(r#""NO""#, "stop", null),
        choice(parts, "stop", ""),
        r#"{"status": 400, "body": {"error": {"message": "Unsupported parameter: 'max_tokens'", "param": "max_tokens"}}}"#.into(),
        r#"{"status": 429, "headers": {"Retry-After": "7"}, "body": {"error": "slow down"}}"#.into(),
        "{}".into(),
    ];
    let path = file.display().to_string();
    let read = tried(
        &["try", "judge", "--config", &path, "--stdin"],
        &(rows.join("\n") + "\n"),
    );
    assert_eq!(
        (&read[0]["asked_again"], &read[0]["verdict"]),
        (&true.into(), &().into())
    );
    assert_eq!(read[1]["verdict"]["label"], "bad");
    assert_eq!(read[2]["verdict"]["label"], "bad");
    assert_eq!(read[3]["asked_again"], false);
    assert!(
        read[3]["error"]
            .as_str()
            .unwrap()
            .contains("max_tokens_field")
    );
    assert_eq!(
        (&read[4]["asked_again"], &read[4]["after_seconds"]),
        (&true.into(), &7.0.into())
    );
    assert!(read[5]["error"].is_string());
}

#[test]
fn rows_of_a_question_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"question\": \"q\", \"answer\": \"1+1=<<1+1=2>>2 #### 2\"}\n[]\n";
    std::fs::write(dir.path().join("q.jsonl"), text).unwrap();
    let out = output(dir.path(), &["data", "questions", "q.jsonl", "--json"]);
    assert_eq!(out.status.code(), Some(1), "a row is wrong");
    let rows: Vec<serde_json::Value> = String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        (&rows[0]["id"], &rows[0]["key"]),
        (&"gsm8k-00000".into(), &"2".into())
    );
    assert_eq!(rows[0]["reference_steps"][0]["arguments"], "1+1");
    assert!(rows[1]["error"].as_str().unwrap().contains("q.jsonl:2"));
    std::fs::write(dir.path().join("good.jsonl"), text.lines().next().unwrap()).unwrap();
    let shown = succeeds(dir.path(), &["data", "questions", "good.jsonl"]);
    assert_eq!(shown, "gsm8k-00000  key 2\n    calculator 1+1 -> 2\n");
}

#[test]
fn an_evaluation_is_continued_as_it_was_begun() {
    let dir = tempfile::tempdir().unwrap();
    if tiny_model(dir.path()).is_none() {
        return;
    }
    std::fs::create_dir(dir.path().join("other")).unwrap();
    for entry in std::fs::read_dir(dir.path().join("tiny")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(
            entry.path(),
            dir.path().join("other").join(entry.file_name()),
        )
        .unwrap();
    }
    succeeds(
        dir.path(),
        &["data", "make", "wordmath", "q.jsonl", "--count", "4"],
    );
    let small = "-s evaluation.max_steps=2 -s evaluation.max_action_tokens=4 \
                 -s rollout.max_context_tokens=512 -s model.threads=1";
    let line = |more: &str| format!("eval --data q.jsonl {small} {more}");
    fn refs(line: &str) -> Vec<&str> {
        line.split_whitespace().collect()
    }
    let first = succeeds(dir.path(), &refs(&line("--model tiny --out kept --json")));
    let summary: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert!(summary.is_object(), "{first}");

    let again = line("--model tiny --out kept --json --resume actors.judges=1");
    assert_eq!(succeeds(dir.path(), &refs(&again)), first);
    // The setting does what the flag does.
    let again = line("-s model.path=tiny --out kept --json --resume");
    assert_eq!(succeeds(dir.path(), &refs(&again)), first);

    for (more, says) in [
        ("--model tiny --out kept", "is not empty"),
        ("--model other --out kept --resume", "another model"),
        (
            "--model tiny --out kept --resume --limit 2",
            "other questions",
        ),
        (
            "--model tiny --out kept --resume --temperature 0.5",
            "other settings",
        ),
        (
            "--model tiny --out kept --resume --without-tools",
            "--without-tools",
        ),
        ("--model tiny --out other --resume", "no evaluation"),
    ] {
        refuses(dir.path(), &refs(&line(more)), 2, says);
    }
}

#[test]
fn flags_of_an_evaluation_win_over_its_configuration() {
    let dir = tempfile::tempdir().unwrap();
    if tiny_model(dir.path()).is_none() {
        return;
    }
    succeeds(
        dir.path(),
        &["data", "make", "wordmath", "q.jsonl", "--count", "3"],
    );
    let config = "[model]\npath = \"tiny\"\nthreads = 1\n\
                  [questions]\npath = \"not read\"\n\
                  [rollout]\nmax_context_tokens = 512\n\
                  [evaluation]\nsamples = 3\ntemperature = 0.9\nmax_steps = 1\n\
                  max_action_tokens = 4\n";
    std::fs::write(dir.path().join("c.toml"), config).unwrap();
    for (more, out, expected) in [
        (&["--config", "c.toml"][..], "a", 9),
        (&["--config", "c.toml", "--samples", "2"], "b", 6),
        (
            &["--config", "c.toml", "-s", "evaluation.samples=1"],
            "c",
            3,
        ),
        (
            &[
                "--config",
                "c.toml",
                "-s",
                "evaluation.samples=1",
                "--samples",
                "2",
            ],
            "d",
            6,
        ),
    ] {
        let args = [&["eval", "--data", "q.jsonl", "--out", out], more].concat();
        succeeds(dir.path(), &args);
        let stored = store::TrajectoryStore::open(dir.path().join(out)).unwrap();
        assert_eq!(stored.len(), expected, "{args:?}");
    }
}

#[test]
fn an_export_that_fails_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.jsonl");
    std::fs::write(&target, "precious").unwrap();
    for source in ["nowhere", "."] {
        refuses(
            dir.path(),
            &["data", "export", source, "out.jsonl"],
            1,
            "holds no trajectories",
        );
    }
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.toml"), small_run(Path::new("m"))).unwrap();
    for args in [&["run", "c.toml", "--dry-run"][..], &["doctor"]] {
        let mut child = swirl(dir.path(), args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        assert!(out.status.code().is_some_and(|code| code <= 1), "{args:?}");
        assert_eq!(stderr(&out), "", "{args:?}");
    }
}

#[test]
fn arguments_that_are_not_utf_8_are_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let out = swirl(dir.path(), &["run"])
        .arg(OsStr::from_bytes(b"c\xff.toml"))
        .output()
        .unwrap();
    let stderr = stderr(&out);
    assert_eq!(out.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("cannot read the configuration"), "{stderr}");
}

#[test]
fn a_dry_run_prints_what_a_run_would_take() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.toml"), small_run(Path::new("m"))).unwrap();
    let args = ["run", "c.toml", "--dry-run", "train.steps=7"];
    let toml = succeeds(dir.path(), &args);
    assert!(toml.contains("max_logprob_difference = 0.1"), "{toml}");
    let json = succeeds(dir.path(), &[&args[..], &["--json"]].concat());
    let config: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(config["train"]["steps"], 7);
    assert_eq!(config["train"]["learner"]["dtype"], "f32");
}

#[test]
fn a_dry_run_says_what_memory_each_role_takes_if_it_knows_the_model() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.toml"), small_run(Path::new("m"))).unwrap();
    let said = || {
        let out = output(dir.path(), &["run", "c.toml", "--dry-run"]);
        assert!(out.status.success(), "{out:?}");
        stderr(&out)
    };
    assert!(!said().contains("Memory"), "the model is elsewhere");
    std::fs::create_dir(dir.path().join("m")).unwrap();
    let config = r#"{
        "model_type": "llama", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000,
        "hidden_act": "silu", "tie_word_embeddings": true
    }"#;
    std::fs::write(dir.path().join("m/config.json"), config).unwrap();
    let said = said();
    for role in ["controller", "sampler", "learner", "tool", "judge"] {
        let line = said.lines().find(|line| line.trim().starts_with(role));
        assert!(line.is_some_and(|line| line.contains("GiB")), "{said}");
    }
}

/// Both limits of a process are those of the shell that starts it.
#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_may_be() {
    let dir = tempfile::tempdir().unwrap();
    for (limits, status, found) in [
        ("ulimit -Sn 100; ulimit -Hn 5000", "ok", "5000 at most"),
        ("ulimit -n 200", "note", "200 at most, which is few"),
    ] {
        let script = format!("{limits}; exec \"$0\" doctor --json");
        let out = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_swirl")])
            .current_dir(dir.path())
            .output()
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let findings = json["findings"].as_array().unwrap();
        let files = findings.iter().find(|f| f["what"] == "open files").unwrap();
        assert_eq!(
            (&files["status"], &files["found"]),
            (&status.into(), &found.into())
        );
    }
}

#[test]
fn certificates_are_made_once_and_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let issue = ["certs", "issue", "gpu-1", "--role", "sampler,tool"];
    let renew = ["certs", "renew", "gpu-1", "--days", "5"];
    refuses(dir.path(), &issue, 2, "`swirl certs init`");
    succeeds(dir.path(), &["certs", "init"]);
    refuses(dir.path(), &["certs", "init"], 2, "is there already");
    refuses(dir.path(), &renew, 2, "`swirl certs issue`");

    let out = output(dir.path(), &issue);
    let said = stderr(&out);
    assert!(out.status.success(), "{said}");
    for part in ["certs/gpu-1", "gpu-1 (sampler, tool)", "valid until 20"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    refuses(dir.path(), &issue, 2, "`swirl certs renew gpu-1`");

    let certificate = dir.path().join("certs/gpu-1/cert.pem");
    let before = std::fs::read(&certificate).unwrap();
    succeeds(dir.path(), &renew);
    assert_ne!(std::fs::read(&certificate).unwrap(), before);

    let revoke = |what: &[&str]| output(dir.path(), &[&["certs", "revoke"], what].concat());
    let unknown = revoke(&["gpu-2"]);
    assert_eq!(unknown.status.code(), Some(2));
    let said = stderr(&unknown);
    assert!(
        said.contains("gpu-1") && said.contains("--serial HEX"),
        "{said}"
    );
    assert!(!dir.path().join("certs/revoked").exists());
    assert_eq!(revoke(&[]).status.code(), Some(2));
    assert!(revoke(&["--serial", "00:aB"]).status.success());
    let list = std::fs::read_to_string(dir.path().join("certs/gpu-1/revoked")).unwrap();
    assert!(list.contains("serial ab\n"), "{list}");

    for (wrong, says) in [
        (&["certs", "issue", "b", "--role", "king"][..], "is no role"),
        (
            &["certs", "issue", "B", "--role", "tool"],
            "no name for a node",
        ),
        (&["certs", "issue", "b"], "--role"),
        (&["certs", "renew", "gpu-1", "--days", "0"], "--days"),
    ] {
        refuses(dir.path(), wrong, 2, says);
    }
}

#[test]
fn doctor_finds_something_about_every_part() {
    let dir = tempfile::tempdir().unwrap();
    let out = output(dir.path(), &["doctor", "--json"]);
    // What is wrong with the machine is not this test's business.
    assert!(out.status.code().is_some_and(|code| code <= 1));
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let found = |what: &str| {
        let finding = findings.iter().find(|f| f["what"] == what);
        finding.unwrap_or_else(|| panic!("{what} is missing in {json}"))
    };
    for what in ["swirl", "CUDA", "NCCL", "memory", "disk", "model"] {
        found(what);
    }
    assert_eq!(found("libtorch")["status"], "ok");
    let version = found("libtorch")["found"].as_str().unwrap();
    assert!(version.starts_with("2."), "{version}");
    let plain = output(dir.path(), &["doctor"]);
    let plain = String::from_utf8(plain.stdout).unwrap();
    assert_eq!(
        plain.lines().filter(|l| !l.starts_with(' ')).count(),
        findings.len()
    );
}
