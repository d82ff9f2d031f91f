//! Whole runs of adapters beside their base, in one process and over nodes.

use crate::support::{Cluster, LIMIT, NODES, output, small_run, tiny_model};
use serde_json::Value;
use std::path::Path;

/// A small run in bf16 whose phases all train adapters, those of the last ones larger.
fn run_of_adapters(model: &Path) -> String {
    let text = small_run(model)
        .replace("deterministic = true\n", "")
        .replace("dtype = \"f32\"", "dtype = \"bf16\"");
    let adapters =
        |section: &str, rank| format!("[{section}.learner.lora]\nrank = {rank}\nalpha = 4.0\n");
    text + &adapters("warm_start", 2) + &adapters("train", 4) + &adapters("imitation", 2)
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A metric of each step of reinforcement learning that has it.
fn metric(run: &Path, name: &str) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_training = lines.filter(|line| line.to_string().contains("swirl-seed1"));
    of_training
        .filter_map(|line| line[name].as_f64().or(line["metrics"][name].as_f64()))
        .collect()
}

/// Each model is adapters of the model that the run began with, and says what is left of its update.
fn check_models(run: &Path, model: &Path) {
    for arm in ["warm_start", "imitation", "swirl-seed1"] {
        let folder = run.join("models").join(arm);
        let base = json(&folder.join("adapter_config.json"));
        assert_eq!(
            Path::new(base["base_model_name_or_path"].as_str().unwrap()),
            std::path::absolute(model).unwrap(),
            "{arm}"
        );
        let update = json(&folder.join("update.json"));
        let kept = update["kept_share"].as_f64().unwrap();
        assert!((kept - 1.0).abs() < 0.01, "{arm}: {update}");
        assert!(!folder.join("model.safetensors").exists());
    }
}

#[test]
fn adapters_go_through_a_whole_run_beside_their_base() {
    let dir = tempfile::tempdir().unwrap();
    let Some(model) = tiny_model(dir.path()) else {
        return;
    };
    std::fs::write(dir.path().join("c.toml"), run_of_adapters(&model)).unwrap();
    let done = output(dir.path(), &["run", "c.toml"]);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{errors}");
    let report = String::from_utf8_lossy(&done.stdout);
    assert!(
        report.contains("`swirl-seed1` is adapters beside their base: 100.0 %"),
        "{report}"
    );
    let run = dir.path().join("runs/small");
    check_models(&run, &model);
    // Everything once, then the adapters alone.
    let bytes = metric(&run, "snapshot_bytes");
    assert_eq!(bytes.len(), 4);
    assert!(
        bytes[1..].iter().all(|later| *later < bytes[0] / 2.0),
        "{bytes:?}"
    );

    let merge = [
        "model",
        "merge",
        "runs/small/models/swirl-seed1",
        "--out",
        "merged",
    ];
    let merged = output(dir.path(), &merge);
    let said = String::from_utf8_lossy(&merged.stderr);
    assert!(said.contains("100.0 % of the update is left"), "{said}");
    assert!(dir.path().join("merged/model.safetensors").exists());
    let again = ["model", "merge", "merged", "--out", "twice"];
    let refused = output(dir.path(), &again);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("there is nothing to merge"), "{said}");
}

/// The base travels with the adapters to nodes, which know it by another path, and comes back as the
/// one it is here; publications hold the adapters alone.
#[test]
fn adapters_travel_to_nodes_and_back() {
    let Some(mut cluster) = Cluster::new(run_of_adapters, &NODES) else {
        return;
    };
    cluster.stage.start_all().unwrap();
    cluster.stage.finish(LIMIT).unwrap();
    let run = cluster.stage.run_folder();
    check_models(&run, &cluster.model);
    // A sampler that comes later catches up by itself: the first publication may have met none.
    let [asked, pulled] = ["snapshot_bytes", "publication_bytes"].map(|name| metric(&run, name));
    assert_eq!((asked.len(), pulled.len()), (4, 4));
    assert!(
        asked[1..].iter().all(|later| *later < asked[0] / 2.0),
        "{asked:?}"
    );
    let is_no_more = |(pulled, asked): (&f64, &f64)| pulled <= asked;
    assert!(
        pulled[1..].iter().zip(&asked[1..]).all(is_no_more),
        "{pulled:?}"
    );
}
