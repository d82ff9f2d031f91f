//! Checks what `cluster/` holds, as far as that goes without a cluster.
//!
//! - **CL-1 (scripts).** Every shell script passes `bash -n` and can be executed.
//! - **CL-2 (schemas).** Every manifest, and what kustomize makes of them where `kubectl` is there,
//!   is valid for [`KUBERNETES`], with no field that it does not know.
//! - **CL-3 (names).** Manifests name only what exists: volumes, Services, labels, files.
//! - **CL-4 (numbers).** `run.toml` waits for no more nodes than there are replicas.
//! - **CL-5 (image).** Everything that the Dockerfile copies from the checkout exists and is let
//!   through by `.dockerignore`. That cargo can read the workspace from it, says TD-6.
//! - **CL-6 (units).** Every unit passes `systemd-analyze verify`, where that is there.
//! - **CL-7 (grace periods).** A node has left before Kubernetes kills its pod.
//! - **CL-8 (ends).** Pods of nodes end with the run: they are those of Jobs that start again what has
//!   failed, without end, and nothing else. That their memory is enough says a test of `cli`.
//!
//! Not promised: that a cluster accepts the manifests, that the image can be built, that `swirl`
//! knows the flags used.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::paths::Paths;
use crate::{process, python};

/// Pinned, so that the same is valid tomorrow. PyYAML comes with the first.
const REQUIREMENTS: [&str; 2] = ["kubernetes-validate==1.37.0", "dockerfile-parse==2.0.1"];

/// Grace periods that are not given: of a pod, and of `swirl node`.
const USUAL_POD_SECONDS: u64 = 30;
const USUAL_NODE_SECONDS: u64 = 100;

/// The version whose schemas count.
const KUBERNETES: &str = "1.32";

/// Prints a JSON object: `manifests` holds `[file, document]` pairs, `dockerfile` instructions.
const READ: &str = r#"
import json, sys, yaml
from dockerfile_parse import DockerfileParser
dockerfile, *files = sys.argv[1:]
manifests = [[f, d] for f in files for d in yaml.safe_load_all(open(f)) if d is not None]
with open(dockerfile, "rb") as file:
    structure = DockerfileParser(fileobj=file).structure
print(json.dumps({"manifests": manifests, "dockerfile": structure}))
"#;

/// Checks everything.
///
/// # Errors
/// When something is wrong; each fault is printed before.
pub fn check(paths: &Paths) -> Result<()> {
    let files = Files::of(&paths.root.join("cluster"))?;
    let mut faults = scripts(&files)?;
    faults.extend(units(&paths.root.join("target/cluster"), &files)?);

    let python = python::environment(paths, "cluster-python", &REQUIREMENTS.join("\n"))?;
    let manifests = files.manifests();
    let mut validated = manifests.clone();
    validated.extend(rendered(&paths.root.join("target/cluster"), &files)?);
    let mut validate = Command::new(python.with_file_name("kubernetes-validate"));
    validate.args(["--strict", "--quiet", "--kubernetes-version", KUBERNETES]);
    if let Err(error) = process::run("validating manifests", validate.args(&validated)) {
        faults.push(format!("{error:#}"));
    }

    let dockerfile = paths.root.join("cluster/Dockerfile");
    let mut read = Command::new(&python);
    read.args(["-c", READ]).arg(&dockerfile);
    read.args(&manifests).args(files.kustomizations());
    let text = process::output("reading manifests and Dockerfile", &mut read)?;
    let read: Value = serde_json::from_str(&text).context("the reader's output is not JSON")?;
    faults.extend(unknown_names(&documents(&read)));
    faults.extend(missing_files(&documents(&read)));
    faults.extend(missing_nodes(paths, &documents(&read))?);
    faults.extend(short_graces(&documents(&read)));
    faults.extend(endless_nodes(&documents(&read)));
    faults.extend(missing_sources(&paths.root, &read["dockerfile"])?);

    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("cluster: {} fault(s)", faults.len());
    }
    println!(
        "cluster: {} scripts, {} manifests, {} units and the Dockerfile are in order",
        files.with_extension(&["sh", "sbatch"]).len(),
        validated.len(),
        files.with_extension(&["service"]).len(),
    );
    Ok(())
}

/// All files below `cluster/`, sorted.
struct Files(Vec<PathBuf>);

impl Files {
    fn of(folder: &Path) -> Result<Self> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder)
                .with_context(|| format!("cannot list {}", folder.display()))?;
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found.sort();
        Ok(Self(found))
    }

    fn with_extension(&self, extensions: &[&str]) -> Vec<PathBuf> {
        let wanted = |path: &&PathBuf| {
            path.extension()
                .is_some_and(|found| extensions.iter().any(|extension| found == *extension))
        };
        self.0.iter().filter(wanted).cloned().collect()
    }

    fn kustomizations(&self) -> Vec<PathBuf> {
        let mut files = self.with_extension(&["yaml"]);
        files.retain(|path| is_kustomization(path));
        files
    }

    fn manifests(&self) -> Vec<PathBuf> {
        let mut files = self.with_extension(&["yaml"]);
        files.retain(|path| !is_kustomization(path));
        files
    }
}

fn is_kustomization(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name == "kustomization.yaml")
}

/// CL-1.
fn scripts(files: &Files) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for script in files.with_extension(&["sh", "sbatch"]) {
        let mut bash = Command::new("bash");
        if process::run("`bash -n`", bash.arg("-n").arg(&script)).is_err() {
            faults.push(format!("{}: bash cannot parse it", script.display()));
        }
        if fs::metadata(&script)?.permissions().mode() & 0o111 == 0 {
            faults.push(format!("{}: it cannot be executed", script.display()));
        }
    }
    Ok(faults)
}

/// CL-6. The program that a unit starts need not be installed here: `true` takes its place in a copy.
fn units(scratch: &Path, files: &Files) -> Result<Vec<String>> {
    if !process::succeeds("systemd-analyze", &["--version"]) {
        println!("skipped: systemd-analyze is not installed, units are not verified");
        return Ok(Vec::new());
    }
    fs::create_dir_all(scratch)?;
    let mut faults = Vec::new();
    for unit in files.with_extension(&["service"]) {
        let name = unit.file_name().unwrap_or_default().to_string_lossy();
        let copy = scratch.join(name.replace("@.", "@check."));
        let text = fs::read_to_string(&unit)?;
        fs::write(&copy, text.replace("/usr/local/bin/swirl", "/bin/true"))?;
        let mut verify = Command::new("systemd-analyze");
        if process::run("verifying", verify.arg("verify").arg(&copy)).is_err() {
            faults.push(format!("{}: not a valid unit", unit.display()));
        }
    }
    Ok(faults)
}

/// What kustomize makes of each kustomization, as files; none without `kubectl`.
fn rendered(scratch: &Path, files: &Files) -> Result<Vec<PathBuf>> {
    if !process::succeeds("kubectl", &["version", "--client"]) {
        println!("skipped: kubectl is not installed, manifests are checked one by one only");
        return Ok(Vec::new());
    }
    fs::create_dir_all(scratch)?;
    let mut found = Vec::new();
    for file in files.kustomizations() {
        let folder = file.parent().context("a file lies in a folder")?;
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("kustomize").arg(folder);
        let text = process::output("kubectl kustomize", &mut kubectl)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let path = scratch.join(format!("{name}.yaml"));
        fs::write(&path, text)?;
        found.push(path);
    }
    Ok(found)
}

/// A document of a manifest and the file it stands in.
type Document<'a> = (&'a str, &'a Value);

fn documents(read: &Value) -> Vec<Document<'_>> {
    let pairs = read["manifests"].as_array().into_iter().flatten();
    pairs
        .filter_map(|pair| Some((pair[0].as_str()?, &pair[1])))
        .collect()
}

fn of_kind<'a>(documents: &[Document<'a>], kind: &str) -> Vec<Document<'a>> {
    let wanted = |document: &&Document<'a>| document.1["kind"] == kind;
    documents.iter().filter(wanted).copied().collect()
}

/// Documents that make pods.
fn workloads<'a>(documents: &[Document<'a>]) -> Vec<Document<'a>> {
    let mut found = of_kind(documents, "StatefulSet");
    found.extend(of_kind(documents, "Job"));
    found
}

/// Commands of a workload's containers that run `swirl node`.
fn node_commands(workload: &Value) -> Vec<Vec<&str>> {
    let containers = &workload["spec"]["template"]["spec"]["containers"];
    let containers = containers.as_array().into_iter().flatten();
    let commands = containers.map(|container| texts(&container["command"], ""));
    commands
        .filter(|words| words.get(1) == Some(&"node"))
        .collect()
}

/// The text at `pointer` in every element of a list.
fn texts<'a>(list: &'a Value, pointer: &str) -> Vec<&'a str> {
    let elements = list.as_array().into_iter().flatten();
    elements
        .filter_map(|element| element.pointer(pointer)?.as_str())
        .collect()
}

/// CL-3, within manifests.
fn unknown_names(documents: &[Document<'_>]) -> Vec<String> {
    let mut services: Vec<&str> = Vec::new();
    let mut configs: Vec<&str> = Vec::new();
    for (_, document) in documents {
        match document["kind"].as_str() {
            Some("Service") => services.extend(document["metadata"]["name"].as_str()),
            Some("Kustomization") => {
                configs.extend(texts(&document["configMapGenerator"], "/name"));
            }
            _ => {}
        }
    }
    let mut faults = Vec::new();
    for (file, workload) in workloads(documents) {
        let spec = &workload["spec"];
        let pod = &spec["template"]["spec"];
        let mut refer = |what: &str, name: &str, known: &[&str]| {
            if !known.contains(&name) {
                faults.push(format!("{file}: there is no {what} {name}"));
            }
        };
        if workload["kind"] == "StatefulSet" {
            let service = spec["serviceName"].as_str().unwrap_or_default();
            refer("Service", service, &services);
        }
        for name in texts(&pod["volumes"], "/configMap/name") {
            refer("ConfigMap", name, &configs);
        }
        let mut volumes = texts(&pod["volumes"], "/name");
        volumes.extend(texts(&spec["volumeClaimTemplates"], "/metadata/name"));
        for list in ["initContainers", "containers"] {
            for container in pod[list].as_array().into_iter().flatten() {
                for name in texts(&container["volumeMounts"], "/name") {
                    refer("volume", name, &volumes);
                }
            }
        }
        let labels = &spec["template"]["metadata"]["labels"];
        let wanted = spec["selector"]["matchLabels"].as_object();
        for (label, value) in wanted.into_iter().flatten() {
            if labels[label] != *value {
                faults.push(format!("{file}: the pods do not bear {label}={value}"));
            }
        }
    }
    faults
}

/// CL-3, between kustomizations and the files beside them.
fn missing_files(documents: &[Document<'_>]) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, kustomization) in of_kind(documents, "Kustomization") {
        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        let mut names = texts(&kustomization["resources"], "");
        for generator in kustomization["configMapGenerator"]
            .as_array()
            .into_iter()
            .flatten()
        {
            names.extend(texts(&generator["files"], ""));
        }
        let missing = names.iter().filter(|name| !folder.join(name).exists());
        faults.extend(missing.map(|name| format!("{file}: there is no {name}")));
    }
    faults
}

/// CL-4.
fn missing_nodes(paths: &Paths, documents: &[Document<'_>]) -> Result<Vec<String>> {
    let path = paths.root.join("cluster/kubernetes/run.toml");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let wanted = wait_for(&text)
        .with_context(|| format!("{} has no `wait_for = {{ … }}`", path.display()))?;
    let there = replicas(documents);
    let too_few = |(role, count): &(&String, &u64)| there.get(*role).unwrap_or(&0) < *count;
    let faults = wanted.iter().filter(too_few).map(|(role, count)| {
        let there = there.get(role).unwrap_or(&0);
        format!(
            "{}: waits for {count} of {role}, and there are {there}",
            path.display()
        )
    });
    Ok(faults.collect())
}

/// The numbers of `wait_for = { sampler = 2, … }` by role.
fn wait_for(toml: &str) -> Option<BTreeMap<String, u64>> {
    let table = toml.lines().find_map(|line| {
        let rest = line.strip_prefix("wait_for")?.trim_start();
        rest.strip_prefix('=')?
            .trim()
            .strip_prefix('{')?
            .strip_suffix('}')
    })?;
    table
        .split(',')
        .map(|pair| {
            let (role, count) = pair.split_once('=')?;
            Some((role.trim().to_owned(), count.trim().parse().ok()?))
        })
        .collect()
}

/// How many pods run `swirl node` with each role.
fn replicas(documents: &[Document<'_>]) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for (_, workload) in workloads(documents) {
        let spec = &workload["spec"];
        let count = spec["replicas"].as_u64().or(spec["parallelism"].as_u64());
        let count = count.unwrap_or(1);
        let words = node_commands(workload).into_iter().flatten();
        for roles in words.filter_map(|word| word.strip_prefix("--role=")) {
            for role in roles.split(',') {
                *found.entry(role.to_owned()).or_insert(0) += count;
            }
        }
    }
    found
}

/// CL-7.
fn short_graces(documents: &[Document<'_>]) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, workload) in workloads(documents) {
        let pod = &workload["spec"]["template"]["spec"];
        let pods = pod["terminationGracePeriodSeconds"].as_u64();
        let pods = pods.unwrap_or(USUAL_POD_SECONDS);
        for words in node_commands(workload) {
            let own = words.iter().find_map(|word| {
                let seconds = word.strip_prefix("--stop-grace=")?.strip_suffix('s')?;
                seconds.parse::<u64>().ok()
            });
            let own = own.unwrap_or(USUAL_NODE_SECONDS);
            if own >= pods {
                faults.push(format!(
                    "{file}: a node may take {own} s to leave, and its pod is killed after {pods} s"
                ));
            }
        }
    }
    faults
}

/// CL-8.
fn endless_nodes(documents: &[Document<'_>]) -> Vec<String> {
    let mut faults = Vec::new();
    for (file, workload) in workloads(documents) {
        if node_commands(workload).is_empty() {
            continue;
        }
        let spec = &workload["spec"];
        let mut must = |is_so: bool, what: &str| {
            if !is_so {
                faults.push(format!("{file}: {what}"));
            }
        };
        if workload["kind"] != "Job" {
            must(false, "its nodes are started again when their run is done");
            continue;
        }
        must(
            spec["template"]["spec"]["restartPolicy"] == "OnFailure",
            "a node that fails is not started again (restartPolicy)",
        );
        must(
            spec["backoffLimit"].as_u64() == Some(i32::MAX as u64),
            "its nodes are given up after some failures (backoffLimit)",
        );
        must(
            spec["completionMode"] == "Indexed" && spec["completions"] == spec["parallelism"],
            "its nodes have no names of their own (completionMode, completions, parallelism)",
        );
        must(
            spec["podReplacementPolicy"] == "Failed",
            "two nodes may have one name at a time (podReplacementPolicy)",
        );
    }
    faults
}

/// CL-5.
fn missing_sources(root: &Path, dockerfile: &Value) -> Result<Vec<String>> {
    let ignore = root.join(".dockerignore");
    let ignore =
        fs::read_to_string(&ignore).with_context(|| format!("cannot read {}", ignore.display()))?;
    let mut faults = Vec::new();
    let sources = sources(dockerfile);
    if sources.is_empty() {
        faults.push("cluster/Dockerfile: it copies nothing".to_owned());
    }
    for source in sources {
        if !root.join(&source).exists() {
            faults.push(format!("cluster/Dockerfile: there is no {source}"));
        }
        if !is_sent(&ignore, &source) {
            faults.push(format!(".dockerignore: it keeps {source} out"));
        }
    }
    Ok(faults)
}

/// What a Dockerfile's instructions copy from the checkout, not from other stages.
fn sources(dockerfile: &Value) -> Vec<String> {
    let instructions = dockerfile.as_array().into_iter().flatten();
    let copies =
        instructions.filter(|one| one["instruction"] == "COPY" || one["instruction"] == "ADD");
    let mut found = Vec::new();
    for copy in copies {
        let words: Vec<_> = copy["value"]
            .as_str()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        if words.iter().any(|word| word.starts_with("--from=")) {
            continue;
        }
        let paths: Vec<_> = words
            .iter()
            .filter(|word| !word.starts_with("--"))
            .collect();
        if let Some((_, sources)) = paths.split_last() {
            found.extend(sources.iter().map(|source| (**source).to_owned()));
        }
    }
    found
}

/// Whether a `.dockerignore` that first keeps everything out lets a path in by name.
fn is_sent(ignore: &str, path: &str) -> bool {
    let path = path.trim_start_matches("./").trim_end_matches('/');
    ignore
        .lines()
        .any(|line| line.strip_prefix('!') == Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set() -> Value {
        json!({
            "kind": "StatefulSet",
            "spec": {
                "serviceName": "nodes",
                "replicas": 2,
                "selector": {"matchLabels": {"app": "swirl"}},
                "template": {
                    "metadata": {"labels": {"app": "swirl"}},
                    "spec": {
                        "containers": [{
                            "command": ["swirl", "node", "--role=tool,judge"],
                            "volumeMounts": [{"name": "work"}, {"name": "config"}],
                        }],
                        "volumes": [{"name": "config", "configMap": {"name": "settings"}}],
                    },
                },
                "volumeClaimTemplates": [{"metadata": {"name": "work"}}],
            },
        })
    }

    #[test]
    fn cl_3_every_name_must_exist() {
        let service = json!({"kind": "Service", "metadata": {"name": "nodes"}});
        let kustomization =
            json!({"kind": "Kustomization", "configMapGenerator": [{"name": "settings"}]});
        let cases: [(&str, Value, &str); 5] = [
            ("", Value::Null, ""),
            ("/spec/serviceName", json!("others"), "no Service others"),
            (
                "/spec/template/spec/containers/0/volumeMounts/0/name",
                json!("tmp"),
                "no volume tmp",
            ),
            (
                "/spec/template/spec/volumes/0/configMap/name",
                json!("x"),
                "no ConfigMap x",
            ),
            (
                "/spec/template/metadata/labels/app",
                json!("other"),
                "do not bear app",
            ),
        ];
        for (place, value, fault) in cases {
            let mut set = set();
            if let Some(at) = set.pointer_mut(place).filter(|_| !place.is_empty()) {
                *at = value;
            }
            let documents = [("s", &service), ("k", &kustomization), ("f", &set)];
            let faults = unknown_names(&documents);
            assert_eq!(faults.len(), usize::from(!fault.is_empty()), "{faults:?}");
            assert!(
                faults.iter().all(|found| found.contains(fault)),
                "{faults:?}"
            );
        }
    }

    #[test]
    fn cl_4_numbers_of_nodes_are_read_from_both_sides() {
        let toml = "[cluster]\nwait_for = { sampler = 2, tool = 1 }\n";
        let wanted = wait_for(toml).unwrap();
        assert_eq!(wanted.get("sampler"), Some(&2));
        assert_eq!(wanted.get("tool"), Some(&1));
        assert_eq!(wait_for("[cluster]\n"), None);
        assert_eq!(wait_for("wait_for = { sampler }"), None);

        let set = set();
        let there = replicas(&[("f", &set)]);
        assert_eq!(there.get("tool"), Some(&2));
        assert_eq!(there.get("judge"), Some(&2));
        assert_eq!(there.get("sampler"), None);
    }

    #[test]
    fn cl_7_a_node_leaves_before_its_pod_is_killed() {
        // Of the pod; of the node; in order.
        for (pod, node, is_in_order) in [
            (None, None, false),
            (Some(100), None, false),
            (Some(101), None, true),
            (Some(60), Some("--stop-grace=45s"), true),
            (Some(45), Some("--stop-grace=45s"), false),
            (None, Some("--stop-grace=20s"), true),
        ] {
            let mut set = set();
            let spec = &mut set["spec"]["template"]["spec"];
            if let Some(pod) = pod {
                spec["terminationGracePeriodSeconds"] = json!(pod);
            }
            if let Some(command) = spec["containers"][0]["command"].as_array_mut() {
                command.extend(node.map(|word| json!(word)));
            }
            let faults = short_graces(&[("f", &set)]);
            assert_eq!(
                faults.is_empty(),
                is_in_order,
                "{pod:?} {node:?}: {faults:?}"
            );
        }
    }

    fn job() -> Value {
        json!({
            "kind": "Job",
            "spec": {
                "completionMode": "Indexed",
                "completions": 3,
                "parallelism": 3,
                "backoffLimit": i32::MAX,
                "podReplacementPolicy": "Failed",
                "template": {"spec": {
                    "restartPolicy": "OnFailure",
                    "containers": [{"command": ["swirl", "node", "--role=sampler"]}],
                }},
            },
        })
    }

    #[test]
    fn cl_8_pods_of_nodes_end_with_the_run_and_not_before() {
        let (set, whole) = (set(), job());
        assert_eq!(endless_nodes(&[("f", &whole)]), [""; 0]);
        assert_eq!(replicas(&[("f", &whole)]).get("sampler"), Some(&3));
        let faults = endless_nodes(&[("f", &set)]);
        assert_eq!(faults.len(), 1, "a StatefulSet never ends: {faults:?}");
        let cases = [
            ("/spec/template/spec/restartPolicy", json!("Never")),
            ("/spec/backoffLimit", json!(6)),
            ("/spec/completionMode", json!("NonIndexed")),
            ("/spec/completions", json!(2)),
            ("/spec/podReplacementPolicy", json!("TerminatingOrFailed")),
        ];
        for (place, value) in cases {
            let mut job = job();
            *job.pointer_mut(place).unwrap() = value;
            assert_eq!(endless_nodes(&[("f", &job)]).len(), 1, "{place}");
        }
        // What leads the run may stay.
        let mut set = set;
        set["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["swirl", "run"]);
        assert_eq!(endless_nodes(&[("f", &set)]), [""; 0]);
    }

    /// Runs task 3 of a job of five, a sampler, whose program ends with these codes in turn; the exit
    /// code, and how often the program was started. A pause of 5 s takes 20 ms.
    fn ranked(codes: &[u8]) -> (Option<i32>, usize) {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, text: String| {
            let path = dir.path().join(name);
            fs::write(&path, format!("#!/usr/bin/env bash\n{text}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let codes: Vec<String> = codes.iter().map(u8::to_string).collect();
        let program = format!(
            "echo >>{dir}/starts; codes=({codes}); exit ${{codes[$(wc -l <{dir}/starts) - 1]}}",
            dir = dir.path().display(),
            codes = codes.join(" ")
        );
        let program = script("swirl", program);
        script("sleep", "exec /bin/sleep 0.02".to_owned());
        let rank = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster/slurm/rank.sh");
        let path = format!(
            "{}:{}",
            dir.path().display(),
            std::env::var("PATH").unwrap()
        );
        let mut command = Command::new(rank);
        command
            .args(["run", "c.toml"])
            .env_clear()
            .env("PATH", path)
            .env("SWIRL", program)
            .env("SWIRL_JOB_DIR", dir.path())
            .env("SWIRL_CONTROLLER", "head")
            .env("SWIRL_PORT", "7400");
        let job = [("NTASKS", "5"), ("PROCID", "3"), ("LOCALID", "0")];
        for (name, value) in job {
            command.env(format!("SLURM_{name}"), value);
        }
        let out = command.env("SLURMD_NODENAME", "gpu1").output().unwrap();
        let starts = fs::read_to_string(dir.path().join("starts")).unwrap();
        (out.status.code(), starts.lines().count())
    }

    #[test]
    fn a_task_of_slurm_is_started_again_where_that_may_help() {
        // Its own end; a signal; a sick engine; a GPU that is lost; wrong settings.
        for (codes, expected) in [
            (&[0][..], (Some(0), 1)),
            (&[137, 0], (Some(0), 2)),
            (&[75, 75, 0], (Some(0), 3)),
            (&[4, 4, 0], (Some(0), 3)),
            (&[2, 0], (Some(2), 1)),
            (&[4, 2, 0], (Some(2), 2)),
            (&[4; 12], (Some(2), 10)),
        ] {
            assert_eq!(ranked(codes), expected, "{codes:?}");
        }
    }

    #[test]
    fn cl_5_only_what_comes_from_the_checkout_is_looked_for() {
        let dockerfile = json!([
            {"instruction": "FROM", "value": "debian AS build"},
            {"instruction": "COPY", "value": "Cargo.toml Cargo.lock ./"},
            {"instruction": "COPY", "value": "--chown=1:1 crates ./crates"},
            {"instruction": "COPY", "value": "--from=build /out/swirl /usr/bin/swirl"},
        ]);
        assert_eq!(sources(&dockerfile), ["Cargo.toml", "Cargo.lock", "crates"]);
        assert!(is_sent("*\n!crates\n", "./crates/"));
        assert!(!is_sent("*\n!crates\n", "configs"));
    }
}
