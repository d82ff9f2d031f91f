//! The safetensors files of a model folder, read tensor by tensor.
//!
//! Positional reads instead of a memory map: a file that another process cuts off then is an
//! error, not a SIGBUS, and the page cache is shared just the same.

use crate::error::{LoadError, read_json};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// The longest header that the format allows, in bytes.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// All tensors of a checkpoint, wherever they lie.
#[derive(Debug)]
pub(crate) struct Shards {
    files: Vec<Shard>,
    by_key: BTreeMap<String, usize>,
    /// The single file, or the index of several: for messages.
    pub path: PathBuf,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
    data_start: u64,
    header: Metadata,
}

impl Shards {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` names.
    pub(crate) fn open(dir: &Path) -> Result<Self, LoadError> {
        let (index, single) = (
            dir.join("model.safetensors.index.json"),
            dir.join("model.safetensors"),
        );
        let (path, names) = if index.exists() && !single.exists() {
            let names = names_in_index(&index)?;
            (index, names)
        } else {
            (single, BTreeSet::from(["model.safetensors".to_owned()]))
        };
        let files = names
            .iter()
            .map(|name| Shard::open(dir.join(name)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::of(files, path))
    }

    /// Opens one file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, LoadError> {
        Ok(Self::of(
            vec![Shard::open(path.to_owned())?],
            path.to_owned(),
        ))
    }

    fn of(files: Vec<Shard>, path: PathBuf) -> Self {
        let keys = |(number, shard): (usize, &Shard)| {
            let keys = shard.header.offset_keys().into_iter();
            keys.map(move |key| (key, number)).collect::<Vec<_>>()
        };
        let by_key = files.iter().enumerate().flat_map(keys).collect();
        Self {
            files,
            by_key,
            path,
        }
    }

    /// Every tensor's key.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.by_key.keys().map(String::as_str)
    }

    /// The file that holds a tensor, for messages.
    pub(crate) fn file_of(&self, key: &str) -> &Path {
        self.by_key
            .get(key)
            .map_or(&self.path, |&number| &self.files[number].path)
    }

    /// One tensor in host memory, in the type it is stored in, after a check of its shape.
    pub(crate) fn read(&self, key: &str, expected: &[i64]) -> Result<Tensor, LoadError> {
        let missing = || LoadError::MissingTensor {
            path: self.path.clone(),
            key: key.to_owned(),
        };
        let shard = &self.files[*self.by_key.get(key).ok_or_else(missing)?];
        let info = shard.header.info(key).ok_or_else(missing)?;
        let found: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        if found != expected {
            return Err(LoadError::Shape {
                path: shard.path.clone(),
                key: key.to_owned(),
                found,
                expected: expected.to_vec(),
            });
        }
        let kind = kind_of(info.dtype).ok_or_else(|| LoadError::ElementType {
            path: shard.path.clone(),
            key: key.to_owned(),
            found: info.dtype.to_string(),
        })?;
        Ok(Tensor::f_from_data_size(&shard.bytes(info)?, &found, kind)?)
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self, LoadError> {
        let mut file = File::open(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => LoadError::NoFile {
                path: path.clone(),
                remedy: "copy the weights of the checkpoint, in safetensors, into the folder",
            },
            _ => LoadError::io(&path, error),
        })?;
        let size = file
            .metadata()
            .map_err(|error| LoadError::io(&path, error))?
            .len();
        let (data_start, header) = read_header(&path, &mut file, size)?;
        let expected = data_start + header.data_len() as u64;
        if size != expected {
            let problem = format!("its header promises {expected} bytes, the file has {size}");
            return Err(LoadError::damaged(&path, problem));
        }
        Ok(Self {
            path,
            file,
            data_start,
            header,
        })
    }

    fn bytes(&self, info: &TensorInfo) -> Result<Vec<u8>, LoadError> {
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|error| LoadError::io(&self.path, error))?;
        Ok(bytes)
    }
}

/// The position of the first data byte, and what the header lists.
fn read_header(path: &Path, file: &mut File, size: u64) -> Result<(u64, Metadata), LoadError> {
    let mut length = [0; 8];
    if size < 8 {
        return Err(LoadError::damaged(
            path,
            format!("it has {size} bytes, too few for a header"),
        ));
    }
    file.read_exact(&mut length)
        .map_err(|error| LoadError::io(path, error))?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || 8 + length > size {
        let problem = format!("its header would take {length} bytes, the file has {size}");
        return Err(LoadError::damaged(path, problem));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header)
        .map_err(|error| LoadError::io(path, error))?;
    let header = serde_json::from_slice(&header).map_err(|error| {
        LoadError::damaged(path, format!("its header is no tensor list: {error}"))
    })?;
    Ok((8 + length, header))
}

fn names_in_index(path: &Path) -> Result<BTreeSet<String>, LoadError> {
    let index = read_json(path, "copy it again")?;
    let map = index.get("weight_map").and_then(|map| map.as_object());
    let map = map.ok_or_else(|| LoadError::json(path, "it has no `weight_map`"))?;
    map.values()
        .map(|name| match name.as_str() {
            Some(name) if !name.contains(['/', '\\']) => Ok(name.to_owned()),
            _ => Err(LoadError::json(
                path,
                format!("`weight_map` names the file {name}"),
            )),
        })
        .collect()
}

/// libtorch's name for a stored floating-point type.
fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        _ => None,
    }
}

/// The stored name of a type, and its `safetensors` value. `None` for types without weights.
pub(crate) fn dtype_of(kind: Kind) -> Option<(Dtype, &'static str)> {
    match kind {
        Kind::Float => Some((Dtype::F32, "float32")),
        Kind::Half => Some((Dtype::F16, "float16")),
        Kind::BFloat16 => Some((Dtype::BF16, "bfloat16")),
        _ => None,
    }
}

/// The values of a tensor as little-endian bytes in host memory, converted to `kind`.
pub(crate) fn host_bytes(tensor: &Tensor, kind: Kind) -> Vec<u8> {
    let tensor = tensor
        .detach()
        .to_device(tch::Device::Cpu)
        .to_kind(kind)
        .contiguous();
    let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
    tensor.copy_data_u8(&mut bytes, tensor.numel());
    bytes
}
