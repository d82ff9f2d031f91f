use super::*;
use crate::samples::{any_trajectory, trajectory};
use expect_test::expect;
use proptest::prelude::*;

fn written(trajectories: &[Trajectory]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("segment-00000001.parquet");
    let count = write(&path, trajectories.iter().cloned().map(Ok)).unwrap();
    assert_eq!(count, trajectories.len());
    (dir, path)
}

fn read_all(path: &Path) -> Vec<Trajectory> {
    read(path).unwrap().collect::<Result<_, _>>().unwrap()
}

#[test]
fn the_schema_is_what_readers_were_promised() {
    let mut lines = String::new();
    for field in schema().fields() {
        let null = if field.is_nullable() { "?" } else { "" };
        lines += &format!("{}{null}: {}\n", field.name(), field.data_type());
    }
    expect![[r#"
        run: LargeUtf8
        question_id: LargeUtf8
        sample: UInt32
        dataset: LargeUtf8
        split: LargeUtf8
        question: LargeUtf8
        answer: LargeUtf8
        answer_aliases: LargeList(non-null LargeUtf8, field: 'element')
        reference_steps: LargeList(non-null Struct("thought": non-null LargeUtf8, "tool": non-null LargeUtf8, "arguments": non-null LargeUtf8, "result": non-null LargeUtf8), field: 'element')
        model: LargeUtf8
        tokens: LargeList(non-null UInt32, field: 'element')
        loss_mask: LargeList(non-null UInt8, field: 'element')
        end: Dictionary(UInt32, LargeUtf8)
        outcome?: Struct("judge": non-null LargeUtf8, "model": non-null LargeUtf8, "prompt_hash": non-null LargeUtf8, "label": non-null Dictionary(UInt32, LargeUtf8), "score": non-null Float32, "rationale": non-null LargeUtf8)
        steps: LargeList(non-null Struct("sampled_start": non-null UInt32, "sampled_end": non-null UInt32, "logprobs": non-null LargeList(non-null Float32, field: 'element'), "weight_version": non-null UInt64, "finish": non-null Dictionary(UInt32, LargeUtf8), "text": non-null LargeUtf8, "thought": non-null LargeUtf8, "action_kind": non-null Dictionary(UInt32, LargeUtf8), "tool": LargeUtf8, "arguments": LargeUtf8, "answer": LargeUtf8, "malformed": Dictionary(UInt32, LargeUtf8), "observation": LargeUtf8, "observation_start": UInt32, "observation_end": UInt32, "is_error": Boolean, "latency_us": UInt64, "verdicts": non-null LargeList(non-null Struct("judge": non-null LargeUtf8, "model": non-null LargeUtf8, "prompt_hash": non-null LargeUtf8, "label": non-null Dictionary(UInt32, LargeUtf8), "score": non-null Float32, "rationale": non-null LargeUtf8), field: 'element')), field: 'element')
    "#]].assert_eq(&lines);
}

#[test]
fn rows_of_several_batches_and_groups_come_back_in_order() {
    let count = GROUP_ROWS + BATCH_ROWS + 1;
    let trajectories: Vec<Trajectory> = (0..count as u32).map(trajectory).collect();
    let (_dir, path) = written(&trajectories);
    assert_eq!(read_all(&path), trajectories);
    let ids: Vec<ItemId> = trajectories.iter().map(|t| t.item.clone()).collect();
    assert_eq!(items(&path).unwrap(), ids);
    for index in [0, 1, BATCH_ROWS, GROUP_ROWS - 1, GROUP_ROWS, count - 1] {
        assert_eq!(
            row(&path, index).unwrap().as_ref(),
            trajectories.get(index),
            "row {index}"
        );
    }
    assert_eq!(row(&path, count).unwrap(), None);
}

#[test]
fn a_trajectory_without_steps_comes_back() {
    let mut bare = trajectory(1);
    bare.steps.clear();
    bare.outcome = None;
    bare.question.answer_aliases.clear();
    bare.question.reference_steps.clear();
    let (_dir, path) = written(std::slice::from_ref(&bare));
    assert_eq!(read_all(&path), [bare]);
}

#[test]
fn what_is_no_segment_is_refused_by_name() {
    let (dir, path) = written(&[trajectory(1)]);
    let bytes = std::fs::read(&path).unwrap();
    let other = dir.path().join("other.parquet");
    let batch = RecordBatch::new_empty(schema());
    let file = File::create(&other).unwrap();
    let mut writer = ArrowWriter::try_new(file, schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let foreign = std::fs::read(&other).unwrap();
    for (bytes, words) in [
        (&bytes[..bytes.len() / 2], "segment-00000001.parquet"),
        (&[], "segment-00000001.parquet"),
        (
            foreign.as_slice(),
            "its metadata has no swirl.trajectory.version",
        ),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains(words) && error.contains("restore the file"),
            "{error}"
        );
        assert!(items(&path).is_err());
    }
}

/// The device that is always full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named() {
    let error = write(Path::new("/dev/full"), [Ok(trajectory(1))]).unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_trajectories_come_back_bit_by_bit(
        trajectories in proptest::collection::vec(any_trajectory(), 0..6),
    ) {
        let (_dir, path) = written(&trajectories);
        let found = read_all(&path);
        prop_assert_eq!(&found, &trajectories);
        // Equality holds 0.0 = -0.0; the encoding does not.
        let bytes = |all: &[Trajectory]| -> Vec<_> {
            all.iter().map(|t| proto::codec::encode(t).unwrap()).collect()
        };
        prop_assert_eq!(bytes(&found), bytes(&trajectories));
    }
}
