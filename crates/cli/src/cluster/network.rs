//! Sockets on a runtime of their own: a QUIC stack that waits for a core behind other work looks like
//! a dead node to its peers.

use crate::usage::UsageError;
use actors::cluster::Cluster;
use actors::node::{DialFault, Dialler};
use anyhow::{Context, Result};
use async_trait::async_trait;
use proto::Role;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::runtime::{Handle, Runtime};
use transport::certs::Credentials;
use transport::tls::Expected;
use transport::{Connection, DialError, Endpoint, Lane};

/// Threads for sockets. One keeps up with a node's lanes; the second keeps the control lane alive
/// while the first encrypts.
const THREADS: usize = 2;

/// The runtime of all sockets of this process.
pub struct Sockets(Option<Runtime>);

impl Sockets {
    /// Starts its threads.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("sockets")
            .enable_all()
            .build()
            .context("the operating system gives no thread for the network")?;
        Ok(Self(Some(runtime)))
    }

    /// Where to run what sockets need.
    pub fn handle(&self) -> Handle {
        let runtime = self.0.as_ref().expect("it is there until it is dropped");
        runtime.handle().clone()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Where nodes find the controller.
pub struct Listening {
    control: Arc<Endpoint>,
    bulk: Arc<Endpoint>,
    /// The UDP port of the bulk lane.
    pub bulk_port: u16,
}

impl Listening {
    /// Listens on an address for control and data, and on the next port for bulk; port 0 takes any
    /// two.
    ///
    /// # Errors
    /// When one of them is taken.
    pub fn on(sockets: &Handle, address: SocketAddr, credentials: Credentials) -> Result<Self> {
        let credentials = Arc::new(credentials);
        let _inside = sockets.enter();
        let lanes = [Lane::Control, Lane::Data];
        let control = Endpoint::bind(address, credentials.clone(), &lanes)?;
        let mut next = address;
        if address.port() != 0 {
            let port = address.port().checked_add(1);
            let none = || UsageError::new("cluster.listen: the port after it is for bulk data");
            next.set_port(port.ok_or_else(none)?);
        }
        let bulk = Endpoint::bind(next, credentials, &[Lane::Bulk])?;
        let bulk_port = bulk.local_address()?.port();
        Ok(Self {
            control: Arc::new(control),
            bulk: Arc::new(bulk),
            bulk_port,
        })
    }

    /// The address for control and data.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(self.control.local_address()?)
    }

    /// Lets every connection into the cluster, as long as this process runs.
    pub fn admit_to(&self, cluster: &Cluster) {
        let cluster = cluster.clone();
        self.hand_to(move |connection| cluster.admit(connection));
    }

    /// Hands every connection over, whatever its lane, as long as this process runs.
    pub fn hand_to(&self, taker: impl Fn(Arc<dyn Connection>) + Clone + Send + 'static) {
        for endpoint in [&self.control, &self.bulk] {
            let (endpoint, taker) = (endpoint.clone(), taker.clone());
            tokio::spawn(async move {
                while let Some(connection) = endpoint.accept().await {
                    taker(connection);
                }
            });
        }
    }

    /// Closes all connections, once their peers have been told.
    pub async fn close(&self, reason: &str) {
        tokio::join!(self.control.close(reason), self.bulk.close(reason));
    }
}

/// A node's way to its controller. It begins anew at each attempt to join: names are resolved again,
/// for a controller may have moved, and sockets are new.
pub struct ToController {
    /// `HOST:PORT`.
    pub join: String,
    /// Who this node is.
    pub credentials: Arc<Credentials>,
    /// Where sockets live.
    pub sockets: Handle,
    /// The present attempt.
    pub way: Mutex<Option<Arc<Way>>>,
}

/// An attempt's sockets, and where it leads.
pub struct Way {
    control: Endpoint,
    bulk: Endpoint,
    address: SocketAddr,
}

impl ToController {
    async fn begin(&self) -> Result<Arc<Way>, DialFault> {
        let unreachable = |reason: String| DialFault::Unreachable(reason);
        let join = &self.join;
        let found = tokio::net::lookup_host(join).await;
        let found = found.map_err(|error| unreachable(format!("{join}: {error}")))?;
        let mut found: Vec<SocketAddr> = found.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        let first = found.first().copied();
        let address = first.ok_or_else(|| unreachable(format!("{join} has no address")))?;
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let _inside = self.sockets.enter();
        let bind = || Endpoint::bind(any, self.credentials.clone(), &[]);
        let bound = bind().and_then(|control| Ok((control, bind()?)));
        let (control, bulk) = bound.map_err(|error| unreachable(error.to_string()))?;
        let way = Arc::new(Way {
            control,
            bulk,
            address,
        });
        *self.way.lock().expect("no holder panics") = Some(way.clone());
        Ok(way)
    }

    fn present(&self) -> Result<Arc<Way>, DialFault> {
        let way = self.way.lock().expect("no holder panics").clone();
        way.ok_or_else(|| DialFault::Unreachable("the control lane comes first".to_owned()))
    }
}

impl Way {
    async fn dial(&self, lane: Lane, port: u16) -> Result<Arc<dyn Connection>, DialFault> {
        let endpoint = match lane {
            Lane::Control | Lane::Data => &self.control,
            Lane::Bulk | Lane::Gradients => &self.bulk,
        };
        let address = SocketAddr::new(self.address.ip(), port);
        let expected = Expected {
            role: Role::Controller,
            name: None,
        };
        let dialled = endpoint.dial(address, lane, &expected).await;
        dialled.map_err(|error| match error {
            DialError::Refused(reason) => DialFault::Refused(reason),
            error @ DialError::Unreachable { .. } => DialFault::Unreachable(error.to_string()),
        })
    }
}

#[async_trait]
impl Dialler for ToController {
    async fn control(&self) -> Result<Arc<dyn Connection>, DialFault> {
        let way = self.begin().await?;
        way.dial(Lane::Control, way.address.port()).await
    }

    async fn data(&self) -> Result<Arc<dyn Connection>, DialFault> {
        let way = self.present()?;
        way.dial(Lane::Data, way.address.port()).await
    }

    async fn bulk(&self, port: u16) -> Result<Arc<dyn Connection>, DialFault> {
        self.present()?.dial(Lane::Bulk, port).await
    }
}
