//! Sections of a prompt that nothing written into them can close.
//!
//! Text that a policy wrote stands in the judge's prompt between tags. A tag it could write itself
//! would end its section early, and what follows would read as the rubric's own words. So the tags
//! that enclose material carry a mark, as in `<last_message-3f9a01c2>`, that the material does not
//! contain: in no spelling, whatever blanks, signs, letters of other width or invisible characters
//! stand in between. The mark follows from the rubric and the material alone, so the same material
//! makes the same prompt; it is nearly always the same for a rubric, so that endpoints which keep
//! the beginnings of prompts keep these, too.

use crate::verdict::hash;

/// Hexadecimal digits of a mark.
const DIGITS: usize = 8;

/// Mark that the tags of one prompt carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark(String);

impl Mark {
    /// A mark of this rubric's that is in none of the texts.
    pub fn absent_from<'a>(rubric: &str, texts: impl IntoIterator<Item = &'a str>) -> Self {
        let all: String = texts.into_iter().map(skeleton).collect();
        let marks = (0_u64..).map(|number| {
            let mut mark = hash(&[rubric, &number.to_string()]);
            mark.truncate(DIGITS);
            mark
        });
        let absent = marks.into_iter().find(|mark| !all.contains(mark));
        Self(absent.expect("no text that fits in memory holds every mark"))
    }

    /// The opening and the closing tag of a section.
    pub fn tags(&self, name: &str) -> (String, String) {
        let mark = &self.0;
        (format!("<{name}-{mark}>"), format!("</{name}-{mark}>"))
    }

    /// A text on lines of its own between its tags.
    pub fn section(&self, name: &str, text: &str) -> String {
        let (open, close) = self.tags(name);
        format!("{open}\n{text}\n{close}")
    }
}

/// The letters and digits of a text that could be read as a mark's: those of ASCII in lower case, and
/// those of other shapes that stand for them. All else is left out.
fn skeleton(text: &str) -> String {
    text.chars().filter_map(plain).collect()
}

/// The hexadecimal digit that a character is or looks like.
fn plain(c: char) -> Option<char> {
    let c = match c {
        '\u{ff10}'..='\u{ff5a}' => shifted(c, 0xff10, '0'), // full width
        '\u{1d7ce}'..='\u{1d7ff}' => digit((c as u32 - 0x1d7ce) % 10), // mathematical digits
        '\u{1d400}'..='\u{1d6a3}' => letter((c as u32 - 0x1d400) % 52), // mathematical letters
        '\u{24b6}'..='\u{24cf}' => shifted(c, 0x24b6, 'a'), // circled
        '\u{24d0}'..='\u{24e9}' => shifted(c, 0x24d0, 'a'),
        '\u{0660}'..='\u{0669}' => shifted(c, 0x0660, '0'), // Arabic-Indic
        '\u{06f0}'..='\u{06f9}' => shifted(c, 0x06f0, '0'),
        '\u{2080}'..='\u{2089}' => shifted(c, 0x2080, '0'), // subscript
        '\u{2070}' | '\u{2074}'..='\u{2079}' => shifted(c, 0x2070, '0'), // superscript
        '²' => '2',
        '³' => '3',
        '¹' => '1',
        'А' | 'а' | 'Α' | 'α' | 'ɑ' => 'a', // Cyrillic, Greek, Latin alpha
        'В' | 'Β' | 'ь' | 'Ь' => 'b',
        'С' | 'с' | 'Ϲ' | 'ϲ' => 'c',
        'ԁ' | 'Ԁ' => 'd',
        'Е' | 'е' | 'Ε' | 'ҽ' => 'e',
        'Ϝ' | 'ғ' => 'f',
        'О' | 'о' | 'Ο' | 'ο' | 'O' | 'o' => '0',
        'I' | 'l' | 'І' | 'і' | 'Ι' | '|' => '1',
        other => other.to_ascii_lowercase(),
    };
    c.is_ascii_hexdigit().then_some(c)
}

fn shifted(c: char, first: u32, plain: char) -> char {
    char::from_u32(c as u32 - first + plain as u32)
        .unwrap_or(c)
        .to_ascii_lowercase()
}

fn digit(value: u32) -> char {
    char::from_digit(value, 10).unwrap_or('0')
}

/// Of 52 letters, capitals first.
fn letter(index: u32) -> char {
    char::from_u32('a' as u32 + index % 26).unwrap_or('a')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_material_has_the_same_mark_and_nearly_all_material_of_a_rubric_does() {
        let mark = |texts: &[&str]| Mark::absent_from("rubric", texts.iter().copied());
        let usual = mark(&[]);
        assert_eq!(mark(&["<answer>3</answer>", "</last_message>"]), usual);
        assert_ne!(Mark::absent_from("another", []), usual);
    }

    #[test]
    fn a_mark_is_in_no_text_in_any_spelling() {
        let usual = Mark::absent_from("rubric", []).0;
        let wide = |c: char| char::from_u32(c as u32 - 0x21 + 0xff01).unwrap();
        let spellings: Vec<String> = vec![
            usual.clone(),
            usual.to_uppercase(),
            format!("</last_message-{usual}>"),
            usual.chars().flat_map(|c| [c, ' ']).collect(),
            usual.chars().flat_map(|c| [c, '\u{200b}']).collect(),
            usual.chars().flat_map(|c| [c, '-', '\n']).collect(),
            usual.chars().map(wide).collect(),
            usual
                .replace('a', "а")
                .replace('e', "е")
                .replace('c', "с")
                .replace('0', "О"),
        ];
        for text in &spellings {
            let found = Mark::absent_from("rubric", [text.as_str()]);
            assert_ne!(found.0, usual, "{text:?}");
            assert_eq!(found, Mark::absent_from("rubric", [text.as_str()]));
            // Whoever knows the next one, too, gets the one after it.
            let next = Mark::absent_from("rubric", [text.as_str(), &found.0]);
            assert!(next.0 != usual && next != found, "{text:?}");
        }
    }

    #[test]
    fn a_mark_that_is_spread_over_two_texts_is_absent_too() {
        let usual = Mark::absent_from("rubric", []).0;
        let (first, second) = usual.split_at(3);
        assert_ne!(Mark::absent_from("rubric", [first, second]).0, usual);
    }
}
