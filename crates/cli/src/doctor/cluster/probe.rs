//! The node that is looked at.

use super::words::{self, FACTS, Facts, LISTEN, PULL, Target, Way, Zeros};
use crate::cluster::{Socket, SocketHandles, Sockets, ToController, any_like};
use actors::node::Dialler;
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use bytes::Bytes;
use proto::codec;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use transport::certs::CurrentCredentials;
use transport::tls::Expected;
use transport::{Endpoint, Handler, Lane, Limits, Link, Request, bulk};

/// How long the one who leads is looked for: it may start later.
const SEARCH: Duration = Duration::from_secs(60);

/// Between attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Joins the one who leads and does what it says, until it has what it wants.
///
/// # Errors
/// When the certificate cannot be used, nobody answers, or the contact breaks.
pub async fn probe(join: &str, certs: &Path, port: u16, device: &str) -> Result<ExitCode> {
    let credentials = CurrentCredentials::open(certs)?;
    let sockets = Sockets::new()?;
    let way = Arc::new(ToController {
        join: join.to_owned(),
        credentials: credentials.clone(),
        sockets: sockets.handles(),
        way: Mutex::default(),
        failures: AtomicUsize::default(),
        giving: None,
    });
    let began = Instant::now();
    let connection = loop {
        use actors::node::DialFault::{Refused, Unreachable};
        match way.control().await {
            Ok(connection) => break connection,
            Err(Refused(reason)) => bail!("{reason}"),
            Err(Unreachable(reason)) if began.elapsed() > SEARCH => {
                bail!("{reason}: is `swirl doctor --listen` running there, and UDP let through?")
            }
            Err(Unreachable(_)) => tokio::time::sleep(PAUSE).await,
        }
    };
    let lead = connection.path().remote.context("QUIC has addresses")?;
    let probe = Arc::new(Probe {
        credentials,
        device: device.to_owned(),
        any: any_like(lead).ip(),
        way,
        port,
        sockets: sockets.handles(),
        serving: Mutex::default(),
    });
    let link = Link::open(connection, probe, Limits::default()).await?;
    match link.closed().await {
        reason if reason == super::lead::DONE => Ok(ExitCode::SUCCESS),
        reason => bail!("the contact broke: {reason}"),
    }
}

struct Probe {
    credentials: CurrentCredentials,
    /// That of the node, as it is written in a configuration.
    device: String,
    way: Arc<ToController>,
    /// All addresses of this machine, of the family that it came by.
    any: IpAddr,
    port: u16,
    sockets: SocketHandles,
    /// Where other nodes pull from.
    serving: Mutex<Option<Arc<Endpoint>>>,
}

#[async_trait]
impl Handler for Probe {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        let answer = match request.method {
            FACTS => codec::encode(&Facts::here(&self.credentials.get(), &self.device)),
            LISTEN => codec::encode(&self.listen().map_err(|error| error.to_string())?),
            PULL => {
                let target = codec::decode(&request.body).map_err(|error| error.to_string())?;
                let way = self.pull(target).await;
                codec::encode(&way.map_err(|error| format!("{error:#}")))
            }
            method => return Err(format!("{method} is not known here")),
        };
        Ok(answer.map_err(|error| error.to_string())?.into())
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

impl Probe {
    fn listen(&self) -> Result<u16> {
        let any = SocketAddr::new(self.any, self.port);
        let lanes = [Lane::Bulk];
        let bound = self
            .sockets
            .bind(Socket::Data, any, &self.credentials, &lanes)?;
        let endpoint = Arc::new(bound);
        let port = endpoint.local_address()?.port();
        let accepting = endpoint.clone();
        tokio::spawn(async move {
            while let Some(connection) = accepting.accept().await {
                tokio::spawn(bulk::serve(connection, Arc::new(Zeros)));
            }
        });
        *self.serving.lock().expect("no holder panics") = Some(endpoint);
        Ok(port)
    }

    async fn pull(&self, target: Target) -> Result<Way> {
        match target {
            Target::Lead(port) => {
                let connection = self.way.bulk(port).await?;
                words::measure(connection.as_ref()).await
            }
            Target::Node {
                address,
                name,
                role,
            } => {
                let any = any_like(address);
                let bound = self.sockets.bind(Socket::Data, any, &self.credentials, &[]);
                let endpoint = bound.context("no socket")?;
                let expected = Expected {
                    role: Some(role),
                    name: Some(name),
                };
                let connection = endpoint.dial(address, Lane::Bulk, &expected).await?;
                words::measure(connection.as_ref()).await
            }
        }
    }
}
