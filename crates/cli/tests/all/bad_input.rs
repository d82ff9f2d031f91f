//! Bad input: each gets one clear error and the exit code that scripts rely on.

use crate::support::{output, real_model, small_run, tiny_model};
use std::path::Path;

struct Case {
    what: &'static str,
    args: Vec<String>,
    code: i32,
    says: &'static str,
}

fn case(what: &'static str, args: &[&str], code: i32, says: &'static str) -> Case {
    Case {
        what,
        args: args.iter().map(|&a| a.to_owned()).collect(),
        code,
        says,
    }
}

fn check(folder: &Path, cases: &[Case]) {
    for Case {
        what,
        args,
        code,
        says,
    } in cases
    {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let out = output(folder, &args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        let errors = stderr
            .lines()
            .filter(|line| line.starts_with("error:"))
            .count();
        assert_eq!(out.status.code(), Some(*code), "{what}: {stderr}");
        assert_eq!(errors, 1, "{what}: exactly one error\n{stderr}");
        assert!(
            stderr.contains(says),
            "{what}: {says:?} is missing in\n{stderr}"
        );
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    }
}

#[test]
fn configuration_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    let base = small_run(&model);
    write("good.toml", &base);
    write("unknown.toml", &base.replace("[rollout]", "[rolout]"));
    write(
        "type.toml",
        &base.replace("samples = 2", "samples = \"two\""),
    );
    write("syntax.toml", "[run\nname = 1");
    write(
        "tool.toml",
        &format!("{base}\n[tools]\nenabled = [\"calculater\"]\n"),
    );
    write("empty.jsonl", "");
    write("broken.jsonl", "{\"id\": 3\n");
    let sources = base.split("[questions.wordmath]").next().unwrap();
    write(
        "path.toml",
        &format!("{sources}[questions]\npath = \"$SWIRL_TEST_NO_SUCH_VARIABLE/q.jsonl\"\n"),
    );
    let set = |s: &'static str| ["run", "good.toml", "--clean", "-s", s];
    check(
        dir.path(),
        &[
            case(
                "one thinking tag",
                &set("model.thinking_tags=[\"<think>\"]"),
                2,
                "`model.thinking_tags`: write the opening and the closing tag",
            ),
            case(
                "no such file",
                &["run", "none.toml"],
                2,
                "cannot read the configuration none.toml",
            ),
            case(
                "unknown key",
                &["run", "unknown.toml"],
                2,
                "did you mean `rollout`?",
            ),
            case("wrong type", &["run", "type.toml"], 2, "`rollout.samples`"),
            case("no TOML", &["run", "syntax.toml"], 2, "not valid TOML"),
            case(
                "unknown tool",
                &["run", "tool.toml", "--clean"],
                2,
                "did you mean `calculator`?",
            ),
            case(
                "missing model",
                &set("model.path=nowhere"),
                2,
                "`model.path`: cannot read nowhere",
            ),
            case("unknown device", &set("model.device=cuda:7"), 2, "cuda:7"),
            case(
                "more context than the model has",
                &set("rollout.max_context_tokens=4096"),
                2,
                "rollout.max_context_tokens = 4096",
            ),
            case(
                "no room for fresh actions in the context",
                &set("rollout.max_context_tokens=2045"),
                2,
                "rollout.max_context_tokens + train.max_action_tokens = 2051",
            ),
            case(
                "dialogues longer than the context",
                &set("warm_start.max_tokens=2049"),
                2,
                "warm_start.max_tokens = 2049",
            ),
            case(
                "an unset variable in a path",
                &["run", "path.toml"],
                2,
                "SWIRL_TEST_NO_SUCH_VARIABLE",
            ),
            case(
                "a judge that is down",
                &[
                    "run",
                    "good.toml",
                    "--clean",
                    "-s",
                    "judge.process=llm",
                    "-s",
                    "judge.llm.base_url=http://127.0.0.1:9",
                    "-s",
                    "judge.llm.model=m",
                    "-s",
                    "judge.llm.max_tries=1",
                    "-s",
                    "rollout.max_tries=1",
                ],
                1,
                "127.0.0.1:9",
            ),
            case(
                "an empty question file",
                &["eval", "--model", "tiny", "--data", "empty.jsonl"],
                2,
                "empty.jsonl",
            ),
            case(
                "a broken question file",
                &["eval", "--model", "tiny", "--data", "broken.jsonl"],
                2,
                "broken.jsonl",
            ),
            case(
                "a model that does not fit",
                &set("rollout.items_per_sampler=100000000"),
                1,
                "does not fit",
            ),
            case(
                "no trajectories",
                &["data", "inspect", "nowhere"],
                1,
                "nowhere",
            ),
        ],
    );
}

/// What `run` would refuse before it asks the model or a judge, a dry run refuses too.
#[test]
fn dry_runs() {
    let dir = tempfile::tempdir().unwrap();
    let base = small_run(Path::new("nowhere"));
    std::fs::write(dir.path().join("c.toml"), base).unwrap();
    let cases: &[(&[&str], &str)] = &[
        (
            &["tools.enabled=[\"calculater\"]"],
            "did you mean `calculator`?",
        ),
        (
            &["train.learner.learning_rate=0"],
            "`train.learner.learning_rate`: is 0",
        ),
        (
            &["warm_start.learner.beta1=1"],
            "`warm_start.learner.beta1`",
        ),
        (
            &["imitation.learner.keep_last=0"],
            "`imitation.learner.keep_last`",
        ),
        (&["model.dtype=bf16"], "set model.dtype = \"f32\""),
        (&["model.device=cuda"], "write auto, cpu or cuda:N"),
        (&["model.threads=1025"], "`model.threads`"),
        (&["evaluation.samples=2"], "set evaluation.temperature"),
        (
            &["evaluation.max_action_tokens=0"],
            "`evaluation.max_action_tokens`",
        ),
        (
            &["rollout.max_context_tokens=0"],
            "`rollout.max_context_tokens`",
        ),
        (&["rollout.lease_ms=0"], "`rollout.lease_ms`"),
        (&["tools.limits.timeout_ms=0"], "`tools.limits.timeout_ms`"),
        (&["train.seeds=[1,1]"], "`train.seeds`"),
        (&["questions.wordmath.count=0"], "wordmath"),
        (&["judge.llm.model="], "[judge.llm] model is empty"),
        (
            &["judge.llm.model=m", "judge.llm.base_url=h"],
            "[judge.llm] base_url",
        ),
        (
            &[
                "judge.llm.model=m",
                "judge.llm.api_key_env=SWIRL_TEST_NO_SUCH_VARIABLE",
            ],
            "is not set",
        ),
        (
            &["tools.enabled=[]"],
            "`warm_start.dialogue.tag`: no tool that is offered is called by <math_exp>",
        ),
        (
            &["warm_start.learner.kl.coefficient=0.1"],
            "`warm_start.learner.kl.coefficient` has no effect",
        ),
        (
            &["prompt.system={{ tool }}"],
            "`prompt.system` cannot be rendered",
        ),
        (&["run.skip=[\"x\"]"], "`run.skip` names `x`"),
        (
            &[
                "judge.process=llm",
                "judge.llm.model=m",
                "judge.llm.rubric=nowhere.md",
            ],
            "nowhere.md",
        ),
    ];
    for (settings, says) in cases {
        let args = [&["run", "c.toml", "--dry-run"], *settings].concat();
        check(dir.path(), &[case("dry run", &args, 2, says)]);
    }
    assert!(!dir.path().join("runs").exists(), "a dry run makes nothing");
}

#[test]
fn usage_of_the_smaller_commands() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    std::fs::write(dir.path().join("q.jsonl"), "").unwrap();
    let eval =
        |more: &[&'static str]| [&["eval", "--model", "tiny", "--data", "q.jsonl"], more].concat();
    check(
        dir.path(),
        &[
            case(
                "samples that are alike",
                &eval(&["--samples", "3"]),
                2,
                "evaluation.temperature",
            ),
            case(
                "no samples",
                &eval(&["--samples", "0"]),
                2,
                "`evaluation.samples`",
            ),
            case(
                "a temperature that is none",
                &eval(&["--temperature", "NaN"]),
                2,
                "`evaluation.temperature`",
            ),
            case(
                "unknown generator",
                &["data", "make", "foo", "made.jsonl"],
                2,
                "wordmath and wikihop",
            ),
            case(
                "no item",
                &["data", "inspect", "empty", "q#x"],
                2,
                "is not question#sample",
            ),
            case(
                "nothing to inspect",
                &["data", "inspect", "empty"],
                1,
                "holds no trajectories",
            ),
            case(
                "nothing to export",
                &["data", "export", "empty", "out.jsonl"],
                1,
                "holds no trajectories",
            ),
        ],
    );
    let left = |folder: &str| std::fs::read_dir(dir.path().join(folder)).unwrap().count();
    assert_eq!((left("."), left("empty")), (2, 0), "nothing was created");
}

#[test]
fn damaged_models() {
    let dir = tempfile::tempdir().unwrap();
    let Some(real) = real_model() else { return };
    let Some(tiny) = tiny_model(dir.path()) else {
        return;
    };
    let weights = std::fs::read(tiny.join("model.safetensors")).unwrap();
    let data = dir.path().join("q.jsonl");
    std::fs::write(
        &data,
        "{\"question\": \"1+1?\", \"answer\": \"<<1+1=2>>\\n#### 2\"}\n",
    )
    .unwrap();
    for (name, keep) in [("cut header", 5), ("cut data", weights.len() / 2)] {
        std::fs::write(tiny.join("model.safetensors"), &weights[..keep]).unwrap();
        let args = ["eval", "--model", "tiny", "--data", "q.jsonl"];
        check(dir.path(), &[case(name, &args, 1, "model.safetensors")]);
    }
    std::fs::remove_file(tiny.join("model.safetensors")).unwrap();
    let args = ["eval", "--model", "tiny", "--data", "q.jsonl"];
    check(dir.path(), &[case("no weights", &args, 1, "safetensors")]);
    assert!(real.exists());
}

#[test]
fn a_damaged_log_tail_is_repaired_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("c.toml"), small_run(&model)).unwrap();
    let out = output(dir.path(), &["run", "c.toml"]);
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let trajectories = dir.path().join("runs/small/trajectories");
    // Put a fresh log beside the compacted segment, as a crash in the middle of a write leaves it.
    let mut store = store::TrajectoryStore::open(&trajectories).unwrap();
    let mut extra = store.iter().next().unwrap().unwrap();
    extra.item.question = "extra".into();
    extra.item.sample = 0;
    extra.question.id = "extra".into();
    store.append(&extra).unwrap();
    drop(store);
    let log = std::fs::read_dir(&trajectories)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "swl"))
        .expect("the store has an open log");
    let mut bytes = std::fs::read(&log).unwrap();
    bytes.extend_from_slice(&[0x55; 13]);
    std::fs::write(&log, bytes).unwrap();
    let out = output(dir.path(), &["data", "inspect", "runs/small", "extra#0"]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stderr}");
    assert!(
        stderr.contains("bytes_dropped=13"),
        "the repair is reported: {stderr}"
    );
}

#[test]
fn tags_that_texts_leave_out() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("good.toml"), small_run(&model)).unwrap();
    let file = model.join("tokenizer.json");
    let text = std::fs::read(&file).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let tokens = tokenizer["added_tokens"].as_array_mut().unwrap();
    let mut token = tokens[0].clone();
    token["id"] = 60_000.into();
    token["content"] = "</think>".into();
    tokens.push(token);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, tokenizer.to_string()).unwrap();
    check(
        dir.path(),
        &[case(
            "a tag that is a special token",
            &["run", "good.toml"],
            2,
            "`</think>` is a special token of the model's tokenizer",
        )],
    );
    let out = output(
        dir.path(),
        &["run", "good.toml", "model.thinking_tags=[]", "--dry-run"],
    );
    assert!(out.status.success());
}
