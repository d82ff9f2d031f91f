//! Whole runs, as a user starts them.

use crate::support::{output, small_run, swirl, tiny_model};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use store::TrajectoryStore;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Everything a finished run produced that a resumed run must produce too.
fn results(run: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for model in ["warm_start", "imitation", "swirl-seed1"] {
        let bytes =
            std::fs::read(run.join("models").join(model).join("model.safetensors")).unwrap();
        found.insert(model.to_owned(), format!("{:08x}", crc32fast::hash(&bytes)));
    }
    for (name, folder) in [
        ("trajectories", "trajectories"),
        ("evaluation", "evaluations/swirl-seed1/held out"),
    ] {
        let store = TrajectoryStore::open(run.join(folder)).unwrap();
        let mut rows: Vec<_> = store
            .iter()
            .map(|t| t.map(|t| (t.item.to_string(), t.tokens)).unwrap())
            .collect();
        let count = rows.len();
        rows.sort();
        rows.dedup_by(|a, b| a.0 == b.0);
        assert_eq!(rows.len(), count, "an item is stored twice in {folder}");
        found.insert(name.to_owned(), format!("{rows:?}"));
    }
    found
}

#[test]
fn a_run_ends_with_a_report_and_refuses_its_folder_twice() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("c.toml"), small_run(&model)).unwrap();

    let first = output(dir.path(), &["run", "c.toml"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let report = text(&first.stdout);
    for name in [
        "base",
        "warm_start",
        "imitation",
        "swirl-seed1",
        "held out",
        "reference",
    ] {
        assert!(report.contains(name), "{name} is missing in\n{report}");
    }
    let run = dir.path().join("runs/small");
    for file in [
        "config.toml",
        "state.json",
        "metrics.jsonl",
        "report.json",
        "report.md",
        "filter.json",
        "logs/swirl.log",
    ] {
        assert!(run.join(file).exists(), "{file}");
    }

    let again = output(dir.path(), &["run", "c.toml"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(
        text(&again.stderr).contains("--resume"),
        "{}",
        text(&again.stderr)
    );

    let other = output(
        dir.path(),
        &["run", "c.toml", "--resume", "-s", "train.steps=9"],
    );
    assert_eq!(other.status.code(), Some(2), "{}", text(&other.stderr));

    let resumed = output(dir.path(), &["run", "c.toml", "--resume", "--json"]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    let json: serde_json::Value = serde_json::from_slice(&resumed.stdout).unwrap();
    assert!(json.is_object());

    let list = output(dir.path(), &["data", "inspect", "runs/small"]);
    let first_item = text(&list.stdout)
        .lines()
        .next()
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned();
    let shown = output(dir.path(), &["data", "inspect", "runs/small", &first_item]);
    assert!(
        text(&shown.stdout).contains("Step 1"),
        "{}",
        text(&shown.stderr)
    );
}

/// Kills the run with SIGKILL at many places, resumes it each time, and compares all it produced
/// with an undisturbed run, bit for bit (PITFALLS 13).
#[test]
fn kill_9_at_any_place_and_resume_gives_the_undisturbed_result() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("c.toml"), small_run(&model)).unwrap();
    let whole = output(dir.path(), &["run", "c.toml", "-s", "run.dir=whole"]);
    assert!(whole.status.success(), "{}", text(&whole.stderr));
    let expected = results(&dir.path().join("whole/small"));

    // Lines of progress are counted, not time: each round gets a little further before the kill.
    for lines in [1, 2, 3, 4, 5, 6, 7, 8] {
        let mut child = swirl(
            dir.path(),
            &["run", "c.toml", "--resume", "-s", "run.dir=cut"],
        )
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let read = stderr.lines().take(lines).count();
        child.kill().unwrap();
        child.wait().unwrap();
        if read < lines {
            break; // It ended by itself before the kill.
        }
    }
    let last = output(
        dir.path(),
        &["run", "c.toml", "--resume", "-s", "run.dir=cut"],
    );
    assert!(last.status.success(), "{}", text(&last.stderr));
    assert_eq!(results(&dir.path().join("cut/small")), expected);
}
