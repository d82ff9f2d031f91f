//! A node, whose engine keeps the weights it is given and does nothing with them. Files that it is
//! ordered to have it brings into a folder of its own, which goes with the process.

use actors::node::{self, Contact, DialFault, Dialler, NodePlan};
use actors::ports::{EngineError, Generator};
use actors::remote::{Engine, Files, Outfitter};
use anyhow::{Result, bail};
use async_trait::async_trait;
use proto::cluster::EngineOrder;
use proto::{Completion, GenerateRequest, NodeName, Role, WeightSnapshot};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use transport::certs::Credentials;
use transport::tls::Expected;
use transport::{Connection, Endpoint, Lane};

#[derive(Debug, clap::Args)]
pub struct Node {
    /// Where the controller listens.
    #[arg(long)]
    join: SocketAddr,
    /// The folder of its certificate.
    #[arg(long)]
    certs: PathBuf,
}

/// As in `swirl`: sockets have threads apart from the work.
pub fn runtime(threads: usize) -> Result<Runtime> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    Ok(runtime.worker_threads(threads).enable_all().build()?)
}

/// CRC-32 (IEEE), as a manifest has it.
pub fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

pub fn run(node: &Node) -> Result<()> {
    let credentials = Arc::new(Credentials::load(&node.certs)?);
    let name = credentials.identity().name.clone();
    let (work, control, data) = (runtime(2)?, runtime(1)?, runtime(1)?);
    let bind = |runtime: &Runtime, lanes: &[Lane]| {
        let _inside = runtime.enter();
        Endpoint::bind(([127, 0, 0, 1], 0).into(), credentials.clone(), lanes)
    };
    let way = Way {
        control: bind(&control, &[])?,
        data: bind(&data, &[])?,
        giving: bind(&data, &[Lane::Bulk])?,
        join: node.join,
    };
    let folder = tempfile::tempdir()?;
    let plan = NodePlan {
        name,
        roles: [Role::Sampler].into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config: None,
        boot: rand::random(),
        device: "cpu".into(),
        outfitter: Arc::new(Keepers(folder.path().to_owned())),
        dialler: Arc::new(way),
        contact: watch::Sender::new(Contact::default()),
    };
    match work.block_on(node::run(plan, std::future::pending())) {
        node::NodeEnd::Refused(reason) => bail!("{reason}"),
        _ => Ok(()),
    }
}

struct Way {
    control: Endpoint,
    data: Endpoint,
    giving: Endpoint,
    join: SocketAddr,
}

impl Way {
    async fn dial(&self, lane: Lane, port: u16) -> Result<Arc<dyn Connection>, DialFault> {
        let expected = Expected {
            role: Some(Role::Controller),
            name: None,
        };
        let endpoint = match lane {
            Lane::Control => &self.control,
            _ => &self.data,
        };
        let address = SocketAddr::new(self.join.ip(), port);
        Ok(endpoint.dial(address, lane, &expected).await?)
    }
}

#[async_trait]
impl Dialler for Way {
    async fn control(&self) -> Result<Arc<dyn Connection>, DialFault> {
        self.dial(Lane::Control, self.join.port()).await
    }

    async fn data(&self, port: u16) -> Result<Arc<dyn Connection>, DialFault> {
        self.dial(Lane::Data, port).await
    }

    async fn bulk(&self, port: u16) -> Result<Arc<dyn Connection>, DialFault> {
        self.dial(Lane::Bulk, port).await
    }

    fn address(&self) -> Option<String> {
        Some(self.giving.local_address().ok()?.to_string())
    }

    async fn node(&self, name: &NodeName, at: &str) -> Result<Arc<dyn Connection>, DialFault> {
        let expected = Expected {
            role: None,
            name: Some(name.clone()),
        };
        let address = at.parse().map_err(|_| DialFault::Refused(at.to_owned()))?;
        Ok(self.data.dial(address, Lane::Bulk, &expected).await?)
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.giving.accept().await
    }
}

/// With the folder that files are brought to.
struct Keepers(PathBuf);

#[async_trait]
impl Outfitter for Keepers {
    async fn open(&self, order: &EngineOrder, files: Files) -> Result<Engine, EngineError> {
        if !order.order.is_empty() {
            let set = serde_json::from_slice(&order.order);
            let set = set.map_err(|error| EngineError(error.to_string()))?;
            files.bring(&set, &self.0.join("model")).await?;
        }
        Ok(Engine::Sampler(Arc::new(Keeper(Mutex::default())), 2))
    }
}

/// Looks at every byte, as a real engine does, and keeps them.
struct Keeper(Mutex<Option<WeightSnapshot>>);

#[async_trait]
impl Generator for Keeper {
    async fn generate(&self, _: Vec<GenerateRequest>) -> Result<Vec<Vec<Completion>>, EngineError> {
        Err(EngineError("nothing is sampled here".to_owned()))
    }

    async fn publish(&self, weights: WeightSnapshot) -> Result<(), EngineError> {
        if !weights.is_intact() {
            return Err(EngineError("the weights are damaged".to_owned()));
        }
        *self
            .0
            .lock()
            .map_err(|error| EngineError(error.to_string()))? = Some(weights);
        Ok(())
    }
}
