//! Stop strings in text that arrives token by token.

use model::{TextStream, Tokenizer};

/// Watches one sequence's text for its stop strings.
///
/// A tag may be spread over several tokens, and the token that completes it may carry characters
/// behind it, of which the last may even be cut: a tag counts as soon as its own bytes are there.
#[derive(Debug, Default)]
pub(crate) struct StopWatch {
    stream: TextStream,
    /// The end of the certain text: one byte short of the longest stop string, or a little more.
    tail: String,
}

impl StopWatch {
    /// Takes the next token; true once the text contains one of `stops`.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, stops: &[String]) -> bool {
        let Some(longest) = stops.iter().map(String::len).max() else {
            return false;
        };
        let certain = self.stream.push(tokenizer, id);
        let seen = match certain.is_empty() {
            true => format!("{}{}", self.tail, self.stream.clone().finish(tokenizer)),
            false => format!("{}{certain}", self.tail),
        };
        if stops.iter().any(|stop| seen.contains(stop.as_str())) {
            return true;
        }
        self.tail.push_str(&certain);
        let mut start = (self.tail.len() + 1).saturating_sub(longest);
        while !self.tail.is_char_boundary(start) {
            start -= 1;
        }
        self.tail.drain(..start);
        false
    }
}
