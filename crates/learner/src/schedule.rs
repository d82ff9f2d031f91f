//! The learning rate over time.

use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// How the learning rate goes on after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays.
    #[default]
    Constant,
    /// It falls along half a cosine wave.
    Cosine,
    /// It falls along a line.
    Linear,
}

/// Everything the rate depends on but the step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub peak: f64,
    pub schedule: Schedule,
    pub warmup_steps: u64,
    pub total_steps: u64,
    pub min_ratio: f64,
}

impl Plan {
    /// The rate of step `step`, counted from 0.
    pub(crate) fn rate(self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let length = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / length).min(1.0);
        let left = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => 1.0 - done,
            Schedule::Cosine => (1.0 + (PI * done).cos()) / 2.0,
        };
        match self.schedule {
            Schedule::Constant => self.peak,
            _ => self.peak * (self.min_ratio + (1.0 - self.min_ratio) * left),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let plan = |schedule| Plan {
            peak: 2.0,
            schedule,
            warmup_steps: 4,
            total_steps: 14,
            min_ratio: 0.1,
        };
        for (schedule, step, expected) in [
            (Schedule::Constant, 0, 0.5),
            (Schedule::Constant, 3, 2.0),
            (Schedule::Constant, 99, 2.0),
            (Schedule::Linear, 1, 1.0),
            (Schedule::Linear, 4, 2.0),
            (Schedule::Linear, 9, 1.1),
            (Schedule::Linear, 14, 0.2),
            (Schedule::Linear, 99, 0.2),
            (Schedule::Cosine, 4, 2.0),
            (Schedule::Cosine, 9, 1.1),
            (Schedule::Cosine, 99, 0.2),
        ] {
            let found = plan(schedule).rate(step);
            assert!(
                (found - expected).abs() < 1e-12,
                "{schedule:?} at {step}: {found}"
            );
        }
    }
}
