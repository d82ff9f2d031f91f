//! The configuration: TOML files, later over earlier, the command line over all, resolved and
//! checked once. Nothing behind this module sees a value that means "default".

mod check;
mod fingerprint;
mod load;
mod sections;

pub use fingerprint::{fingerprint, hex};
pub use load::{ConfigError, Loaded, load, load_for, template_arguments};
pub use sections::*;
