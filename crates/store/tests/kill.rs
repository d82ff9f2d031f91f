//! A process that appends and compacts without end is killed with SIGKILL, again and again; nothing
//! it acknowledged may be missing, and nothing may be there twice.

use proto::{
    Action, FinishReason, ItemId, Question, Span, Step, Trajectory, TrajectoryEnd, WeightVersion,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use store::{StoreOptions, TrajectoryStore};

/// Tells this program that it is the one to be killed, and where to write.
const FOLDER: &str = "SWIRL_STORE_KILL_TEST_FOLDER";

const ROUNDS: u64 = 20;

/// A file holds a few records only, so that kills meet rotations too.
const OPTIONS: StoreOptions = StoreOptions {
    rotate_bytes: 20_000,
};

fn trajectory(n: u32) -> Trajectory {
    let id = format!("q{n}");
    // Sizes differ, so that kills meet records of many lengths.
    let sampled = 1 + n % 700;
    Trajectory {
        run: "kill".into(),
        item: ItemId {
            question: id.as_str().into(),
            sample: 0,
        },
        question: Question {
            id: id.as_str().into(),
            dataset: "d".into(),
            split: "train".into(),
            question: "?".into(),
            answer: n.to_string(),
            answer_aliases: vec![],
            reference_steps: vec![],
        },
        model: "m".into(),
        tokens: (0..4 + sampled).map(|t| t * n).collect(),
        steps: vec![Step {
            sampled: Span {
                start: 4,
                end: 4 + sampled,
            },
            logprobs: vec![-(n as f32); sampled as usize],
            weight_version: WeightVersion(0),
            finish: FinishReason::EndOfTurn,
            text: String::new(),
            thought: String::new(),
            action: Action::Answer(n.to_string()),
            observation: None,
            verdicts: vec![],
        }],
        end: TrajectoryEnd::Answered,
        outcome: None,
    }
}

/// The process to be killed: says the number of each record once the store has acknowledged it.
/// Does nothing when the whole file of tests is run.
#[test]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let mut store = TrajectoryStore::open_with(Path::new(&folder), OPTIONS).unwrap();
    let mut next = store.len() as u32;
    let mut out = std::io::stdout();
    loop {
        let batch: Vec<Trajectory> = (next..next + 1 + next % 4).map(trajectory).collect();
        store.append_all(&batch).unwrap();
        for _ in &batch {
            writeln!(out, "stored {next}").unwrap();
            next += 1;
        }
        if next.is_multiple_of(11) {
            writeln!(out, "compacting").unwrap();
            store.compact().unwrap();
        }
    }
}

/// Runs a writer until it has said so many lines, kills it, and returns what it acknowledged.
fn kill_after(folder: &Path, lines: usize) -> Vec<u32> {
    let mut child = Command::new(std::env::current_exe().expect("a test has a program"))
        .args(["--exact", "writer", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("this very program starts");
    let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut said = String::new();
    let ours = |line: &str| line.contains("stored ") || line.contains("compacting");
    let mut count = 0;
    while count < lines {
        let begin = said.len();
        assert_ne!(
            output.read_line(&mut said).expect("it says text"),
            0,
            "the writer gave up: {said}"
        );
        count += usize::from(ours(&said[begin..]));
    }
    child.kill().expect("it runs");
    child.wait().expect("it is ours");
    // What it said between our last look and its death was acknowledged as well; its very last line
    // may be cut off.
    std::io::Read::read_to_string(&mut output, &mut said).expect("it says text");
    said.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .filter_map(|line| line.trim_end().rsplit_once("stored ")?.1.parse().ok())
        .collect()
}

#[test]
fn st_1_no_acknowledged_record_is_lost_or_doubled_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let said = kill_after(folder.path(), rng.random_range(1..60));
        assert!(
            !said.is_empty(),
            "round {round}: the writer acknowledged nothing"
        );
        acknowledged.extend(said);
        let store = TrajectoryStore::open_with(folder.path(), OPTIONS).unwrap();
        let mut found = BTreeSet::new();
        for stored in store.iter() {
            let stored = stored.unwrap();
            let n: u32 = stored.question.answer.parse().unwrap();
            assert_eq!(stored, trajectory(n), "round {round}");
            assert!(found.insert(n), "round {round}: {n} is there twice");
        }
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(
            lost.is_empty(),
            "round {round}: acknowledged and lost: {lost:?}"
        );
        assert_eq!(found.len(), store.len());
    }
    assert!(
        acknowledged.len() > 200,
        "{} records are too few to tell",
        acknowledged.len()
    );
}
