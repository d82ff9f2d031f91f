//! Nodes that share a process, each with its own certificate, sockets and connections.

use crate::made_up::Slow;
use actors::Judges;
use actors::node::{self, Contact, DialFault, Dialler, NodePlan};
use actors::ports::EngineError;
use actors::remote::{Engine, Files, Outfitter};
use anyhow::Result;
use async_trait::async_trait;
use judge::{AnswerMatch, RulesConfig, RulesJudge};
use proto::cluster::EngineOrder;
use proto::{NodeName, Role};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tools::registry::{Limits, Registry};
use transport::certs::Credentials;
use transport::tls::Expected;
use transport::{Connection, Endpoint, Lane};

/// Between the starts of two nodes: a thousand handshakes at once on two cores take longer than each of
/// them may.
const APART: Duration = Duration::from_millis(5);

#[derive(Debug, clap::Args)]
pub struct Nodes {
    /// Where the controller listens.
    #[arg(long)]
    join: SocketAddr,
    /// The folder with the folders of all certificates.
    #[arg(long)]
    certs: PathBuf,
    /// Number of the first node.
    #[arg(long)]
    first: usize,
    /// Number behind the last one.
    #[arg(long)]
    end: usize,
    /// How long an action takes, in milliseconds.
    #[arg(long)]
    takes_ms: u64,
    /// Calls that an engine takes at once.
    #[arg(long)]
    credits: u32,
}

pub fn name(number: usize) -> NodeName {
    let name = format!("n-{number:04}");
    name.parse().expect("letters, digits and a hyphen")
}

pub fn roles() -> BTreeSet<Role> {
    [Role::Sampler, Role::Tool, Role::Judge].into()
}

pub fn run(nodes: &Nodes) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let sockets = sockets()?;
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    runtime.block_on(async {
        let mut running = tokio::task::JoinSet::new();
        for number in nodes.first..nodes.end {
            let plan = {
                let _inside = sockets.enter();
                plan(nodes, number)?
            };
            running.spawn(node::run(plan, std::future::pending()));
            tokio::time::sleep(APART).await;
        }
        while let Some(end) = running.join_next().await {
            tracing::debug!(?end, "A node ended.");
        }
        Ok(())
    })
}

/// A thread for sockets, as `swirl` has them apart from its work.
pub fn sockets() -> Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.worker_threads(1).enable_all().build()?)
}

fn plan(nodes: &Nodes, number: usize) -> Result<NodePlan> {
    let name = name(number);
    let credentials = Arc::new(Credentials::load(&nodes.certs.join(name.as_str()))?);
    let any: SocketAddr = ([0, 0, 0, 0], 0).into();
    let way = Way {
        control: Endpoint::bind(any, credentials.clone(), &[])?,
        data: Endpoint::bind(any, credentials, &[])?,
        address: nodes.join,
    };
    Ok(NodePlan {
        name,
        roles: roles(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config: None,
        boot: number as u64,
        device: "cpu".into(),
        outfitter: Arc::new(Outfit {
            takes: Duration::from_millis(nodes.takes_ms),
            credits: nodes.credits,
        }),
        dialler: Arc::new(way),
        contact: watch::Sender::new(Contact::default()),
    })
}

struct Way {
    control: Endpoint,
    data: Endpoint,
    address: SocketAddr,
}

async fn dial(
    endpoint: &Endpoint,
    lane: Lane,
    address: SocketAddr,
) -> Result<Arc<dyn Connection>, DialFault> {
    let expected = Expected {
        role: Some(Role::Controller),
        name: None,
    };
    Ok(endpoint.dial(address, lane, &expected).await?)
}

#[async_trait]
impl Dialler for Way {
    async fn control(&self) -> Result<Arc<dyn Connection>, DialFault> {
        dial(&self.control, Lane::Control, self.address).await
    }

    async fn data(&self, port: u16) -> Result<Arc<dyn Connection>, DialFault> {
        let address = SocketAddr::new(self.address.ip(), port);
        dial(&self.data, Lane::Data, address).await
    }

    async fn bulk(&self, port: u16) -> Result<Arc<dyn Connection>, DialFault> {
        let address = SocketAddr::new(self.address.ip(), port);
        dial(&self.data, Lane::Bulk, address).await
    }
}

struct Outfit {
    takes: Duration,
    credits: u32,
}

#[async_trait]
impl Outfitter for Outfit {
    async fn open(&self, order: &EngineOrder, _: Files) -> Result<Engine, EngineError> {
        match order.role {
            Role::Tool => {
                let tools = ["calculator".to_owned()];
                let registry = Registry::builtin(&tools, Limits::default());
                let registry = registry.map_err(|error| EngineError(error.to_string()))?;
                Ok(Engine::Tools(Arc::new(registry), 1))
            }
            Role::Judge => {
                let judges = Judges {
                    process: Arc::new(RulesJudge::new(RulesConfig::default())),
                    outcome: Arc::new(AnswerMatch::new()),
                };
                Ok(Engine::Judges(judges, 1))
            }
            _ => {
                let sampler = Arc::new(Slow { takes: self.takes });
                Ok(Engine::Sampler(sampler, self.credits))
            }
        }
    }
}
