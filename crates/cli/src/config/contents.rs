//! Hashes of what settings name: questions and models, by what they hold and not by where they lie.

use super::fingerprint::hex;
use proto::Question;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Digest of the parts of questions that a run depends on; data set and split are names, which may
/// follow from where a file lies.
pub(super) fn questions_digest(questions: &[Question]) -> String {
    let mut hash = Sha256::new();
    for question in questions {
        let content = (
            &question.id,
            &question.question,
            &question.answer,
            &question.answer_aliases,
            &question.reference_steps,
        );
        let text = serde_json::to_vec(&content).expect("texts and lists of them become JSON");
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let count = questions.len();
    format!("{count} questions, content {}", short(&hash.finalize()))
}

/// Files of a model up to this size count whole, larger ones by their size and samples.
const WHOLE_FILE_BYTES: u64 = 64 << 20;

/// Bytes of one sample of a large file, and how many there are.
const SAMPLE_BYTES: u64 = 64 << 10;
const SAMPLES: u64 = 64;

/// A model's folder by what it holds, not by where it lies: weights, configuration, tokenizer and
/// template.
pub(super) fn model_digest(folder: &Path) -> std::io::Result<String> {
    let is_part = |path: &PathBuf| {
        let extension = path.extension().and_then(|e| e.to_str());
        let parts = ["json", "safetensors", "jinja", "model", "txt"];
        path.is_file() && extension.is_some_and(|e| parts.contains(&e))
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(is_part);
    files.sort();
    let mut hash = Sha256::new();
    for path in &files {
        hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
        sample(path, &mut hash)?;
    }
    let count = files.len();
    Ok(format!(
        "{count} files, content {}",
        short(&hash.finalize())
    ))
}

fn sample(path: &Path, hash: &mut Sha256) -> std::io::Result<()> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    hash.update(bytes.to_le_bytes());
    if bytes <= WHOLE_FILE_BYTES {
        std::io::copy(&mut file, hash)?;
        return Ok(());
    }
    for index in 0..SAMPLES {
        let at = (bytes - SAMPLE_BYTES) / (SAMPLES - 1) * index;
        file.seek(SeekFrom::Start(at))?;
        std::io::copy(&mut (&mut file).take(SAMPLE_BYTES), hash)?;
    }
    Ok(())
}

/// The first digits of a hash, as errors show it.
pub(super) fn short(digest: &[u8]) -> String {
    hex(&digest[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::ReferenceStep;

    fn question() -> Question {
        Question {
            id: "q".into(),
            dataset: "d".into(),
            split: "s".into(),
            question: "What is 1+1?".into(),
            answer: "2".into(),
            answer_aliases: Vec::new(),
            reference_steps: Vec::new(),
        }
    }

    #[test]
    fn questions_count_by_all_that_results_depend_on() {
        let of = |change: fn(&mut Question)| {
            let mut changed = question();
            change(&mut changed);
            questions_digest(&[changed])
        };
        let begun = of(|_| {});
        assert!(begun.starts_with("1 questions, content "), "{begun}");
        // A file that has another name gives its rows another data set's.
        assert_eq!(of(|q| q.dataset = "e".into()), begun);
        assert_eq!(of(|q| q.split = "t".into()), begun);
        let changes: [fn(&mut Question); 5] = [
            |q| q.id = "r".into(),
            |q| q.question += " ",
            |q| q.answer = "3".into(),
            |q| q.answer_aliases.push("two".into()),
            |q| {
                q.reference_steps.push(ReferenceStep {
                    thought: String::new(),
                    tool: "calculator".into(),
                    arguments: "1+1".into(),
                    result: "2".into(),
                });
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert_ne!(of(change), begun, "change {index}");
        }
        let two = [question(), question()];
        assert_ne!(questions_digest(&two), begun);
    }

    #[test]
    fn a_model_counts_by_its_files_wherever_they_lie() {
        let home = tempfile::tempdir().unwrap();
        let make = |name: &str, weights: &[u8]| {
            let folder = home.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("config.json"), "{}").unwrap();
            std::fs::write(folder.join("model.safetensors"), weights).unwrap();
            std::fs::write(folder.join("README.md"), name).unwrap();
            model_digest(&folder).unwrap()
        };
        assert_eq!(make("a", b"123"), make("b", b"123"));
        assert_ne!(make("a", b"123"), make("c", b"124"));
        assert!(model_digest(&home.path().join("none")).is_err());
    }

    #[test]
    fn of_a_large_file_its_size_and_samples_to_its_end_count() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let bytes = WHOLE_FILE_BYTES + 5;
        let of = |place: u64, len: u64| {
            use std::io::Write;
            let mut file = File::create(&path).unwrap();
            file.set_len(len).unwrap();
            file.seek(SeekFrom::Start(place)).unwrap();
            file.write_all(b"x").unwrap();
            let mut hash = Sha256::new();
            sample(&path, &mut hash).unwrap();
            hex(&hash.finalize())
        };
        let first = of(0, bytes);
        assert_eq!(of(0, bytes), first);
        assert_ne!(of(bytes - 1, bytes), first);
        assert_ne!(of(0, bytes + 1), first);
    }
}
