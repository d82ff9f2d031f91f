//! `swirl certs …`: the certificates of a cluster's nodes.

use crate::args::CertsCommand;
use crate::console;
use anyhow::{Result, bail};
use proto::NodeName;
use std::process::ExitCode;
use transport::certs::{Authority, Credentials, Validity, moment};

/// Performs the command.
///
/// # Errors
/// When there is a certificate already or none, or when a file cannot be used or written.
pub fn run(command: CertsCommand) -> Result<ExitCode> {
    match command {
        CertsCommand::Init { dir } => {
            Authority::create(&dir, Validity::of_days(Validity::AUTHORITY_DAYS))?;
            let dir = dir.display();
            console::remark(format_args!(
                "{dir}/ca.pem and {dir}/ca-key.pem written. Who has ca-key.pem can make itself any \
                 node: it stays here, no node needs it.\n\
                 Next, for each node: swirl certs issue NODE --role ROLE --dir {dir}"
            ));
        }
        CertsCommand::Issue {
            node,
            roles,
            dir,
            days,
        } => {
            let authority = Authority::open(&dir)?;
            let roles = roles.into_iter().collect();
            authority.issue(&node, &roles, Validity::of_days(days))?;
            tell(&authority, &node)?;
        }
        CertsCommand::Revoke {
            node,
            certificate,
            serial,
            dir,
        } => {
            let authority = Authority::open(&dir)?;
            let entry = match (node, serial) {
                (Some(node), _) if certificate => authority.revoke_certificate(&node)?,
                (Some(node), _) => authority.revoke(&node)?,
                (None, Some(serial)) => authority.revoke_serial(serial)?,
                (None, None) => bail!("clap asks for a node or a number"),
            };
            let dir = dir.display();
            console::remark(format_args!(
                "Shut out (`{entry}`): {dir}/revoked and the folders of nodes in {dir} say \
                 so. Processes that were started with one of these take it within seconds; elsewhere \
                 the file goes beside cert.pem: scp {dir}/revoked NODE:CERTS/"
            ));
        }
        CertsCommand::Renew { node, dir, days } => {
            let authority = Authority::open(&dir)?;
            authority.renew(&node, Validity::of_days(days))?;
            tell(&authority, &node)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what was made and where it goes, after a look at it with the node's own eyes.
fn tell(authority: &Authority, node: &NodeName) -> Result<()> {
    let folder = authority.node_folder(node);
    let credentials = Credentials::load(&folder)?;
    let folder = folder.display();
    console::remark(format_args!(
        "{folder}: certificate of {}, valid until {}.\n\
         Copy the whole folder to the node (ca.pem, cert.pem, and key.pem, which only its user may \
         read): scp -rp {folder} {node}:",
        credentials.identity(),
        moment(credentials.not_after())
    ));
    Ok(())
}
