//! A node's learner as one of several: where others meet it, and how it meets them.

use crate::engine::LearnerPort;
use actors::ports::{EngineError, LearnerFault, Replica, StepReport, Trainer};
use anyhow::{Context, Result};
use async_trait::async_trait;
use collective::nccl::{self, UniqueId};
use collective::ring::meeting::{self, Meeting, MeetingError};
use collective::ring::{Links, Listener, Options, Wire};
use collective::{Abort, CollectiveError, Communicator, Group, Nccl, Ring, Solo, Waits, Watched};
use learner::{GradientWire, Learner};
use proto::cluster::{Occupation, Place, Standing, Unmet};
use proto::{Role, SftSample, SnapshotScope, StateGroup, WeightSnapshot, WeightVersion};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tch::Device;
use transport::Lane;
use transport::certs::CurrentCredentials;
use transport::tls::{Expected, TlsStream};

/// Until when both neighbours in a ring have to be there.
const MEETING: Duration = Duration::from_secs(20);

/// How long a neighbour may say nothing. The controller notices sooner that one is lost; this is for one
/// that lives and hangs. Much longer than a step.
const PATIENCE: Duration = Duration::from_secs(3600);

/// How the learners of a run meet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingOrder {
    /// The same for all learners of a fleet, and for no others.
    pub run: [u8; 16],
    /// Whether what they exchange is encrypted.
    pub tls: bool,
}

/// Where the learners of a node are met, one after the other.
pub struct Berth {
    listener: Listener,
    address: SocketAddr,
    credentials: CurrentCredentials,
}

impl Berth {
    /// Listens at `port`, or at any for 0. Others reach this machine at `ip`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn new(ip: IpAddr, port: u16, credentials: CurrentCredentials) -> Result<Self> {
        let any = super::any_like((ip, port).into()).ip();
        let listener = Listener::bind((any, port))
            .with_context(|| format!("cannot listen for other learners at TCP port {port}"))?;
        let port = listener.address()?.port();
        Ok(Self {
            listener,
            address: (ip, port).into(),
            credentials,
        })
    }
}

/// A learner of this node.
pub struct ReplicaPort {
    port: LearnerPort,
    meetings: Arc<Meetings>,
}

struct Meetings {
    berth: Arc<Berth>,
    order: RingOrder,
    /// The newest group that was given up.
    given_up: AtomicU32,
    /// Set to end the meeting under way.
    stop: AtomicBool,
    /// The group it is in, or about to be.
    group: Mutex<Option<(u32, Abort)>>,
    /// The last group whose weights it took over.
    joined: AtomicU32,
    /// It was left while it took weights over: it has some of the one and some of the other.
    is_torn: AtomicBool,
    /// What it is asked for and has not answered.
    asked: AtomicUsize,
    /// Its waits for others.
    waits: Waits,
}

/// Counts what a learner is asked for, for as long as it is not dropped.
struct Asked<'a>(&'a AtomicUsize);

impl<'a> Asked<'a> {
    fn of(meetings: &'a Meetings) -> Self {
        meetings.asked.fetch_add(1, Ordering::SeqCst);
        Self(&meetings.asked)
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ReplicaPort {
    /// A learner that is met at this node's berth.
    pub fn new(port: LearnerPort, berth: Arc<Berth>, order: RingOrder) -> Self {
        let meetings = Meetings {
            berth,
            order,
            given_up: AtomicU32::new(0),
            stop: AtomicBool::new(false),
            group: Mutex::new(None),
            joined: AtomicU32::new(0),
            is_torn: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            waits: Waits::default(),
        };
        Self {
            port,
            meetings: Arc::new(meetings),
        }
    }
}

impl Meetings {
    /// Meets the others, and takes over what rank 0 has, unless all have the same. Blocks.
    fn join(&self, learner: &mut Learner, place: &Place) -> Result<u64, Unmet> {
        let config = learner.config();
        let options = Options {
            wire: match config.gradient_wire {
                GradientWire::F32 => Wire::F32,
                GradientWire::Bf16 => Wire::Bf16,
            },
            ..Options::default()
        };
        // Shares of the optimizer's state are taken up anew each time.
        let is_level = place.is_level && !config.shard_optimizer;
        let device = learner.decoder().device();
        let mut communicator = self.communicator(place, device, options)?;
        // Before all are there nobody gives away what it has.
        communicator.barrier().map_err(before_it)?;
        if is_level {
            learner.regroup(communicator).map_err(before_it)?;
        } else {
            let joined = learner.join(communicator);
            self.is_torn
                .store(joined.is_err() && place.rank > 0, Ordering::SeqCst);
            joined.map_err(|error| Unmet {
                is_whole: false,
                ..before_it(error)
            })?;
        }
        self.joined.store(place.epoch, Ordering::SeqCst);
        Ok(learner.step())
    }

    fn communicator(
        &self,
        place: &Place,
        device: Device,
        options: Options,
    ) -> Result<Box<dyn Communicator>, Unmet> {
        let group = Group {
            rank: place.rank as usize,
            world: place.members.len(),
            epoch: place.epoch.into(),
        };
        if group.world == 1 {
            return Ok(Box::new(Solo));
        }
        self.stop.store(false, Ordering::SeqCst);
        // In this order: what is given up from here on sets `stop`.
        if self.given_up.load(Ordering::SeqCst) >= place.epoch {
            return Err(unmet("the group was given up before it met"));
        }
        // GPUs meet in a ring, too: NCCL does not say who is missing.
        let links = self.meet(group, place, device)?;
        let communicator: Box<dyn Communicator> = match device.is_cuda() {
            true => Box::new(nccl_group(group, links, device, &self.stop).map_err(before_it)?),
            false => Box::new(Ring::new(group, links, options).map_err(|error| Unmet {
                is_own_fault: true,
                ..unmet(&error.to_string())
            })?),
        };
        let abort = communicator.aborter();
        *self.group.lock().expect("no holder panics") = Some((place.epoch, abort.clone()));
        if self.given_up.load(Ordering::SeqCst) >= place.epoch {
            abort.abort("it was given up as it met");
        }
        Ok(Box::new(Watched::new(communicator, self.waits.clone())))
    }

    fn meet(&self, group: Group, place: &Place, device: Device) -> Result<Links, Unmet> {
        // Members on a CPU and members on GPUs do not understand each other.
        let mut run = self.order.run;
        run[0] ^= u8::from(device.is_cuda());
        let meeting = Meeting {
            group,
            run,
            listener: &self.berth.listener,
            own: self.berth.address,
            next: place.members[group.next()],
            limit: MEETING,
            // GPUs say one thing over it, at once.
            patience: if device.is_cuda() { MEETING } else { PATIENCE },
            stop: &self.stop,
        };
        if !self.order.tls {
            return meeting::connect(&meeting).map_err(missing);
        }
        let (credentials, lane) = (&self.berth.credentials.get(), Lane::Gradients);
        let expected = Expected {
            role: Some(Role::Learner),
            name: None,
        };
        let met = meeting::connect_with(
            &meeting,
            |socket| TlsStream::dialled(socket, credentials, lane, &expected),
            |socket| TlsStream::accepted(socket, credentials, lane, &expected),
        );
        met.map_err(missing)
    }

    fn occupation(&self) -> Occupation {
        match (self.asked.load(Ordering::SeqCst), self.waits.are_any()) {
            (0, _) => Occupation::Idle,
            (_, true) => Occupation::Waiting,
            (_, false) => Occupation::Computing,
        }
    }

    fn abandon(&self, epoch: u32, reason: &str) {
        self.given_up.fetch_max(epoch, Ordering::SeqCst);
        self.stop.store(true, Ordering::SeqCst);
        let mut group = self.group.lock().expect("no holder panics");
        if let Some((_, abort)) = group.take_if(|(present, _)| *present <= epoch) {
            abort.abort(reason);
        }
    }
}

/// Between GPUs that have met. NCCL itself takes some seconds.
fn nccl_group(
    group: Group,
    mut links: Links,
    device: Device,
    stop: &AtomicBool,
) -> Result<Nccl, CollectiveError> {
    let options = nccl::Options {
        joining: 3 * MEETING,
        deadline: PATIENCE,
    };
    let id = UniqueId::agree(group, &mut links)?;
    Nccl::join(group, &id, device, options, stop)
}

/// It does not go on, and what it has is as it was.
fn unmet(reason: &str) -> Unmet {
    Unmet {
        reason: reason.to_owned(),
        is_whole: true,
        ..Unmet::default()
    }
}

fn missing(error: MeetingError) -> Unmet {
    Unmet {
        misses_next: error.misses_next(),
        misses_previous: error.misses_previous(),
        ..unmet(&error.to_string())
    }
}

/// Before anything was given away. What does not work here has nothing to do with others.
fn before_it(error: CollectiveError) -> Unmet {
    let is_own_fault = matches!(
        error,
        CollectiveError::Unavailable(_)
            | CollectiveError::Unsupported(_)
            | CollectiveError::Gpu { .. }
    );
    Unmet {
        is_own_fault,
        ..unmet(&error.to_string())
    }
}

#[async_trait]
impl Replica for ReplicaPort {
    async fn standing(&self) -> Result<Standing, EngineError> {
        let steps = self.port.steps_done().await?;
        if self.meetings.is_torn.load(Ordering::SeqCst) {
            let reason = "it was left while it took over another's weights, and is opened anew";
            return Err(EngineError(reason.to_owned()));
        }
        Ok(Standing {
            epoch: self.meetings.joined.load(Ordering::SeqCst),
            steps,
            address: self.meetings.berth.address,
        })
    }

    async fn meet(&self, place: Place) -> Result<u64, Unmet> {
        let meetings = self.meetings.clone();
        let met = self
            .port
            .with(move |learner| Ok(meetings.join(learner, &place)));
        // A panic on its device is nobody else's fault.
        met.await.unwrap_or_else(|error| {
            Err(Unmet {
                is_own_fault: true,
                is_whole: false,
                ..unmet(&error.0)
            })
        })
    }

    async fn checkpoint_together(&self) -> Result<Option<PathBuf>, LearnerFault> {
        let _asked = Asked::of(&self.meetings);
        self.port.checkpoint_together().await
    }

    fn abandon(&self, epoch: u32, reason: &str) -> Occupation {
        let occupation = self.meetings.occupation();
        self.meetings.abandon(epoch, reason);
        occupation
    }
}

#[async_trait]
impl Trainer for ReplicaPort {
    async fn steps_done(&self) -> Result<u64, EngineError> {
        self.port.steps_done().await
    }

    async fn supervised_step(&self, batch: Vec<SftSample>) -> Result<StepReport, LearnerFault> {
        let _asked = Asked::of(&self.meetings);
        self.port.supervised_step(batch).await
    }

    async fn policy_step(&self, batch: Vec<StateGroup>) -> Result<StepReport, LearnerFault> {
        let _asked = Asked::of(&self.meetings);
        self.port.policy_step(batch).await
    }

    async fn snapshot(
        &self,
        version: WeightVersion,
        scope: SnapshotScope,
    ) -> Result<WeightSnapshot, EngineError> {
        self.port.snapshot(version, scope).await
    }

    async fn checkpoint(&self) -> Result<PathBuf, EngineError> {
        self.port.checkpoint().await
    }

    async fn export(&self, folder: PathBuf) -> Result<(), EngineError> {
        self.port.export(folder).await
    }
}
