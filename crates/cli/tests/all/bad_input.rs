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
    let set = |s: &'static str| ["run", "good.toml", "--clean", "-s", s];
    check(
        dir.path(),
        &[
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
            case("missing model", &set("model.path=nowhere"), 1, "nowhere"),
            case("unknown device", &set("model.device=cuda:7"), 1, "cuda:7"),
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
