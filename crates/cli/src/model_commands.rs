//! `swirl model …`: import, merge and describe models.

use crate::args::{ModelCommand, StoredType};
use crate::{config, console};
use anyhow::Result;
use model::{DecoderSpec, ImportOptions, TemplateArguments, TurnCodec};
use std::path::Path;
use std::process::ExitCode;
use tch::Kind;

/// Performs the command.
///
/// # Errors
/// When the model cannot be read or written.
pub fn run(command: ModelCommand) -> Result<ExitCode> {
    match command {
        ModelCommand::Import {
            gguf,
            out,
            tokenizer,
        } => {
            let options = ImportOptions {
                tokenizer,
                ..ImportOptions::default()
            };
            let report = model::import_gguf(&gguf, &out, &options)?;
            console::remark(format_args!(
                "{} ({}, {} M parameters) written to {}",
                report.name,
                report.architecture,
                report.parameters / 1_000_000,
                out.display()
            ));
        }
        ModelCommand::Merge { dir, out, dtype } => {
            let kind = match dtype {
                StoredType::F32 => Kind::Float,
                StoredType::Bf16 => Kind::BFloat16,
                StoredType::F16 => Kind::Half,
            };
            let merged = model::merge(&dir, &out, kind)?;
            console::remark(format_args!(
                "the adapters of {} and {}, merged in f32, are stored as {dtype:?} in {}: {:.1} % of the \
                 update is left",
                dir.display(),
                merged.base.display(),
                out.display(),
                100.0 * merged.kept_share,
            ));
        }
        ModelCommand::Info {
            dir,
            template_arguments,
        } => {
            let arguments = config::template_arguments(&template_arguments)?;
            let spec = model::spec_of(&dir)?;
            console::print(&format!(
                "{}{}",
                describe(&spec),
                dialogue(&dir, &arguments)
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A dialogue as the chat template writes it down, or the reason why it cannot.
fn dialogue(dir: &Path, arguments: &TemplateArguments) -> String {
    let codec = match TurnCodec::load_with(dir, arguments) {
        Ok(codec) => codec,
        Err(error) => return format!("{:<14} none to use: {error}\n", "chat template"),
    };
    let mut ids = codec.prompt(Some("SYSTEM"), "QUESTION");
    ids.extend(codec.action("ACTION"));
    ids.extend(codec.observation("OBSERVATION", true));
    let tokenizer = codec.tokenizer();
    let end = tokenizer.decode(&[codec.end_of_turn()], false);
    let text = tokenizer.decode(&ids, false);
    format!(
        "{:<14} {end} ({})\n{:<14}\n{text}\n",
        "end of a turn",
        codec.end_of_turn(),
        "chat template"
    )
}

fn describe(spec: &DecoderSpec) -> String {
    let mebibytes = |kind| model::estimate_bytes(spec, kind) >> 20;
    let rows = [
        ("architecture", spec.model_type.clone()),
        ("parameters", spec.parameter_count().to_string()),
        ("layers", spec.layers.len().to_string()),
        ("hidden", spec.hidden_size.to_string()),
        (
            "heads",
            format!("{} ({} for keys and values)", spec.heads, spec.kv_heads),
        ),
        ("vocabulary", spec.vocab_size.to_string()),
        ("context", format!("{} tokens", spec.max_context)),
        ("weights bf16", format!("{} MiB", mebibytes(Kind::BFloat16))),
        ("weights f32", format!("{} MiB", mebibytes(Kind::Float))),
    ];
    rows.map(|(name, value)| format!("{name:<14} {value}\n"))
        .concat()
}
