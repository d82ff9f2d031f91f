//! The generators, checked against the calculator and against their own articles.

use data::{
    GenerateError, Split, WikiHopConfig, WordMathConfig, dialogue, expression, wikihop, wordmath,
    wordmath::skeleton,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};

fn math(count: usize, seed: u64, split: Split) -> WordMathConfig {
    WordMathConfig {
        count,
        seed,
        max_steps: 6,
        split,
        ..Default::default()
    }
}

/// Every number in a text, as the calculator writes it.
fn numbers(text: &str) -> HashSet<String> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
        .filter_map(|word| expression::evaluate(word.trim_end_matches('.')))
        .collect()
}

#[test]
fn wm_1_every_step_is_right_grounded_exact_and_within_the_limit() {
    let config = WordMathConfig {
        decimals: true,
        ..math(3000, 5, Split::Train)
    };
    for question in wordmath(&config).unwrap() {
        let mut known = numbers(&question.question);
        // Said in words: half, twice, three times, four times.
        known.extend(["2", "3", "4"].map(str::to_owned));
        for step in &question.reference_steps {
            assert_eq!(
                expression::evaluate(&step.arguments).as_ref(),
                Some(&step.result)
            );
            assert!(!step.thought.is_empty() && !step.thought.contains(['{', '}']));
            for operand in numbers(&step.arguments) {
                assert!(
                    known.contains(&operand),
                    "{operand} is from nowhere: {question:?}"
                );
            }
            let value: f64 = step.result.parse().unwrap();
            assert!(value > 0.0 && value <= 500.0, "{question:?}");
            known.insert(step.result.clone());
        }
        assert_eq!(
            question.answer,
            question.reference_steps.last().unwrap().result
        );
        assert!(question.question.ends_with('?') && !question.question.contains(['{', '}']));
        assert!(dialogue(&question).is_some(), "{question:?}");
    }
}

#[test]
fn wm_1_without_decimals_every_result_is_whole() {
    for question in wordmath(&math(2000, 6, Split::Train)).unwrap() {
        assert!(
            question
                .reference_steps
                .iter()
                .all(|s| !s.result.contains('.')),
            "{question:?}"
        );
    }
}

#[test]
fn wm_2_no_problem_twice_and_none_in_two_splits() {
    let of = |seed, split| wordmath(&math(3000, seed, split)).unwrap();
    let train: Vec<_> = [1, 2]
        .into_iter()
        .flat_map(|seed| of(seed, Split::Train))
        .collect();
    let eval: Vec<_> = [1, 3]
        .into_iter()
        .flat_map(|seed| of(seed, Split::Eval))
        .collect();
    let skeletons = |rows: &[proto::Question]| -> HashSet<String> {
        rows.iter().map(|q| skeleton(&q.question)).collect()
    };
    assert!(skeletons(&train).is_disjoint(&skeletons(&eval)));
    assert_eq!(skeletons(&train[..3000]).len(), 3000);
    let ids: HashSet<_> = train[..3000].iter().map(|q| &q.id).collect();
    assert_eq!(ids.len(), 3000);
    assert!(train.iter().all(|q| q.split == "train") && eval.iter().all(|q| q.split == "eval"));
}

#[test]
fn a_skeleton_forgets_names_and_items_only() {
    let one = skeleton("Tom has 3 apples. He buys 2.50 more apples.");
    assert_eq!(one, skeleton("Nina has 3 pears. She buys 2.50 more pears."));
    assert_ne!(one, skeleton("Tom has 4 apples. He buys 2.50 more apples."));
    assert_ne!(one, skeleton("Tom had 3 apples. He buys 2.50 more apples."));
}

#[test]
fn all_numbers_of_steps_and_all_scenes_come_up() {
    let rows = wordmath(&math(3000, 7, Split::Train)).unwrap();
    let mut by_steps: BTreeMap<usize, usize> = BTreeMap::new();
    for row in &rows {
        *by_steps.entry(row.reference_steps.len()).or_default() += 1;
    }
    println!("questions by steps: {by_steps:?}");
    assert_eq!(
        by_steps.keys().copied().collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    assert!(
        by_steps.values().all(|n| (400..600).contains(n)),
        "{by_steps:?}"
    );
    for word in [
        "basket", "piggy", "tray", "jar", "toy shop", "fair", "bike", "book", "farm", "garden",
        "library", "train", "teacher", "tank", "aunt",
    ] {
        assert!(
            rows.iter().any(|q| q.question.contains(word)),
            "no story with {word}"
        );
    }
}

#[test]
fn distractors_add_numbers_that_no_step_needs() {
    let plain = WordMathConfig {
        min_steps: 2,
        max_steps: 2,
        ..math(200, 8, Split::Train)
    };
    let more = WordMathConfig {
        distractors: 2,
        ..plain.clone()
    };
    let sentences = |config: &WordMathConfig| -> usize {
        wordmath(config)
            .unwrap()
            .iter()
            .map(|q| q.question.matches(['.', '?']).count())
            .sum()
    };
    assert!(sentences(&more) > sentences(&plain) + 300);
}

#[test]
fn the_same_configuration_gives_the_same_questions_on_every_platform() {
    let rows = wordmath(&math(50, 9, Split::Train)).unwrap();
    assert_eq!(rows, wordmath(&math(50, 9, Split::Train)).unwrap());
    assert_ne!(rows, wordmath(&math(50, 10, Split::Train)).unwrap());
    let world = wikihop(&WikiHopConfig {
        count: 5,
        ..Default::default()
    })
    .unwrap();
    let pinned = ["wordmath-b6f48cc676d3937b", "wikihop-0-6cd18033ea8a4b5d"];
    assert_eq!(
        [rows[49].id.0.as_str(), world.questions[4].id.0.as_str()],
        pinned
    );
}

#[test]
fn settings_out_of_range_are_refused_with_what_to_set() {
    let ok = WordMathConfig::default();
    for (config, says) in [
        (
            WordMathConfig {
                count: 0,
                ..ok.clone()
            },
            "at least 1",
        ),
        (
            WordMathConfig {
                min_steps: 0,
                ..ok.clone()
            },
            "min_steps",
        ),
        (
            WordMathConfig {
                min_steps: 5,
                max_steps: 4,
                ..ok.clone()
            },
            "from 5 to 4",
        ),
        (
            WordMathConfig {
                max_steps: 7,
                ..ok.clone()
            },
            "<= 6",
        ),
        (
            WordMathConfig {
                max_value: 5,
                ..ok.clone()
            },
            "at least 30",
        ),
        (
            WordMathConfig {
                distractors: 9,
                ..ok.clone()
            },
            "at most 3",
        ),
    ] {
        let message = wordmath(&config).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    let small = WordMathConfig {
        count: 10_000_000,
        max_steps: 1,
        max_value: 30,
        split: Split::Eval,
        ..ok
    };
    assert!(matches!(
        wordmath(&small),
        Err(GenerateError::TooFew { .. })
    ));
    let ok = WikiHopConfig::default();
    for (config, says) in [
        (
            WikiHopConfig {
                count: 0,
                ..ok.clone()
            },
            "at least 1",
        ),
        (
            WikiHopConfig {
                towns: 2,
                ..ok.clone()
            },
            "4 to 300",
        ),
        (
            WikiHopConfig {
                max_hops: 5,
                ..ok.clone()
            },
            "<= 4",
        ),
        (
            WikiHopConfig {
                count: 100_000,
                towns: 4,
                ..ok
            },
            "raise towns",
        ),
    ] {
        let message = wikihop(&config).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn wh_1_each_fact_stands_once_and_dates_keep_their_order() {
    for towns in [4, 60, 300] {
        let world = wikihop(&WikiHopConfig {
            towns,
            count: 10,
            ..Default::default()
        })
        .unwrap();
        let mut facts: HashMap<(&str, &str), &str> = HashMap::new();
        for fact in &world.facts {
            let earlier = facts.insert((&fact.subject, &fact.relation), &fact.object);
            assert_eq!(earlier, None, "{fact:?} is stated twice");
        }
        let year =
            |subject: &str, relation: &str| -> i32 { facts[&(subject, relation)].parse().unwrap() };
        for (&(subject, relation), &object) in &facts {
            match relation {
                "capital" => assert_eq!(facts[&(object, "region")], subject),
                "teacher" => {
                    assert!(year(object, "birth_year") + 15 <= year(subject, "birth_year"))
                }
                "founder" => {
                    assert!(year(object, "birth_year") + 20 <= year(subject, "company_founded"))
                }
                "author" => assert!(year(object, "birth_year") + 20 <= year(subject, "published")),
                "publisher" => {
                    assert!(year(object, "company_founded") <= year(subject, "published"))
                }
                _ => {}
            }
        }
    }
}

#[test]
fn titles_are_unique_and_none_is_part_of_another() {
    let world = wikihop(&WikiHopConfig {
        towns: 300,
        ..Default::default()
    })
    .unwrap();
    for (index, one) in world.articles.iter().enumerate() {
        for other in &world.articles[index + 1..] {
            let apart = !one.title.contains(&other.title) && !other.title.contains(&one.title);
            assert!(apart, "{} / {}", one.title, other.title);
        }
    }
    assert!(world.articles.len() > 1500, "{}", world.articles.len());
}

#[test]
fn wh_2_hop_by_hop_to_an_answer_that_only_the_last_article_has() {
    let config = WikiHopConfig {
        count: 900,
        ..Default::default()
    };
    let world = wikihop(&config).unwrap();
    let articles: HashMap<&str, &str> = world
        .articles
        .iter()
        .map(|a| (a.title.as_str(), a.text.as_str()))
        .collect();
    let mut by_hops: BTreeMap<usize, usize> = BTreeMap::new();
    for question in &world.questions {
        *by_hops.entry(question.reference_steps.len()).or_default() += 1;
        let hops: Vec<(&str, &str)> = question
            .reference_steps
            .iter()
            .map(|s| s.result.split_once(": ").unwrap())
            .collect();
        for (hop, (title, fact)) in hops.iter().enumerate() {
            assert!(articles[title].contains(fact), "{fact} is not in {title}");
            assert_eq!(question.question.contains(title), hop == 0, "{question:?}");
            let next = hops
                .get(hop + 1)
                .map_or(question.answer.as_str(), |(title, _)| title);
            assert!(fact.contains(next), "{fact} does not lead to {next}");
            assert!(question.reference_steps[hop].arguments.contains(title));
            assert_ne!(
                *title, question.answer,
                "the answer is passed on the way: {question:?}"
            );
        }
        assert!(
            !question
                .question
                .to_lowercase()
                .contains(&question.answer.to_lowercase())
        );
    }
    assert_eq!(by_hops, [(2, 300), (3, 300), (4, 300)].into());
}

#[test]
fn splits_of_one_world_share_the_articles_and_no_question() {
    let of = |split| {
        wikihop(&WikiHopConfig {
            split,
            count: 200,
            ..Default::default()
        })
        .unwrap()
    };
    let (train, eval) = (of(Split::Train), of(Split::Eval));
    assert_eq!(train.articles, eval.articles);
    let texts: HashSet<&str> = train
        .questions
        .iter()
        .map(|q| q.question.as_str())
        .collect();
    assert!(
        eval.questions
            .iter()
            .all(|q| !texts.contains(q.question.as_str()))
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_allowed_settings_give_the_steps_that_were_asked_for(
        seed in any::<u64>(), steps in 1..=6_usize, max_value in 60..5000_u32, distractors in 0..=3_usize,
        decimals in any::<bool>(),
    ) {
        let config = WordMathConfig {
            count: 20, seed, min_steps: steps, max_steps: steps, max_value, decimals, distractors,
            split: Split::Eval,
        };
        for question in wordmath(&config).unwrap() {
            prop_assert_eq!(question.reference_steps.len(), steps);
            prop_assert!(dialogue(&question).is_some());
        }
    }
}
