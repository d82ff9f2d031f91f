use super::*;
use crate::samples::trajectory;
use proptest::prelude::*;
use std::sync::Mutex;

/// A disk with so much room, which writes down what was asked of it.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) room: Option<u64>,
    pub(crate) flush_fails: bool,
    pub(crate) asked: Vec<&'static str>,
}

pub(crate) fn files_on(disk: &Arc<Mutex<Disk>>) -> OpenFile {
    let disk = disk.clone();
    Arc::new(move |path| {
        let inner = real_files()(path)?;
        Ok(Box::new(FileOnDisk {
            inner,
            disk: disk.clone(),
        }))
    })
}

struct FileOnDisk {
    inner: Box<dyn LogFile>,
    disk: Arc<Mutex<Disk>>,
}

impl LogFile for FileOnDisk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.asked.push("append");
        let fits = disk
            .room
            .map_or(bytes.len(), |room| bytes.len().min(room as usize));
        disk.room = disk.room.map(|room| room - fits as u64);
        self.inner.append(&bytes[..fits])?;
        match fits == bytes.len() {
            true => Ok(()),
            false => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        disk.asked.push("sync");
        match disk.flush_fails {
            true => Err(io::Error::other("the disk is gone")),
            false => self.inner.sync(),
        }
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.inner.truncate(len)
    }
}

const WHOLE: u64 = u64::MAX;

fn payloads(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    numbers
        .map(|n| codec::encode(&trajectory(n)).unwrap())
        .collect()
}

type Found = Result<(Log, Vec<(Position, Trajectory)>, Option<Repair>), StoreError>;

fn open_with(dir: &Path, rotate_bytes: u64, open_file: OpenFile) -> Found {
    let mut records = Vec::new();
    let (log, repair) = Log::open(dir, rotate_bytes, open_file, |position, trajectory| {
        records.push((position, trajectory));
    })?;
    Ok((log, records, repair))
}

fn open(dir: &Path) -> Found {
    open_with(dir, WHOLE, real_files())
}

fn numbers(records: &[(Position, Trajectory)]) -> Vec<u32> {
    records
        .iter()
        .map(|(_, trajectory)| trajectory.tokens[0])
        .collect()
}

/// A log of one file with these batches; returns its path, its bytes, and where each record lies.
fn log_of(dir: &Path, batches: &[std::ops::Range<u32>]) -> (PathBuf, Vec<u8>, Vec<usize>) {
    let (mut log, ..) = open(dir).unwrap();
    let mut offsets = Vec::new();
    for batch in batches {
        let positions = log.append_all(&payloads(batch.clone())).unwrap();
        offsets.extend(positions.iter().map(|position| position.offset as usize));
    }
    let path = Kind::Log.path(dir, 1);
    let bytes = fs::read(&path).unwrap();
    offsets.push(bytes.len());
    (path, bytes, offsets)
}

#[test]
fn records_come_back_in_order_from_every_open() {
    let dir = tempfile::tempdir().unwrap();
    for begin in [0, 3, 6] {
        let (mut log, records, repair) = open(dir.path()).unwrap();
        assert_eq!(numbers(&records), (0..begin).collect::<Vec<_>>());
        assert_eq!(repair, None);
        log.append_all(&payloads(begin..begin + 2)).unwrap();
        let positions = log.append_all(&payloads(begin + 2..begin + 3)).unwrap();
        let mut reader = log.reader(positions[0].file).unwrap();
        assert_eq!(
            reader.read(positions[0].offset).unwrap(),
            trajectory(begin + 2)
        );
    }
}

#[test]
fn a_reader_goes_forwards_and_backwards() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = open(dir.path()).unwrap();
    let positions = log.append_all(&payloads(0..5)).unwrap();
    let mut reader = log.reader(1).unwrap();
    for n in [3, 4, 0, 2, 2] {
        assert_eq!(
            reader.read(positions[n].offset).unwrap(),
            trajectory(n as u32)
        );
    }
}

#[test]
fn lg_1_a_batch_is_flushed_once_before_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Mutex::new(Disk::default()));
    let (mut log, ..) = open_with(dir.path(), WHOLE, files_on(&disk)).unwrap();
    log.append_all(&payloads(0..5)).unwrap();
    log.append_all(&payloads(5..6)).unwrap();
    log.append_all(&[]).unwrap();
    let header = ["append", "sync"];
    assert_eq!(
        disk.lock().unwrap().asked,
        [header, ["append", "sync"], ["append", "sync"]].concat()
    );
}

#[test]
fn lg_2_a_tail_torn_anywhere_is_cut_off_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, offsets) = log_of(dir.path(), &[0..1, 1..3]);
    for cut in 0..bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let (mut log, records, repair) = open(dir.path()).unwrap();
        let whole = offsets
            .iter()
            .filter(|&&offset| offset <= cut)
            .count()
            .saturating_sub(1);
        assert_eq!(
            numbers(&records),
            (0..whole as u32).collect::<Vec<_>>(),
            "cut at {cut}"
        );
        let kept = if cut < FILE_HEADER.len() {
            0
        } else {
            offsets[whole]
        };
        let dropped = (cut - kept) as u64;
        let expected = Repair {
            path: path.clone(),
            bytes_kept: kept as u64,
            bytes_dropped: dropped,
        };
        assert_eq!(repair, (dropped > 0).then_some(expected), "cut at {cut}");
        log.append_all(&payloads(7..8)).unwrap();
        let (_, records, repair) = open(dir.path()).unwrap();
        assert_eq!(
            (records.len(), repair),
            (whole + 1, None),
            "the repair lasts"
        );
    }
}

#[test]
fn lg_2_a_batch_with_holes_and_a_tail_of_anything_are_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, offsets) = log_of(dir.path(), &[0..2, 2..5]);
    let hole = |from: usize, to: usize| {
        let mut bytes = bytes.clone();
        bytes[from..to].fill(0);
        bytes
    };
    let tail = |tail: &[u8]| [bytes.as_slice(), tail].concat();
    for (damaged, records_left, case) in [
        (
            hole(offsets[2], offsets[3]),
            2,
            "the first of a batch did not reach the disk",
        ),
        (
            hole(offsets[3], offsets[4]),
            3,
            "the second of a batch did not",
        ),
        (hole(offsets[2], offsets[5]), 2, "all of it did not"),
        (
            tail(&[0; 4096]),
            5,
            "the file got its length before its bytes",
        ),
        (tail(b"no record at all"), 5, "garbage"),
        (
            tail(&bytes[offsets[0]..offsets[1] - 1]),
            5,
            "a record without its last byte",
        ),
    ] {
        fs::write(&path, &damaged).unwrap();
        let (_, records, repair) = open(dir.path()).unwrap();
        assert_eq!(records.len(), records_left, "{case}");
        assert!(repair.is_some(), "{case}");
    }
}

#[test]
fn lg_3_any_flipped_byte_before_the_last_batch_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes, offsets) = log_of(dir.path(), &[0..1, 1..3, 3..4]);
    for at in 0..offsets[3] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let error = open(dir.path()).map(|_| ()).unwrap_err();
        match &error {
            StoreError::NotALog { .. } => assert!(at < FILE_HEADER.len(), "{at}: {error}"),
            StoreError::Damaged {
                path: named,
                offset,
                ..
            } => {
                let begin = offsets.iter().rfind(|&&offset| offset <= at).unwrap();
                assert_eq!((named, *offset as usize), (&path, *begin));
            }
            other => panic!("{at}: {other}"),
        }
        assert!(error.to_string().contains("log-00000001.swl"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), damaged, "nothing was cut off");
    }
}

#[test]
fn lg_3_an_older_file_has_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = open_with(dir.path(), 1, real_files()).unwrap();
    for n in 0..3 {
        log.append_all(&payloads(n..n + 1)).unwrap();
    }
    assert_eq!(log.numbers(), [1, 2, 3]);
    let path = Kind::Log.path(dir.path(), 2);
    let bytes = fs::read(&path).unwrap();
    for cut in [0, 5, FILE_HEADER.len() + 1, bytes.len() - 1] {
        fs::write(&path, &bytes[..cut]).unwrap();
        let error = open(dir.path()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("log-00000002.swl"), "{error}");
    }
}

#[test]
fn lg_4_a_full_disk_takes_nothing_and_the_log_goes_on() {
    let needed = {
        let dir = tempfile::tempdir().unwrap();
        log_of(dir.path(), &[0..1, 1..3]).1.len() as u64
    };
    // A prime step meets every field of header, frame and record.
    for room in (0..needed).step_by(13).chain([needed - 1]) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Mutex::new(Disk {
            room: Some(room),
            ..Disk::default()
        }));
        let (mut log, ..) = open_with(dir.path(), WHOLE, files_on(&disk)).unwrap();
        let mut acknowledged = Vec::new();
        for batch in [0..1, 1..3] {
            match log.append_all(&payloads(batch.clone())) {
                Ok(_) => acknowledged.extend(batch),
                Err(StoreError::DiskFull { path }) => assert!(path.starts_with(dir.path())),
                Err(other) => panic!("{other}"),
            }
        }
        assert!(acknowledged.len() < 3, "{room} bytes are too few");
        // Nothing is open or repaired in between: the next record follows the last whole one.
        disk.lock().unwrap().room = None;
        log.append_all(&payloads(9..10)).unwrap();
        acknowledged.push(9);
        let (_, records, repair) = open(dir.path()).unwrap();
        assert_eq!(
            (numbers(&records), repair),
            (acknowledged, None),
            "{room} bytes"
        );
    }
}

#[test]
fn lg_4_a_disk_that_fills_up_at_a_rotation() {
    for room in 0..FILE_HEADER.len() as u64 {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Mutex::new(Disk::default()));
        let (mut log, ..) = open_with(dir.path(), 1, files_on(&disk)).unwrap();
        log.append_all(&payloads(0..1)).unwrap();
        disk.lock().unwrap().room = Some(room);
        for _ in 0..2 {
            let error = log.append_all(&payloads(1..2)).unwrap_err();
            assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
        }
        assert_eq!(numbers(&open(dir.path()).unwrap().1), [0]);
        disk.lock().unwrap().room = None;
        log.append_all(&payloads(1..2)).unwrap();
        assert_eq!(numbers(&open(dir.path()).unwrap().1), [0, 1]);
    }
}

#[test]
fn a_failed_flush_closes_the_log_until_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Mutex::new(Disk::default()));
    let (mut log, ..) = open_with(dir.path(), WHOLE, files_on(&disk)).unwrap();
    log.append_all(&payloads(0..1)).unwrap();
    disk.lock().unwrap().flush_fails = true;
    let error = log.append_all(&payloads(1..2)).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    disk.lock().unwrap().flush_fails = false;
    let error = log.append_all(&payloads(1..2)).unwrap_err();
    assert!(matches!(error, StoreError::Broken { .. }), "{error}");
    drop(log);
    let (mut log, records, _) = open(dir.path()).unwrap();
    assert_eq!(
        numbers(&records),
        [0],
        "what was not acknowledged is not there"
    );
    log.append_all(&payloads(1..2)).unwrap();
}

#[test]
fn a_file_that_is_no_log_is_refused_by_name() {
    for (bytes, words) in [
        (
            b"{\"a\":1}\n, and so on".as_slice(),
            "does not begin as one",
        ),
        (
            b"SWIRLLOG\x02\0\0\0",
            "format version 2 and this program reads version 1",
        ),
        (b"SWIRLLO", ""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(Kind::Log.path(dir.path(), 1), bytes).unwrap();
        match open(dir.path()) {
            Err(error) => assert!(
                !words.is_empty() && error.to_string().contains(words),
                "{error}"
            ),
            Ok((_, records, repair)) => {
                assert!(words.is_empty() && records.is_empty() && repair.is_some());
            }
        }
    }
}

#[test]
fn full_files_are_followed_by_new_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, ..) = open_with(dir.path(), 1000, real_files()).unwrap();
    for n in 0..10 {
        log.append_all(&payloads(n..n + 1)).unwrap();
    }
    assert!(log.numbers().len() > 2);
    for &number in log.numbers() {
        let len = fs::metadata(Kind::Log.path(dir.path(), number))
            .unwrap()
            .len();
        assert!(
            len < 1000 + 20 + payloads(0..1)[0].len() as u64 * 2,
            "{len}"
        );
    }
    let (log, records, _) = open_with(dir.path(), 1000, real_files()).unwrap();
    assert_eq!(numbers(&records), (0..10).collect::<Vec<_>>());
    assert!(
        records
            .iter()
            .all(|(position, _)| log.numbers().contains(&position.file))
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_lost_in_silence(
        tail in proptest::collection::vec(any::<u8>(), 0..300),
        has_header in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let header = if has_header { FILE_HEADER.as_slice() } else { &[] };
        let bytes = [header, &tail].concat();
        fs::write(Kind::Log.path(dir.path(), 1), &bytes).unwrap();
        if let Ok((_, records, repair)) = open(dir.path()) {
            prop_assert!(records.is_empty());
            let dropped = repair.map_or(0, |repair| repair.bytes_dropped as usize);
            prop_assert_eq!(dropped, if has_header { tail.len() } else { bytes.len() });
        }
    }
}
