//! The controller: it publishes to nodes that are processes of their own.

use crate::{Job, node};
use actors::cluster::{Cluster, ClusterPlan, Engagement, Order, Orders};
use actors::ports::EngineError;
use actors::remote::{Blobs, SpreadPlan};
use actors::{Controller, FleetPlan, Published};
use anyhow::{Context, Result};
use async_trait::async_trait;
use proto::{Role, WeightManifest, WeightSnapshot, WeightVersion};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use transport::certs::{Authority, Credentials, Validity};
use transport::{Endpoint, Lane};

/// Files of a folder, beside a small one.
const FILES: usize = 3;

/// Pause between looks whether all serve the weights.
const LOOK: Duration = Duration::from_millis(1);

/// Number of samplers, and of those that each node gives weights to.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Case {
    pub samplers: usize,
    pub fan_out: usize,
}

/// The figures of some publications.
#[derive(Debug, Default, Serialize)]
pub struct Rounds {
    /// Until all serve them.
    pub seconds: Vec<f64>,
    /// Bytes that the controller gave.
    pub given_bytes: Vec<f64>,
}

/// Publishes made-up weights again and again.
pub fn spread(job: &Job, case: Case) -> Result<Rounds> {
    rounds(job, case, |stage, round| {
        let told = stage.publish(made_up(job.bytes, round as u64))?;
        Ok((told.seconds, told.given_bytes))
    })
}

/// Has nodes bring a folder of made-up files again and again, as those of a model that is ordered.
pub fn files(job: &Job, case: Case) -> Result<Rounds> {
    rounds(job, case, |stage, round| {
        let folder = tempfile::tempdir()?;
        write_made_up(folder.path(), job.bytes, round as u64)?;
        stage.order(folder.path(), round)
    })
}

/// Does the same again and again: in so many seconds, and with so many bytes from the controller. The
/// first time is not counted.
fn rounds(
    job: &Job,
    case: Case,
    mut once: impl FnMut(&mut Stage, usize) -> Result<(f64, u64)>,
) -> Result<Rounds> {
    let plan = SpreadPlan {
        fan_out: case.fan_out,
        ..SpreadPlan::default()
    };
    let mut stage = Stage::set(case.samplers, plan)?;
    let mut rounds = Rounds::default();
    for round in 0..=job.rounds {
        let (seconds, given_bytes) = once(&mut stage, round)?;
        if round > 0 {
            rounds.seconds.push(seconds);
            rounds.given_bytes.push(given_bytes as f64);
        }
    }
    Ok(rounds)
}

/// Some large files and a small one.
fn write_made_up(folder: &Path, bytes: usize, round: u64) -> Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(round);
    std::fs::write(folder.join("config.json"), "{}")?;
    for part in 0..FILES {
        let mut all = vec![0; bytes / FILES];
        random.fill_bytes(&mut all);
        std::fs::write(folder.join(format!("model-{part}.safetensors")), all)?;
    }
    Ok(())
}

/// Weights that share nothing with those of another version.
fn made_up(bytes: usize, version: u64) -> WeightSnapshot {
    let mut all = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(version).fill_bytes(&mut all);
    let tensor = proto::TensorEntry {
        name: "all".into(),
        dtype: "bf16".into(),
        shape: vec![bytes as i64 / 2],
        offset: 0,
        len: bytes as u64,
    };
    WeightSnapshot {
        manifest: Arc::new(WeightManifest {
            version: WeightVersion(version),
            tensors: vec![tensor],
            adapter: None,
            base: None,
            checksum: node::checksum(&all),
        }),
        bytes: Arc::new(all),
    }
}

/// Figures of one publication.
pub struct Told {
    pub seconds: f64,
    pub given_bytes: u64,
    pub published: Published,
}

/// A controller and its nodes. They end when it is dropped.
pub struct Stage {
    samplers: usize,
    cluster: Cluster,
    controller: Controller,
    nodes: Vec<Child>,
    runtime: Runtime,
    _sockets: [Runtime; 2],
    _certs: tempfile::TempDir,
}

impl Stage {
    /// Starts so many nodes, and waits until all of them sample.
    pub fn set(samplers: usize, plan: SpreadPlan) -> Result<Self> {
        let certs = tempfile::tempdir()?;
        let authority = Authority::create(&certs.path().join("ca"), Validity::of_days(2))?;
        let head = "controller".parse()?;
        authority.issue(&head, &[Role::Controller].into(), Validity::of_days(1))?;
        let credentials = Arc::new(Credentials::load(&authority.node_folder(&head))?);
        let runtime = node::runtime(2)?;
        let sockets = [node::runtime(1)?, node::runtime(1)?];
        let bind = |runtime: &Runtime, lanes: &[Lane]| {
            let _inside = runtime.enter();
            let any: SocketAddr = ([127, 0, 0, 1], 0).into();
            Endpoint::bind(any, credentials.clone(), lanes)
        };
        let control = bind(&sockets[0], &[Lane::Control])?;
        let data = bind(&sockets[1], &[Lane::Data, Lane::Bulk])?;
        let (join, data_port) = (control.local_address()?, data.local_address()?.port());
        let mut nodes = Vec::new();
        for number in 0..samplers {
            let name = format!("s-{number}").parse()?;
            authority.issue(&name, &[Role::Sampler].into(), Validity::of_days(1))?;
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["node", "--join", &join.to_string(), "--certs"]);
            command.arg(authority.node_folder(&name));
            nodes.push(command.spawn()?);
        }
        let (cluster, controller) = runtime.block_on(async {
            let cluster = Cluster::new(ClusterPlan {
                run: "weights".into(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                config: "weights".to_owned(),
                data_port,
                weights: plan,
                requires_gpu: false,
            });
            for endpoint in [control, data] {
                let cluster = cluster.clone();
                tokio::spawn(async move {
                    while let Some(connection) = endpoint.accept().await {
                        cluster.admit(connection);
                    }
                });
            }
            let plan = FleetPlan {
                elsewhere: Some(Engagement::new(cluster.clone(), Arc::new(Samplers))),
                ..FleetPlan::default()
            };
            let controller = Controller::start(plan).await?;
            all_serve(&controller, samplers).await;
            anyhow::Ok((cluster, controller))
        })?;
        Ok(Self {
            samplers,
            cluster,
            controller,
            nodes,
            runtime,
            _sockets: sockets,
            _certs: certs,
        })
    }

    /// Orders samplers that need a folder's files, and waits until every one of them is open; in which
    /// time, and what the controller gave.
    pub fn order(&mut self, folder: &Path, round: usize) -> Result<(f64, u64)> {
        let orders = Arc::new(Modelled {
            folder: folder.to_owned(),
            round,
        });
        let before = self.cluster.given_bytes();
        let began = Instant::now();
        let (cluster, samplers) = (self.cluster.clone(), self.samplers);
        let seconds = self.runtime.block_on(async {
            let plan = FleetPlan {
                elsewhere: Some(Engagement::new(cluster, orders)),
                ..FleetPlan::default()
            };
            let controller = Controller::start(plan).await?;
            all_serve(&controller, samplers).await;
            let seconds = began.elapsed().as_secs_f64();
            controller.stop().await;
            anyhow::Ok(seconds)
        })?;
        Ok((seconds, self.cluster.given_bytes() - before))
    }

    /// Publishes weights, and waits until every sampler serves them.
    pub fn publish(&mut self, weights: WeightSnapshot) -> Result<Told> {
        let before = self.cluster.given_bytes();
        let began = Instant::now();
        let published = self.runtime.block_on(async {
            let published = self.controller.fleet().publish(weights).await?;
            all_serve(&self.controller, self.samplers).await;
            anyhow::Ok(published)
        });
        Ok(Told {
            published: published.context("the weights were not published")?,
            seconds: began.elapsed().as_secs_f64(),
            given_bytes: self.cluster.given_bytes() - before,
        })
    }
}

async fn all_serve(controller: &Controller, samplers: usize) {
    while controller.fleet().sampler_count() < samplers {
        tokio::time::sleep(LOOK).await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// Every node samples from a model that it has to bring first.
struct Modelled {
    folder: PathBuf,
    round: usize,
}

#[async_trait]
impl Orders for Modelled {
    fn roles(&self) -> BTreeSet<Role> {
        [Role::Sampler].into()
    }

    async fn order(&self, role: Role, blobs: &Blobs) -> Result<Order, EngineError> {
        let fault = |error: &dyn std::fmt::Display| EngineError(error.to_string());
        let (set, loan) = blobs
            .lend_folder(&self.folder)
            .map_err(|error| fault(&error))?;
        Ok(Order {
            key: format!("{role}-{}", self.round),
            order: serde_json::to_vec(&set).map_err(|error| fault(&error))?,
            epoch: 0,
            loans: Arc::new(vec![loan]),
        })
    }
}

/// Every node samples.
struct Samplers;

#[async_trait]
impl Orders for Samplers {
    fn roles(&self) -> BTreeSet<Role> {
        [Role::Sampler].into()
    }

    async fn order(&self, role: Role, _: &Blobs) -> Result<Order, EngineError> {
        Ok(Order {
            key: role.to_string(),
            order: Vec::new(),
            epoch: 0,
            loans: Arc::default(),
        })
    }
}
