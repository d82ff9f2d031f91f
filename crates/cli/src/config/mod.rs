//! The configuration: TOML files, later over earlier, the command line over all, resolved and
//! checked once. Nothing behind this module sees a value that means "default".

mod check;
mod contents;
mod fingerprint;
mod identity;
mod load;
mod overrides;
mod sections;
mod span;
mod unused;

pub use fingerprint::hex;
pub use identity::{Difference, Identity};
pub use load::{ConfigError, Loaded, load, load_for, template_arguments};
pub use sections::*;
pub use span::Span;

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The configuration of this text and these settings; `[run]` and `[questions]` are there already.
    pub fn read(text: &str, settings: &[&str]) -> Result<Loaded, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        let least = "[run]\nname = \"r\"\n[questions]\npath = \"q.jsonl\"\n";
        std::fs::write(&file, format!("{least}{text}")).unwrap();
        let settings: Vec<String> = settings.iter().map(|&s| s.to_owned()).collect();
        load(&[file], &settings)
    }

    /// A configuration with nothing but what it must have.
    pub fn least() -> Config {
        read("", &[]).unwrap().config
    }
}
