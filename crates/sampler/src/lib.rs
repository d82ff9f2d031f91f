//! Batched generation with a KV cache on one device.
//!
//! [`Engine`] is a synchronous library: requests go in, every [`Engine::step`] decodes one token
//! for each active sequence, finished completions come out. [`SamplerHandle`] is its async front:
//! many callers await their own request while the engine batches whatever is queued.
//!
//! Knows nothing about actors or training.

mod draw;
mod engine;
mod error;
mod handle;
mod plan;
mod request;
mod reuse;
mod rows;
mod stop;

pub use engine::{Engine, EngineConfig, EngineStats, Outcome};
pub use error::{EngineError, GenerateError, PublishError, RequestError, WeightsError};
pub use handle::SamplerHandle;
pub use request::RequestId;
