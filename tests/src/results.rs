//! What a finished run leaves behind, and how far it is from what another left.
//!
//! Everything follows from the seed, up to one thing: how sums are rounded depends on which sequences
//! happen to be decoded together, and now and then a draw falls the other way. So trajectories of two
//! runs are compared one by one, and models by how far apart they are in units of how far training
//! moved them.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use store::TrajectoryStore;

/// Share of trajectories that may come out otherwise, above one.
const DIFFERING: f64 = 0.01;

/// How far models may be apart, in units of how far training moved them. A draw that fell otherwise is
/// trained on, and a thousand steps of reinforcement learning make more of it.
const APART: f64 = 0.25;

/// The models and trajectories of a run, by their place in its folder.
#[derive(Debug)]
pub struct Results {
    models: BTreeMap<String, Vec<f32>>,
    stores: BTreeMap<String, BTreeMap<String, Vec<u32>>>,
}

/// How far two runs are apart.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// Trajectories of each.
    pub trajectories: usize,
    /// Of these, those that came out otherwise.
    pub differing: usize,
    /// How far each model is from its counterpart, in units of how far training moved it.
    pub apart: BTreeMap<String, f64>,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trajectories,
            differing,
            apart,
        } = self;
        write!(
            f,
            "the same items, each once; {differing} of {trajectories} trajectories differ; "
        )?;
        let apart = apart.iter().map(|(model, apart)| match *apart {
            0.0 => format!("{model} is the same bit for bit"),
            apart => format!("{model} is {apart:.1e} of its training away"),
        });
        f.write_str(&apart.collect::<Vec<_>>().join(", "))
    }
}

impl Results {
    /// Reads a run folder.
    ///
    /// # Errors
    /// When something is missing, or an item is stored twice.
    pub fn read(run: &Path) -> Result<Self> {
        let mut models = BTreeMap::new();
        for entry in std::fs::read_dir(run.join("models"))? {
            let folder = entry?.path();
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            models.insert(name.into_owned(), weights(&folder)?);
        }
        let mut places = vec!["trajectories".to_owned()];
        for arm in std::fs::read_dir(run.join("evaluations"))? {
            let arm = arm?.file_name().to_string_lossy().into_owned();
            for set in std::fs::read_dir(run.join("evaluations").join(&arm))? {
                let set = set?.file_name().to_string_lossy().into_owned();
                places.push(format!("evaluations/{arm}/{set}"));
            }
        }
        let mut stores = BTreeMap::new();
        for place in places {
            let rows = trajectories(&run.join(&place)).with_context(|| place.clone())?;
            stores.insert(place, rows);
        }
        Ok(Self { models, stores })
    }

    /// How far each model is from its counterpart in another run of the same configuration from the
    /// model in `start`, in units of how far training moved it.
    ///
    /// # Errors
    /// When one has models that the other has not.
    pub fn apart(&self, other: &Self, start: &Path) -> Result<BTreeMap<String, f64>> {
        let start = weights(start)?;
        ensure!(
            self.models.keys().eq(other.models.keys()),
            "other models: {:?} and {:?}",
            self.models.keys(),
            other.models.keys()
        );
        let models = self.models.iter().map(|(name, weights)| {
            let apart = distance(weights, &other.models[name]);
            let moved = distance(weights, &start);
            (name.clone(), if apart == 0.0 { 0.0 } else { apart / moved })
        });
        Ok(models.collect())
    }

    /// Compares with another run of the same configuration, from the model in `start`.
    ///
    /// # Errors
    /// When one has what the other has not, or they are further apart than rounding explains.
    pub fn compare(&self, other: &Self, start: &Path) -> Result<Comparison> {
        let apart = self.apart(other, start)?;
        ensure!(self.stores.keys().eq(other.stores.keys()), "other stores");
        let (mut all, mut differing) = (0, 0);
        for (place, rows) in &self.stores {
            let others = &other.stores[place];
            ensure!(rows.keys().eq(others.keys()), "{place} holds other items");
            all += rows.len();
            differing += rows
                .iter()
                .filter(|(item, tokens)| others[*item] != **tokens)
                .count();
        }
        let comparison = Comparison {
            trajectories: all,
            differing,
            apart,
        };
        let few = 1.0 + DIFFERING * all as f64;
        ensure!(differing as f64 <= few, "too many differ: {comparison}");
        let is_near = |apart: &f64| *apart <= APART;
        ensure!(
            comparison.apart.values().all(is_near),
            "too far apart: {comparison}"
        );
        Ok(comparison)
    }
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>().sqrt()
}

/// All weights of a model that was saved in f32: a safetensors file is the length of a header, the
/// header, and the numbers.
fn weights(folder: &Path) -> Result<Vec<f32>> {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let header = bytes.first_chunk::<8>().context("the file is cut")?;
    let start = 8 + usize::try_from(u64::from_le_bytes(*header))?;
    let numbers = bytes.get(start..).context("the file is cut")?;
    let numbers = numbers
        .as_chunks::<4>()
        .0
        .iter()
        .map(|n| f32::from_le_bytes(*n));
    Ok(numbers.collect())
}

fn trajectories(folder: &Path) -> Result<BTreeMap<String, Vec<u32>>> {
    let store = TrajectoryStore::open(folder)?;
    let mut rows = BTreeMap::new();
    for trajectory in store.iter() {
        let trajectory = trajectory?;
        let item = trajectory.item.to_string();
        let before = rows.insert(item.clone(), trajectory.tokens);
        ensure!(before.is_none(), "{item} is stored twice");
    }
    Ok(rows)
}
