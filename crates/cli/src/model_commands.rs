//! `swirl model …`: import and describe models.

use crate::args::ModelCommand;
use anyhow::Result;
use std::process::ExitCode;
use tch::Kind;

/// Performs the command.
///
/// # Errors
/// When the model cannot be read or written.
pub fn run(command: ModelCommand) -> Result<ExitCode> {
    match command {
        ModelCommand::Import { gguf, out } => {
            let report = model::import_gguf(&gguf, &out)?;
            eprintln!(
                "{} ({}, {} M parameters) written to {}",
                report.name,
                report.architecture,
                report.parameters / 1_000_000,
                out.display()
            );
        }
        ModelCommand::Info { dir } => {
            let spec = model::spec_of(&dir)?;
            println!("architecture   {}", spec.model_type);
            println!("parameters     {}", spec.parameter_count());
            println!("layers         {}", spec.layers.len());
            println!("hidden         {}", spec.hidden_size);
            println!(
                "heads          {} ({} for keys and values)",
                spec.heads, spec.kv_heads
            );
            println!("vocabulary     {}", spec.vocab_size);
            println!("context        {} tokens", spec.max_context);
            for (name, kind) in [("bf16", Kind::BFloat16), ("f32", Kind::Float)] {
                println!(
                    "weights {name:<6} {} MiB",
                    model::estimate_bytes(&spec, kind) >> 20
                );
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
