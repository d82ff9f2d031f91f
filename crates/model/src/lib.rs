//! One decoder for every architecture, described by data; its checkpoints, tokenizer and chat
//! template.
//!
//! Knows nothing about training or actors.

mod adapted;
mod adapter_config;
mod attention;
mod cache;
mod chat;
mod config;
mod decoder;
mod device;
mod error;
mod gguf;
mod load;
mod lora;
mod rope;
mod save;
mod shards;
mod snapshot;
mod spec;
mod special;
mod template_arguments;
mod template_source;
mod tokenizer;
mod turns;
mod weights;

pub use adapted::{
    BASE_FOLDER, Merged, Update, adapters_share, base_of, merge, save_adapted, update_of,
    weights_crc32,
};
pub use attention::{Attend, FullAttention, Visibility};
pub use cache::{CachedPrefix, KvCache};
pub use chat::{ChatTemplate, Message, Role, TemplateError};
pub use config::spec_of;
pub use decoder::{Decoder, Rotations};
pub use device::{DeviceGone, DeviceHandle, DeviceThread};
pub use error::LoadError;
pub use gguf::{ImportError, ImportOptions, ImportReport, import_gguf};
pub use load::{estimate_bytes, load, load_base_with, load_with};
pub use lora::{LoraSpec, Projection, load_adapter, save_adapter};
pub use save::{SaveError, save};
pub use snapshot::{ApplyError, checksum, snapshot, snapshot_of};
pub use spec::{Activation, DecoderSpec, LayerSpec, RopeScaling, RopeSpec};
pub use template_arguments::TemplateArguments;
pub use tokenizer::{TextStream, Tokenizer};
pub use turns::{TurnCodec, TurnError};
pub use weights::{Parameter, Part, Slot, slots};
