//! What was found of a cluster, and what that means.

use super::words::{Facts, Way};
use crate::doctor::finding::{Finding, Status};
use crate::doctor::machine::LEAST_DISK_BYTES;
use crate::engine::DeviceChoice;
use crate::machine_memory::gib;
use crate::version::VERSION;
use proto::{NodeName, Role};
use serde::Serialize;
use std::collections::BTreeSet;

/// Clocks further apart put log lines of a cluster in the wrong order.
const CLOCK_NOTE_MS: f64 = 1_000.0;

/// Clocks further apart find fresh certificates not yet valid.
const CLOCK_PROBLEM_MS: f64 = 60_000.0;

/// Certificates that end sooner may end within a run.
const CERTIFICATE_DAYS: i64 = 7;

/// Pairs below this share of the median are named.
const SLOW: f64 = 0.5;

/// The UDP payload of a path with the usual MTU of 1500.
const USUAL_PAYLOAD: u16 = 1_472;

/// Remedy of a GPU that is not found.
const NO_GPU: &str = "Run `swirl doctor` there; nvidia-smi says whether the driver works. To compute on \
                      the CPU, say so: device = \"cpu\".";

/// As many pairs are shown one by one.
const SHOWN_PAIRS: usize = 20;

/// A cluster as it was found.
#[derive(Debug, Default, Serialize)]
pub struct Survey {
    /// Nodes that came.
    pub nodes: Vec<Node>,
    /// Why others did not.
    pub missing: Vec<(String, String)>,
    /// The ways between nodes.
    pub pairs: Vec<Pair>,
}

/// A node that came.
#[derive(Debug, Serialize)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// What its certificate allows.
    pub roles: BTreeSet<Role>,
    /// What it has.
    pub facts: Facts,
    /// How far its clock is ahead of that of the one who leads, in milliseconds.
    pub clock_ms: f64,
    /// What the clock's figure may be wrong by: half of the call's time.
    pub clock_error_ms: f64,
    /// The way from the one who leads.
    pub from_lead: Result<Way, String>,
}

/// A way between two nodes.
#[derive(Debug, Serialize)]
pub struct Pair {
    /// Who gave.
    pub from: NodeName,
    /// Who pulled.
    pub to: NodeName,
    /// Whether both are learners, which send each other gradients.
    pub is_needed: bool,
    /// What was measured.
    pub way: Result<Way, String>,
}

impl Survey {
    /// What there is to say of it.
    pub fn findings(&self) -> Vec<Finding> {
        let missing = self
            .missing
            .iter()
            .map(|(who, why)| Finding::but(who.as_str(), Status::Problem, why.as_str(), ""));
        let mut findings: Vec<Finding> = missing.collect();
        findings.extend(self.nodes.iter().flat_map(Node::findings));
        findings.extend(self.ways());
        findings
    }

    fn ways(&self) -> Vec<Finding> {
        let good = self.pairs.iter().filter_map(|pair| pair.way.as_ref().ok());
        let mut rates: Vec<f64> = good.map(|way| way.bytes_per_second).collect();
        rates.sort_by(f64::total_cmp);
        let median = rates.get(rates.len() / 2).copied().unwrap_or(0.0);
        let all: Vec<Finding> = self.pairs.iter().map(|pair| pair.finding(median)).collect();
        if all.len() <= SHOWN_PAIRS {
            return all;
        }
        let (least, most) = (rates.first(), rates.last());
        let summary = format!(
            "{} of {} ways between nodes work: median {}, {} to {}",
            rates.len(),
            self.pairs.len(),
            rate(median),
            rate(least.copied().unwrap_or(0.0)),
            rate(most.copied().unwrap_or(0.0)),
        );
        let odd = all.into_iter().filter(|f| f.status != Status::Ok);
        std::iter::once(Finding::ok("network", summary))
            .chain(odd)
            .collect()
    }
}

impl Node {
    fn findings(&self) -> Vec<Finding> {
        let Facts {
            version,
            disk_bytes,
            memory_bytes,
            cores,
            gpus,
            device,
            nvidia,
            certificate_days,
            ..
        } = &self.facts;
        let name = self.name.as_str();
        let roles: Vec<&str> = self.roles.iter().map(|role| role.name()).collect();
        let disk = disk_bytes.map_or("an unknown part".to_owned(), gib);
        let has = format!(
            "{}: {cores} cores, {gpus} GPUs (device {device}), {} of memory and {disk} of disk free",
            roles.join(", "),
            gib(*memory_bytes)
        );
        let mut findings = vec![Finding::ok(name, has)];
        let mut add = |status, found: String, remedy: &str| {
            findings.push(Finding::but(name, status, found, remedy));
        };
        if version != VERSION {
            let found = format!("swirl {version}, and {VERSION} leads");
            let remedy = "Install the same build everywhere: a run takes no other.";
            add(Status::Problem, found, remedy);
        }
        let clock = (self.clock_ms.abs() - self.clock_error_ms).max(0.0);
        if clock > CLOCK_NOTE_MS {
            let status = match clock > CLOCK_PROBLEM_MS {
                true => Status::Problem,
                false => Status::Note,
            };
            let found = format!("its clock is {:+.1} s off", self.clock_ms / 1000.0);
            let remedy = "Run an NTP client: certificates have a time, and logs are compared.";
            add(status, found, remedy);
        }
        if disk_bytes.is_some_and(|free| free < LEAST_DISK_BYTES) {
            let remedy = "Models and checkpoints take several GiB: free some, or say --dir.";
            add(Status::Problem, format!("{disk} of disk is free"), remedy);
        }
        match (DeviceChoice::parse(device), nvidia) {
            (Some(DeviceChoice::Cuda(index)), _) if index >= *gpus => {
                let found = format!("it is to compute on {device}, and libtorch finds {gpus} GPUs");
                add(Status::Problem, found, NO_GPU);
            }
            (Some(DeviceChoice::Auto), Some(sign)) if *gpus == 0 => {
                let found = format!("{sign} is there, but libtorch finds no GPU: the CPU is taken");
                add(Status::Problem, found, NO_GPU);
            }
            _ => {}
        }
        if *certificate_days < CERTIFICATE_DAYS {
            let found = format!("its certificate ends in {certificate_days} days");
            add(Status::Note, found, "swirl certs renew makes a new one.");
        }
        match &self.from_lead {
            Ok(way) => findings.push(Finding::ok(format!("{name} from here"), way.text())),
            Err(error) => findings.push(Finding::but(
                format!("{name} from here"),
                Status::Problem,
                error.as_str(),
                "Let UDP through to this machine, to the port and the one after it.",
            )),
        }
        findings
    }
}

impl Pair {
    fn finding(&self, median: f64) -> Finding {
        let what = format!("{} from {}", self.to, self.from);
        match &self.way {
            Ok(way) if way.bytes_per_second < SLOW * median => Finding::but(
                what,
                Status::Note,
                way.text(),
                format!("Less than half of the median, {}.", rate(median)),
            ),
            Ok(way) => Finding::ok(what, way.text()),
            Err(error) if self.is_needed => Finding::but(
                what,
                Status::Problem,
                error.as_str(),
                "Learners send each other gradients: let UDP through between them.",
            ),
            Err(error) => Finding::but(
                what,
                Status::Note,
                error.as_str(),
                "Not needed: only learners send each other anything.",
            ),
        }
    }
}

impl Way {
    fn text(&self) -> String {
        let packets = match self.payload {
            payload if payload > USUAL_PAYLOAD => format!("packets of {payload} bytes"),
            payload => format!("packets of {payload} bytes, larger ones do not pass"),
        };
        let rate = rate(self.bytes_per_second);
        format!(
            "{rate}, {:.1} ms there and back, {packets}",
            self.round_trip_ms
        )
    }
}

fn rate(bytes_per_second: f64) -> String {
    match bytes_per_second {
        b if b >= 1e9 => format!("{:.1} GB/s", b / 1e9),
        b => format!("{:.0} MB/s", b / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(bytes_per_second: f64) -> Way {
        Way {
            bytes_per_second,
            round_trip_ms: 0.2,
            payload: 1452,
        }
    }

    fn node(change: impl Fn(&mut Node)) -> Vec<Finding> {
        let mut node = Node {
            name: "n-1".parse().unwrap(),
            roles: BTreeSet::from([Role::Sampler]),
            facts: Facts {
                version: VERSION.into(),
                clock_ms: 0,
                disk_bytes: Some(100 << 30),
                memory_bytes: 8 << 30,
                cores: 2,
                gpus: 0,
                device: "auto".into(),
                nvidia: None,
                certificate_days: 300,
            },
            clock_ms: 3.0,
            clock_error_ms: 1.0,
            from_lead: Ok(way(2e9)),
        };
        change(&mut node);
        node.findings()
    }

    #[test]
    fn what_is_wrong_with_a_node_is_said_with_what_to_do() {
        assert!(node(|_| {}).iter().all(|f| f.status == Status::Ok));
        type Change = fn(&mut Node);
        let cases: [(Change, Status, &str); 10] = [
            (|n| n.facts.version = "9".into(), Status::Problem, "swirl 9"),
            (|n| n.clock_ms = -5e3, Status::Note, "-5.0 s"),
            (|n| n.clock_ms = 9e4, Status::Problem, "+90.0 s"),
            (|n| n.facts.disk_bytes = Some(1), Status::Problem, "disk"),
            (|n| n.facts.certificate_days = 2, Status::Note, "2 days"),
            (
                |n| n.facts.device = "cuda:0".into(),
                Status::Problem,
                "finds 0 GPUs",
            ),
            (
                |n| n.facts.nvidia = Some("/dev/nvidia0".into()),
                Status::Problem,
                "/dev/nvidia0 is there",
            ),
            (
                |n| {
                    n.facts.nvidia = Some("/dev/nvidia0".into());
                    n.facts.device = "cpu".into();
                },
                Status::Ok,
                "asked for",
            ),
            (
                |n| n.from_lead = Err("no way".into()),
                Status::Problem,
                "no way",
            ),
            // A slow call says little about clocks.
            (
                |n| (n.clock_ms, n.clock_error_ms) = (5e3, 5e3),
                Status::Ok,
                "300",
            ),
        ];
        for (change, status, says) in cases {
            let findings = node(change);
            let odd = findings.iter().find(|f| f.status != Status::Ok);
            match odd {
                Some(odd) => {
                    assert_eq!(odd.status, status, "{odd:?}");
                    assert!(
                        odd.found.contains(says) && !odd.remedy.is_empty(),
                        "{odd:?}"
                    );
                }
                None => assert_eq!(status, Status::Ok, "{says}"),
            }
        }
    }

    fn survey(count: usize, odd: impl Fn(&mut Pair)) -> Vec<Finding> {
        let pair = |n: usize| Pair {
            from: format!("n-{n}").parse().unwrap(),
            to: "m".parse().unwrap(),
            is_needed: true,
            way: Ok(way(1e9)),
        };
        let mut pairs: Vec<Pair> = (0..count).map(pair).collect();
        odd(&mut pairs[1]);
        Survey {
            pairs,
            ..Survey::default()
        }
        .findings()
    }

    #[test]
    fn slow_and_broken_ways_are_named() {
        for count in [3, 30] {
            let find = |odd: fn(&mut Pair)| {
                let all = survey(count, odd);
                assert!(all.len() == if count == 3 { 3 } else { 2 }, "{all:?}");
                let odd = all.into_iter().find(|f| f.status != Status::Ok).unwrap();
                assert_eq!(odd.what, "m from n-1");
                (odd.status, odd.found)
            };
            let slow = find(|pair| pair.way = Ok(way(4e8)));
            assert_eq!(slow.0, Status::Note);
            assert!(slow.1.starts_with("400 MB/s"), "{}", slow.1);
            let broken = find(|pair| pair.way = Err("no".into()));
            assert_eq!(broken, (Status::Problem, "no".into()));
            let spare = find(|pair| (pair.way, pair.is_needed) = (Err("no".into()), false));
            assert_eq!(spare.0, Status::Note);
        }
    }
}
