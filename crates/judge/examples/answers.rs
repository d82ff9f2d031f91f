//! Compares answers with keys: reads `key TAB answer` lines and prints one JSON object each.
//!
//! `benches/peers/answers.py` asks it.

use judge::answer::{read, read_key};
use std::io::{BufRead, Write};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (key, answer) = line.split_once('\t').unwrap_or((&line, ""));
        let (key, answer) = (read_key(key), read(answer));
        let row = serde_json::json!({
            "equal": key.accepts(&answer),
            "key": key,
            "answer": answer,
        });
        writeln!(out, "{row}")?;
    }
    Ok(())
}
