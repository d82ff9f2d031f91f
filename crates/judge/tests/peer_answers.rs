//! Keys and answers whose equality is known, and what math-verify says of them
//! (`benches/peers/answers.py`).

use judge::answers_match;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    pairs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Pair {
    key: String,
    answer: String,
    equal: bool,
    /// The peer's verdict.
    peer: bool,
}

#[test]
fn every_pair_is_right_also_where_math_verify_is_not() {
    let text = include_str!("fixtures/peer_answers.json");
    let pairs = serde_json::from_str::<Fixture>(text).unwrap().pairs;
    let wrong: Vec<String> = pairs
        .iter()
        .filter(|pair| answers_match(&pair.key, &pair.answer) != pair.equal)
        .map(|pair| format!("{:?} {:?}: {}", pair.key, pair.answer, pair.equal))
        .collect();
    let peer = pairs.iter().filter(|pair| pair.peer == pair.equal).count();
    println!("{} pairs, math-verify is right on {peer}", pairs.len());
    assert!(pairs.len() > 300, "{}", pairs.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
