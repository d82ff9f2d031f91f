//! The one who looks.

use super::pairs;
use super::survey::{Node, Pair, Survey};
use super::words::{FACTS, Facts, LISTEN, PULL, PULL_LIMIT, Target, Way, Zeros};
use crate::cluster::{Listening, Sockets, credentials, listenable};
use crate::console;
use crate::launch;
use crate::usage::UsageError;
use actors::Stop;
use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use proto::{Identity, Role, codec};
use serde::de::DeserializeOwned;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use transport::{CallError, Connection, Handler, Lane, Limits, Link, Request, bulk};

/// The last word to a node.
pub const DONE: &str = "everything is measured";

/// How long a node may take for what takes no time.
const PROMPT: Duration = Duration::from_secs(10);

/// How often it is said who is waited for.
const REMIND: Duration = Duration::from_secs(10);

/// Looks at the hosts of a file, where nodes are started over ssh.
///
/// # Errors
/// When the file is wrong, or this machine cannot listen.
pub async fn over_ssh(hosts: &Path, wait: u64) -> Result<Survey> {
    let hosts = launch::Hosts::read(hosts)?;
    hosts.certify()?;
    let (told, ended) = mpsc::unbounded_channel();
    let close = Stop::default();
    let mut starts = tokio::task::JoinSet::new();
    for start in hosts.doctors()? {
        let (told, close) = (told.clone(), close.clone());
        starts.spawn(async move {
            let said = match start.run(&close).await {
                Ok(status) if status.success() => return,
                Ok(status) => format!("could not be started: {status}; see what it said above"),
                Err(error) => format!("could not be started: {error:#}"),
            };
            // Nobody waits any more once all are there.
            let _ = told.send((start.name.to_string(), said));
        });
    }
    drop(told);
    let listen = hosts.listen();
    let certs = hosts.controller_certs();
    let lead = Lead::open(&listen, &certs, wait)?;
    let survey = lead.survey(hosts.names(), hosts.names().len(), ended).await;
    // They end by themselves once they are told; those that nobody spoke to do so now.
    close.ask();
    let rest = async { while starts.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(PROMPT, rest).await;
    survey
}

/// Waits for nodes that something else starts, and looks at them.
///
/// # Errors
/// When this machine cannot listen.
pub async fn listening(listen: &str, certs: &Path, nodes: usize, wait: u64) -> Result<Survey> {
    let lead = Lead::open(listen, certs, wait)?;
    let (_never, ended) = mpsc::unbounded_channel();
    lead.survey(Vec::new(), nodes, ended).await
}

struct Lead {
    listening: Listening,
    wait: Duration,
    _sockets: Sockets,
}

/// A node that came.
struct Visitor {
    link: Link,
    identity: Identity,
    /// Where it is, as seen from here.
    address: IpAddr,
}

impl Lead {
    fn open(listen: &str, certs: &Path, wait: u64) -> Result<Self> {
        let wrong = |error| UsageError::new(format!("{listen:?}: {error}"));
        let mut found = listen.to_socket_addrs().map_err(wrong)?;
        let address = found.next().context("there is no address to listen on")?;
        let address = listenable(address);
        let credentials = credentials(certs, Role::Controller)?;
        let sockets = Sockets::new()?;
        let listening = Listening::on(&sockets.handles(), address, credentials)?;
        let at = listening.address()?;
        console::remark(format_args!(
            "Listening at UDP {at} and port {}.",
            listening.data_port
        ));
        Ok(Self {
            listening,
            wait: Duration::from_secs(wait),
            _sockets: sockets,
        })
    }

    /// Looks at `count` nodes; those that `ended` names are not waited for.
    async fn survey(
        &self,
        names: Vec<String>,
        count: usize,
        ended: mpsc::UnboundedReceiver<(String, String)>,
    ) -> Result<Survey> {
        ensure!(count > 0, UsageError::new("there is no node to wait for"));
        let mut survey = Survey::default();
        let mut come = self.gather(&names, count, ended, &mut survey).await;
        come.sort_by(|a, b| a.identity.name.cmp(&b.identity.name));
        let mut visitors = Vec::new();
        for visitor in come {
            match self.look_at(&visitor).await {
                Ok(node) => {
                    survey.nodes.push(node);
                    visitors.push(visitor);
                }
                Err(error) => survey.missing.push((
                    visitor.identity.name.to_string(),
                    format!("it came, and was lost: {error:#}"),
                )),
            }
        }
        survey.pairs = self.pairs(&visitors).await;
        for visitor in &visitors {
            visitor.link.close(DONE);
        }
        self.listening.close(DONE).await;
        Ok(survey)
    }

    async fn gather(
        &self,
        names: &[String],
        count: usize,
        mut ended: mpsc::UnboundedReceiver<(String, String)>,
        survey: &mut Survey,
    ) -> Vec<Visitor> {
        let (sender, mut arrivals) = mpsc::unbounded_channel();
        self.listening.hand_to(move |connection| {
            // Nobody takes it once everything is measured.
            let _ = sender.send(connection);
        });
        let (entering, mut entered) = mpsc::unbounded_channel();
        let mut visitors: Vec<Visitor> = Vec::new();
        let end = Instant::now() + self.wait;
        let mut are_started = true;
        while visitors.len() + survey.missing.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            tokio::select! {
                Some(connection) = arrivals.recv() => match connection.lane() {
                    Lane::Bulk => drop(tokio::spawn(bulk::serve(connection, Arc::new(Zeros)))),
                    // In a task of its own: one that says nothing holds no other up.
                    _ => drop(tokio::spawn(enter(connection, entering.clone()))),
                },
                Some(visitor) = entered.recv() => {
                    // A probe that was started again takes the place of the one before.
                    visitors.retain(|v: &Visitor| v.identity.name != visitor.identity.name);
                    visitors.push(visitor);
                }
                gone = ended.recv(), if are_started => match gone {
                    Some(gone) => survey.missing.push(gone),
                    None => are_started = false,
                },
                () = tokio::time::sleep(left.min(REMIND)) => {
                    let come = visitors.len();
                    console::remark(format_args!("{come} of {count} nodes have come."));
                }
            }
        }
        // Bulk connections come while the others are measured.
        tokio::spawn(async move {
            while let Some(connection) = arrivals.recv().await {
                tokio::spawn(bulk::serve(connection, Arc::new(Zeros)));
            }
        });
        let has_come = |name: &String| visitors.iter().any(|v| v.identity.name.as_str() == name);
        let is_known = |name: &String| survey.missing.iter().any(|(known, _)| known == name);
        let silent = |who: String| {
            let why = format!(
                "nothing came within {} s: does UDP pass to port {} of this machine?",
                self.wait.as_secs(),
                self.listening.address().map_or(0, |at| at.port())
            );
            (who, why)
        };
        let absent = names.iter().filter(|&n| !has_come(n) && !is_known(n));
        let mut absent: Vec<String> = absent.cloned().collect();
        let missing = count.saturating_sub(visitors.len() + survey.missing.len());
        if names.is_empty() && missing > 0 {
            absent.push(format!("{missing} of {count} nodes"));
        }
        survey.missing.extend(absent.into_iter().map(silent));
        visitors
    }

    async fn look_at(&self, visitor: &Visitor) -> Result<Node> {
        let asked = (SystemTime::now(), Instant::now());
        let facts: Facts = ask(&visitor.link, FACTS, &[], PROMPT).await?;
        let took_ms = asked.1.elapsed().as_secs_f64() * 1000.0;
        let sent_ms = asked.0.duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0;
        let target = Target::Lead(self.listening.data_port);
        Ok(Node {
            name: visitor.identity.name.clone(),
            roles: visitor.identity.roles.clone(),
            clock_ms: facts.clock_ms as f64 - (sent_ms + took_ms / 2.0),
            clock_error_ms: took_ms / 2.0,
            facts,
            from_lead: pull(visitor, &target).await,
        })
    }

    async fn pairs(&self, visitors: &[Visitor]) -> Vec<Pair> {
        let mut ports: Vec<Result<u16, String>> = Vec::new();
        for visitor in visitors {
            let port = ask(&visitor.link, LISTEN, &[], PROMPT).await;
            ports.push(port.map_err(|error| format!("{error:#}")));
        }
        let mut all = Vec::new();
        for round in pairs::rounds(visitors.len()) {
            let measured = round.into_iter().map(|(from, to)| {
                let (giver, taker) = (&visitors[from], &visitors[to]);
                let port = ports[from].clone();
                async move {
                    let learner = |v: &Visitor| v.identity.roles.contains(&Role::Learner);
                    Pair {
                        from: giver.identity.name.clone(),
                        to: taker.identity.name.clone(),
                        is_needed: learner(giver) && learner(taker),
                        way: between(giver, taker, port).await,
                    }
                }
            });
            all.extend(futures::future::join_all(measured).await);
        }
        all
    }
}

async fn between(
    giver: &Visitor,
    taker: &Visitor,
    port: Result<u16, String>,
) -> Result<Way, String> {
    let role = giver.identity.roles.first().copied();
    let target = Target::Node {
        address: SocketAddr::new(giver.address, port?),
        name: giver.identity.name.clone(),
        role: role.ok_or("its certificate allows no role")?,
    };
    pull(taker, &target).await
}

async fn pull(visitor: &Visitor, target: &Target) -> Result<Way, String> {
    let body = codec::encode(target).map_err(|error| error.to_string())?;
    let way = ask::<Result<Way, String>>(&visitor.link, PULL, &body, 3 * PULL_LIMIT).await;
    way.map_err(|error| format!("{error:#}")).flatten()
}

async fn ask<T: DeserializeOwned>(
    link: &Link,
    method: u8,
    body: &[u8],
    limit: Duration,
) -> Result<T> {
    let answer = link.call(method, body, limit).await;
    let answer = answer.map_err(|error: CallError| anyhow::anyhow!("{error}"))?;
    Ok(codec::decode(&answer)?)
}

/// Nothing is asked of the one who leads.
struct Silent;

#[async_trait]
impl Handler for Silent {
    async fn request(&self, _: Request) -> Result<Bytes, String> {
        Err("nothing is answered here: `swirl doctor` listens, and no run".to_owned())
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

async fn enter(connection: Arc<dyn Connection>, entering: mpsc::UnboundedSender<Visitor>) {
    let (identity, remote) = (connection.peer().clone(), connection.path().remote);
    let opening = Link::open(connection, Arc::new(Silent), Limits::default());
    let opened = tokio::time::timeout(PROMPT, opening).await;
    if let (Ok(Ok(link)), Some(remote)) = (opened, remote) {
        // Nobody waits for it any more once all are there.
        let _ = entering.send(Visitor {
            link,
            identity,
            // A socket for both families sees IPv4 as a kind of IPv6, which nodes cannot dial.
            address: remote.ip().to_canonical(),
        });
    }
}
