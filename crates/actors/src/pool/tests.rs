use super::*;
use crate::vitals::{Infirmary, Sick};
use proto::Role;
use ractor::{Actor, ActorProcessingErr};
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

type Answer = Result<u32, String>;

struct Question(RpcReplyPort<Answer>);

/// What an actor answers; nothing: never.
#[derive(Clone)]
enum Does {
    Answers(Answer),
    Hangs,
}

/// Ports that are never answered.
struct State {
    does: Does,
    kept: Vec<RpcReplyPort<Answer>>,
    asked: Arc<AtomicU32>,
}

struct Worker;

#[ractor::async_trait]
impl Actor for Worker {
    type Msg = Question;
    type State = State;
    type Arguments = (Does, Arc<AtomicU32>);

    async fn pre_start(
        &self,
        _: ActorRef<Question>,
        (does, asked): Self::Arguments,
    ) -> Result<State, ActorProcessingErr> {
        let kept = Vec::new();
        Ok(State { does, kept, asked })
    }

    async fn handle(
        &self,
        _: ActorRef<Question>,
        Question(port): Question,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        state.asked.fetch_add(1, Ordering::Relaxed);
        match state.does.clone() {
            Does::Answers(answer) => drop(port.send(answer)),
            Does::Hangs => state.kept.push(port),
        }
        Ok(())
    }
}

const HOUR: Duration = Duration::from_secs(3600);

struct World {
    pool: Pool<Question>,
    sick: Arc<Mutex<Vec<Sick>>>,
}

impl World {
    fn new(role: Role) -> Self {
        let sick = Arc::new(Mutex::new(Vec::new()));
        let told = sick.clone();
        let infirmary: Infirmary = Box::new(move |one| told.lock().unwrap().push(one));
        let vitals = Vitals::new(role, 3, HOUR, infirmary);
        let pool = Pool::new("worker", 3, true, vitals);
        Self { pool, sick }
    }

    /// Takes in the worker of a node; how often it is asked.
    async fn add(&self, number: u32, does: Does) -> Arc<AtomicU32> {
        let asked = Arc::new(AtomicU32::new(0));
        let spawned = Actor::spawn(None, Worker, (does, asked.clone())).await;
        let who = node(number);
        let is_on_trial = self.pool.vitals.admit(&who).await;
        self.pool.insert(spawned.unwrap().0, who, is_on_trial);
        asked
    }

    async fn ask(&self, asks_others: bool) -> Result<Answer, CallError> {
        self.pool.call(Question, HOUR, word, asks_others).await
    }

    fn is_here(&self, number: u32) -> bool {
        self.pool.everybody().contains(&node(number))
    }
}

fn node(number: u32) -> Who {
    Who::Node(format!("n{number}").parse().unwrap())
}

fn word(answer: &Answer) -> Word {
    match answer {
        Ok(_) => Word::Well,
        Err(reason) => Word::Sick(reason.clone()),
    }
}

fn refuses() -> Does {
    Does::Answers(Err("no".to_owned()))
}

/// A judge or a tool that refuses at once is always idle: it must not get all calls.
#[tokio::test(start_paused = true)]
async fn ac_6_a_node_that_refuses_while_another_works_is_left_out() {
    let world = World::new(Role::Judge);
    let bad = world.add(0, refuses()).await;
    let good = world.add(1, Does::Answers(Ok(7))).await;
    let mut failures = 0;
    for _ in 0..100 {
        failures += u32::from(world.ask(false).await.unwrap().is_err());
    }
    assert!((3..=4).contains(&failures), "{failures}");
    assert_eq!(bad.load(Ordering::Relaxed), failures);
    assert_eq!(good.load(Ordering::Relaxed), 100 - failures);
    let sick = world.sick.lock().unwrap().clone();
    assert_eq!(sick.len(), 1);
    assert_eq!((&sick[0].who, sick[0].reason.as_str()), (&node(0), "no"));
    assert!(!world.is_here(0));
}

/// What all of them depend on is away: that is no worker's fault.
#[tokio::test(start_paused = true)]
async fn ac_6_what_all_fail_at_leaves_nobody_out() {
    let world = World::new(Role::Judge);
    world.add(0, refuses()).await;
    world.add(1, refuses()).await;
    for _ in 0..50 {
        assert!(world.ask(false).await.unwrap().is_err());
    }
    assert!(world.is_here(0) && world.is_here(1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_one_node_fails_at_is_made_at_another_where_that_is_wanted() {
    let world = World::new(Role::Tool);
    world.add(0, refuses()).await;
    world.add(1, Does::Answers(Ok(7))).await;
    for _ in 0..20 {
        assert_eq!(world.ask(true).await, Ok(Ok(7)));
    }
    let alone = World::new(Role::Tool);
    alone.add(0, refuses()).await;
    assert!(alone.ask(true).await.unwrap().is_err(), "there is no other");
}

#[tokio::test(start_paused = true)]
async fn ac_6_who_gives_no_answer_in_time_is_left_out_and_comes_back_for_a_trial() {
    let world = World::new(Role::Sampler);
    world.add(0, Does::Hangs).await;
    let id = world.pool.ids()[0];
    // The limit shrinks while the call is under way.
    let began = Instant::now();
    let limit = || match began.elapsed() < Duration::from_secs(60) {
        true => HOUR,
        false => Duration::from_secs(100),
    };
    let asked = world.pool.call_on(id, Question, limit, word).await;
    assert!(matches!(asked, Err(CallError::TimedOut { .. })));
    let took = began.elapsed().as_secs();
    assert!((100..=102).contains(&took), "{took} s");
    assert!(!world.is_here(0) && world.pool.was_put_out(id));
    // Its engine is opened again, and works. It comes back after the pause.
    let before = Instant::now();
    world.add(0, Does::Answers(Ok(7))).await;
    assert!(before.elapsed() >= Duration::from_secs(9));
    let id = world.pool.ids()[0];
    assert!(world.pool.is_on_trial(id));
    assert_eq!(world.ask(false).await, Ok(Ok(7)));
    assert!(!world.pool.is_on_trial(id));
}

#[tokio::test(start_paused = true)]
async fn a_wait_without_a_member_that_works_ends_with_the_patience() {
    let world = World::new(Role::Sampler);
    let began = Instant::now();
    let Err(CallError::Away { waited, reason, .. }) = world.pool.wait().await else {
        panic!("nobody comes");
    };
    assert_eq!(
        (began.elapsed(), waited, reason.as_str()),
        (HOUR, HOUR, "none came")
    );
    // Trials that fail do not begin it anew; one that works does.
    let world = World::new(Role::Sampler);
    let began = Instant::now();
    world.add(0, refuses()).await;
    let ended = loop {
        let asked = async {
            world.pool.wait().await?;
            world.ask(false).await
        };
        match asked.await {
            Err(error) => break error,
            Ok(_) if !world.is_here(0) => match world.pool.look() {
                Err(error) => break error,
                Ok(_) => drop(world.add(0, refuses()).await),
            },
            Ok(_) => {}
        }
    };
    let CallError::Away { reason, .. } = &ended else {
        panic!("{ended}");
    };
    assert!(reason.contains("n0: no"), "{reason}");
    assert!(ended.to_string().contains("actors.patience"), "{ended}");
    let took = began.elapsed();
    assert!((HOUR..2 * HOUR).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn of_two_that_stand_for_the_same_node_the_newer_stays() {
    let world = World::new(Role::Sampler);
    let asked = Arc::new(AtomicU32::new(0));
    let spawn = |n| Actor::spawn(None, Worker, (Does::Answers(Ok(n)), asked.clone()));
    let (older, newer) = (spawn(1).await.unwrap().0, spawn(2).await.unwrap().0);
    world.pool.insert(newer, node(0), false);
    world.pool.insert(older, node(0), false);
    assert_eq!(world.ask(false).await, Ok(Ok(2)));
    assert_eq!(world.pool.ids().len(), 1);
}
