//! `swirl launch`: nodes that a shell starts in the place of ssh, and nodes that a real sshd starts.

use crate::support::{output, said, send, small_run, swirl, tiny_model, two_ports, wait_until};
use e2e::chaos::STOPPED;
use e2e::results::Results;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A shell in the place of ssh, on every host but `gone`.
const SHELL: [&str; 3] = ["sh", "-c", "test $0 != gone && exec bash -s"];

/// Lines for the hosts' file: name, host and roles of each node.
fn hosts(folder: &Path, ssh: &[&str], first: &str, nodes: &[(&str, &str, &str)]) -> String {
    let mut text = format!(
        "{first}\nport = {}\nswirl = {:?}\ndir = {:?}\ncerts = {:?}\nssh = {ssh:?}\n",
        two_ports(),
        env!("CARGO_BIN_EXE_swirl"),
        folder.join("nodes"),
        folder.join("certs"),
    );
    for (name, host, roles) in nodes {
        text += &format!(
            "[[nodes]]\nname = {name:?}\nhost = {host:?}\nroles = [{roles}]\nthreads = 1\n\
             env = {{ OMP_NUM_THREADS = \"1\", SWIRL_LOG = \"info\" }}\n"
        );
    }
    text
}

const HERE: &str = "controller = \"127.0.0.1\"";

const ALL: &str = "\"sampler\", \"tool\", \"judge\", \"learner\"";

fn launch(folder: &Path) -> Child {
    swirl(folder, &["launch", "--hosts", "hosts.toml", "c.toml"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("launch.log")).unwrap())
        .spawn()
        .unwrap()
}

fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("launch.log")).unwrap_or_default()
}

/// Processes whose command line names a folder, zombies aside: nodes and controllers of a test.
fn alive(folder: &Path) -> Vec<(u32, String)> {
    let name = folder.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let id = entry.file_name().to_string_lossy().parse::<u32>();
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if let Ok(id) = id
            && line.contains(&name)
            && line.starts_with(env!("CARGO_BIN_EXE_swirl"))
        {
            found.push((id, line));
        }
    }
    found
}

fn write(folder: &Path, hosts: &str, config: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("hosts.toml"), hosts).unwrap();
    std::fs::write(folder.join("c.toml"), config).unwrap();
}

#[test]
fn a_host_that_is_away_does_not_end_a_run_that_can_do_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    let nodes = [("all", "here", ALL), ("s2", "gone", "\"sampler\"")];
    // By IPv6, and by a name that has addresses of both families on most machines.
    for (index, controller) in ["::1", "localhost"].into_iter().enumerate() {
        if controller == "::1" && UdpSocket::bind("[::1]:0").is_err() {
            eprintln!("skipped: this machine has no IPv6");
            continue;
        }
        let folder = dir.path().join(index.to_string());
        let first = format!("controller = {controller:?}");
        write(
            &folder,
            &hosts(&folder, &SHELL, &first, &nodes),
            &small_run(&model),
        );
        let mut process = launch(&folder);
        wait_until(
            || format!("{controller}: it ends"),
            || process.try_wait().unwrap().is_some(),
        );
        let text = log(&folder);
        assert!(process.wait().unwrap().success(), "{controller}: {text}");
        assert!(text.contains("Node s2 ended"), "{text}");
        assert!(!text.contains("Node all ended"), "{text}");
        assert_eq!(alive(&folder), []);
    }
}

#[test]
fn a_run_whose_nodes_cannot_be_had_is_given_up_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    let nodes = [
        ("all", "here", "\"tool\", \"judge\", \"learner\""),
        ("s1", "gone", "\"sampler\""),
    ];
    let first = format!("{HERE}\ngive_up_after = \"8s\"");
    let text = hosts(dir.path(), &SHELL, &first, &nodes);
    write(dir.path(), &text, &small_run(&model));
    let out = output(dir.path(), &["launch", "--hosts", "hosts.toml", "c.toml"]);
    let text = said(&out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(
        text.contains("only 0 of 1 nodes with the role sampler") && text.contains("give_up_after"),
        "{text}"
    );
    wait_until(|| "nothing is left", || alive(dir.path()).is_empty());
}

#[test]
fn whatever_ends_a_launch_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    // It waits for a sampler for ever.
    let nodes = [
        ("n1", "here", "\"learner\""),
        ("n2", "here", "\"tool\", \"judge\""),
        ("s1", "gone", "\"sampler\""),
    ];
    for signal in ["TERM", "INT", "HUP", "KILL"] {
        let folder = dir.path().join(signal);
        write(
            &folder,
            &hosts(&folder, &SHELL, HERE, &nodes),
            &small_run(&model),
        );
        let mut process = launch(&folder);
        let joined = |text: &str| text.matches("Joined the run.").count();
        wait_until(
            || format!("{signal}: two nodes join: {}", log(&folder)),
            || joined(&log(&folder)) >= 2,
        );
        // The controller and two nodes.
        let running = alive(&folder);
        assert_eq!(running.len(), 3, "{running:?}");
        send(signal, process.id());
        wait_until(
            || format!("{signal}: it ends"),
            || process.try_wait().unwrap().is_some(),
        );
        let code = process.wait().unwrap().code();
        if signal == "KILL" {
            assert_eq!(code, None);
        } else {
            assert_eq!(code, Some(STOPPED), "{signal}: {}", log(&folder));
            assert_eq!(alive(&folder), [], "{signal}: it waited for them");
        }
        wait_until(
            || format!("{signal}: nothing is left"),
            || alive(&folder).is_empty(),
        );
    }
}

#[test]
fn a_controller_that_is_told_to_end_ends_the_launch_and_one_that_is_killed_is_started_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    let nodes = [
        ("n1", "here", "\"learner\", \"tool\", \"judge\""),
        ("s1", "gone", "\"sampler\""),
    ];
    write(
        dir.path(),
        &hosts(dir.path(), &SHELL, HERE, &nodes),
        &small_run(&model),
    );
    let mut process = launch(dir.path());
    let joined = |count: usize| {
        let log = log(dir.path());
        log.matches("Joined the run.").count() >= count
    };
    let head = || {
        let is_head = |(_, line): &(u32, String)| line.contains(" run c.toml");
        alive(dir.path())
            .into_iter()
            .find(is_head)
            .map(|(id, _)| id)
    };
    wait_until(|| "the node joins", || joined(1));
    send("KILL", head().unwrap());
    wait_until(|| "the node joins the next controller", || joined(2));
    assert!(log(dir.path()).contains("is started again"));
    send("TERM", head().unwrap());
    wait_until(|| "it ends", || process.try_wait().unwrap().is_some());
    assert_eq!(
        process.wait().unwrap().code(),
        Some(STOPPED),
        "{}",
        log(dir.path())
    );
    assert_eq!(alive(dir.path()), []);
}

/// An sshd of this test alone: its own address, port, keys and configuration. Nothing of the system is
/// touched: as root it has a `/run` of its own, for a folder there that it asks for.
struct Sshd {
    folder: PathBuf,
    port: u16,
    process: Option<Child>,
}

const SSHD: &str = "/usr/sbin/sshd";

/// The address that hosts of the test are at.
const ADDRESS: &str = "127.0.0.2";

impl Sshd {
    /// None, with a message, where Debian's openssh-server is not installed.
    fn start(folder: PathBuf) -> Option<Self> {
        let has_client = Command::new("ssh").arg("-V").output().is_ok();
        if !Path::new(SSHD).exists() || !has_client {
            eprintln!("skipped: openssh-server and openssh-client are not installed");
            return None;
        }
        std::fs::create_dir(&folder).unwrap();
        for key in ["host", "user"] {
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(folder.join(key))
                .status();
            assert!(made.unwrap().success());
        }
        let listener = TcpListener::bind((ADDRESS, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let at = |name: &str| folder.join(name).display().to_string();
        std::fs::copy(folder.join("user.pub"), folder.join("authorized")).unwrap();
        let host_key = std::fs::read_to_string(folder.join("host.pub")).unwrap();
        std::fs::write(
            folder.join("known"),
            format!("[{ADDRESS}]:{port} {host_key}"),
        )
        .unwrap();
        let config = format!(
            "Port {port}\nListenAddress {ADDRESS}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile {}\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             MaxStartups 100\n",
            at("host"),
            at("authorized"),
            at("pid")
        );
        std::fs::write(folder.join("config"), config).unwrap();
        let mut sshd = Self {
            folder,
            port,
            process: None,
        };
        sshd.up();
        Some(sshd)
    }

    fn up(&mut self) {
        let config = self.folder.join("config");
        let log = self.folder.join("log");
        let own_run = "mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd && exec \"$@\"";
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|it| {
            use std::os::unix::fs::MetadataExt;
            it.uid() == 0
        });
        let mut command = match is_root && !Path::new("/run/sshd").exists() {
            true => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", own_run, "sh", SSHD]);
                command
            }
            false => Command::new(SSHD),
        };
        command.args(["-D", "-f"]).arg(config).arg("-E").arg(&log);
        self.process = Some(command.stdin(Stdio::null()).spawn().unwrap());
        let port = self.port;
        wait_until(
            || {
                format!(
                    "sshd listens: {}",
                    std::fs::read_to_string(&log).unwrap_or_default()
                )
            },
            || TcpStream::connect((ADDRESS, port)).is_ok(),
        );
    }

    /// As when the host goes down: sshd and all connections are gone.
    fn down(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        // Those of sshd only: what they have started is to end by itself.
        let mut all = vec![process.id()];
        let mut next = 0;
        while next < all.len() {
            all.extend(children_called_sshd(all[next]));
            next += 1;
        }
        for id in all {
            // It may have ended with the one before.
            let _ = Command::new("kill").args(["-9", &id.to_string()]).status();
        }
        process.wait().unwrap();
    }

    /// The words that reach it.
    fn ssh(&self) -> Vec<String> {
        let option = |key: &str, value: String| ["-o".to_owned(), format!("{key}={value}")];
        let at = |name: &str| self.folder.join(name).display().to_string();
        let mut words = vec!["ssh".to_owned(), "-F".into(), "none".into()];
        for (key, value) in [
            ("BatchMode", "yes".to_owned()),
            ("ConnectTimeout", "20".into()),
            ("ServerAliveInterval", "5".into()),
            ("IdentitiesOnly", "yes".into()),
            ("IdentityFile", at("user")),
            ("UserKnownHostsFile", at("known")),
            ("GlobalKnownHostsFile", "/dev/null".into()),
            ("StrictHostKeyChecking", "yes".into()),
            ("Port", self.port.to_string()),
        ] {
            words.extend(option(key, value));
        }
        words
    }
}

fn children_called_sshd(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        // `ID (NAME) STATE PARENT …`
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((before, after)) = stat.rsplit_once(')') else {
            continue;
        };
        let (id, name) = before.split_once(" (").unwrap_or_default();
        let of = after.split_whitespace().nth(1).unwrap_or_default();
        if name.starts_with("sshd") && of == parent.to_string() {
            found.extend(id.parse::<u32>());
        }
    }
    found
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.down();
    }
}

#[test]
fn over_a_real_sshd_a_run_survives_its_loss_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (Some(model), Some(mut sshd)) =
        (tiny_model(dir.path()), Sshd::start(dir.path().join("sshd")))
    else {
        return;
    };
    let folder = dir.path().join("launched");
    let ssh = sshd.ssh();
    let ssh: Vec<&str> = ssh.iter().map(String::as_str).collect();
    let roles = ["\"sampler\"", "\"tool\", \"judge\"", "\"learner\""];
    let nodes = [
        ("s1", ADDRESS, roles[0]),
        ("t1", ADDRESS, roles[1]),
        ("l1", ADDRESS, roles[2]),
    ];
    // Steps enough to lose the host meanwhile.
    let longer = small_run(&model).replace("steps = 4\nbatch = 2", "steps = 400\nbatch = 2");
    write(&folder, &hosts(&folder, &ssh, HERE, &nodes), &longer);
    let mut process = launch(&folder);
    let has = |text: &str, count: usize| log(&folder).matches(text).count() >= count;
    wait_until(|| "three nodes join", || has("Joined the run.", 3));
    let ended = |process: &mut Child| process.try_wait().unwrap();
    assert_eq!(ended(&mut process), None, "{}", log(&folder));
    let environ = |line: &str| {
        let (id, _) = alive(&folder).into_iter().find(|(_, l)| l.contains(line))?;
        std::fs::read_to_string(format!("/proc/{id}/environ")).ok()
    };
    assert!(environ("/nodes/s1").unwrap().contains("OMP_NUM_THREADS=1"));

    sshd.down();
    let nodes = || {
        alive(&folder)
            .into_iter()
            .filter(|(_, l)| l.contains(" node "))
    };
    wait_until(
        || "the nodes end with their connections",
        || nodes().count() == 0,
    );
    assert_eq!(
        ended(&mut process),
        None,
        "the run goes on: {}",
        log(&folder)
    );
    sshd.up();
    wait_until(|| "they are back", || has("Joined the run.", 6));
    send("TERM", process.id());
    wait_until(|| "it ends", || ended(&mut process).is_some());
    assert_eq!(
        process.wait().unwrap().code(),
        Some(STOPPED),
        "{}",
        log(&folder)
    );
    wait_until(|| "nothing is left", || alive(&folder).is_empty());

    let mut process = launch(&folder);
    wait_until(|| "it goes on to its end", || ended(&mut process).is_some());
    assert!(process.wait().unwrap().success(), "{}", log(&folder));
    wait_until(|| "nothing is left", || alive(&folder).is_empty());
    let found = Results::read(&folder.join("runs/small"));
    found.unwrap();
}
