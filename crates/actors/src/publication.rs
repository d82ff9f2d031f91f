//! Weights to samplers.
//!
//! - **PU-1 (none is stale).** A sampler that does not serve the newest weights is not among those that
//!   are asked for actions: not when it joins, and not when it falls behind.
//! - **PU-2 (the slowest is not waited for).** Samplers of other nodes that take much longer than half
//!   of all (`control::publication`) follow by themselves, and come back when they serve what is newest
//!   then.
//! - **PU-3 (adapters after their base).** A snapshot of adapters alone goes to samplers that hold the
//!   weights they belong to; one that joins is given these first.
//! - **PU-4 (who refuses is left out).** A sampler that refuses weights, or does not take them in time, is
//!   left out as one that is sick: its engine is opened again, and then it is brought to the newest. The
//!   time follows what others took for as many bytes, and how long a call may take that it ends first.

use crate::fleet::{Fleet, FleetError};
use crate::newest::Serves;
use crate::pool::{CallError, Home, MemberId, Pool, Who, Word, within};
use crate::ports::EngineError;
use crate::workers::SamplerMessage;
use control::publication::Publication;
use proto::chunks::Pulled;
use proto::{WeightSnapshot, WeightVersion};
use ractor::ActorRef;
use ractor::rpc::CallResult;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// What became of the weights at one sampler.
type Served = Result<Result<Pulled, EngineError>, CallError>;

/// Deliveries under way.
type Deliveries = JoinSet<(MemberId, Served)>;

async fn deliver(
    samplers: Pool<SamplerMessage>,
    id: MemberId,
    weights: WeightSnapshot,
) -> (MemberId, Served) {
    let message = |port| SamplerMessage::Publish(weights.clone(), port);
    let (bytes, began) = (weights.bytes.len(), Instant::now());
    let limit = || samplers.vitals.delivery_limit(bytes, false);
    let served = samplers.call_on(id, message, limit, |_| Word::Nothing);
    let served = served.await;
    if let Ok(Ok(_)) = served {
        samplers.vitals.delivered(bytes, began.elapsed());
    }
    (id, served)
}

/// Samplers that are behind, by who they were in the pool.
type Behind = BTreeMap<MemberId, (ActorRef<SamplerMessage>, Who)>;

/// What a publication came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Published {
    /// Which weights.
    pub version: WeightVersion,
    /// Samplers that are asked for actions from now on.
    pub samplers: usize,
    /// Samplers that follow by themselves.
    pub behind: usize,
    /// Bytes of the snapshot.
    pub snapshot_bytes: u64,
    /// What it took to bring the weights to the others, all of them together.
    pub pulled: Pulled,
    /// How long it took.
    pub seconds: f64,
}

impl Fleet {
    /// Gives the samplers these weights; returns once most of them serve them, and there is one. Those
    /// that take much longer are asked for nothing until they do, as those that join later.
    ///
    /// # Errors
    /// When they are adapters of weights that were not published, or no sampler takes them for longer than
    /// the run has patience. Where nobody is ever left out: when a sampler refuses them.
    pub async fn publish(&self, weights: WeightSnapshot) -> Result<Published, FleetError> {
        let version = weights.manifest.version;
        let members = {
            let mut published = self.published.lock().await;
            if !published.put(weights.clone()) {
                return Err(EngineError(WITHOUT_BASE.to_owned()).into());
            }
            self.samplers.ids()
        };
        let began = Instant::now();
        let mut publication = Publication::new(members.len());
        let mut owed: BTreeSet<MemberId> = members.iter().copied().collect();
        let mut deliveries = Deliveries::new();
        for id in members {
            deliveries.spawn(deliver(self.samplers.clone(), id, weights.clone()));
        }
        let (mut failure, mut pulled) = (None, Pulled::default());
        while !owed.is_empty() {
            // Those of this process come and go with it.
            let is_here = |id: &MemberId| self.samplers.home(*id) == Some(Home::Here);
            let until = publication.until_ms().filter(|_| !owed.iter().any(is_here));
            let delivery = match until {
                Some(ms) => {
                    let until = began + Duration::from_millis(ms);
                    timeout_at(until, deliveries.join_next()).await
                }
                None => Ok(deliveries.join_next().await),
            };
            let Ok(Some(Ok((id, served)))) = delivery else {
                break;
            };
            owed.remove(&id);
            let after = began.elapsed().as_millis() as u64;
            match served {
                Ok(Ok(took)) => {
                    pulled.add(&took);
                    publication.served(after);
                }
                // The weights wait for the next one to come.
                Err(CallError::Gone { .. }) => publication.lost(after),
                Ok(Err(error)) => {
                    self.refused(id, error.into(), &mut failure);
                    publication.lost(after);
                }
                Err(error) => {
                    self.refused(id, error.into(), &mut failure);
                    publication.lost(after);
                }
            }
        }
        let behind: Behind = owed
            .into_iter()
            .filter(|id| self.samplers.home(*id) == Some(Home::Elsewhere))
            .filter_map(|id| Some((id, self.samplers.take(id)?)))
            .collect();
        let left = behind.len();
        if left > 0 {
            let samplers = left;
            tracing::info!(samplers, %version, "Samplers are behind: they follow by themselves.");
            let serves = Serves::of(&weights);
            tokio::spawn(follow(self.clone(), behind, deliveries, serves));
        }
        match failure {
            Some(error) => return Err(error),
            None => self.samplers.wait().await?,
        }
        let published = Published {
            version,
            samplers: self.sampler_count(),
            behind: left,
            snapshot_bytes: weights.bytes.len() as u64,
            pulled,
            seconds: began.elapsed().as_secs_f64(),
        };
        tracing::debug!(%version, ?published, "Weights are published.");
        Ok(published)
    }

    /// PU-4.
    fn refused(&self, id: MemberId, error: FleetError, failure: &mut Option<FleetError>) {
        match self.samplers.vitals.is_on() {
            true => self.samplers.broke(id, error.to_string()),
            false => drop(failure.get_or_insert(error)),
        }
    }

    /// Leaves a sampler that is no member out until it is well.
    fn leave_out(&self, who: Who, sampler: &ActorRef<SamplerMessage>, reason: String) {
        sampler.stop(None);
        match self.samplers.vitals.broke(&who) {
            Some(sentence) => self.samplers.vitals.commit(who, sentence, reason),
            None => tracing::warn!(
                worker = %who, reason, "A sampler cannot serve the present weights, and is left out."
            ),
        }
    }
}

const WITHOUT_BASE: &str = "adapters were to be published without the weights they belong to";

/// Takes samplers that were left behind in again, once they have what they were sent.
async fn follow(fleet: Fleet, mut behind: Behind, mut deliveries: Deliveries, serves: Serves) {
    while let Some(Ok((id, served))) = deliveries.join_next().await {
        let Some((sampler, who)) = behind.remove(&id) else {
            continue;
        };
        match served {
            // Its engine is being opened again: what this one was sent is lost with it.
            _ if fleet.samplers.vitals.is_out(&who) => sampler.stop(None),
            Ok(Ok(_)) => {
                let catching_up = catch_up(fleet.clone(), sampler, who, Some(serves));
                drop(tokio::spawn(catching_up));
            }
            Ok(Err(error)) => fleet.leave_out(who, &sampler, error.to_string()),
            Err(CallError::Gone { .. }) => {}
            Err(error) => fleet.leave_out(who, &sampler, error.to_string()),
        }
    }
}

/// Takes a sampler in once its quarantine is over, if it is in one, and it serves the newest weights;
/// `serves` is what it has.
pub(crate) async fn catch_up(
    fleet: Fleet,
    sampler: ActorRef<SamplerMessage>,
    who: Who,
    mut serves: Option<Serves>,
) {
    let is_on_trial = fleet.samplers.vitals.admit(&who).await;
    loop {
        let weights = {
            let published = fleet.published.lock().await;
            let Some(next) = published.next(serves) else {
                match fleet.samplers.vitals.is_out(&who) {
                    true => sampler.stop(None),
                    false => fleet.samplers.insert(sampler, who, is_on_trial),
                }
                return;
            };
            next.clone()
        };
        // What is published meanwhile is not waited for by anybody, and comes next.
        let is_first = serves.replace(Serves::of(&weights)).is_none();
        let bytes = weights.bytes.len();
        let publish = |port| SamplerMessage::Publish(weights, port);
        let limit = || fleet.samplers.vitals.delivery_limit(bytes, is_first);
        let error = match within(sampler.call(publish, None), limit).await {
            Ok(Ok(CallResult::Success(Ok(_)))) => continue,
            Ok(Ok(CallResult::Success(Err(error)))) => error.to_string(),
            // It was lost with its node, and comes back with it.
            Ok(_) if who.home() == Home::Elsewhere => return,
            Ok(_) => "its actor ended".to_owned(),
            Err(limit) => {
                let role = "sampler";
                CallError::TimedOut { role, limit }.to_string()
            }
        };
        return fleet.leave_out(who, &sampler, error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::RestartCounts;
    use crate::newest::tests::{adapted, weights};
    use crate::patience::Patience;
    use crate::stopping::{Saving, Stop};
    use crate::vitals::{Sick, Vitals};
    use proto::Role;
    use ractor::{Actor, ActorProcessingErr};
    use std::sync::atomic::AtomicU32;
    use std::sync::{Arc, Mutex};

    /// A sampler whose weights take so long to arrive, one after the other; the last time is for all
    /// others.
    struct Slow(Mutex<Vec<u64>>);

    impl Slow {
        fn of(seconds: impl IntoIterator<Item = u64>) -> Self {
            Self(Mutex::new(seconds.into_iter().collect()))
        }

        fn next(&self) -> Duration {
            let mut left = self.0.lock().unwrap();
            let seconds = if left.len() > 1 {
                left.remove(0)
            } else {
                left[0]
            };
            Duration::from_secs(seconds)
        }
    }

    /// Versions in the order in which they were served.
    type Log = Arc<Mutex<Vec<u64>>>;

    #[ractor::async_trait]
    impl Actor for Slow {
        type Msg = SamplerMessage;
        type State = Log;
        type Arguments = Log;

        async fn pre_start(
            &self,
            _: ActorRef<SamplerMessage>,
            log: Log,
        ) -> Result<Log, ActorProcessingErr> {
            Ok(log)
        }

        async fn handle(
            &self,
            _: ActorRef<SamplerMessage>,
            message: SamplerMessage,
            log: &mut Log,
        ) -> Result<(), ActorProcessingErr> {
            if let SamplerMessage::Publish(weights, port) = message {
                tokio::time::sleep(self.next()).await;
                log.lock().unwrap().push(weights.manifest.version.0);
                let _ = port.send(Ok(Pulled::default()));
            }
            Ok(())
        }
    }

    fn fleet() -> Fleet {
        fleet_of(Vitals::off(Role::Sampler))
    }

    fn fleet_of(samplers: Vitals) -> Fleet {
        Fleet {
            samplers: Pool::new("sampler", 1, true, samplers),
            tools: Pool::new("tool executor", 1, false, Vitals::off(Role::Tool)),
            judges: Pool::new("judge", 1, false, Vitals::off(Role::Judge)),
            judge_patience: Arc::new(Patience::new("judge", Duration::ZERO)),
            learner: Pool::new("learner", 1, false, Vitals::off(Role::Learner)),
            restarts: Arc::new(RestartCounts::default()),
            published: Arc::default(),
            epoch: Arc::new(AtomicU32::new(0)),
            group: None,
            stop: Stop::default(),
            saving: Saving::default(),
            trainers: None,
        }
    }

    fn node(number: usize) -> Who {
        Who::Node(format!("n{number}").parse().unwrap())
    }

    /// PU-3: one that joins gets the base and then the adapters; the others were sent these alone.
    #[tokio::test(start_paused = true)]
    async fn pu_3_a_sampler_that_joins_gets_the_base_first() {
        let fleet = fleet();
        let (early, log) = sampler(1).await;
        fleet.samplers.insert(early, node(0), false);
        fleet.publish(adapted(1, 7, true)).await.unwrap();
        fleet.publish(adapted(2, 7, false)).await.unwrap();
        let (late, late_log) = sampler(1).await;
        tokio::spawn(catch_up(fleet.clone(), late, node(1), None));
        tokio::time::sleep(Duration::from_secs(5)).await;
        fleet.publish(adapted(3, 7, false)).await.unwrap();
        assert_eq!(*log.lock().unwrap(), [1, 2, 3]);
        assert_eq!(*late_log.lock().unwrap(), [1, 2, 3]);
        assert!(fleet.publish(adapted(4, 8, false)).await.is_err());
    }

    async fn sampler(seconds: u64) -> (ActorRef<SamplerMessage>, Log) {
        let log = Log::default();
        let slow = Slow::of([seconds]);
        let (actor, _) = Actor::spawn(None, slow, log.clone()).await.unwrap();
        (actor, log)
    }

    /// Samplers that were quarantined, and after how many seconds.
    type Quarantined = Arc<Mutex<Vec<(Who, u64)>>>;

    fn fleet_with_quarantine() -> (Fleet, Quarantined) {
        let (sick, began) = (Quarantined::default(), Instant::now());
        let told = sick.clone();
        let infirmary = move |found: Sick| {
            let after = began.elapsed().as_secs();
            told.lock().unwrap().push((found.who, after));
        };
        let vitals = Vitals::new(Role::Sampler, 3, Duration::ZERO, Box::new(infirmary));
        (fleet_of(vitals), sick)
    }

    /// PU-4. Its limit follows what it took before, and what others take.
    #[tokio::test(start_paused = true)]
    async fn a_sampler_that_hangs_over_new_weights_is_found_in_time() {
        for others in [0, 2] {
            let (fleet, sick) = fleet_with_quarantine();
            let hanging = Slow::of([1, 100_000]);
            let (hanging, _) = Actor::spawn(None, hanging, Log::default()).await.unwrap();
            fleet.samplers.insert(hanging, node(0), false);
            for number in 0..others {
                let (actor, _) = sampler(2).await;
                fleet.samplers.insert(actor, node(1 + number), false);
            }
            fleet.publish(weights(1)).await.unwrap();
            drop(tokio::spawn(async move {
                fleet.publish(weights(2)).await.map(drop)
            }));
            tokio::time::sleep(Duration::from_secs(300)).await;
            let sick = sick.lock().unwrap().clone();
            assert!(
                matches!(&sick[..], [(who, 120..180)] if *who == node(0)),
                "{sick:?}"
            );
        }
    }

    /// PU-4: one that is slow may be at a copy of a request, for which nobody waits.
    #[tokio::test(start_paused = true)]
    async fn a_sampler_that_first_ends_a_long_call_is_not_taken_for_sick() {
        let (fleet, sick) = fleet_with_quarantine();
        let slow = Slow::of([1, 600, 1]);
        let (slow, _) = Actor::spawn(None, slow, Log::default()).await.unwrap();
        let (quick, _) = sampler(1).await;
        fleet.samplers.insert(slow, node(0), false);
        fleet.samplers.insert(quick, node(1), false);
        fleet.publish(weights(1)).await.unwrap();
        // 64 tokens of a call may take it 640 s.
        fleet.samplers.vitals.asks(64);
        let took = Duration::from_secs(100);
        fleet.samplers.vitals.took(&node(0), 10, took);
        fleet.publish(weights(2)).await.unwrap();
        assert_eq!(fleet.sampler_count(), 1);
        tokio::time::sleep(Duration::from_secs(700)).await;
        assert_eq!(fleet.sampler_count(), 2);
        assert!(sick.lock().unwrap().is_empty());
    }

    /// PU-4: the first weights come whole, and maybe over a path that is slower.
    #[tokio::test(start_paused = true)]
    async fn a_sampler_that_joins_has_more_time_and_not_without_end() {
        let (fleet, sick) = fleet_with_quarantine();
        let (quick, _) = sampler(1).await;
        fleet.samplers.insert(quick, node(0), false);
        fleet.publish(weights(1)).await.unwrap();
        let (slow, _) = sampler(500).await;
        let (hanging, _) = sampler(100_000).await;
        tokio::spawn(catch_up(fleet.clone(), slow, node(1), None));
        tokio::spawn(catch_up(fleet.clone(), hanging, node(2), None));
        tokio::time::sleep(Duration::from_secs(1000)).await;
        assert_eq!(fleet.sampler_count(), 2);
        let sick = sick.lock().unwrap().clone();
        assert!(
            matches!(&sick[..], [(who, 600..800)] if *who == node(2)),
            "{sick:?}"
        );
    }

    /// PU-2: the others are not held up. PU-1: it comes back with the newest weights, and it alone
    /// decides how often it is sent some.
    #[tokio::test(start_paused = true)]
    async fn a_sampler_that_is_slow_is_left_out_until_it_has_caught_up() {
        let fleet = fleet();
        let mut logs = Vec::new();
        for seconds in [1, 1, 60] {
            let (actor, log) = sampler(seconds).await;
            fleet.samplers.insert(actor, node(logs.len()), false);
            logs.push(log);
        }
        let began = Instant::now();
        for version in 1..=20 {
            fleet.publish(weights(version)).await.unwrap();
            assert_eq!(fleet.sampler_count(), 2);
        }
        let took = began.elapsed();
        assert!(took < Duration::from_secs(25), "{took:?}");
        assert_eq!(*logs[0].lock().unwrap(), (1..=20).collect::<Vec<_>>());
        assert!(logs[2].lock().unwrap().is_empty());
        // It has the first after 60 s, and the newest after 60 more.
        tokio::time::sleep(Duration::from_secs(61)).await;
        assert_eq!(
            (fleet.sampler_count(), &*logs[2].lock().unwrap()),
            (2, &vec![1])
        );
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(*logs[2].lock().unwrap(), [1, 20]);
        assert_eq!(fleet.sampler_count(), 3);
    }

    /// One that joins does not keep a publication waiting either.
    #[tokio::test(start_paused = true)]
    async fn a_sampler_that_joins_holds_up_nobody() {
        let fleet = fleet();
        let (quick, _) = sampler(1).await;
        fleet.samplers.insert(quick, node(0), false);
        fleet.publish(weights(1)).await.unwrap();
        let (slow, log) = sampler(60).await;
        tokio::spawn(catch_up(fleet.clone(), slow, node(1), None));
        let began = Instant::now();
        fleet.publish(weights(2)).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(3));
        tokio::time::sleep(Duration::from_secs(130)).await;
        assert_eq!(fleet.sampler_count(), 2);
        let log = log.lock().unwrap();
        assert_eq!(log.last(), Some(&2));
    }

    /// Samplers of this process are waited for, however long.
    #[tokio::test(start_paused = true)]
    async fn samplers_of_this_process_are_waited_for() {
        let fleet = fleet();
        for (number, seconds) in [1, 60].into_iter().enumerate() {
            let (actor, _) = sampler(seconds).await;
            fleet
                .samplers
                .insert(actor, Who::Here(number as u32), false);
        }
        fleet.publish(weights(1)).await.unwrap();
        assert_eq!(fleet.sampler_count(), 2);
    }
}
