//! Parquet files of trajectories, one row each, compressed with zstd.
//!
//! Columns: `run`, `question_id`, `sample`, `dataset`, `split`, `question`, `answer`,
//! `answer_aliases`, `reference_steps` (structs), `model`, `tokens` (u32), `loss_mask` (u8, as long
//! as `tokens`, 1 where the token was sampled), `end`, `outcome` (a verdict or null), and `steps`, a
//! list of structs: span and log-probabilities of the sampled tokens, weight version, finish reason,
//! text, thought, the action (`action_kind` says which of `tool` + `arguments`, `answer`,
//! `malformed` are set), the observation with span, error flag and latency in microseconds (all null
//! where there is none), and the verdicts. Enumerations are strings, named as in JSON exports.
//!
//! The key `swirl.trajectory.version` of the file's metadata names the layout.

use crate::error::{StoreError, compaction, io_error, unreadable, write_error};
use crate::row::{IdRow, Row};
use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use proto::{ItemId, Trajectory};
use serde::de::DeserializeOwned;
use serde_arrow::schema::{SchemaLike, TracingOptions};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(test)]
mod tests;

const VERSION_KEY: &str = "swirl.trajectory.version";
const VERSION: &str = "1";

/// Rows that are held in memory at a time: at most a few MiB each.
const BATCH_ROWS: usize = 64;

/// Rows of a row group: small enough that looking up one row reads little.
const GROUP_ROWS: usize = 1024;

/// The Arrow schema of a segment.
pub fn schema() -> SchemaRef {
    let options = TracingOptions::default().enums_without_data_as_strings(true);
    let fields = Vec::<FieldRef>::from_type::<Row>(options)
        .expect("the row type has a schema, as every test of this module shows");
    Arc::new(Schema::new(fields))
}

/// Writes trajectories to a new file and flushes it to disk. Returns how many there were.
pub(crate) fn write(
    path: &Path,
    trajectories: impl IntoIterator<Item = Result<Trajectory, StoreError>>,
) -> Result<usize, StoreError> {
    let schema = schema();
    let file = File::create(path).map_err(io_error("create", path))?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties(path)?))
        .map_err(write_error(path))?;
    let mut trajectories = trajectories.into_iter();
    let mut count = 0;
    loop {
        let rows: Vec<Row> = trajectories
            .by_ref()
            .take(BATCH_ROWS)
            .map(|trajectory| trajectory.map(Row::from))
            .collect::<Result<_, _>>()?;
        if rows.is_empty() {
            break;
        }
        count += rows.len();
        let batch = serde_arrow::to_record_batch(schema.fields(), &rows)
            .map_err(|error| compaction(path, &error))?;
        writer.write(&batch).map_err(write_error(path))?;
    }
    let file = writer.into_inner().map_err(write_error(path))?;
    file.sync_all().map_err(io_error("flush", path))?;
    Ok(count)
}

fn properties(path: &Path) -> Result<WriterProperties, StoreError> {
    let level = ZstdLevel::try_new(3).map_err(write_error(path))?;
    let version = KeyValue::new(VERSION_KEY.to_owned(), VERSION.to_owned());
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_key_value_metadata(Some(vec![version]))
        .build())
}

/// The items of a file, in the order of its rows.
pub(crate) fn items(path: &Path) -> Result<Vec<ItemId>, StoreError> {
    let builder = open(path)?;
    let columns = ProjectionMask::columns(builder.parquet_schema(), IdRow::COLUMNS);
    let builder = builder.with_projection(columns).with_batch_size(GROUP_ROWS);
    let batches = builder.build().map_err(|error| unreadable(path, &error))?;
    let mut items = Vec::new();
    for batch in batches {
        let rows: Vec<IdRow> = rows(path, &batch.map_err(|error| unreadable(path, &error))?)?;
        items.extend(rows.into_iter().map(IdRow::into_item));
    }
    Ok(items)
}

/// The trajectory in one row of a file; `None` if the file has fewer rows.
pub(crate) fn row(path: &Path, row: usize) -> Result<Option<Trajectory>, StoreError> {
    let builder = open(path)?.with_offset(row).with_limit(1);
    Reader::new(
        path,
        builder.build().map_err(|error| unreadable(path, &error))?,
    )
    .next()
    .transpose()
}

/// Every trajectory of a file, in the order of its rows.
pub(crate) fn read(path: &Path) -> Result<Reader, StoreError> {
    let builder = open(path)?.with_batch_size(BATCH_ROWS);
    Ok(Reader::new(
        path,
        builder.build().map_err(|error| unreadable(path, &error))?,
    ))
}

/// Streams the trajectories of a file.
pub(crate) struct Reader {
    path: PathBuf,
    batches: ParquetRecordBatchReader,
    rows: std::vec::IntoIter<Row>,
}

impl Reader {
    fn new(path: &Path, batches: ParquetRecordBatchReader) -> Self {
        Self {
            path: path.to_owned(),
            batches,
            rows: Vec::new().into_iter(),
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Trajectory, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(
                    row.try_into()
                        .map_err(|detail: String| unreadable(&self.path, &detail)),
                );
            }
            let batch = match self.batches.next()? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(unreadable(&self.path, &error))),
            };
            match rows::<Row>(&self.path, &batch) {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, StoreError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| unreadable(path, &error))?;
    let pairs = builder.metadata().file_metadata().key_value_metadata();
    let version = pairs
        .into_iter()
        .flatten()
        .find(|pair| pair.key == VERSION_KEY);
    match version.and_then(|pair| pair.value.as_deref()) {
        Some(VERSION) => Ok(builder),
        Some(other) => Err(unreadable(
            path,
            &format!("its layout has version {other} and this program reads version {VERSION}"),
        )),
        None => Err(unreadable(
            path,
            &format!("its metadata has no {VERSION_KEY}"),
        )),
    }
}

fn rows<T: DeserializeOwned>(path: &Path, batch: &RecordBatch) -> Result<Vec<T>, StoreError> {
    serde_arrow::from_record_batch(batch).map_err(|error| unreadable(path, &error))
}
