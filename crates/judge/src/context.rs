//! What a process judge may see.

use proto::{Question, StepView, Trajectory};

/// A question, the steps taken so far, and the step under judgement without its observation (JU-1).
#[derive(Debug, Clone, PartialEq)]
pub struct StepContext {
    /// The question. Its answer key and reference steps are for judges that say they use them.
    pub question: Question,
    /// The steps before, in order, each with what the environment answered.
    pub history: Vec<StepView>,
    /// The step under judgement. Its `observation` is always `None`.
    pub step: StepView,
}

impl StepContext {
    /// A context whose step has lost its observation, if it came with one.
    pub fn new(question: Question, history: Vec<StepView>, step: StepView) -> Self {
        Self {
            question,
            history,
            step: step.without_observation(),
        }
    }

    /// The context of step `index` of a recorded trajectory: nothing of what followed is in it.
    ///
    /// # Panics
    /// When the trajectory has no such step.
    pub fn of(trajectory: &Trajectory, index: usize) -> Self {
        let history = trajectory.steps[..index]
            .iter()
            .map(StepView::from)
            .collect();
        Self::new(
            trajectory.question.clone(),
            history,
            StepView::from(&trajectory.steps[index]),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::{answer, call, question, trajectory};

    #[test]
    fn ju_1_nothing_after_the_step_is_visible() {
        let recorded = trajectory(
            question("q", "2"),
            vec![
                call("1+1", "SEEN-0"),
                call("2*1", "SECRET-1"),
                answer("SECRET-2"),
            ],
        );
        let context = StepContext::of(&recorded, 1);
        assert_eq!(context.history.len(), 1);
        assert_eq!(context.history[0].observation.as_deref(), Some("SEEN-0"));
        assert_eq!(context.step.observation, None);
        assert!(!format!("{context:?}").contains("SECRET"));
    }

    #[test]
    fn ju_1_the_constructor_strips_the_observation() {
        let context = StepContext::new(question("q", "2"), vec![], call("1+1", "SECRET"));
        assert_eq!(context.step.observation, None);
        assert_eq!(context.step.text, call("1+1", "SECRET").text);
    }

    #[test]
    fn the_last_step_sees_every_earlier_observation() {
        let steps = vec![call("1+1", "a"), call("2+1", "b"), answer("3")];
        let context = StepContext::of(&trajectory(question("q", "3"), steps), 2);
        let seen: Vec<_> = context
            .history
            .iter()
            .map(|s| s.observation.clone())
            .collect();
        assert_eq!(seen, [Some("a".to_owned()), Some("b".to_owned())]);
    }
}
