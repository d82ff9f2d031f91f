//! Whole runs, as a user starts them.

use crate::support::{output, small_run, swirl, tiny_model};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
        "SWiRL over warm_start",
        "SWiRL over imitation",
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

    let stored = || std::fs::read_to_string(run.join("config.toml")).unwrap();
    let begun_with = stored();
    let other = output(
        dir.path(),
        &["run", "c.toml", "--resume", "-s", "train.steps=9"],
    );
    let stderr = text(&other.stderr);
    assert_eq!(other.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("`train.steps` was 4 and is 9"), "{stderr}");
    assert_eq!(stored(), begun_with, "a refused resumption changes nothing");

    let mended = ["run", "c.toml", "--resume", "--json", "rollout.max_tries=7"];
    let resumed = output(dir.path(), &mended);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert_eq!(
        stored(),
        begun_with.replace("max_tries = 3", "max_tries = 7"),
        "what may change is part of the run from then on"
    );
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
    for lines in [1, 2, 3, 4, 5, 6, 7, 8, 10, 12] {
        let mut child = swirl(
            dir.path(),
            &["run", "c.toml", "--resume", "-s", "run.dir=cut"],
        )
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let read: Vec<String> = stderr.by_ref().take(lines).map(Result::unwrap).collect();
        if read.len() < lines {
            // It ended by itself before the kill: that must have been for want of work.
            assert!(child.wait().unwrap().success(), "{read:?}");
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let last = output(
        dir.path(),
        &["run", "c.toml", "--resume", "-s", "run.dir=cut"],
    );
    assert!(last.status.success(), "{}", text(&last.stderr));
    assert_eq!(results(&dir.path().join("cut/small")), expected);
}

/// A run that trains for longer than any test waits, as far as its first line of progress.
fn endless(folder: &Path, model: &Path) -> Child {
    let config = small_run(model).replace("steps = 4\nbatch", "steps = 1000000\nbatch");
    std::fs::write(folder.join("endless.toml"), config).unwrap();
    let mut child = swirl(folder, &["run", "endless.toml"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stderr = child.stderr.as_mut().unwrap();
    let mut first = String::new();
    BufReader::new(stderr).read_line(&mut first).unwrap();
    assert!(first.starts_with("Phase 1 of 6"), "{first}");
    child
}

#[test]
fn a_live_run_is_not_touched_and_what_it_began_with_holds_from_its_first_phase_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    let mut child = endless(dir.path(), &model);
    for way in ["--resume", "--clean"] {
        let second = output(dir.path(), &["run", "endless.toml", way]);
        let stderr = text(&second.stderr);
        assert_eq!(second.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("in use by another process"), "{stderr}");
    }
    assert!(child.try_wait().unwrap().is_none(), "it still runs");
    child.kill().unwrap();
    child.wait().unwrap();

    let args = ["run", "endless.toml", "--resume", "train.steps=9"];
    let other = output(dir.path(), &args);
    let stderr = text(&other.stderr);
    assert_eq!(other.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("another configuration"), "{stderr}");

    let state = dir.path().join("runs/small/state.json");
    std::fs::remove_file(state).unwrap();
    let other = output(dir.path(), &args);
    assert_eq!(other.status.code(), Some(2), "{}", text(&other.stderr));
}

#[test]
fn a_folder_of_something_else_is_not_cleaned() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("c.toml"), small_run(Path::new("nowhere"))).unwrap();
    let thesis = dir.path().join("runs/small/thesis.tex");
    std::fs::create_dir_all(thesis.parent().unwrap()).unwrap();
    std::fs::write(&thesis, "x").unwrap();
    for way in ["--clean", "--resume", "--log=warn"] {
        let out = output(dir.path(), &["run", "c.toml", way]);
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("not those of a run"), "{stderr}");
    }
    assert!(thesis.exists());
}

#[test]
fn a_filter_that_leaves_too_little_stops_the_run_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("c.toml"), small_run(&model)).unwrap();
    // The model talks nonsense: no answer of it is right.
    for (setting, says) in [
        ("imitation.keep=outcome", "choose another imitation.keep"),
        ("filter.limit=1000", "too few for filter.limit"),
    ] {
        let out = output(dir.path(), &["run", "c.toml", "--clean", setting]);
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(says), "{stderr}");
        assert!(!stderr.contains("Phase 4"), "{stderr}");
    }
}

/// A disk that fills up: one clear error, nothing lost, and on a larger disk the run goes on.
#[test]
fn a_full_disk_stops_the_run_and_a_larger_one_lets_it_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("c.toml"), small_run(&model)).unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    // The disk lives as long as its shell.
    let on_small_disk = |script: &str| {
        let mount = format!("mount -t tmpfs -o size=3m tmpfs disk && {{ {script}; }}");
        Command::new("unshare")
            .args(["-rm", "sh", "-c", &mount])
            .current_dir(dir.path())
            .env("SWIRL", env!("CARGO_BIN_EXE_swirl"))
            .env("OMP_NUM_THREADS", "1")
            .env_remove("SWIRL_LOG")
            .output()
    };
    if !on_small_disk("true").is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: this user may not mount a file system of his own (unshare -rm)");
        return;
    }
    let run = "\"$SWIRL\" run c.toml run.dir=disk; code=$?; cp -a disk/small . && exit $code";
    let full = on_small_disk(run).unwrap();
    let stderr = text(&full.stderr);
    assert_eq!(full.status.code(), Some(1), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(errors[0].contains("No space left"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");

    let resumed = output(dir.path(), &["run", "c.toml", "--resume", "run.dir=."]);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    results(&dir.path().join("small"));
}

#[test]
fn a_pipe_that_nobody_reads_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("c.toml"), small_run(&model)).unwrap();
    let mut child = swirl(dir.path(), &["run", "c.toml"])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stderr.take());
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(dir.path().join("runs/small/report.json").exists());

    let mut list = swirl(dir.path(), &["data", "inspect", "runs/small"])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    drop(list.stdout.take());
    let out = list.wait_with_output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}
