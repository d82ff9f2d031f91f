//! Memory that the process of each role takes, for whoever has to say so before: Kubernetes, Slurm.
//!
//! Memory of the device is counted as `machine_memory` does, which refuses what does not fit there.
//! Beside it a node holds weights on their way: those that it gives on, and those that come or are
//! being made.

use crate::config::Config;
use crate::machine_memory::{self, Demand, Learning, Load, Sampling, gib};
use crate::run::preflight::{dialogues, policy_steps};
use learner::LearnerConfig;
use model::DecoderSpec;
use proto::Role;
use tch::Device;

/// Main memory of the program itself with libtorch, its buffers for sockets, logs and files.
const PROGRAM: u64 = 512 << 20;

/// The same with CUDA's context and libraries. An assumption: no GPU was at hand.
const PROGRAM_WITH_GPU: u64 = 4 << 30;

/// Main memory of a stored trajectory for each of its tokens: measured 19.4 KB for 930 of them.
const TRAJECTORY_TOKEN: u64 = 21;

/// Bytes that the process of a role takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleMemory {
    /// The role.
    pub role: Role,
    /// Main memory, where it computes on the CPU.
    pub on_cpu: u64,
    /// Main memory, and that of the GPU, where it computes on one; none for roles that use none.
    pub on_gpu: Option<(u64, u64)>,
}

impl RoleMemory {
    /// As a line for people.
    pub fn text(&self) -> String {
        let role = self.role.to_string();
        let mut text = format!("  {role:<10} {}", gib(self.on_cpu));
        if let Some((main, gpu)) = self.on_gpu {
            text += &format!("; with a GPU {}, and {} of the GPU", gib(main), gib(gpu));
        }
        text
    }
}

/// The memory of each role of a run on `items` items, if each has nodes of its own.
pub fn of(config: &Config, spec: &DecoderSpec, items: u64) -> Vec<RoleMemory> {
    let cpu = Device::Cpu;
    let weights = [cpu, Device::Cuda(0)].map(|device| published(config, spec, device));
    // One that is spread, one that is made or comes; and that before, where changes are sent.
    let versions = 2 + u64::from(config.cluster.weight_deltas);
    let tokens = items.saturating_mul(config.rollout.max_context_tokens.into());
    let trajectories = tokens.saturating_mul(TRAJECTORY_TOKEN);
    let controller = PROGRAM
        .saturating_add(versions.saturating_mul(weights[0].max(weights[1])))
        .saturating_add(trajectories);
    let node = |role, on_device: &dyn Fn(Device) -> u64| {
        let [on_cpu, on_gpu] = weights.map(|weights| 2u64.saturating_mul(weights));
        RoleMemory {
            role,
            on_cpu: sum([PROGRAM, on_cpu, on_device(cpu)]),
            on_gpu: Some((
                sum([PROGRAM_WITH_GPU, on_gpu, 0]),
                on_device(Device::Cuda(0)),
            )),
        }
    };
    let without_device = |role, on_cpu| RoleMemory {
        role,
        on_cpu,
        on_gpu: None,
    };
    vec![
        without_device(Role::Controller, controller),
        node(Role::Sampler, &|device| {
            let loads = samplers(config, device);
            let bytes = loads.map(|load| machine_memory::bytes(spec, load));
            bytes.into_iter().max().unwrap_or(0)
        }),
        node(Role::Learner, &|device| {
            let loads = learners(config).into_iter().map(|(learner, demand)| {
                let replicas = config.cluster.expected_replicas();
                let learning = Learning::of(spec, learner, device, demand, replicas);
                let load = Load {
                    sampling: None,
                    learning: Some(learning),
                };
                machine_memory::bytes(spec, load)
            });
            loads.max().unwrap_or(0)
        }),
        without_device(Role::Tool, PROGRAM),
        without_device(Role::Judge, PROGRAM),
    ]
}

fn sum(parts: [u64; 3]) -> u64 {
    parts.into_iter().fold(0, u64::saturating_add)
}

/// Bytes of a version of the weights: whatever kind the trained arms compute in, all of them.
fn published(config: &Config, spec: &DecoderSpec, device: Device) -> u64 {
    let kinds = config
        .learners()
        .map(|(_, learner)| learner.dtype.kind(device));
    let largest = kinds.map(|kind| kind.elt_size_in_bytes() as u64).max();
    let parameters = u64::try_from(spec.parameter_count()).unwrap_or(u64::MAX);
    parameters.saturating_mul(largest.unwrap_or(0))
}

/// Of rollouts, and of training.
fn samplers(config: &Config, device: Device) -> [Load; 2] {
    let load = |sequences: u64, context_tokens: u64| Load {
        sampling: Some(Sampling {
            samplers: 1,
            sequences,
            context_tokens,
            kind: config.model.dtype.kind(device),
            f32_head: config.model.f32_head,
        }),
        learning: None,
    };
    let rollout = &config.rollout;
    let kept = u64::from(rollout.items_per_sampler).saturating_add(rollout.kept_sequences.into());
    let rollouts = load(kept, rollout.max_context_tokens.into());
    let training = config.train.as_ref().map(|train| {
        let actions = (train.states_per_step as u64).saturating_mul(train.actions_per_state.into());
        load(actions, policy_steps(config, train).batch.longest)
    });
    [rollouts, training.unwrap_or(rollouts)]
}

fn learners(config: &Config) -> Vec<(&LearnerConfig, Demand)> {
    let warm = config.warm_start.as_ref();
    let warm = warm.map(|warm| (&warm.learner, dialogues(warm.batch, warm.max_tokens as u64)));
    let longest = u64::from(config.rollout.max_context_tokens);
    let imitation = config.imitation.as_ref();
    let imitation = imitation.map(|arm| (&arm.learner, dialogues(arm.batch, longest)));
    let train = config.train.as_ref();
    let train = train.map(|train| (&train.learner, policy_steps(config, train)));
    [warm, imitation, train].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::machine_memory::tests::smollm2_folder;
    use std::path::{Path, PathBuf};

    fn manifests() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster/kubernetes")
    }

    fn run_of_the_manifests(settings: &[&str]) -> Config {
        let settings: Vec<String> = settings.iter().map(|text| (*text).to_owned()).collect();
        let loaded = config::load(&[manifests().join("run.toml")], &settings);
        loaded.unwrap().config
    }

    fn smollm2() -> DecoderSpec {
        model::spec_of(smollm2_folder().path()).unwrap()
    }

    fn role(all: &[RoleMemory], role: Role) -> RoleMemory {
        *all.iter().find(|memory| memory.role == role).unwrap()
    }

    /// `8Gi` behind `memory:` in the line of the main container that begins so.
    fn stated(manifest: &str, line: &str) -> u64 {
        let main = manifest.split("\n      containers:\n").nth(1).unwrap();
        let line = main.lines().find_map(|l| l.trim().strip_prefix(line));
        let (_, memory) = line.unwrap().split_once("memory: ").unwrap();
        let gibibytes = memory.split("Gi").next().unwrap();
        gibibytes.parse::<u64>().unwrap() << 30
    }

    /// Of the model that `run.toml` names, with GPUs and without.
    #[test]
    fn the_manifests_ask_for_the_memory_that_their_model_takes() {
        let config = run_of_the_manifests(&[]);
        let items = 200 * u64::from(config.rollout.samples);
        let all = of(&config, &smollm2(), items);
        for (file, roles) in [
            ("controller", &[Role::Controller][..]),
            ("sampler", &[Role::Sampler]),
            ("learner", &[Role::Learner]),
            ("tool", &[Role::Tool, Role::Judge]),
        ] {
            let path = manifests().join(format!("{file}.yaml"));
            let manifest = std::fs::read_to_string(path).unwrap();
            let requested = stated(&manifest, "requests: ");
            let needed = roles.iter().map(|wanted| {
                let memory = role(&all, *wanted);
                let (main, _) = memory.on_gpu.unwrap_or_default();
                memory.on_cpu.max(main)
            });
            let needed = needed.max().unwrap();
            assert!(
                needed <= requested,
                "{file}.yaml requests {}, and {} are needed",
                gib(requested),
                gib(needed)
            );
            assert!(requested <= stated(&manifest, "limits: "), "{file}.yaml");
        }
    }

    #[test]
    fn memory_follows_from_the_model_and_the_settings() {
        let spec = smollm2();
        let all = |settings: &[&str], items| of(&run_of_the_manifests(settings), &spec, items);
        let base = all(&[], 200);
        let changed = |settings: &[&str], items, wanted| {
            let memory = role(&all(settings, items), wanted);
            memory.on_cpu as i128 - i128::from(role(&base, wanted).on_cpu)
        };
        let weights = i128::from(spec.parameter_count()) * 2;
        let bf16 = ["train.learner.dtype=bf16", "warm_start.learner.dtype=bf16"];
        let f32 = ["train.learner.dtype=f32", "warm_start.learner.dtype=f32"];
        let of_controller = |settings: &[&str]| changed(settings, 200, Role::Controller);
        assert_eq!(of_controller(&f32) - of_controller(&bf16), 2 * weights);
        let deltas = [bf16[0], bf16[1], "cluster.weight_deltas=true"];
        assert_eq!(of_controller(&deltas) - of_controller(&bf16), weights);
        assert_eq!(
            changed(&[], 1_000_200, Role::Controller),
            1_000_000 * 640 * i128::from(TRAJECTORY_TOKEN)
        );
        assert!(changed(&["train.states_per_step=64"], 200, Role::Sampler) > 0);
        assert!(changed(&["train.learner.kl.coefficient=0"], 200, Role::Learner) < 0);
        assert_eq!(changed(&["train.states_per_step=64"], 200, Role::Tool), 0);
        let text = role(&base, Role::Learner).text();
        assert!(
            text.contains("learner") && text.contains("with a GPU"),
            "{text}"
        );
    }
}
