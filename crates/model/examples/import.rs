//! Imports a GGUF file: `cargo run -p model --example import -- FILE.gguf FOLDER`.

use std::path::Path;

fn main() -> Result<(), String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [gguf, out] = &arguments[..] else {
        return Err("usage: import FILE.gguf FOLDER".to_owned());
    };
    let options = model::ImportOptions::default();
    let report = model::import_gguf(Path::new(gguf), Path::new(out), &options)
        .map_err(|error| error.to_string())?;
    println!("{report:#?}");
    Ok(())
}
