//! Changes that are allowed between a run and its resumption, and those left out or refused.

use crate::support::{output, small_run, tiny_model};
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;
use store::TrajectoryStore;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeeds(folder: &Path, args: &[&str]) -> String {
    let out = output(folder, args);
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

fn refuses(folder: &Path, args: &[&str], says: &[&str]) {
    let out = output(folder, args);
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{args:?}: {stderr}");
    for part in says {
        assert!(
            stderr.contains(part),
            "{args:?}: {part:?} is missing in {stderr}"
        );
    }
}

/// A run without training whose questions come from `q.jsonl`, and those questions' ids.
fn from_a_file(folder: &Path) -> Option<Vec<String>> {
    let model = tiny_model(folder)?;
    let whole = small_run(&model);
    let (before, rest) = whole.split_once("[warm_start]").unwrap();
    let (_, rest) = rest.split_once("[rollout]").unwrap();
    let (rollout, rest) = rest.split_once("[train]").unwrap();
    let (_, evaluation) = rest.split_once("[evaluation]").unwrap();
    let config = format!(
        "{before}[questions]\npath = \"q.jsonl\"\n[rollout]{rollout}[evaluation]{evaluation}"
    );
    std::fs::write(folder.join("c.toml"), config).unwrap();
    succeeds(
        folder,
        &["data", "make", "wordmath", "q.jsonl", "--count", "4"],
    );
    let rows = std::fs::read_to_string(folder.join("q.jsonl")).unwrap();
    let id = |row: &str| {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        row["id"].as_str().unwrap().to_owned()
    };
    Some(rows.lines().map(id).collect())
}

/// The questions of stored trajectories.
fn questions(store: &Path) -> BTreeSet<String> {
    let store = TrajectoryStore::open(store).unwrap();
    store
        .iter()
        .map(|trajectory| trajectory.unwrap().item.question.0)
        .collect()
}

#[test]
fn a_question_file_counts_by_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let Some(ids) = from_a_file(dir.path()) else {
        return;
    };
    succeeds(dir.path(), &["run", "c.toml"]);
    assert_eq!(
        questions(&dir.path().join("runs/small/trajectories")),
        ids.into_iter().collect()
    );
    std::fs::rename(dir.path().join("q.jsonl"), dir.path().join("moved.jsonl")).unwrap();
    let moved = ["run", "c.toml", "--resume", "questions.path=moved.jsonl"];
    succeeds(dir.path(), &moved);

    let rows = std::fs::read_to_string(dir.path().join("moved.jsonl")).unwrap();
    let edited = rows.replacen("How", "Tell how", 1);
    assert_ne!(edited, rows);
    std::fs::write(dir.path().join("moved.jsonl"), edited).unwrap();
    refuses(
        dir.path(),
        &moved,
        &[
            "another configuration",
            "`questions` was 4 questions, content ",
        ],
    );
}

#[test]
fn a_refused_resumption_names_every_setting_that_differs() {
    let dir = tempfile::tempdir().unwrap();
    if from_a_file(dir.path()).is_none() {
        return;
    }
    succeeds(dir.path(), &["run", "c.toml"]);
    refuses(
        dir.path(),
        &[
            "run",
            "c.toml",
            "--resume",
            "rollout.samples=3",
            "run.seed=6",
        ],
        &["`rollout.samples` was 2 and is 3; `run.seed` was 5 and is 6."],
    );
    // Without the state, and without what it was begun with, the settings are still there.
    for file in ["state.json", "identity.json"] {
        std::fs::remove_file(dir.path().join("runs/small").join(file)).unwrap();
        refuses(
            dir.path(),
            &["run", "c.toml", "--resume", "rollout.samples=3"],
            &["`rollout.samples` was 2 and is 3."],
        );
    }
    succeeds(dir.path(), &["run", "c.toml", "--resume"]);
}

/// A setting that a later version of the program has is absent from what an earlier one wrote down.
#[test]
fn a_run_of_an_earlier_program_goes_on_where_later_settings_are_at_their_default() {
    let dir = tempfile::tempdir().unwrap();
    if from_a_file(dir.path()).is_none() {
        return;
    }
    succeeds(dir.path(), &["run", "c.toml"]);
    let run = dir.path().join("runs/small");
    let [identity, config, state] =
        ["identity.json", "config.toml", "state.json"].map(|name| run.join(name));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let json = |path: &Path| serde_json::from_str::<serde_json::Value>(&read(path)).unwrap();

    // As if `rollout.top_k` had not been there: neither in what the run was begun with, nor in its
    // hash.
    let mut earlier = json(&identity);
    let settings = earlier["settings"].as_object_mut().unwrap();
    assert_eq!(settings.remove("rollout.top_k"), Some("0".into()));
    std::fs::write(&identity, earlier.to_string()).unwrap();
    let kept = read(&config);
    let left: Vec<&str> = kept.lines().filter(|l| !l.starts_with("top_k")).collect();
    assert!(left.len() < kept.lines().count());
    std::fs::write(&config, left.join("\n")).unwrap();
    let mut begun = json(&state);
    begun["config_hash"] = hash(&earlier).into();
    std::fs::write(&state, begun.to_string()).unwrap();

    refuses(
        dir.path(),
        &["run", "c.toml", "--resume", "rollout.top_k=3"],
        &["`rollout.top_k` was not set and is 3."],
    );
    succeeds(dir.path(), &["run", "c.toml", "--resume"]);
    // From now on it is this program's run.
    assert_eq!(json(&identity)["settings"]["rollout.top_k"], "0");
    assert_eq!(json(&state)["config_hash"], hash(&json(&identity)));
}

/// The hash of an identity, from what is written down of it.
fn hash(identity: &serde_json::Value) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in ["settings", "contents"] {
        for (key, value) in identity[part].as_object().unwrap() {
            for text in [key, value.as_str().unwrap()] {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
        }
    }
    let bytes = hash.finalize();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn named_questions_are_left_out_and_the_report_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let Some(ids) = from_a_file(dir.path()) else {
        return;
    };
    let skip = format!("run.skip=[{:?}]", ids[1]);
    let report = succeeds(dir.path(), &["run", "c.toml", &skip]);
    let note = format!(
        "run.skip left questions out (`{}`): 1 of 4 in questions.",
        ids[1]
    );
    assert!(report.contains(&note), "{report}");
    let stored = questions(&dir.path().join("runs/small/trajectories"));
    assert_eq!((stored.len(), stored.contains(&ids[1])), (3, false));
    let kept = std::fs::read_to_string(dir.path().join("runs/small/config.toml")).unwrap();
    assert!(kept.contains(&ids[1]), "{kept}");
    refuses(
        dir.path(),
        &["run", "c.toml", "--clean", "run.skip=[\"nobody\"]"],
        &["`run.skip` names `nobody`"],
    );
    let all = format!("run.skip={ids:?}");
    refuses(
        dir.path(),
        &["run", "c.toml", "--clean", &all],
        &["`run.skip` leaves no question of questions"],
    );
}

#[test]
fn a_run_folder_may_be_a_link_and_a_name_may_be_a_number() {
    let dir = tempfile::tempdir().unwrap();
    if from_a_file(dir.path()).is_none() {
        return;
    }
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("disk/run")).unwrap();
    std::fs::create_dir(at("runs")).unwrap();
    symlink("../disk/run", at("runs/20261130")).unwrap();
    let named = ["run", "c.toml", "run.name=20261130"];
    succeeds(dir.path(), &named);
    std::fs::write(at("disk/run/logs/old"), "x").unwrap();
    succeeds(dir.path(), &[&named[..], &["--clean"]].concat());
    assert!(at("runs/20261130").is_symlink());
    assert!(at("disk/run/report.md").exists() && !at("disk/run/logs/old").exists());

    symlink("nowhere", at("runs/gone")).unwrap();
    for way in ["--clean", "--resume", "--log=warn"] {
        let says = "runs/gone is a link to nowhere, which does not exist";
        refuses(
            dir.path(),
            &["run", "c.toml", way, "run.name=gone"],
            &[says],
        );
    }
    let out = [
        "eval",
        "--model",
        "tiny",
        "--data",
        "q.jsonl",
        "--out",
        "runs/gone",
    ];
    refuses(dir.path(), &out, &["runs/gone is a link to nowhere"]);
}

#[test]
fn what_is_trained_on_is_not_measured_on_unless_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    let leaky = small_run(&model).replace("seed = 3\nsplit = \"eval\"", "seed = 2");
    std::fs::write(dir.path().join("c.toml"), &leaky).unwrap();
    let dry = ["run", "c.toml", "--dry-run"];
    refuses(
        dir.path(),
        &dry,
        &["evaluation set \"held out\": 5 of 5 questions are trained on, too: `wordmath-"],
    );
    let allowed = ["run", "c.toml", "evaluation.overlap=allow"];
    let report = succeeds(dir.path(), &allowed);
    let note = "5 of 5 questions of \"held out\" were trained on, too (evaluation.overlap";
    assert!(report.contains(note), "{report}");
}
