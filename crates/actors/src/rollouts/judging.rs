//! Sampled trajectories on their way to their verdicts.
//!
//! - **JD-1 (kept).** What waits while the judge is away, what cannot be judged, and whatever waits when
//!   a job ends early is on disk, without verdicts, where the plan has a folder for it; the next job
//!   goes on from there.
//! - **JD-2 (all or nothing).** A trajectory is stored with all its verdicts or left out.

use super::RolloutError;
use crate::controller::ControllerMessage;
use crate::fleet::{Fleet, FleetError};
use crate::pool::CallError;
use control::tolerance::Tolerance;
use judge::{JudgeError, Obstacle, StepContext};
use proto::{ItemId, Trajectory, Verdict};
use ractor::ActorRef;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use store::{StoreError, TrajectoryStore};
use tokio::task::AbortHandle;

/// Trajectories without verdicts that an earlier job left, and their store.
pub(crate) struct Unjudged {
    store: TrajectoryStore,
    trajectories: Vec<Trajectory>,
}

impl Unjudged {
    /// Reads what `store`, where trajectories with verdicts go, does not hold.
    pub(crate) fn open(folder: &Path, judged: &TrajectoryStore) -> Result<Self, StoreError> {
        let store = TrajectoryStore::open(folder)?;
        let is_due = |t: &Trajectory| !judged.contains(&t.item);
        let all: Vec<Trajectory> = store.iter().collect::<Result<_, _>>()?;
        let trajectories = all.into_iter().filter(is_due).collect();
        Ok(Self {
            store,
            trajectories,
        })
    }
}

/// One that waits for its verdicts.
struct Waiting {
    trajectory: Arc<Trajectory>,
    work: AbortHandle,
}

/// One that cannot be judged.
struct LeftOut {
    trajectory: Arc<Trajectory>,
    reason: String,
}

/// Where trajectories without verdicts are kept.
enum Folder {
    /// Nowhere.
    None,
    Open(Box<TrajectoryStore>),
    /// A write is under way.
    Writing,
}

/// The stage between sampling and the store.
pub(super) struct Judging {
    job: u64,
    waiting: BTreeMap<ItemId, Waiting>,
    left_out: BTreeMap<ItemId, LeftOut>,
    /// Those in the folder.
    on_disk: BTreeSet<ItemId>,
    folder: Folder,
    total: u64,
    tolerance: Tolerance,
}

impl Drop for Judging {
    /// Nobody waits for these verdicts any more.
    fn drop(&mut self) {
        self.stop();
    }
}

impl Judging {
    pub fn new(job: u64, share: f64, total: u64) -> Self {
        Self {
            job,
            waiting: BTreeMap::new(),
            left_out: BTreeMap::new(),
            on_disk: BTreeSet::new(),
            folder: Folder::None,
            total,
            tolerance: Tolerance::new(share, total, 0),
        }
    }

    /// Goes on with what an earlier job left of these items; those that are sampled already.
    pub fn go_on(
        &mut self,
        unjudged: Unjudged,
        items: &[ItemId],
        fleet: &Fleet,
        controller: &ActorRef<ControllerMessage>,
    ) -> Vec<ItemId> {
        let asked: BTreeSet<&ItemId> = items.iter().collect();
        self.on_disk = unjudged.store.ids();
        self.folder = Folder::Open(Box::new(unjudged.store));
        for trajectory in unjudged.trajectories {
            if asked.contains(&trajectory.item) {
                self.judge(trajectory, fleet, controller);
            }
        }
        self.waiting.keys().cloned().collect()
    }

    /// Has a trajectory judged.
    pub fn judge(
        &mut self,
        trajectory: Trajectory,
        fleet: &Fleet,
        controller: &ActorRef<ControllerMessage>,
    ) {
        let (item, trajectory) = (trajectory.item.clone(), Arc::new(trajectory));
        let judging = tokio::spawn(judged(fleet.clone(), trajectory.clone()));
        let work = judging.abort_handle();
        let waiting = Waiting { trajectory, work };
        self.waiting.insert(item.clone(), waiting);
        let (job, controller) = (self.job, controller.clone());
        tokio::spawn(async move {
            let result = match judging.await {
                Ok(result) => result.map(Box::new),
                Err(error) if error.is_cancelled() => return,
                Err(_) => {
                    let (role, tries) = ("judge", 1);
                    let panic = CallError::Lost { role, tries };
                    Err(FleetError::Stubborn(tries, Box::new(panic.into())))
                }
            };
            // A controller that is gone has nobody to tell.
            let _ = controller.send_message(ControllerMessage::ItemJudged { job, item, result });
        });
    }

    /// An item's judging has ended: its trajectory with verdicts, or none where it is left out.
    ///
    /// # Errors
    /// When too many are left out, or no more verdicts can be had.
    pub fn ended(
        &mut self,
        item: ItemId,
        result: Result<Box<Trajectory>, FleetError>,
    ) -> Result<Option<Trajectory>, RolloutError> {
        let error = match result {
            Ok(trajectory) => {
                self.waiting.remove(&item);
                return Ok(Some(*trajectory));
            }
            Err(error) => error,
        };
        let reason = error.to_string();
        if error.obstacle() != Obstacle::Verdict {
            self.stop();
            return Err(RolloutError::Judge(reason));
        }
        tracing::warn!(%item, reason, "A trajectory cannot be judged and is left out.");
        if let Some(Waiting { trajectory, .. }) = self.waiting.remove(&item) {
            let left_out = LeftOut {
                trajectory,
                reason: reason.clone(),
            };
            self.left_out.insert(item.clone(), left_out);
        }
        if self.tolerance.leave_out() {
            return Ok(None);
        }
        self.stop();
        Err(RolloutError::Unjudged {
            left_out: self.tolerance.left_out(),
            total: self.total,
            allowed: self.tolerance.allowed(),
            item,
            reason,
        })
    }

    /// Ends all judging; what waits stays.
    fn stop(&mut self) {
        self.waiting
            .values()
            .for_each(|waiting| waiting.work.abort());
    }

    /// Writes down everything that waits or is left out.
    pub fn keep_all(&mut self, controller: &ActorRef<ControllerMessage>) {
        let waiting = self.waiting.values().map(|waiting| &waiting.trajectory);
        let left_out = self.left_out.values().map(|left_out| &left_out.trajectory);
        self.keep(waiting.chain(left_out).cloned().collect(), controller);
    }

    /// Writes down what is left out.
    pub fn keep_left_out(&mut self, controller: &ActorRef<ControllerMessage>) {
        let left_out = self.left_out.values().map(|left_out| &left_out.trajectory);
        self.keep(left_out.cloned().collect(), controller);
    }

    /// One write at a time, as for the trajectories with verdicts.
    fn keep(&mut self, mut batch: Vec<Arc<Trajectory>>, controller: &ActorRef<ControllerMessage>) {
        batch.retain(|trajectory| !self.on_disk.contains(&trajectory.item));
        if batch.is_empty() {
            return;
        }
        let mut store = match std::mem::replace(&mut self.folder, Folder::Writing) {
            Folder::Open(store) => store,
            other => {
                self.folder = other;
                return;
            }
        };
        let (job, controller) = (self.job, controller.clone());
        let work = crate::blocking::run(move || {
            let batch: Vec<Trajectory> = batch.iter().map(|t| (**t).clone()).collect();
            let result = store.append_all(&batch);
            let items = batch.into_iter().map(|t| t.item).collect();
            result
                .map(|()| (store, items))
                .map_err(|error| error.to_string())
        });
        tokio::spawn(async move {
            let result = work.await.unwrap_or_else(|panic| Err(panic.to_string()));
            // A controller that is gone has nobody to tell.
            let _ = controller.send_message(ControllerMessage::ItemsKept { job, result });
        });
    }

    /// A write has ended.
    pub fn kept(&mut self, store: TrajectoryStore, items: &[ItemId]) {
        self.folder = Folder::Open(Box::new(store));
        self.on_disk.extend(items.iter().cloned());
    }

    /// Number of trajectories that wait for their verdicts.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of trajectories left out.
    pub fn left_out(&self) -> u64 {
        self.tolerance.left_out()
    }

    /// Whether nothing waits, and what is left out is on disk.
    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.is_kept()
    }

    /// Whether all that waits or is left out is on disk, if there is a folder.
    pub fn is_kept(&self) -> bool {
        let mut items = self.waiting.keys().chain(self.left_out.keys());
        match &self.folder {
            Folder::None => true,
            Folder::Writing => false,
            Folder::Open(_) => items.all(|item| self.on_disk.contains(item)),
        }
    }

    /// Closes the folder; what is left out, with the reasons.
    pub fn close(&mut self) -> Vec<(ItemId, String)> {
        self.folder = Folder::None;
        let left_out = std::mem::take(&mut self.left_out).into_iter();
        left_out.map(|(item, left)| (item, left.reason)).collect()
    }
}

/// The trajectory with every verdict.
async fn judged(fleet: Fleet, trajectory: Arc<Trajectory>) -> Result<Trajectory, FleetError> {
    let steps = (0..trajectory.steps.len()).map(|index| {
        let context = StepContext::of(&trajectory, index);
        judged_step(&fleet, context)
    });
    let steps = futures::future::try_join_all(steps);
    let outcome = fleet.judge_outcome(&trajectory.question, trajectory.answer());
    let (verdicts, outcome) = futures::future::try_join(steps, outcome).await?;
    let mut trajectory = Arc::unwrap_or_clone(trajectory);
    for (step, verdict) in trajectory.steps.iter_mut().zip(verdicts) {
        step.verdicts.extend(verdict);
    }
    trajectory.outcome = Some(outcome);
    Ok(trajectory)
}

/// The verdict on a step; none where the judge knows too little of this question to have one. Such a
/// step counts in no process score, and no filter on steps keeps its trajectory.
async fn judged_step(fleet: &Fleet, context: StepContext) -> Result<Option<Verdict>, FleetError> {
    match fleet.judge_step(context).await {
        Ok(verdict) => Ok(Some(verdict)),
        Err(FleetError::Judge(JudgeError::NoReference { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}
