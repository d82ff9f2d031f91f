//! The controller's side of a run over several nodes.

use super::certificates;
use super::network::{Listening, Sockets, listenable};
use super::orders::{Epochs, FleetOrders, JudgeOrder, LearnerOrder, SamplerOrder, ToolOrder};
use crate::config::{ClusterSection, Config};
use crate::console;
use crate::logs;
use crate::usage::UsageError;
use crate::version::VERSION;
use actors::FleetPlan;
use actors::cluster::{Cluster, ClusterPlan, Engagement};
use anyhow::{Context, Result, bail};
use control::reminder::Reminder;
use proto::Role;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use transport::certs::CurrentCredentials;

/// The head of a cluster: where nodes join.
pub struct Head {
    section: ClusterSection,
    cluster: Cluster,
    listening: Listening,
    epochs: Arc<Epochs>,
    /// Tells this process from one before it.
    process: u64,
    _sockets: Sockets,
}

/// What other nodes do in a fleet.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// They sample.
    pub sampler: Option<SamplerOrder>,
    /// They run tools.
    pub tools: Option<ToolOrder>,
    /// They judge.
    pub judges: Option<JudgeOrder>,
    /// One of them trains.
    pub learner: Option<LearnerOrder>,
}

impl Head {
    /// Listens for nodes, if the configuration says so. The run folder need not be there yet.
    ///
    /// # Errors
    /// When the certificates cannot be used, or the address cannot be listened on.
    pub fn start(config: &Config, hash: &str, folder: &Path) -> Result<Option<Self>> {
        let section = &config.cluster;
        let Some(listen) = &section.listen else {
            return Ok(None);
        };
        let mut found = listen
            .to_socket_addrs()
            .map_err(|error| UsageError::new(format!("cluster.listen = {listen:?}: {error}")))?;
        let address = found.next().context("cluster.listen has no address")?;
        let address = listenable(address);
        let credentials = credentials(&section.certs, Role::Controller)?;
        logs::name(credentials.get().identity().name.as_str());
        tokio::spawn(certificates::keep(credentials.clone()));
        let sockets = Sockets::new()?;
        let listening = Listening::on(&sockets.handles(), address, credentials)?;
        let cluster = Cluster::new(ClusterPlan {
            run: config.run.name.as_str().into(),
            version: VERSION.to_owned(),
            config: hash.to_owned(),
            data_port: listening.data_port,
            weights: section.weights(),
            requires_gpu: section.require_gpu,
        });
        listening.admit_to(&cluster);
        let (address, data) = (listening.address()?, listening.data_port);
        console::remark(format_args!(
            "Nodes join at UDP {address} (data: port {data}): swirl node --role ROLE --join \
             HOST:{} --certs DIR",
            address.port()
        ));
        Ok(Some(Self {
            section: section.clone(),
            cluster,
            listening,
            epochs: Arc::new(Epochs::open(folder)?),
            process: rand::random(),
            _sockets: sockets,
        }))
    }

    /// Waits for the nodes that the configuration asks for; says now and then who is missing.
    ///
    /// # Errors
    /// When they have not come within `cluster.wait_at_most`.
    pub async fn gather(&self) -> Result<()> {
        let wanted = self.section.wanted();
        let mut gathering = std::pin::pin!(self.cluster.wait_for(&wanted));
        let began = Instant::now();
        let mut reminder = Reminder::new(0);
        let mut waited = String::new();
        loop {
            let counts = self.cluster.counts().borrow().clone();
            let missing = wanted.iter().filter_map(|(role, wanted)| {
                let has = counts.get(role).copied().unwrap_or(0);
                (has < *wanted).then(|| format!("{role} {has} of {wanted}"))
            });
            let missing = missing.collect::<Vec<String>>().join(", ");
            if !missing.is_empty() {
                console::remark(format_args!("Waiting for nodes{waited}: {missing}"));
            }
            let next = began + Duration::from_millis(reminder.next_ms());
            let end = self.section.wait_at_most.map(|most| began + most.0);
            tokio::select! {
                biased;
                () = &mut gathering => return Ok(()),
                () = tokio::time::sleep_until(end.map_or(next, |end| end.min(next))) => {}
            }
            if end.is_some_and(|end| end <= Instant::now()) {
                bail!(
                    "these nodes have not come within cluster.wait_at_most ({}): {missing}",
                    humantime::format_duration(began.elapsed().max(Duration::from_secs(1)))
                );
            }
            if let Some(ms) = reminder.due(began.elapsed().as_millis() as u64) {
                let span = humantime::format_duration(Duration::from_secs(ms / 1000));
                waited = format!(" (for {span})");
            }
        }
    }

    /// Adds to a fleet what other nodes do in it, if there are any.
    pub fn extend(head: Option<&Self>, plan: FleetPlan, elsewhere: Elsewhere) -> FleetPlan {
        let Some(head) = head else { return plan };
        let orders = FleetOrders::new(
            head.process,
            head.epochs.clone(),
            head.section.clone(),
            elsewhere,
        );
        FleetPlan {
            elsewhere: Some(Engagement::new(head.cluster.clone(), Arc::new(orders))),
            ..plan
        }
    }

    /// The nodes.
    pub fn cluster(&self) -> Cluster {
        self.cluster.clone()
    }

    /// Leaves the nodes to look for the controller: the run ends, and goes on later.
    pub async fn leave(&self) {
        self.listening
            .close("the controller ends, to go on later")
            .await;
    }

    /// Dismisses the nodes: the run is done.
    pub async fn dismiss(&self) {
        self.cluster.close("the run is done").await;
        self.listening.close("the run is done").await;
    }
}

/// The certificate of this node, when it allows a role.
///
/// # Errors
/// When it cannot be used, or does not.
pub fn credentials(folder: &Path, role: Role) -> Result<CurrentCredentials> {
    let credentials = CurrentCredentials::open(folder)?;
    let present = credentials.get();
    let identity = present.identity();
    if !identity.roles.contains(&role) {
        return Err(UsageError::new(format!(
            "{}: the certificate is that of {identity}, which may not be a {role}: issue one with \
             --role {role}",
            folder.display()
        ))
        .into());
    }
    Ok(credentials)
}
