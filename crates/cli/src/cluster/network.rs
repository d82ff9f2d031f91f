//! Sockets on runtimes of their own: a QUIC stack that waits for a core behind other work, data of the
//! other lanes included, looks like a dead node to its peers. So the control lane has a socket and a
//! thread to itself.

use crate::usage::UsageError;
use actors::cluster::Cluster;
use actors::node::{DialFault, Dialler};
use anyhow::{Context, Result};
use async_trait::async_trait;
use proto::{NodeName, Role};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use transport::certs::CurrentCredentials;
use transport::tls::Expected;
use transport::{BindError, Connection, DialError, Endpoint, Lane};

/// Threads for data at most; each moves about 1 GB/s. Half of the machine's processors are left to
/// other work.
const MOST_DATA_THREADS: usize = 4;

/// Reason of a connection that nobody answered, as QUIC has it.
const TIMED_OUT: &str = "timed out";

/// The runtimes of all sockets of this process.
pub struct Sockets {
    control: Option<Runtime>,
    data: Option<Runtime>,
}

/// Where to run what sockets need.
#[derive(Clone)]
pub struct SocketHandles {
    control: Handle,
    data: Handle,
}

impl Sockets {
    /// Starts their threads.
    ///
    /// # Errors
    /// When the system gives none.
    pub fn new() -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let runtime = |name: &str, threads| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name(name)
                .enable_all()
                .build()
                .context("the operating system gives no thread for the network")
        };
        Ok(Self {
            control: Some(runtime("control", 1)?),
            data: Some(runtime("data", (cores / 2).clamp(1, MOST_DATA_THREADS))?),
        })
    }

    /// Where to run what sockets need.
    pub fn handles(&self) -> SocketHandles {
        let handle = |runtime: &Option<Runtime>| {
            let runtime = runtime.as_ref().expect("it is there until it is dropped");
            runtime.handle().clone()
        };
        SocketHandles {
            control: handle(&self.control),
            data: handle(&self.data),
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        let runtimes = [self.control.take(), self.data.take()];
        runtimes
            .into_iter()
            .flatten()
            .for_each(Runtime::shutdown_background);
    }
}

impl SocketHandles {
    /// An endpoint that serves, or with no lanes only dials.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn bind(
        &self,
        kind: Socket,
        address: SocketAddr,
        credentials: &CurrentCredentials,
        serves: &[Lane],
    ) -> Result<Endpoint, BindError> {
        let _inside = match kind {
            Socket::Control => self.control.enter(),
            Socket::Data => self.data.enter(),
        };
        Endpoint::bind(address, credentials.clone(), serves)
    }
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// Control alone.
    Control,
    /// All other lanes.
    Data,
}

/// Where nodes find the controller.
pub struct Listening {
    control: Arc<Endpoint>,
    data: Arc<Endpoint>,
    /// The UDP port of all lanes but control.
    pub data_port: u16,
}

impl Listening {
    /// Listens on an address for control, and on the next port for all else; port 0 takes any two.
    ///
    /// # Errors
    /// When one of them is taken.
    pub fn on(
        sockets: &SocketHandles,
        address: SocketAddr,
        credentials: CurrentCredentials,
    ) -> Result<Self> {
        let control = sockets.bind(Socket::Control, address, &credentials, &[Lane::Control])?;
        let mut next = address;
        if address.port() != 0 {
            let port = address.port().checked_add(1);
            let none = || UsageError::new("no port follows 65535, and the next one is for data");
            next.set_port(port.ok_or_else(none)?);
        }
        let lanes = [Lane::Data, Lane::Bulk];
        let data = sockets.bind(Socket::Data, next, &credentials, &lanes)?;
        let data_port = data.local_address()?.port();
        Ok(Self {
            control: Arc::new(control),
            data: Arc::new(data),
            data_port,
        })
    }

    /// The address for control.
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
        for endpoint in [&self.control, &self.data] {
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
        tokio::join!(self.control.close(reason), self.data.close(reason));
    }
}

/// A node's way to its controller. It begins anew at each attempt to join: names are resolved again,
/// for a controller may have moved, and sockets are new.
pub struct ToController {
    /// `HOST:PORT`.
    pub join: String,
    /// Who this node is.
    pub credentials: CurrentCredentials,
    /// Where sockets live.
    pub sockets: SocketHandles,
    /// The present attempt.
    pub way: Mutex<Option<Arc<Way>>>,
    /// Number of attempts that failed.
    pub failures: AtomicUsize,
    /// Where other nodes pull weights and files from this one, if they are to.
    pub giving: Option<Giving>,
}

/// Where other nodes pull weights and files. It is the same socket at all attempts.
pub struct Giving {
    ip: Option<IpAddr>,
    port: u16,
    socket: watch::Sender<Option<Arc<Endpoint>>>,
}

impl Giving {
    /// At this port; 0 takes any. Without an address, it is that of the interface that leads to the
    /// controller.
    pub fn at(ip: Option<IpAddr>, port: u16) -> Self {
        let socket = watch::Sender::default();
        Self { ip, port, socket }
    }

    /// Listens, if that is not done yet, with an address like the controller's.
    fn listen(&self, way: &ToController, controller: SocketAddr) -> Result<(), BindError> {
        if self.socket.borrow().is_some() {
            return Ok(());
        }
        let address = SocketAddr::new(any_like(controller).ip(), self.port);
        let lanes = [Lane::Bulk];
        let (sockets, credentials) = (&way.sockets, &way.credentials);
        let bound = sockets.bind(Socket::Data, address, credentials, &lanes)?;
        self.socket.send_replace(Some(Arc::new(bound)));
        Ok(())
    }

    /// What other nodes are told.
    fn address(&self, controller: SocketAddr) -> Option<SocketAddr> {
        let socket = self.socket.borrow().clone()?;
        let ip = self.ip.or_else(|| address_towards(controller).ok())?;
        Some(SocketAddr::new(ip, socket.local_address().ok()?.port()))
    }
}

/// An attempt's sockets, and where it leads.
pub struct Way {
    control: Endpoint,
    data: Endpoint,
    address: SocketAddr,
}

/// Any address of this machine, and any port, that an address can be dialled from.
pub fn any_like(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(_) => ([0; 4], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    }
}

/// Where to listen for what an address asks for: on all addresses of IPv4 where that is all of both
/// families, which `[::]` means, and this machine has no IPv6.
pub fn listenable(address: SocketAddr) -> SocketAddr {
    let is_both = address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED);
    match is_both && UdpSocket::bind((address.ip(), 0)).is_err() {
        true => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()),
        false => address,
    }
}

/// The address that other nodes reach this one at, unless it is told another: that of the interface
/// that leads to `peer`. Nothing is sent.
///
/// # Errors
/// When no interface leads there.
pub fn address_towards(peer: SocketAddr) -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind(any_like(peer))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

impl ToController {
    async fn begin(&self) -> Result<Arc<Way>, DialFault> {
        let unreachable = |reason: String| DialFault::Unreachable(reason);
        let join = &self.join;
        let found = tokio::net::lookup_host(join).await;
        let found = found.map_err(|error| unreachable(format!("{join}: {error}")))?;
        let mut found: Vec<SocketAddr> = found.collect();
        found.sort_by_key(SocketAddr::is_ipv6);
        found.dedup();
        // The next one after each failure: an address may lead nowhere from here.
        let turn = self
            .failures
            .load(Ordering::Relaxed)
            .checked_rem(found.len());
        let address = turn.and_then(|turn| found.get(turn).copied());
        let address = address.ok_or_else(|| unreachable(format!("{join} has no address")))?;
        let any = any_like(address);
        let bind = |kind| self.sockets.bind(kind, any, &self.credentials, &[]);
        let bound = bind(Socket::Control).and_then(|control| Ok((control, bind(Socket::Data)?)));
        let (control, data) = bound.map_err(|error| unreachable(error.to_string()))?;
        let way = Arc::new(Way {
            control,
            data,
            address,
        });
        *self.way.lock().expect("no holder panics") = Some(way.clone());
        let listening = self.giving.as_ref().map(|g| g.listen(self, address));
        if let Some(Err(error)) = listening {
            tracing::warn!(%error, "This node gives nothing on.");
        }
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
            Lane::Control => &self.control,
            Lane::Data | Lane::Bulk | Lane::Gradients => &self.data,
        };
        let address = SocketAddr::new(self.address.ip(), port);
        let expected = Expected {
            role: Some(Role::Controller),
            name: None,
        };
        let dialled = endpoint.dial(address, lane, &expected).await;
        dialled.map_err(unanswered)
    }
}

/// Silence has a cause that no error of a socket tells: a firewall drops what comes by UDP.
fn unanswered(error: DialError) -> DialFault {
    match error {
        DialError::Unreachable { address, reason } if reason == TIMED_OUT => {
            DialFault::Unreachable(format!(
                "nothing answers at {address} by UDP: is the controller running there, and is UDP to \
                 its port and the next one let through (firewalls, security groups)?"
            ))
        }
        error => error.into(),
    }
}

#[async_trait]
impl Dialler for ToController {
    async fn control(&self) -> Result<Arc<dyn Connection>, DialFault> {
        let way = self.begin().await?;
        let dialled = way.dial(Lane::Control, way.address.port()).await;
        if dialled.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        dialled
    }

    async fn data(&self, port: u16) -> Result<Arc<dyn Connection>, DialFault> {
        self.present()?.dial(Lane::Data, port).await
    }

    async fn bulk(&self, port: u16) -> Result<Arc<dyn Connection>, DialFault> {
        self.present()?.dial(Lane::Bulk, port).await
    }

    fn address(&self) -> Option<String> {
        let controller = self.present().ok()?.address;
        let address = self.giving.as_ref()?.address(controller)?;
        Some(address.to_string())
    }

    async fn node(&self, name: &NodeName, at: &str) -> Result<Arc<dyn Connection>, DialFault> {
        let unreachable = |error| DialFault::Unreachable(format!("{name} at {at}: {error}"));
        let address = at.parse().map_err(unreachable)?;
        let expected = Expected {
            role: None,
            name: Some(name.clone()),
        };
        let way = self.present()?;
        Ok(way.data.dial(address, Lane::Bulk, &expected).await?)
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        let mut socket = self.giving.as_ref()?.socket.subscribe();
        let socket = socket.wait_for(Option::is_some).await.ok()?.clone();
        socket?.accept().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::ops::Range;
    use transport::bulk;
    use transport::certs::{Authority, Credentials, Validity};

    struct Weights;

    #[async_trait]
    impl bulk::Source for Weights {
        async fn piece(&self, id: u64, range: Range<u64>) -> Result<Bytes, String> {
            let is_it = id == 7 && range.end <= 10;
            is_it
                .then(|| Bytes::from(vec![3; (range.end - range.start) as usize]))
                .ok_or_else(|| "there is no such thing".to_owned())
        }
    }

    fn node(
        authority: &Authority,
        sockets: &SocketHandles,
        name: &str,
        join: SocketAddr,
    ) -> ToController {
        let name = name.parse().unwrap();
        let roles = [Role::Learner].into();
        authority
            .issue(&name, &roles, Validity::of_days(1))
            .unwrap();
        let credentials = Credentials::load(&authority.node_folder(&name)).unwrap();
        ToController {
            join: join.to_string(),
            credentials: credentials.into(),
            sockets: sockets.clone(),
            way: Mutex::default(),
            failures: AtomicUsize::default(),
            giving: Some(Giving::at(None, 0)),
        }
    }

    /// A socket that takes everything and says nothing, as behind a firewall.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_controller_that_nothing_is_heard_of_is_told_of_with_the_likely_cause() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), Validity::of_days(2)).unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sockets = Sockets::new().unwrap();
        let at = silent.local_addr().unwrap();
        let node = node(&authority, &sockets.handles(), "n", at);
        let Err(DialFault::Unreachable(reason)) = node.control().await.map(drop) else {
            panic!("nobody answers");
        };
        assert!(
            reason.contains(&format!("nothing answers at {at} by UDP")),
            "{reason}"
        );
        assert_eq!(node.failures.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn all_addresses_are_those_of_the_families_that_there_are() {
        let has_ipv6 = UdpSocket::bind("[::]:0").is_ok();
        for (asked, expected) in [
            ("[::]:7", if has_ipv6 { "[::]:7" } else { "0.0.0.0:7" }),
            ("0.0.0.0:7", "0.0.0.0:7"),
            ("10.0.0.1:7", "10.0.0.1:7"),
            ("[fd00::1]:7", "[fd00::1]:7"),
        ] {
            let found = listenable(asked.parse().unwrap());
            assert_eq!(found.to_string(), expected, "{asked}");
        }
    }

    /// Over QUIC with mutual TLS: that node and no other.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_pulls_from_another_that_is_who_it_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), Validity::of_days(2)).unwrap();
        let head = "head".parse().unwrap();
        let roles = [Role::Controller].into();
        authority
            .issue(&head, &roles, Validity::of_days(1))
            .unwrap();
        let credentials = Credentials::load(&authority.node_folder(&head)).unwrap();
        let sockets = Sockets::new().unwrap();
        let handles = sockets.handles();
        let local = ([127, 0, 0, 1], 0).into();
        let listening = Listening::on(&handles, local, credentials.into()).unwrap();
        let join = listening.address().unwrap();
        let giver = Arc::new(node(&authority, &handles, "giver", join));
        let taker = node(&authority, &handles, "taker", join);
        assert_eq!(
            giver.address(),
            None,
            "before it knows where the controller is"
        );
        let _joined = [
            giver.control().await.unwrap(),
            taker.control().await.unwrap(),
        ];
        let address = giver.address().unwrap();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        let accepting = giver.clone();
        tokio::spawn(async move {
            while let Some(connection) = accepting.accept().await {
                tokio::spawn(bulk::serve(connection, Arc::new(Weights)));
            }
        });
        let name = "giver".parse().unwrap();
        let from = taker.node(&name, &address).await.unwrap();
        let mut got = Vec::new();
        let pulled = bulk::pull(from.as_ref(), 7, 2..10, |piece| {
            got.extend_from_slice(&piece);
            Ok(())
        });
        pulled.await.unwrap();
        assert_eq!(got, [3; 8]);
        let other = "other".parse().unwrap();
        assert!(
            taker.node(&other, &address).await.is_err(),
            "it is not the one"
        );
        assert!(taker.node(&name, "nowhere").await.is_err());
    }
}
