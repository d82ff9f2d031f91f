//! Stop strings in text that arrives token by token.

use model::{TextStream, Tokenizer};
use proto::{SamplingParams, Thinking};

/// Watches one sequence's text for its stop strings.
///
/// A tag may be spread over several tokens, and the token that completes it may carry characters
/// behind it, of which the last may even be cut: a tag counts as soon as its own bytes are there.
/// Inside a thinking section none counts.
#[derive(Debug)]
pub(crate) struct StopWatch {
    stream: TextStream,
    reader: Reader,
}

impl StopWatch {
    /// The watch of a sequence that begins behind its prompt.
    pub fn new(params: &SamplingParams) -> Self {
        let thinks = params.thinking.as_ref();
        Self {
            stream: TextStream::default(),
            reader: Reader {
                tail: String::new(),
                thinks: thinks.is_some_and(|thinking| thinking.begins_open),
            },
        }
    }

    /// Takes the next token; true once the text contains a stop string that counts.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32, params: &SamplingParams) -> bool {
        if params.stop.is_empty() {
            return false;
        }
        let certain = self.stream.push(tokenizer, id);
        if !certain.is_empty() {
            return self.reader.read(&certain, params);
        }
        // What may still change with the next token is read by a copy.
        let pending = self.stream.clone().finish(tokenizer);
        self.reader.clone().read(&pending, params)
    }
}

/// Reads text as it comes.
#[derive(Debug, Clone)]
struct Reader {
    /// The end of what was read, in which a tag may have begun: one byte short of the longest tag,
    /// or a little more.
    tail: String,
    /// Inside a thinking section.
    thinks: bool,
}

impl Reader {
    /// Takes the next piece of text; true once a stop string that counts is complete.
    fn read(&mut self, text: &str, params: &SamplingParams) -> bool {
        self.tail.push_str(text);
        let mut from = 0;
        while let Some((end, tag)) = self.next_tag(from, params) {
            match tag {
                Tag::Stop => return true,
                Tag::Open => self.thinks = true,
                Tag::Close => self.thinks = false,
            }
            from = end;
        }
        let start = (self.tail.len() + 1)
            .saturating_sub(longest(params))
            .max(from);
        self.tail.drain(..self.tail.floor_char_boundary(start));
        false
    }

    /// The first tag from there on that means something here, and where it ends.
    fn next_tag(&self, from: usize, params: &SamplingParams) -> Option<(usize, Tag)> {
        let thinking = params.thinking.as_ref();
        let find = |tag: &str| Some((from + self.tail[from..].find(tag)?, tag.len()));
        let found = |(at, length): (usize, usize), tag| (at, at + length, tag);
        if self.thinks {
            let close = thinking.and_then(|thinking| find(&thinking.close));
            return close.map(|(at, length)| (at + length, Tag::Close));
        }
        let stops = params.stop.iter().filter_map(|stop| find(stop));
        let open = thinking.and_then(|thinking| find(&thinking.open));
        stops
            .map(|place| found(place, Tag::Stop))
            .chain(open.map(|place| found(place, Tag::Open)))
            .min_by_key(|(at, ..)| *at)
            .map(|(_, end, tag)| (end, tag))
    }
}

#[derive(Debug, Clone, Copy)]
enum Tag {
    Stop,
    Open,
    Close,
}

/// The length of the longest tag, in bytes.
fn longest(params: &SamplingParams) -> usize {
    let thinking = |Thinking { open, close, .. }: &Thinking| open.len().max(close.len());
    let stops = params.stop.iter().map(String::len);
    stops
        .chain(params.thinking.as_ref().map(thinking))
        .max()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the text that are read until the watch stops, fed in pieces of `piece` characters.
    fn stops_behind(text: &str, piece: usize, params: &SamplingParams) -> Option<usize> {
        let mut reader = Reader {
            tail: String::new(),
            thinks: params.thinking.as_ref().is_some_and(|t| t.begins_open),
        };
        let characters: Vec<char> = text.chars().collect();
        let mut read = 0;
        for part in characters.chunks(piece) {
            let part: String = part.iter().collect();
            read += part.len();
            if reader.read(&part, params) {
                return Some(read);
            }
        }
        None
    }

    fn params(begins_open: bool) -> SamplingParams {
        SamplingParams {
            thinking: Some(Thinking {
                open: "<think>".into(),
                close: "</think>".into(),
                begins_open,
            }),
            ..SamplingParams::greedy(64, vec!["</math_exp>".into(), "</answer>".into()])
        }
    }

    #[test]
    fn nothing_in_a_thinking_section_stops() {
        for (text, begins_open, stop) in [
            ("a <answer>1</answer>", false, Some("</answer>")),
            ("<think>like <answer>36</answer>", false, None),
            ("<think>é <answer>3</answer></think>é", false, None),
            ("<answer>3</answer></think>", true, None),
            (
                "x</answer></think><math_exp>1</math_exp>",
                true,
                Some("</math_exp>"),
            ),
            (
                "<think>x</answer></think><think>y</answer></think>5</answer>",
                false,
                Some("5</answer>"),
            ),
            ("</think></answer>", false, Some("</answer>")),
            ("<thin></answer>", false, Some("</answer>")),
        ] {
            let end = stop.map(|stop| text.find(stop).expect("it is there") + stop.len());
            for piece in [1, 2, 3, 7, 100] {
                let stopped = stops_behind(text, piece, &params(begins_open));
                match (end, stopped) {
                    (None, stopped) => assert_eq!(stopped, None, "{text} by {piece}"),
                    (Some(end), Some(at)) => {
                        assert!(at >= end && at < end + piece * 2, "{text} by {piece}: {at}");
                    }
                    (Some(_), None) => panic!("{text} by {piece} did not stop"),
                }
            }
        }
    }
}
