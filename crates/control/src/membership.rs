//! Who belongs to the run: nodes join, are heard of, leave, and are lost.
//!
//! - **ME-1 (one process a name).** At most one process has a name. A process that was started anew
//!   takes the place of the one before it, at once; the old one is told to end, and refused if it
//!   joins again: two of them would replace each other for ever.
//! - **ME-2 (same run).** A node of another version or another configuration is refused, with both
//!   values.
//! - **ME-3 (heard of or lost).** A node that was not heard of for `lost_after_ms` is lost, and no
//!   earlier. Being heard of late does not bring it back: it joins again.
//! - **ME-4 (new numbers).** A number is never given twice: what is said of a lost node is never taken
//!   for its successor.
//! - **ME-5 (GPUs where they are asked for).** Where a run requires GPUs, a node that would sample or
//!   train on a CPU is refused.

use proto::{Identity, NodeName, Role};
use std::collections::{BTreeMap, BTreeSet};

/// How patient the machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MembershipConfig {
    /// A node that was not heard of for so long is lost, in milliseconds.
    pub lost_after_ms: u64,
    /// Whether nodes that sample or train must compute on a GPU.
    pub requires_gpu: bool,
}

/// Numbers one stay of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

/// What a node says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joining {
    /// Who it has proved to be.
    pub identity: Identity,
    /// Drawn anew by each process.
    pub boot: u64,
    /// The roles it takes on, of those in its certificate.
    pub roles: BTreeSet<Role>,
    /// The version of its program.
    pub version: String,
    /// The hash of the configuration it was started for; `None` takes any.
    pub config: Option<String>,
    /// Its device: `cpu` or `cuda:N`.
    pub device: String,
}

/// Why a node may not join. It stays outside until it is started otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// Another build: what the two say to each other may be laid out differently.
    #[error(
        "this node runs the build {theirs}, the run is led by {ours}: install the same build on both \
         (`swirl --version` says which one a program is)"
    )]
    Version {
        /// The controller's.
        ours: String,
        /// The node's.
        theirs: String,
    },
    /// Another configuration.
    #[error(
        "this node was started for the configuration {theirs}, the run is of {ours}: start it with \
         the run's configuration, or without one"
    )]
    Config {
        /// The controller's hash.
        ours: String,
        /// The node's hash.
        theirs: String,
    },
    /// It would compute on a CPU, and the run asks for GPUs.
    #[error(
        "{name} computes on {device}, and this run takes a sampler or learner on a GPU alone \
         (cluster.require_gpu): start it with --device cuda:0; `swirl doctor` there says what is wrong \
         with its GPU"
    )]
    NoGpu {
        /// The node.
        name: NodeName,
        /// Its device.
        device: String,
    },
    /// Another process took its name.
    #[error("another process of the name {name} has joined since: end one of the two")]
    Replaced {
        /// The node.
        name: NodeName,
    },
    /// It has no role to take on.
    #[error("a node takes on at least one role: --role sampler, tool, judge or learner")]
    NoRole,
    /// Its certificate does not allow it.
    #[error(
        "the certificate of {name} does not allow the role {role}: issue one with --role {role}"
    )]
    Role {
        /// The node.
        name: NodeName,
        /// What it asks for.
        role: Role,
    },
}

/// A node that has joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The number of its stay.
    pub id: NodeId,
    /// A stay that ends by it.
    pub replaced: Option<Replaced>,
}

/// A stay that ended because the name joined again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replaced {
    /// Its number.
    pub id: NodeId,
    /// Whether it is the same process, which has found back.
    pub is_same_process: bool,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub name: NodeName,
    /// The process.
    pub boot: u64,
    /// What it does.
    pub roles: BTreeSet<Role>,
    /// When it was last heard of.
    pub heard_ms: u64,
}

/// Keeps account of the members.
#[derive(Debug)]
pub struct Membership {
    config: MembershipConfig,
    version: String,
    hash: String,
    members: BTreeMap<NodeId, Member>,
    names: BTreeMap<NodeName, NodeId>,
    /// By name: the newest process, and those before it.
    processes: BTreeMap<NodeName, (u64, BTreeSet<u64>)>,
    next: u64,
}

impl Membership {
    /// A run of this version and this configuration's hash, without a member.
    pub fn new(config: MembershipConfig, version: String, hash: String) -> Self {
        Self {
            config,
            version,
            hash,
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            processes: BTreeMap::new(),
            next: 1,
        }
    }

    /// Takes a node in.
    ///
    /// # Errors
    /// When it does not fit the run (ME-2), its certificate not the roles, or it was replaced (ME-1).
    /// Nothing changes then.
    pub fn join(&mut self, joining: Joining, now_ms: u64) -> Result<Joined, JoinRefusal> {
        self.check(&joining)?;
        let id = NodeId(self.next);
        self.next += 1;
        let name = joining.identity.name;
        let processes = self.processes.entry(name.clone());
        let (newest, before) = processes.or_insert_with(|| (joining.boot, BTreeSet::new()));
        if *newest != joining.boot {
            before.insert(std::mem::replace(newest, joining.boot));
        }
        let replaced = self.names.insert(name.clone(), id);
        let replaced = replaced.and_then(|id| Some((id, self.members.remove(&id)?)));
        let member = Member {
            name,
            boot: joining.boot,
            roles: joining.roles,
            heard_ms: now_ms,
        };
        let replaced = replaced.map(|(id, old)| Replaced {
            id,
            is_same_process: old.boot == member.boot,
        });
        self.members.insert(id, member);
        Ok(Joined { id, replaced })
    }

    /// Looks at the version alone, before anything else is read of what a node says: another build may
    /// lay it out differently.
    ///
    /// # Errors
    /// When it is another version (ME-2).
    pub fn check_version(&self, theirs: &str) -> Result<(), JoinRefusal> {
        match theirs == self.version {
            true => Ok(()),
            false => Err(JoinRefusal::Version {
                ours: self.version.clone(),
                theirs: theirs.to_owned(),
            }),
        }
    }

    fn check(&self, joining: &Joining) -> Result<(), JoinRefusal> {
        self.check_version(&joining.version)?;
        if let Some(theirs) = joining.config.as_ref().filter(|hash| **hash != self.hash) {
            return Err(JoinRefusal::Config {
                ours: self.hash.clone(),
                theirs: theirs.clone(),
            });
        }
        let name = &joining.identity.name;
        let processes = self.processes.get(name);
        if processes.is_some_and(|(_, before)| before.contains(&joining.boot)) {
            let name = name.clone();
            return Err(JoinRefusal::Replaced { name });
        }
        if joining.roles.is_empty() {
            return Err(JoinRefusal::NoRole);
        }
        let computes = |role: &Role| matches!(role, Role::Sampler | Role::Learner);
        let has_gpu = joining.device.starts_with("cuda");
        if self.config.requires_gpu && !has_gpu && joining.roles.iter().any(computes) {
            return Err(JoinRefusal::NoGpu {
                name: joining.identity.name.clone(),
                device: joining.device.clone(),
            });
        }
        let allowed = &joining.identity.roles;
        let is_open = |role: &&Role| **role == Role::Controller || !allowed.contains(role);
        match joining.roles.iter().find(is_open) {
            Some(&role) => Err(JoinRefusal::Role {
                name: joining.identity.name.clone(),
                role,
            }),
            None => Ok(()),
        }
    }

    /// A node was heard of. False when it is no member (any more): it has to join again.
    pub fn heard(&mut self, id: NodeId, now_ms: u64) -> bool {
        match self.members.get_mut(&id) {
            Some(member) => {
                member.heard_ms = member.heard_ms.max(now_ms);
                true
            }
            None => false,
        }
    }

    /// A node left, or its connection broke.
    pub fn remove(&mut self, id: NodeId) -> Option<Member> {
        let member = self.members.remove(&id)?;
        self.names.remove(&member.name);
        Some(member)
    }

    /// Removes every node that was not heard of for too long.
    pub fn expire(&mut self, now_ms: u64) -> Vec<(NodeId, Member)> {
        let limit = self.config.lost_after_ms;
        let is_lost = |member: &Member| now_ms.saturating_sub(member.heard_ms) >= limit;
        let lost: Vec<NodeId> = self
            .members
            .iter()
            .filter(|(_, member)| is_lost(member))
            .map(|(id, _)| *id)
            .collect();
        let removed = lost.into_iter().map(|id| Some((id, self.remove(id)?)));
        removed.flatten().collect()
    }

    /// A member.
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Every member.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Member)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// How many members have a role.
    pub fn count(&self, role: Role) -> usize {
        let has = |member: &&Member| member.roles.contains(&role);
        self.members.values().filter(has).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn membership() -> Membership {
        let config = MembershipConfig {
            lost_after_ms: 2500,
            requires_gpu: false,
        };
        Membership::new(config, "0.1.0".into(), "abc".into())
    }

    fn joining(name: &str, boot: u64) -> Joining {
        Joining {
            identity: Identity {
                name: name.parse().unwrap(),
                roles: [Role::Sampler, Role::Judge].into(),
            },
            boot,
            roles: [Role::Sampler].into(),
            version: "0.1.0".into(),
            config: None,
            device: "cpu".into(),
        }
    }

    #[test]
    fn me_1_a_process_started_anew_takes_the_place_of_the_one_before() {
        let mut membership = membership();
        let first = membership.join(joining("a", 1), 0).unwrap();
        assert_eq!(first.replaced, None);
        for (boot, is_same_process) in [(1, true), (2, false)] {
            let before = membership.names[&"a".parse().unwrap()];
            let next = membership.join(joining("a", boot), 1).unwrap();
            let replaced = Replaced {
                id: before,
                is_same_process,
            };
            assert_eq!(next.replaced, Some(replaced));
            assert!(!membership.heard(before, 2));
            assert!(membership.heard(next.id, 2));
        }
        assert_eq!(membership.count(Role::Sampler), 1);
        let again = membership.join(joining("a", 1), 2);
        let name: NodeName = "a".parse().unwrap();
        assert_eq!(again, Err(JoinRefusal::Replaced { name: name.clone() }));
        // Not while the newer one is away either.
        membership.remove(membership.names[&name]);
        assert!(membership.join(joining("a", 1), 3).is_err());
        assert!(membership.join(joining("a", 2), 3).is_ok());
    }

    #[test]
    fn me_2_another_version_or_configuration_is_refused_with_both_values() {
        type Change = fn(&mut Joining);
        let cases: [(Change, &[&str]); 6] = [
            (|j| j.version = "0.2.0".into(), &["0.2.0", "0.1.0"]),
            (|j| j.config = Some("xyz".into()), &["xyz", "abc"]),
            (|j| j.roles.clear(), &["--role"]),
            (|j| j.roles = [Role::Learner].into(), &["a", "learner"]),
            (
                |j| {
                    j.roles = [Role::Controller].into();
                    j.identity.roles = j.roles.clone();
                },
                &["controller"],
            ),
            (|j| j.config = Some("abc".into()), &[]),
        ];
        for (change, words) in cases {
            let mut membership = membership();
            let mut joining = joining("a", 1);
            change(&mut joining);
            match membership.join(joining, 0) {
                Ok(_) => assert!(words.is_empty()),
                Err(refusal) => {
                    let text = refusal.to_string();
                    assert!(words.iter().all(|word| text.contains(word)), "{text}");
                    assert_eq!(membership.members().count(), 0);
                }
            }
        }
    }

    #[test]
    fn me_5_where_gpus_are_required_whoever_computes_has_one() {
        // Required; roles; device; taken.
        let cases: [(bool, &[Role], &str, bool); 7] = [
            (false, &[Role::Sampler], "cpu", true),
            (true, &[Role::Sampler], "cpu", false),
            (true, &[Role::Learner], "cpu", false),
            (true, &[Role::Judge, Role::Learner], "cpu", false),
            (true, &[Role::Sampler, Role::Learner], "cuda:3", true),
            (true, &[Role::Tool, Role::Judge], "cpu", true),
            (true, &[Role::Sampler], "", false),
        ];
        for (requires_gpu, roles, device, is_taken) in cases {
            let config = MembershipConfig {
                lost_after_ms: 2500,
                requires_gpu,
            };
            let mut membership = Membership::new(config, "0.1.0".into(), "abc".into());
            let mut joining = joining("a", 1);
            joining.roles = roles.iter().copied().collect();
            joining.identity.roles = joining.roles.clone();
            joining.device = device.to_owned();
            let joined = membership.join(joining, 0);
            assert_eq!(joined.is_ok(), is_taken, "{roles:?} on {device:?}");
            if let Err(refusal) = joined {
                let text = refusal.to_string();
                assert!(text.contains("cluster.require_gpu") && text.contains("--device"));
            }
        }
    }

    #[test]
    fn me_3_a_node_is_lost_when_it_was_not_heard_of_for_long_enough() {
        let mut membership = membership();
        let a = membership.join(joining("a", 1), 0).unwrap().id;
        let b = membership.join(joining("b", 1), 0).unwrap().id;
        assert!(membership.heard(a, 1000));
        // A message that was overtaken.
        assert!(membership.heard(a, 500));
        assert_eq!(membership.expire(2499), []);
        let lost: Vec<_> = membership.expire(3499).into_iter().map(|l| l.0).collect();
        assert_eq!(lost, [b]);
        assert!(!membership.heard(b, 3499));
        assert_eq!(membership.expire(3500).len(), 1);
        assert_eq!(membership.members().count(), 0);
    }

    proptest! {
        #[test]
        fn me_1_and_me_4_hold_whatever_happens(
            events in proptest::collection::vec((0..4u8, 0..3u8, 0..3u64, 0..900u64), 0..100),
        ) {
            let mut membership = membership();
            let (mut now, mut seen) = (0, BTreeSet::new());
            let (mut boots, mut replaced) = (BTreeMap::new(), BTreeSet::new());
            for (event, name, boot, wait) in events {
                now += wait;
                let name = format!("n{name}");
                let present = membership.names.get(&name.parse::<NodeName>().unwrap()).copied();
                match (event, present) {
                    (0, _) => match membership.join(joining(&name, boot), now) {
                        Ok(joined) => {
                            prop_assert!(seen.insert(joined.id), "ME-4");
                            prop_assert_eq!(joined.replaced.map(|r| r.id), present);
                            prop_assert!(!replaced.contains(&(name.clone(), boot)), "ME-1");
                            let older = boots.insert(name.clone(), boot).filter(|b| *b != boot);
                            replaced.extend(older.map(|older| (name.clone(), older)));
                        }
                        Err(_) => prop_assert!(replaced.contains(&(name, boot)), "ME-1"),
                    },
                    (1, Some(id)) => prop_assert!(membership.heard(id, now)),
                    (2, Some(id)) => prop_assert!(membership.remove(id).is_some()),
                    _ => {
                        for (_, lost) in membership.expire(now) {
                            prop_assert!(now - lost.heard_ms >= 2500, "ME-3: too early");
                        }
                        let late = |m: &Member| now - m.heard_ms >= 2500;
                        prop_assert!(!membership.members().any(|(_, m)| late(m)), "ME-3: too late");
                    }
                }
                let mut names: Vec<_> = membership.members().map(|(_, m)| &m.name).collect();
                names.sort();
                names.dedup();
                prop_assert_eq!(names.len(), membership.members().count(), "ME-1");
                prop_assert_eq!(names.len(), membership.names.len());
            }
        }
    }
}
