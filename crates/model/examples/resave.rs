//! Loads a model folder and saves it again, for `tests/fixtures/check_export.py`:
//! `cargo run -p model --example resave -- FOLDER OUT`.

use std::path::Path;
use tch::{Device, Kind};

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, out] = &arguments[..] else {
        return Err("usage: resave FOLDER OUT".to_owned());
    };
    let source = Path::new(source);
    let decoder = model::load(source, Device::Cpu, Kind::BFloat16).map_err(|e| e.to_string())?;
    model::save(Path::new(out), decoder.parameters(), decoder.kind(), source)
        .map_err(|e| e.to_string())
}
