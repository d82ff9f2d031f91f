use super::*;
use crate::config::tests::read;
use proto::Question;
use std::path::Path;

const TRAIN: &str = "[train]\nsteps = 4\nstates_per_step = 1\nactions_per_state = 2\n\
                     [[evaluation.sets]]\nname = \"held out\"\nquestions.path = \"e\"\n";

fn sources(texts: &[&str]) -> Sources {
    let question = |(n, text): (usize, &&str)| Question {
        id: proto::QuestionId(format!("q{n}")),
        dataset: "d".into(),
        split: "s".into(),
        question: (*text).to_owned(),
        answer: "1".into(),
        answer_aliases: Vec::new(),
        reference_steps: Vec::new(),
    };
    Sources {
        questions: texts.iter().enumerate().map(question).collect(),
        warm_start: Vec::new(),
        sets: vec![Vec::new()],
    }
}

fn model(folder: &Path) -> String {
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    format!("model.path={}", folder.display())
}

#[test]
fn differences_are_named_with_what_was_and_what_is() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(dir.path());
    let of = |settings: &str, texts: &[&str]| {
        let mut all = vec![model.as_str()];
        all.extend(settings.split(' ').filter(|s| !s.is_empty()));
        let config = read(TRAIN, &all).unwrap().config;
        let settings = Identity::of_settings(&config).unwrap();
        settings.with_contents(&config, &sources(texts)).unwrap()
    };
    let begun = of("", &["one", "two"]);
    let said = |settings: &str, texts: &[&str]| -> Vec<String> {
        let differences = begun.differences(&of(settings, texts));
        differences.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        said("questions.path=moved", &["one", "two"]),
        Vec::<String>::new()
    );
    assert_eq!(
        said("train.steps=9 rollout.samples=3", &["one", "two"]),
        [
            "`rollout.samples` was 1 and is 3",
            "`train.steps` was 4 and is 9"
        ]
    );
    assert_eq!(
        said("filter.limit=5", &["one", "two"]),
        ["`filter.limit` was not set and is 5"]
    );
    let edited = said("", &["one", "three"]);
    assert_eq!(edited.len(), 1);
    assert!(
        edited[0].starts_with("`questions` was 2 questions, content "),
        "{edited:?}"
    );
    let long = format!("prompt.system=<math_exp>{}", "x".repeat(200));
    let found = said(&long, &["one", "two"]);
    assert!(
        found[0].contains("… (") && found[0].len() < 300,
        "{found:?}"
    );

    assert_ne!(of("", &["one", "three"]).hash(), begun.hash());
    assert_eq!(of("questions.path=moved", &["one", "two"]), begun);
    let text = serde_json::to_string(&begun).unwrap();
    assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), begun);
}

#[test]
fn a_prompt_counts_by_what_the_model_is_told() {
    let of = |settings: &[&str]| {
        let config = read("", settings).unwrap().config;
        Identity::of_settings(&config).unwrap().hash()
    };
    let written_out = "prompt.system=Solve the problem one step at a time. In each turn do exactly \
                       one thing. Either calculate, like this: <math_exp>12*3</math_exp>, and you \
                       will be told the result. Or, once you know it, give the final number, like \
                       this: <answer>36</answer>";
    assert_eq!(of(&[written_out]), of(&[]));
    assert_ne!(of(&["prompt.system=<math_exp>"]), of(&[]));
}
