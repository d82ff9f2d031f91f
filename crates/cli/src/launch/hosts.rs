//! The file of hosts: which nodes there are, and what starts each of them.

use super::start::{Start, quoted};
use crate::config::{Config, Span};
use crate::console;
use crate::engine::DeviceChoice;
use crate::usage::UsageError;
use anyhow::{Context, Result};
use proto::{NodeName, Role};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use transport::certs::{Authority, Credentials, Validity, moment};

/// The controller's name in its certificate.
const HEAD: &str = "controller";

/// Days before its end at which a certificate is renewed: longer than most runs take.
const RENEWED_DAYS: i64 = 30;

const DAY_SECONDS: i64 = 86_400;

/// The hosts of a run, as a file says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hosts {
    /// Where nodes reach this machine: a host name or an address.
    controller: String,
    /// UDP port of the control lane; data goes to the next.
    #[serde(default = "default_port")]
    port: u16,
    /// The program on every host.
    #[serde(default = "default_swirl")]
    swirl: String,
    /// What starts a command on a host: it gets the host and the command line.
    #[serde(default = "default_ssh")]
    ssh: Vec<String>,
    /// The folder of certificates on this machine.
    #[serde(default = "default_certs")]
    certs: PathBuf,
    /// The folder of a node on its host; a relative one is relative to the user's home.
    #[serde(default = "default_dir")]
    dir: String,
    /// Time that fewer nodes of a role may run than `cluster.wait_for` says before the run is given up.
    #[serde(default = "default_give_up_after")]
    pub give_up_after: Span,
    /// The nodes.
    nodes: Vec<Node>,
}

/// One process, or with `devices` one for each of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: NodeName,
    /// What ssh is told: `gpu-1` or `user@10.0.0.7`.
    host: String,
    roles: BTreeSet<Role>,
    /// `auto` unless it is given.
    device: Option<String>,
    /// A process for each of these, called NAME-0, NAME-1, …
    #[serde(default)]
    devices: Vec<String>,
    #[serde(default)]
    threads: usize,
    /// Where other nodes reach it: that of its fastest network.
    address: Option<IpAddr>,
    /// The TCP port where other learners reach it; the next one for the next of `devices`.
    #[serde(default)]
    ring_port: u16,
    /// The UDP port where other nodes pull weights; the next one for the next of `devices`.
    #[serde(default)]
    weights_port: u16,
    /// Variables of its environment.
    #[serde(default)]
    env: BTreeMap<String, String>,
}

fn default_port() -> u16 {
    7400
}

fn default_swirl() -> String {
    "swirl".into()
}

/// A host that is away is noticed in 20 s before, and in 15 s after it was reached.
fn default_ssh() -> Vec<String> {
    let options = [
        "BatchMode=yes",
        "ConnectTimeout=20",
        "ServerAliveInterval=5",
    ];
    let options = options.iter().flat_map(|option| ["-o", option]);
    ["ssh"]
        .into_iter()
        .chain(options)
        .map(str::to_owned)
        .collect()
}

fn default_certs() -> PathBuf {
    "certs".into()
}

fn default_dir() -> String {
    ".cache/swirl/nodes".into()
}

/// A machine with GPUs takes a quarter of it to start again.
fn default_give_up_after() -> Span {
    Span(Duration::from_secs(3600))
}

impl Hosts {
    /// Reads a file.
    ///
    /// # Errors
    /// When it is not there, or not what is expected of it.
    pub fn read(path: &Path) -> Result<Self, UsageError> {
        let usage =
            |error: &dyn std::fmt::Display| UsageError::new(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| usage(&error))?;
        Self::of(&text).map_err(|error| usage(&error))
    }

    fn of(text: &str) -> Result<Self, String> {
        let mut hosts: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let nodes = hosts.nodes.iter().map(Node::processes);
        let nodes: Result<Vec<Vec<Node>>, String> = nodes.collect();
        hosts.nodes = nodes?.into_iter().flatten().collect();
        hosts.check()?;
        Ok(hosts)
    }

    fn check(&self) -> Result<(), String> {
        let mut names = BTreeSet::from([HEAD]);
        for node in &self.nodes {
            let name = &node.name;
            if !names.insert(name.as_str()) {
                return Err(format!("two nodes are called {name}"));
            }
            node.check().map_err(|error| format!("{name}: {error}"))?;
        }
        match self.ssh.is_empty() {
            true => Err("ssh: name a command".to_owned()),
            false => Ok(()),
        }
    }

    /// Refuses hosts that are not what the configuration waits for.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn suffice(&self, config: &Config) -> Result<(), UsageError> {
        for (role, wanted) in config.cluster.wanted() {
            let has_it = |node: &&Node| node.roles.contains(&role);
            let there = self.nodes.iter().filter(has_it).count();
            if there < wanted {
                return Err(UsageError::new(format!(
                    "the run waits for {wanted} nodes with the role {role}, and the hosts' file has \
                     {there}: add some, set cluster.wait_for.{role}, or have this machine do it \
                     (cluster.here)"
                )));
            }
        }
        Ok(())
    }

    /// Makes what is missing of the authority and the certificates, and renews those that are about
    /// to end or whose node has other roles by now.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn certify(&self) -> Result<()> {
        let authority = match self.certs.join("ca.pem").exists() {
            true => Authority::open(&self.certs)?,
            false => Authority::create(&self.certs, Validity::of_days(Validity::AUTHORITY_DAYS))?,
        };
        let head: NodeName = HEAD.parse()?;
        let head = (head, BTreeSet::from([Role::Controller]));
        let nodes = self
            .nodes
            .iter()
            .map(|node| (node.name.clone(), node.roles.clone()));
        for (name, roles) in nodes.chain([head]) {
            certify(&authority, &name, &roles)?;
        }
        Ok(())
    }

    /// Where this machine listens: for IPv4 and IPv6 alike.
    pub fn listen(&self) -> String {
        address("::", self.port)
    }

    /// The folder of this machine's certificate.
    pub fn controller_certs(&self) -> PathBuf {
        self.certs.join(HEAD)
    }

    /// The names of the nodes.
    pub fn names(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|node| node.name.to_string())
            .collect()
    }

    /// The roles of the nodes.
    pub fn roles(&self) -> impl Iterator<Item = BTreeSet<Role>> {
        self.nodes.iter().map(|node| node.roles.clone())
    }

    /// What has every host checked.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub fn doctors(&self) -> Result<Vec<Start>> {
        let doctor = |node: &Node| {
            let (dir, join) = (self.dir_of(node), self.join());
            let certs = quoted(&format!("{dir}/certs"));
            let device = quoted(node.device());
            let command = format!(
                "doctor --join {} --certs {certs} --device {device}",
                quoted(&join)
            );
            self.start(node, &command, Duration::from_secs(5))
        };
        self.nodes.iter().map(doctor).collect()
    }

    /// The name of a node, by its place in [`Hosts::roles`].
    pub fn name(&self, index: usize) -> &NodeName {
        &self.nodes[index].name
    }

    fn join(&self) -> String {
        address(&self.controller, self.port)
    }

    fn dir_of(&self, node: &Node) -> String {
        format!("{}/{}", self.dir, node.name)
    }

    /// What starts a node now, with the certificate that it has now and the list of those shut out. When
    /// it is to end it leaves within `grace`.
    ///
    /// # Errors
    /// When these cannot be read.
    pub fn start_of(&self, index: usize, grace: Duration) -> Result<Start> {
        let node = &self.nodes[index];
        let dir = self.dir_of(node);
        let roles: Vec<&str> = node.roles.iter().map(|role| role.name()).collect();
        let mut command = format!(
            "node --role {} --join {} --certs {} --dir {} --device {} --threads {} \
             --ring-port {} --weights-port {} --stop-grace {}s",
            roles.join(","),
            quoted(&self.join()),
            quoted(&format!("{dir}/certs")),
            quoted(&dir),
            quoted(node.device()),
            node.threads,
            node.ring_port,
            node.weights_port,
            grace.as_secs()
        );
        if let Some(address) = node.address {
            command += &format!(" --address {address}");
        }
        self.start(node, &command, grace)
    }

    fn start(&self, node: &Node, command: &str, grace: Duration) -> Result<Start> {
        let name = &node.name;
        let folder = self.certs.join(name.as_str());
        let dir = self.dir_of(node);
        let mut before = format!("umask 077; mkdir -p {0}/certs\n", quoted(&dir));
        for file in ["ca.pem", "cert.pem", "key.pem", "revoked"] {
            let (path, there) = (folder.join(file), quoted(&format!("{dir}/certs/{file}")));
            let text = match std::fs::read_to_string(&path) {
                // Nobody is shut out.
                Err(error) if file == "revoked" && error.kind() == ErrorKind::NotFound => {
                    before += &format!("rm -f {there}\n");
                    continue;
                }
                text => text.with_context(|| format!("cannot read {}", path.display()))?,
            };
            before += &format!(
                "cat > {there} <<'END-OF-FILE'\n{}\nEND-OF-FILE\n",
                text.trim_end()
            );
        }
        for (key, value) in &node.env {
            before += &format!("export {key}={}\n", quoted(value));
        }
        let command = format!("{} {command}", quoted(&self.swirl));
        let mut ssh = self.ssh.clone();
        ssh.extend([node.host.clone(), "bash -s".to_owned()]);
        Ok(Start::new(name.clone(), ssh, &before, &command, grace))
    }
}

impl Node {
    /// One process for each of its devices.
    fn processes(&self) -> Result<Vec<Self>, String> {
        let name = &self.name;
        if self.devices.is_empty() {
            return Ok(vec![self.clone()]);
        }
        if self.device.is_some() {
            return Err(format!("{name}: give it device or devices, and not both"));
        }
        let port = |first: u16, index: usize| match (first, u16::try_from(index)) {
            (0, _) => Ok(0),
            (first, Ok(index)) => first
                .checked_add(index)
                .ok_or_else(|| format!("{name}: no port is left for each of its devices")),
            (_, Err(_)) => Err(format!("{name}: it has too many devices")),
        };
        let process = |(index, device): (usize, &String)| {
            let own = format!("{name}-{index}").parse();
            Ok(Self {
                name: own.map_err(|error| format!("{name}: {error}"))?,
                device: Some(device.clone()),
                devices: Vec::new(),
                ring_port: port(self.ring_port, index)?,
                weights_port: port(self.weights_port, index)?,
                ..self.clone()
            })
        };
        self.devices.iter().enumerate().map(process).collect()
    }

    fn device(&self) -> &str {
        self.device.as_deref().unwrap_or("auto")
    }

    fn check(&self) -> Result<(), String> {
        if self.roles.is_empty() || self.roles.contains(&Role::Controller) {
            return Err("roles are one or more of sampler, tool, judge and learner".to_owned());
        }
        let device = self.device();
        if DeviceChoice::parse(device).is_none() {
            return Err(format!("device {device:?}: write auto, cpu or cuda:N"));
        }
        let is_name = |key: &str| {
            let mut letters = key.chars();
            let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
            letters.next().is_some_and(is_first)
                && letters.all(|c| is_first(c) || c.is_ascii_digit())
        };
        match self.env.keys().find(|key| !is_name(key)) {
            Some(key) => Err(format!("env: {key:?} is no name of a variable")),
            None => Ok(()),
        }
    }
}

/// Issues a node's certificate, or another one where that is needed.
fn certify(authority: &Authority, name: &NodeName, roles: &BTreeSet<Role>) -> Result<()> {
    let (folder, validity) = (
        authority.node_folder(name),
        Validity::of_days(Validity::NODE_DAYS),
    );
    if !folder.exists() {
        return Ok(authority.issue(name, roles, validity)?);
    }
    // One that has ended, or is damaged, cannot be loaded.
    let reason = match Credentials::load(&folder) {
        Ok(present) if present.identity().roles != *roles => Some("its roles have changed"),
        Ok(present) => is_near(present.not_after().unix_timestamp()).then_some("it ends soon"),
        Err(transport::certs::CertError::Expired { .. }) => Some("it has ended"),
        Err(error) => return Err(error.into()),
    };
    let Some(reason) = reason else { return Ok(()) };
    authority.reissue(name, roles, validity)?;
    let present = Credentials::load(&folder)?;
    let end = moment(present.not_after());
    console::remark(format_args!(
        "The certificate of {name} is a new one, valid until {end}: {reason}."
    ));
    if is_near(present.not_after().unix_timestamp()) {
        let folder = folder.parent().unwrap_or(&folder).display();
        console::remark(format_args!(
            "warning: the authority ends soon itself. Move {folder} away before the next run, and \
             another one is made."
        ));
    }
    Ok(())
}

/// Whether a moment, in seconds since 1970, is less than [`RENEWED_DAYS`] away.
fn is_near(end: i64) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    end - now.unwrap_or_default().as_secs() as i64 <= RENEWED_DAYS * DAY_SECONDS
}

/// `HOST:PORT`, with brackets around an address of IPv6.
fn address(host: &str, port: u16) -> String {
    match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{port}"),
        Err(_) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    const HOSTS: &str = r#"
        controller = "10.0.0.1"
        [[nodes]]
        name = "gpu-1"
        host = "user@gpu-1"
        roles = ["sampler", "tool", "judge", "learner"]
    "#;

    fn config(set: &[&str]) -> Config {
        config::tests::read("", set).unwrap().config
    }

    /// With another line for the node.
    fn with(line: &str) -> Result<Hosts, String> {
        Hosts::of(&format!("{HOSTS}\n{line}\n"))
    }

    #[test]
    fn a_file_of_hosts_is_checked_before_anything_is_started() {
        let hosts = Hosts::of(HOSTS).unwrap();
        assert!(hosts.suffice(&config(&[])).is_ok());
        let two = config(&["cluster.wait_for.sampler=2"]);
        let error = hosts.suffice(&two).unwrap_err().to_string();
        assert!(
            error.contains("waits for 2") && error.contains("has 1"),
            "{error}"
        );
        let here = ["cluster.wait_for.sampler=2", "cluster.here=[\"sampler\"]"];
        assert!(hosts.suffice(&config(&here)).is_ok());

        let node = &HOSTS[HOSTS.find("[[nodes]]").unwrap()..];
        let wrong = [
            (format!("{HOSTS}{node}"), "two nodes are called gpu-1"),
            (
                HOSTS.replace("gpu-1\"\n        host", "controller\"\n        host"),
                "two nodes",
            ),
            (HOSTS.replace("host =", "hst ="), "hst"),
            (
                HOSTS.replace("gpu-1\"\n        host", "GPU 1\"\n        host"),
                "GPU 1",
            ),
            (format!("{HOSTS}\ndevice = \"gpu\""), "auto, cpu or cuda:N"),
            (
                format!("{HOSTS}\nenv = {{ \"A B\" = \"c\" }}"),
                "no name of a variable",
            ),
            (
                format!("{HOSTS}\nenv = {{ \"A=$(x)\" = \"c\" }}"),
                "no name of a variable",
            ),
            (format!("{HOSTS}\naddress = \"gpu\""), "IP"),
            (
                format!("{HOSTS}\ndevice = \"cpu\"\ndevices = [\"cuda:0\"]"),
                "not both",
            ),
            (
                format!("{HOSTS}\nring_port = 65535\ndevices = [\"cuda:0\", \"cuda:1\"]"),
                "no port is left",
            ),
            (format!("give_up_after = 7\n{HOSTS}"), "with its unit"),
        ];
        for (text, says) in wrong {
            let error = Hosts::of(&text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_host_with_several_devices_has_a_process_for_each() {
        let hosts = with("devices = [\"cuda:0\", \"cuda:1\"]\nring_port = 7500").unwrap();
        assert_eq!(hosts.names(), ["gpu-1-0", "gpu-1-1"]);
        let found: Vec<_> = hosts
            .nodes
            .iter()
            .map(|node| (node.device.as_deref(), node.ring_port, node.weights_port))
            .collect();
        assert_eq!(
            found,
            [(Some("cuda:0"), 7500, 0), (Some("cuda:1"), 7501, 0)]
        );
    }

    #[test]
    fn what_a_host_is_told_reaches_its_command_line() {
        let dir = tempfile::tempdir().unwrap();
        let text = HOSTS.replace("10.0.0.1", "fd00::1");
        let mut hosts = Hosts::of(&format!(
            "{text}\naddress = \"10.1.0.7\"\nweights_port = 7600\nenv = {{ NCCL_SOCKET_IFNAME = \"ib0\" }}"
        ))
        .unwrap();
        hosts.certs = dir.path().join("certs");
        hosts.certify().unwrap();
        let start = hosts.start_of(0, Duration::from_secs(77)).unwrap();
        let script = start.script();
        for part in [
            "--join '[fd00::1]:7400'",
            "--address 10.1.0.7",
            "--weights-port 7600",
            "--stop-grace 77s",
            "--device 'auto'",
            "export NCCL_SOCKET_IFNAME='ib0'",
        ] {
            assert!(script.contains(part), "{part}: {script}");
        }
    }

    #[test]
    fn addresses_of_both_families_are_written_as_they_are_dialled() {
        for (host, expected) in [
            ("10.0.0.1", "10.0.0.1:7400"),
            ("head", "head:7400"),
            ("::1", "[::1]:7400"),
            ("fd00::2", "[fd00::2]:7400"),
        ] {
            assert_eq!(address(host, 7400), expected);
        }
    }

    #[test]
    fn certificates_follow_the_roles_and_are_renewed_before_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let certs = dir.path().join("certs");
        let at = |text: &str| {
            let mut hosts = Hosts::of(text).unwrap();
            hosts.certs = certs.clone();
            hosts.certify().unwrap();
            let credentials = Credentials::load(&certs.join("gpu-1")).unwrap();
            let pem = std::fs::read(certs.join("gpu-1/cert.pem")).unwrap();
            (credentials.identity().roles.clone(), pem)
        };
        let (roles, first) = at(HOSTS);
        assert_eq!(roles.len(), 4);
        assert_eq!(at(HOSTS).1, first, "it is kept as it is");
        let (roles, second) = at(&HOSTS.replace("\"sampler\", \"tool\", ", ""));
        assert_eq!(roles, BTreeSet::from([Role::Judge, Role::Learner]));
        assert_ne!(second, first);

        let authority = Authority::open(&certs).unwrap();
        let name = "gpu-1".parse().unwrap();
        let days = u16::try_from(RENEWED_DAYS).unwrap();
        let now = Validity::of_days(1);
        let ended = Validity {
            not_before: now.not_before - Duration::from_secs(3600),
            not_after: now.not_before,
        };
        for validity in [Validity::of_days(days - 1), ended] {
            authority.reissue(&name, &roles, validity).unwrap();
            let before = std::fs::read(certs.join("gpu-1/cert.pem")).unwrap();
            assert_ne!(at(&HOSTS.replace("\"sampler\", \"tool\", ", "")).1, before);
        }
        authority
            .reissue(&name, &roles, Validity::of_days(days + 1))
            .unwrap();
        let before = std::fs::read(certs.join("gpu-1/cert.pem")).unwrap();
        assert_eq!(at(&HOSTS.replace("\"sampler\", \"tool\", ", "")).1, before);
    }
}
