//! What a finished run leaves behind, to be compared with that of another.

use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use store::TrajectoryStore;

/// Checksums of every model and the trajectories of every store, by their place in the run folder.
/// Two runs of one deterministic configuration have the same.
///
/// # Errors
/// When something is missing, or an item is stored twice.
pub fn results(run: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(run.join("models"))? {
        let folder = entry?.path();
        let bytes = std::fs::read(folder.join("model.safetensors"))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let sum = format!("{:08x}", crc32fast::hash(&bytes));
        found.insert(format!("models/{name}"), sum);
    }
    let mut stores = vec!["trajectories".to_owned()];
    for arm in std::fs::read_dir(run.join("evaluations"))? {
        let arm = arm?.file_name().to_string_lossy().into_owned();
        for set in std::fs::read_dir(run.join("evaluations").join(&arm))? {
            let set = set?.file_name().to_string_lossy().into_owned();
            stores.push(format!("evaluations/{arm}/{set}"));
        }
    }
    for place in stores {
        let rows = trajectories(&run.join(&place)).with_context(|| place.clone())?;
        found.insert(place, rows);
    }
    Ok(found)
}

fn trajectories(folder: &Path) -> Result<String> {
    let store = TrajectoryStore::open(folder)?;
    let (mut rows, mut items) = (BTreeMap::new(), BTreeSet::new());
    for trajectory in store.iter() {
        let trajectory = trajectory?;
        let item = trajectory.item.to_string();
        ensure!(items.insert(item.clone()), "{item} is stored twice");
        rows.insert(item, trajectory.tokens);
    }
    let text = format!("{rows:?}");
    let sum = crc32fast::hash(text.as_bytes());
    Ok(format!("{} items, {sum:08x}", rows.len()))
}
