//! The command line.

use crate::logs::LogFormat;
use crate::version::VERSION;
use clap::{Args as ClapArgs, Parser, Subcommand};
use proto::{NodeName, Role};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use transport::certs::{Serial, Validity};

/// Step-wise reinforcement learning for language models that use tools.
#[derive(Debug, Parser)]
#[command(name = "swirl", version = VERSION, arg_required_else_help = true)]
pub struct Args {
    /// What to log to stderr, such as `info` or `warn,actors=debug`.
    #[arg(long, global = true, value_name = "FILTER", env = "SWIRL_LOG")]
    pub log: Option<String>,
    /// How log lines look, on stderr and in the file of a run.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        env = "SWIRL_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run every stage of a configuration: warm start, trajectories, filter, training, evaluation.
    Run(RunArgs),
    /// Measure a model on a file of questions.
    Eval(EvalArgs),
    /// Look at, make and export data.
    #[command(subcommand)]
    Data(DataCommand),
    /// Show how one answer, tool call, action or judge's reply is read.
    #[command(subcommand)]
    Try(TryCommand),
    /// Import and describe models.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Make, renew and revoke the certificates of a cluster's nodes.
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Take part in a run that another machine leads.
    Node(NodeArgs),
    /// Run a configuration with nodes that are started over ssh.
    Launch(LaunchArgs),
    /// Have a run end in order: it finishes the step in flight and writes a checkpoint, from which
    /// `--resume` goes on. Returns once it has ended.
    Stop {
        /// The run folder, on this machine.
        run: PathBuf,
    },
    /// Have a node of a run finish what it has, take nothing new, and end.
    Drain {
        /// The run folder, on the controller's machine.
        run: PathBuf,
        /// The node's name, as its certificate has it.
        node: NodeName,
    },
    /// Check this machine and say what to do about each problem.
    Doctor(DoctorArgs),
}

/// Arguments of `swirl run`.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// Configuration files, later over earlier.
    #[arg(required = true, value_name = "FILE")]
    pub configs: Vec<PathBuf>,
    /// Settings over all files, any number of times; `--train.steps 10` and `train.steps=10` do the same.
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Go on with a run that stopped.
    #[arg(long, conflicts_with = "clean")]
    pub resume: bool,
    /// Delete what an earlier run left, then start.
    #[arg(long)]
    pub clean: bool,
    /// Lead a cluster: listen for nodes at this UDP address, and at the next port for data. The
    /// same as `cluster.listen=ADDRESS:PORT`.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// The folder of this node's certificate. The same as `cluster.certs=DIR`.
    #[arg(long, value_name = "DIR")]
    pub certs: Option<PathBuf>,
    /// A file that is written every few seconds, for probes: its time says that this process runs.
    #[arg(long, value_name = "FILE")]
    pub health_file: Option<PathBuf>,
    /// Check all that can be checked without the model and the judge's endpoint, print the
    /// configuration with every default, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the report, or with --dry-run the configuration, as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `swirl launch`.
#[derive(Debug, ClapArgs)]
pub struct LaunchArgs {
    /// The hosts and what each of them does (cluster/README.md).
    #[arg(long, value_name = "FILE")]
    pub hosts: PathBuf,
    /// Configuration files, later over earlier.
    #[arg(required = true, value_name = "FILE")]
    pub configs: Vec<PathBuf>,
    /// Settings over all files, as for `swirl run`.
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Arguments of `swirl node`.
#[derive(Debug, ClapArgs)]
pub struct NodeArgs {
    /// What this node does: sampler, tool, judge, learner; several with commas.
    #[arg(
        long = "role",
        required = true,
        value_delimiter = ',',
        value_name = "ROLE"
    )]
    pub roles: Vec<Role>,
    /// Where the controller listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub join: String,
    /// The folder of this node's certificate, as `swirl certs issue` made it.
    #[arg(long, value_name = "DIR")]
    pub certs: PathBuf,
    /// `auto`, `cpu` or `cuda:N`. `auto` is the first GPU, or that of the local rank where a launcher
    /// says one (SLURM_LOCALID, LOCAL_RANK, OMPI_COMM_WORLD_LOCAL_RANK).
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Threads of libtorch on a CPU; 0 takes one per core.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub threads: usize,
    /// Where other nodes reach this one; by default the address of the interface that leads to the
    /// controller.
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// The TCP port where other learners reach this one; 0 takes any.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub ring_port: u16,
    /// The UDP port where other nodes pull weights and model files from this one, if it samples or
    /// trains; 0 takes any. Where they cannot reach it, they pull from the controller.
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub weights_port: u16,
    /// Where models and checkpoints are kept; by default in the user's cache folder.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Only take part in runs of this configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Grace period of the node to leave after SIGTERM, SIGINT or SIGHUP: it takes nothing new, ends
    /// what it has, and the controller writes a checkpoint of what it trains.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "100s",
        value_parser = humantime::parse_duration
    )]
    pub stop_grace: Duration,
    /// A file whose time is that of the last contact with the controller, for probes.
    #[arg(long, value_name = "FILE")]
    pub health_file: Option<PathBuf>,
}

/// Arguments of `swirl eval`.
#[derive(Debug, ClapArgs)]
pub struct EvalArgs {
    /// The model: a Hugging Face directory. Without it, `model.path` of the configuration.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// The questions: JSONL, the project's layout or GSM8K's.
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Only rows of this split.
    #[arg(long)]
    pub split: Option<String>,
    /// Only the first so many.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Samples per question; more than one needs a temperature. Without it, `evaluation.samples` of
    /// the configuration, which is 1 by default.
    #[arg(long, value_name = "K")]
    pub samples: Option<u32>,
    /// 0 is greedy. Without it, `evaluation.temperature` of the configuration, which is 0 by
    /// default.
    #[arg(long, value_name = "T")]
    pub temperature: Option<f32>,
    /// Offer no tool.
    #[arg(long)]
    pub without_tools: bool,
    /// Keep the trajectories in this folder; without it they are thrown away.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on with the trajectories that `--out` holds.
    #[arg(long, requires = "out")]
    pub resume: bool,
    /// Take prompts, judges and limits from this configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings over the file: `evaluation.max_steps=5`, any number of times.
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `swirl data …`
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show a trajectory, or list what a folder holds.
    Inspect {
        /// A run folder or a folder of trajectories.
        folder: PathBuf,
        /// The item, as `question#sample`; without it a list of items.
        item: Option<String>,
    },
    /// Write trajectories as JSON lines.
    Export {
        /// A run folder or a folder of trajectories.
        folder: PathBuf,
        /// The file to write.
        out: PathBuf,
    },
    /// Write made questions as JSON lines.
    Make {
        /// `wordmath` or `wikihop`.
        generator: String,
        /// The file to write.
        out: PathBuf,
        /// How many questions.
        #[arg(long, default_value_t = 100)]
        count: usize,
        /// Seed.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Show how each row of a question file is read: id, key and reference steps, or its error.
    Questions {
        /// The file: JSONL, the project's layout or GSM8K's.
        file: PathBuf,
        /// One JSON object per row.
        #[arg(long)]
        json: bool,
    },
}

/// `swirl try …`
#[derive(Debug, Subcommand)]
pub enum TryCommand {
    /// Whether an answer equals a key, and how each was read.
    Answer {
        /// The answer key.
        #[arg(required_unless_present = "stdin", allow_hyphen_values = true)]
        key: Option<String>,
        /// The answer.
        #[arg(required_unless_present = "stdin", allow_hyphen_values = true)]
        answer: Option<String>,
        /// Read rows `KEY<tab>ANSWER` from stdin, and print one JSON object per row.
        #[arg(long, conflicts_with_all = ["key", "answer"])]
        stdin: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The result of one call of a tool, or its error.
    Tool {
        /// The tool's name, such as `calculator`.
        #[arg(required_unless_present = "stdin")]
        name: Option<String>,
        /// Its arguments, as the model would write them between the tags.
        #[arg(required_unless_present = "stdin", allow_hyphen_values = true)]
        arguments: Option<String>,
        /// Read rows `NAME<tab>ARGUMENTS` from stdin, or `ARGUMENTS` where a name is given, and print
        /// one JSON object per row.
        #[arg(long, conflicts_with = "arguments")]
        stdin: bool,
        /// Take the tools' limits from this configuration.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// The action that a model's text is read as.
    Action(TryActionArgs),
    /// The verdict of the configured judge: the request, the reply, and what is made of it.
    Judge(TryJudgeArgs),
}

/// Arguments of `swirl try judge`.
#[derive(Debug, ClapArgs)]
pub struct TryJudgeArgs {
    /// The configuration that names the judge.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Settings over the file: `judge.llm.max_tokens=2048`, any number of times.
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The question.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub question: Option<String>,
    /// A step of the model, with `\n` for a line break. Several are given in order: the last one is
    /// judged, and the calls of earlier ones are run.
    #[arg(long = "step", value_name = "TEXT", allow_hyphen_values = true)]
    pub steps: Vec<String>,
    /// The answer key.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub key: Option<String>,
    /// A final answer, judged against the key.
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        requires = "key",
        conflicts_with = "steps"
    )]
    pub answer: Option<String>,
    /// A stored trajectory: a run folder, and the item as `question#sample`.
    #[arg(
        long,
        num_args = 2,
        value_names = ["FOLDER", "ITEM"],
        conflicts_with_all = ["question", "steps", "key", "answer"]
    )]
    pub trajectory: Vec<String>,
    /// The step's number in that trajectory, from 1; the last step if it is not given.
    #[arg(long, value_name = "N", requires = "trajectory")]
    pub number: Option<usize>,
    /// Use the judge of answers, not that of steps.
    #[arg(long)]
    pub outcome: bool,
    /// Ask nobody: read this reply, `{"status": 200, "headers": {}, "body": …}`.
    #[arg(long, value_name = "FILE")]
    pub reply: Option<PathBuf>,
    /// Ask nobody: read replies from stdin, one a line, and print one JSON object per line.
    #[arg(long, conflicts_with_all = ["reply", "steps", "answer", "trajectory"])]
    pub stdin: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `swirl try action`.
#[derive(Debug, ClapArgs)]
pub struct TryActionArgs {
    /// The text of one turn of the model.
    #[arg(required_unless_present = "stdin", allow_hyphen_values = true)]
    pub text: Option<String>,
    /// Why sampling ended: `stop` (a closing tag or the end of the turn) or `length`.
    #[arg(long, default_value = "stop")]
    pub finish: Finish,
    /// The chat template has opened a thinking section: the text begins inside it.
    #[arg(long)]
    pub inside_thinking: bool,
    /// Read rows `TEXT` or `TEXT<tab>FINISH` from stdin, with `\n` for a line break, and print one
    /// JSON object per row.
    #[arg(long, conflicts_with = "text")]
    pub stdin: bool,
    /// Take the tools and the tags of thinking from this configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Why sampling ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Finish {
    /// At a closing tag, or at the end of the turn.
    Stop,
    /// At the limit of tokens.
    Length,
}

/// `swirl model …`
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Turn a GGUF file into a Hugging Face directory.
    Import {
        /// The GGUF file.
        gguf: PathBuf,
        /// The directory to write.
        #[arg(long)]
        out: PathBuf,
        /// A Hugging Face directory to take tokenizer and chat template from, where the file has no
        /// template or the tokenizer's own files are wanted.
        #[arg(long, value_name = "DIR")]
        tokenizer: Option<PathBuf>,
    },
    /// Add a trained model's adapters to their base weights, for programs that need merged weights.
    Merge {
        /// A directory that training of adapters wrote.
        dir: PathBuf,
        /// The Hugging Face directory to write.
        #[arg(long)]
        out: PathBuf,
        /// The type to store. 16 bits lose part of a small update; the share left is printed.
        #[arg(long, value_enum, default_value_t)]
        dtype: StoredType,
    },
    /// Describe a model directory, and how its chat template writes a dialogue down.
    Info {
        /// A Hugging Face directory.
        dir: PathBuf,
        /// A variable for the chat template, such as `enable_thinking=false`; the value is read as
        /// TOML.
        #[arg(long = "template-argument", value_name = "NAME=VALUE")]
        template_arguments: Vec<String>,
    },
}

/// A type that weights are stored in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum StoredType {
    /// 32 bits: nothing is lost.
    #[default]
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

/// `swirl certs …`
#[derive(Debug, Subcommand)]
pub enum CertsCommand {
    /// Make a certificate authority of the run's own.
    Init {
        /// Its folder.
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
    },
    /// Make a node's certificate.
    Issue {
        /// The node's name: lower-case letters, digits and hyphens.
        node: NodeName,
        /// What the node may do: controller, sampler, tool, judge, learner; several with commas.
        #[arg(
            long = "role",
            required = true,
            value_delimiter = ',',
            value_name = "ROLE"
        )]
        roles: Vec<Role>,
        /// The authority's folder.
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
        /// How long the certificate is valid, at most as long as the authority.
        #[arg(
            long,
            value_name = "N",
            default_value_t = Validity::NODE_DAYS,
            value_parser = clap::value_parser!(u16).range(1..)
        )]
        days: u16,
    },
    /// Shut a node out of runs: its connections end, and it gets no new ones. Running processes take
    /// the list from the folder of their own certificate.
    Revoke {
        /// The node's name.
        #[arg(required_unless_present = "serial")]
        node: Option<NodeName>,
        /// Only the certificate that it has now: `renew` makes it another one.
        #[arg(long)]
        certificate: bool,
        /// The certificate of this number, wherever it is: hexadecimal digits, as `openssl x509 -serial`
        /// prints them.
        #[arg(long, value_name = "HEX", conflicts_with_all = ["node", "certificate"])]
        serial: Option<Serial>,
        /// The authority's folder.
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
    },
    /// Replace a node's certificate and key by new ones with the same name and roles. Running
    /// processes take them when they lie in the folder that they were started with.
    Renew {
        /// The node's name.
        node: NodeName,
        /// The authority's folder.
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
        /// How long the certificate is valid, at most as long as the authority.
        #[arg(
            long,
            value_name = "N",
            default_value_t = Validity::NODE_DAYS,
            value_parser = clap::value_parser!(u16).range(1..)
        )]
        days: u16,
    },
}

/// Arguments of `swirl doctor`.
#[derive(Debug, ClapArgs)]
pub struct DoctorArgs {
    /// The model to look for.
    #[arg(
        long,
        value_name = "DIR",
        default_value = ".deps/models/SmolLM2-135M-Instruct",
        conflicts_with_all = ["cluster", "listen", "join"]
    )]
    pub model: PathBuf,
    /// Print the findings as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Check all hosts of `swirl launch --hosts FILE` and the network between them; started over ssh.
    #[arg(long, value_name = "FILE", groups = ["leads", "where"])]
    pub cluster: Option<PathBuf>,
    /// The same where something else starts the nodes: wait here for `--nodes` of them, each started
    /// as `swirl doctor --join HOST:PORT --certs DIR`. Takes the next port, too.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        groups = ["leads", "where", "meets"],
        requires = "certs",
        requires = "nodes"
    )]
    pub listen: Option<String>,
    /// How many nodes to wait for.
    #[arg(long, value_name = "N", requires = "listen")]
    pub nodes: Option<usize>,
    /// Have this machine checked by the one that listens there.
    #[arg(
        long,
        value_name = "HOST:PORT",
        groups = ["where", "meets"],
        requires = "certs"
    )]
    pub join: Option<String>,
    /// UDP port where other nodes reach this one; 0 takes any.
    #[arg(long, default_value_t = 0, requires = "join")]
    pub port: u16,
    /// The device that this node is to compute on: `auto`, `cpu` or `cuda:N`.
    #[arg(long, default_value = "auto", requires = "join")]
    pub device: String,
    /// The folder of this node's certificate.
    #[arg(long, value_name = "DIR", requires = "meets")]
    pub certs: Option<PathBuf>,
    /// Seconds until nodes that have not come are given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "leads")]
    pub wait: u64,
}

/// Rewrites settings to `--set KEY=VALUE`: `--train.steps 10`, `--train.steps=10` and
/// `train.steps=10` alike. A setting has a dot in its key, which no other argument has.
/// What is not UTF-8 can be a path, but no setting: it stays as it is.
pub fn with_settings(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut rewritten: Vec<OsString> = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let after_set = rewritten.last().is_some_and(|a| a == "--set" || a == "-s");
        match argument.to_str().map(setting) {
            Some(Setting::Whole(text)) if !after_set => {
                rewritten.extend(["--set".into(), text.into()]);
            }
            Some(Setting::Key(key)) if !after_set => {
                let mut pair = OsString::from(format!("{key}="));
                pair.push(arguments.next().unwrap_or_default());
                rewritten.extend(["--set".into(), pair]);
            }
            _ => rewritten.push(argument),
        }
    }
    rewritten
}

/// What an argument says of a setting.
enum Setting<'a> {
    /// `key=value`.
    Whole(&'a str),
    /// `--key`, whose value is the next argument.
    Key(&'a str),
    None,
}

fn setting(argument: &str) -> Setting<'_> {
    let (dashes, text) = match argument.strip_prefix("--") {
        Some(text) => (true, text),
        None => (false, argument),
    };
    let key = text.split('=').next().unwrap_or_default();
    let is_key = key.contains('.') && key.split('.').all(is_word);
    match (is_key, text.contains('='), dashes) {
        (true, true, _) => Setting::Whole(text),
        (true, false, true) => Setting::Key(text),
        _ => Setting::None,
    }
}

fn is_word(part: &str) -> bool {
    !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn settings_may_be_written_in_four_ways() {
        let cases = [
            (
                "run c.toml --train.steps 10",
                "run c.toml --set train.steps=10",
            ),
            (
                "run c.toml --train.steps=10",
                "run c.toml --set train.steps=10",
            ),
            (
                "run c.toml train.steps=10",
                "run c.toml --set train.steps=10",
            ),
            (
                "run c.toml -s train.steps=10",
                "run c.toml -s train.steps=10",
            ),
            ("run ../a.b/c.toml --resume", "run ../a.b/c.toml --resume"),
            (
                "run c.toml --resume --model.path x=y",
                "run c.toml --resume --set model.path=x=y",
            ),
            ("run c.toml --train.steps", "run c.toml --set train.steps="),
        ];
        for (written, expected) in cases {
            let arguments = written.split(' ').map(OsString::from);
            assert_eq!(with_settings(arguments).join(OsStr::new(" ")), expected);
        }
    }
}
