//! Folders over a network in memory, from a controller and nodes that fail in every way.

use super::super::blobs::{Blobs, Loan};
use super::super::in_memory::{Bent, SIZE, Ways, flipped, identity, made_up, name};
use super::super::spreading::{SpreadPlan, Spreading};
use super::*;
use control::membership::NodeId;
use proto::NodeName;
use std::collections::BTreeMap;
use tempfile::TempDir;
use transport::memory::{Network, Rules};
use transport::{Handler, Lane, Limits, Request};

/// Files of all lengths, one of them empty.
fn contents(seed: u32) -> BTreeMap<&'static str, Vec<u8>> {
    let bytes = made_up(seed);
    let len = bytes.len();
    let cut = |from: usize, to: usize| bytes[from..to].to_vec();
    [
        ("config.json", cut(0, 300)),
        ("empty", Vec::new()),
        ("model-1.safetensors", cut(300, 9000)),
        ("model-2.safetensors", cut(9000, len - 1)),
        ("tokenizer/vocabulary", cut(len - 1, len)),
    ]
    .into()
}

fn write(folder: &Path, seed: u32) {
    for (path, bytes) in contents(seed) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn holds(folder: &Path, seed: u32) {
    for (path, bytes) in contents(seed) {
        assert!(std::fs::read(folder.join(path)).unwrap() == bytes, "{path}");
    }
}

/// Tells nodes whom to pull from.
struct Telling(Spreading, NodeId);

#[async_trait]
impl Handler for Telling {
    async fn request(&self, request: Request) -> Result<Bytes, String> {
        assert_eq!(request.method, method::SOURCE);
        let asked = codec::decode(&request.body).unwrap();
        let source = self.0.file_source(self.1, asked);
        Ok(codec::encode(&source).unwrap().into())
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

/// A controller that lends a folder, and its nodes.
struct Stage {
    network: Network,
    blobs: Blobs,
    spreading: Spreading,
    set: FileSet,
    _loan: Loan,
    dir: TempDir,
}

impl Stage {
    fn new(fan_out: usize, rules: Rules) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        write(&model, 0);
        let blobs = Blobs::new(SIZE);
        let (set, _loan) = blobs.lend_folder(&model).unwrap();
        let plan = SpreadPlan {
            fan_out,
            ..SpreadPlan::default()
        };
        let stage = Self {
            network: Network::new(1, rules, Duration::from_secs(20)),
            spreading: Spreading::new(plan, blobs.clone()),
            blobs,
            set,
            _loan,
            dir,
        };
        stage.serve("head", Arc::new(stage.blobs.clone()));
        stage
    }

    /// Those who dial `name` can pull from `source`, and ask the controller there.
    fn serve(&self, name: &str, source: Arc<dyn bulk::Source>) {
        let mut listener = self.network.listen(identity(name));
        let spreading = self.spreading.clone();
        tokio::spawn(async move {
            while let Some(connection) = listener.accept().await {
                if connection.lane() == Lane::Bulk {
                    tokio::spawn(bulk::serve(connection, source.clone()));
                    continue;
                }
                let id = id_of(&connection.peer().name);
                let telling = Arc::new(Telling(spreading.clone(), id));
                tokio::spawn(async move {
                    let link = Link::open(connection, telling, Limits::default());
                    link.await.unwrap().closed().await
                });
            }
        });
    }

    /// A node, `n-1` or so, that gives on what it has.
    async fn node(&self, name: &str) -> Node {
        let shelf = FileShelf::default();
        self.serve(name, Arc::new(shelf.clone()));
        self.node_with(name, shelf).await
    }

    async fn node_with(&self, name: &str, shelf: FileShelf) -> Node {
        let text = name.to_owned();
        self.spreading.enter(
            id_of(&name.parse().unwrap()),
            name.parse().unwrap(),
            Some(text),
        );
        let head = "head".parse().unwrap();
        let dial = |lane| self.network.dial(identity(name), &head, lane);
        let owner = dial(Lane::Bulk).await.unwrap();
        let control = dial(Lane::Control).await.unwrap();
        let control = Link::open(control, Arc::new(Silent), Limits::default());
        let dialler = Arc::new(Ways(self.network.clone(), identity(name)));
        Node {
            files: Files::new(owner, control.await.unwrap(), dialler, shelf),
            folder: self.dir.path().join(name).join("model"),
        }
    }

    fn len(&self) -> u64 {
        self.set.bytes()
    }

    /// Bytes that the controller gave beside the list, which every node has from it.
    fn given_to(&self, nodes: u64) -> u64 {
        self.blobs.given_bytes() - nodes * self.set.list.len
    }
}

fn id_of(name: &NodeName) -> NodeId {
    let number = name.as_str().rsplit('-').next().unwrap_or_default();
    NodeId(number.parse().unwrap())
}

struct Silent;

#[async_trait]
impl Handler for Silent {
    async fn request(&self, _: Request) -> Result<Bytes, String> {
        Err("nothing is asked of a node here".to_owned())
    }

    async fn cast(&self, _: u8, _: Bytes) {}
}

struct Node {
    files: Files,
    folder: PathBuf,
}

impl Node {
    /// Gets the very files; what it took.
    async fn gets(&self, stage: &Stage) -> Pulled {
        let pulled = self.files.bring(&stage.set, &self.folder).await.unwrap();
        holds(&self.folder, 0);
        let beside = std::fs::read_dir(self.folder.parent().unwrap()).unwrap();
        assert_eq!(beside.count(), 1, "something is left beside it");
        pulled
    }
}

#[tokio::test(start_paused = true)]
async fn sp_5_the_controller_gives_a_folder_fan_out_times_however_many_nodes_want_it() {
    for (fan_out, nodes) in [(1, 1), (2, 16), (4, 16)] {
        let stage = Stage::new(fan_out, Rules::default());
        let mut all = Vec::new();
        for n in 1..=nodes {
            all.push(stage.node(&format!("n-{n}")).await);
        }
        // FI-3: all at once, so most of them pull from others that do not have it yet.
        let pulled = futures::future::join_all(all.iter().map(|node| node.gets(&stage))).await;
        let expected = fan_out.min(nodes) as u64 * stage.len();
        assert_eq!(stage.given_to(nodes as u64), expected, "{nodes} nodes");
        let from_nodes: u64 = pulled.iter().map(|pulled| pulled.from_nodes_bytes).sum();
        assert_eq!(from_nodes, nodes as u64 * stage.len() - expected);
    }
}

#[tokio::test(start_paused = true)]
async fn fi_1_what_a_node_damages_comes_from_elsewhere() {
    let stage = Stage::new(1, Rules::default());
    let shelf = FileShelf::default();
    let bend = |start, piece| match start {
        7000 => Ok(flipped(&piece)),
        _ => Ok(piece),
    };
    stage.serve("liar-1", Arc::new(Bent(Arc::new(shelf.clone()), bend)));
    let liar = stage.node_with("liar-1", shelf).await;
    liar.gets(&stage).await;
    let node = stage.node("n-2").await;
    let pulled = node.gets(&stage).await;
    assert_eq!(pulled.repaired, 1);
    assert!(pulled.from_nodes_bytes > 0, "{pulled:?}");
    // FI-2: what was under way is pulled again, and the damaged chunk.
    let again = (STREAMS as u64 + 1) * u64::from(SIZE);
    assert!(pulled.bytes <= stage.len() + again, "{pulled:?}");
    // Nobody is sent to it any more.
    let pulled = stage.node("n-3").await.gets(&stage).await;
    assert_eq!((pulled.repaired, pulled.from_nodes_bytes), (0, stage.len()));
}

#[tokio::test(start_paused = true)]
async fn fi_1_what_the_controller_damages_is_pulled_again_so_often() {
    for (times, comes) in [(2, true), (3, false)] {
        let stage = Stage::new(1, Rules::default());
        let left = Mutex::new(times);
        let bend = move |start, piece| {
            let mut left = left.lock().unwrap();
            match *left > 0 && start == 19_000 {
                true => {
                    *left -= 1;
                    Ok(flipped(&piece))
                }
                false => Ok(piece),
            }
        };
        stage.serve("head", Arc::new(Bent(Arc::new(stage.blobs.clone()), bend)));
        let node = stage.node("n-1").await;
        if comes {
            assert_eq!(node.gets(&stage).await.repaired, times);
        } else {
            let failed = node.files.bring(&stage.set, &node.folder).await;
            assert!(failed.unwrap_err().0.contains("damaged 3 times"));
            assert!(!node.folder.exists(), "FI-4");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn fi_2_a_node_that_is_lost_in_the_middle_costs_what_had_not_come() {
    let stage = Stage::new(
        1,
        Rules {
            delay: Duration::from_millis(50),
            ..Rules::default()
        },
    );
    let (above, below) = (stage.node("n-1").await, stage.node("n-2").await);
    above.gets(&stage).await;
    let before = stage.blobs.given_bytes();
    let network = stage.network.clone();
    let (pulled, ()) = tokio::join!(below.gets(&stage), async {
        // The list, the question and the dialling take 400 ms, and four chunks 100 more.
        tokio::time::sleep(Duration::from_millis(650)).await;
        network.vanish(&name("n-1"));
    });
    assert!(pulled.from_nodes_bytes > 0, "{pulled:?}");
    let rest = stage.blobs.given_bytes() - before - stage.set.list.len;
    assert!(rest > 0 && rest < stage.len(), "{rest}");
}

#[tokio::test(start_paused = true)]
async fn fi_3_a_folder_from_before_is_given_on_while_nobody_changes_it() {
    let stage = Stage::new(1, Rules::default());
    let nodes = [
        stage.node("n-1").await,
        stage.node("n-2").await,
        stage.node("n-3").await,
        stage.node("n-4").await,
    ];
    let holder = &nodes[0];
    write(&holder.folder, 0);
    holder.files.hold(&stage.set, &holder.folder).await;
    // The controller's own one, and then the holder's.
    assert_eq!(nodes[1].gets(&stage).await.from_nodes_bytes, 0);
    assert_eq!(nodes[2].gets(&stage).await.from_nodes_bytes, stage.len());
    // What is put in its place is not given on, and is no damage.
    std::fs::remove_dir_all(&holder.folder).unwrap();
    std::fs::remove_dir_all(&nodes[1].folder).unwrap();
    write(&holder.folder, 1);
    let pulled = nodes[3].gets(&stage).await;
    assert_eq!(pulled.repaired, 0);
    // One that lacks a file offers nothing.
    std::fs::remove_file(nodes[2].folder.join("empty")).unwrap();
    let list = list_of(nodes[2].files.owner.as_ref(), &stage.set).await;
    assert!(Held::found(stage.set.hash, list.unwrap(), &nodes[2].folder).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_not_the_one_of_the_order_is_refused() {
    let stage = Stage::new(1, Rules::default());
    let node = stage.node("n-1").await;
    let spoiled: [fn(&mut FileSet); 4] = [
        |set| set.hash = Digest::of(b"another"),
        |set| set.list.crc32 ^= 1,
        |set| set.list.id += 999,
        |set| set.files.extend([("more".to_owned(), 1)]),
    ];
    for spoil in spoiled {
        let mut set = stage.set.clone();
        spoil(&mut set);
        assert!(node.files.bring(&set, &node.folder).await.is_err());
        assert!(!node.folder.exists());
    }
    node.gets(&stage).await;
}

#[tokio::test(start_paused = true)]
async fn fi_4_a_transfer_that_breaks_off_leaves_what_was_there() {
    let network = Network::new(1, Rules::default(), Duration::from_secs(1000));
    let mut listener = network.listen(identity("node"));
    let to = "node".parse().unwrap();
    let from = network.dial(identity("head"), &to, Lane::Bulk);
    let from = from.await.unwrap();
    let there = listener.accept().await.unwrap();
    let blobs = Blobs::new(SIZE);
    tokio::spawn(bulk::serve(there, Arc::new(blobs.clone())));
    let dir = tempfile::tempdir().unwrap();
    let [source, root] = ["source", "checkpoints"].map(|name| dir.path().join(name));
    let folder = root.join("step_5");
    let lent = |seed| {
        write(&source, seed);
        blobs.lend_folder(&source).unwrap()
    };
    let holds = |seed| {
        holds(&folder, seed);
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
    };
    let (set, _loan) = lent(1);
    bring_folder(&from, &set, &folder).await.unwrap();
    holds(1);
    let (whole, _loan) = lent(2);
    let spoiled: [fn(&mut FileSet); 2] = [|set| set.hash = Digest::of(b""), |set| set.lent += 999];
    for spoil in spoiled {
        let mut set = whole.clone();
        spoil(&mut set);
        assert!(bring_folder(&from, &set, &folder).await.is_err());
        holds(1);
    }
    bring_folder(&from, &whole, &folder).await.unwrap();
    holds(2);
}

#[test]
fn a_name_is_one_folder_and_no_other() {
    for good in ["step_5", "a b", "a..b"] {
        assert!(is_name(good), "{good}");
    }
    for bad in [
        "",
        ".",
        "..",
        "/",
        "a/",
        "a/b",
        "/a",
        "./a",
        ".step_5.old",
        "a\0b",
    ] {
        assert!(!is_name(bad), "{bad:?}");
    }
}

#[test]
fn no_path_leads_out_of_its_folder() {
    for good in ["a", "a/b.safetensors", "a..b"] {
        assert!(inside(good).is_ok(), "{good}");
    }
    for bad in ["", "/etc/passwd", "../a", "a/../../b", "./a/..", "."] {
        assert!(inside(bad).is_err(), "{bad}");
    }
}
