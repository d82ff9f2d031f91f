//! `swirl doctor`: what this machine, or a cluster, has, and what to do about what it lacks.

mod cluster;
mod finding;
mod machine;

use crate::args::DoctorArgs;
use crate::console;
use anyhow::Result;
use cluster::Survey;
use finding::{Finding, Status};
use serde::Serialize;
use std::process::ExitCode;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Findings {
    findings: Vec<Finding>,
    /// Every figure, where a cluster was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Survey>,
}

/// Prints the findings; fails where one is a problem.
///
/// # Errors
/// When stdout cannot be written, or a cluster cannot be looked at.
pub async fn run(args: &DoctorArgs) -> Result<ExitCode> {
    if let (Some(join), Some(certs)) = (&args.join, &args.certs) {
        return cluster::probe(join, certs, args.port, &args.device).await;
    }
    let survey = match (&args.cluster, &args.listen, &args.certs) {
        (Some(hosts), ..) => Some(cluster::over_ssh(hosts, args.wait).await?),
        (None, Some(listen), Some(certs)) => {
            let nodes = args.nodes.unwrap_or(1);
            Some(cluster::listening(listen, certs, nodes, args.wait).await?)
        }
        _ => None,
    };
    let findings = match &survey {
        Some(survey) => survey.findings(),
        None => machine::findings(&args.model),
    };
    let is_well = findings.iter().all(|f| f.status != Status::Problem);
    match args.json {
        true => {
            let all = Findings {
                findings,
                cluster: survey,
            };
            console::print_line(&serde_json::to_string(&all)?)?;
        }
        false => {
            let widths = findings.iter().map(|finding| finding.what.chars().count());
            let width = widths.max().unwrap_or(0).max(10);
            console::print(&findings.iter().map(|f| f.text(width)).collect::<String>())?;
        }
    }
    Ok(ExitCode::from(if is_well { 0 } else { 1 }))
}
