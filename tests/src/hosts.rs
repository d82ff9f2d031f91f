//! Several hosts on one machine.

use anyhow::{Context, Result, bail};
use std::net::Ipv4Addr;
use std::process::{Command, Output};

/// A machine that is made of several hosts, or pretends to be.
pub enum Hosts {
    /// Network namespaces, joined by a bridge.
    Namespaces(Namespaces),
    /// All of them are 127.0.0.1: links cannot be cut.
    Loopback,
}

/// Namespaces and the bridge between them; gone when dropped.
pub struct Namespaces {
    /// Tells those of this process from those of others.
    tag: String,
    subnet: [u8; 2],
    made: Vec<String>,
}

impl Hosts {
    /// Namespaces where this process may make them; says so where it may not.
    pub fn new() -> Self {
        match Namespaces::new() {
            Ok(made) => Self::Namespaces(made),
            Err(error) => {
                eprintln!(
                    "hosts: network namespaces cannot be made here ({error:#}); every host is \
                     127.0.0.1, and no link is cut"
                );
                Self::Loopback
            }
        }
    }

    /// Whether links can be cut.
    pub fn are_apart(&self) -> bool {
        matches!(self, Self::Namespaces(_))
    }

    /// Makes a host.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn add(&mut self, name: &str) -> Result<()> {
        match self {
            Self::Namespaces(namespaces) => namespaces.add(name),
            Self::Loopback => Ok(()),
        }
    }

    /// The address of a host.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn address(&self, name: &str) -> Result<Ipv4Addr> {
        match self {
            Self::Namespaces(namespaces) => namespaces.address(name),
            Self::Loopback => Ok(Ipv4Addr::LOCALHOST),
        }
    }

    /// The address of the machine on which the hosts live.
    pub fn outside(&self) -> Ipv4Addr {
        match self {
            Self::Namespaces(namespaces) => namespaces.numbered(1),
            Self::Loopback => Ipv4Addr::LOCALHOST,
        }
    }

    /// A command that runs on a host.
    pub fn command(&self, name: &str, program: &std::path::Path) -> Command {
        match self {
            Self::Namespaces(namespaces) => {
                let mut command = Command::new("ip");
                let space = namespaces.space(name);
                command.args(["netns", "exec", &space]).arg(program);
                command
            }
            Self::Loopback => Command::new(program),
        }
    }

    /// Cuts a host's link, or mends it.
    ///
    /// # Errors
    /// When that is not possible here.
    pub fn set_link(&self, name: &str, is_up: bool) -> Result<()> {
        let Self::Namespaces(namespaces) = self else {
            bail!("links cannot be cut without network namespaces");
        };
        let state = if is_up { "up" } else { "down" };
        ip(&["-n", &namespaces.space(name), "link", "set", "eth0", state])
    }
}

impl Default for Hosts {
    fn default() -> Self {
        Self::new()
    }
}

impl Namespaces {
    fn new() -> Result<Self> {
        let pid = std::process::id();
        let namespaces = Self {
            tag: format!("{:05x}", pid & 0xF_FFFF),
            subnet: [200 + (pid >> 8) as u8 % 50, pid as u8],
            made: Vec::new(),
        };
        let bridge = namespaces.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        let address = format!("{}/24", namespaces.numbered(1));
        ip(&["addr", "add", &address, "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        // The right to make one is not the right to make the other.
        let probe = format!("swirl-{}-probe", namespaces.tag);
        ip(&["netns", "add", &probe])?;
        ip(&["netns", "del", &probe])?;
        Ok(namespaces)
    }

    fn bridge(&self) -> String {
        format!("swbr{}", self.tag)
    }

    fn space(&self, name: &str) -> String {
        format!("swirl-{}-{name}", self.tag)
    }

    fn numbered(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet[0], self.subnet[1], last)
    }

    fn address(&self, name: &str) -> Result<Ipv4Addr> {
        let index = self.made.iter().position(|made| made == name);
        let index = index.with_context(|| format!("there is no host {name}"))?;
        Ok(self.numbered(10 + u8::try_from(index)?))
    }

    fn add(&mut self, name: &str) -> Result<()> {
        self.made.push(name.to_owned());
        let (space, bridge) = (self.space(name), self.bridge());
        let outer = format!("sw{}{}", self.tag, self.made.len());
        let address = format!("{}/24", self.address(name)?);
        ip(&["netns", "add", &space])?;
        ip(&[
            "link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space,
        ])?;
        ip(&["link", "set", &outer, "master", &bridge, "up"])?;
        ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let spaces = self.made.iter().map(|name| self.space(name));
        for space in spaces {
            let _ = ip(&["netns", "del", &space]);
        }
        let _ = ip(&["link", "del", &self.bridge()]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let run = Command::new("ip").args(arguments).output();
    let Output { status, stderr, .. } = run.context("cannot start ip (Debian: iproute2)")?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        bail!("ip {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}
