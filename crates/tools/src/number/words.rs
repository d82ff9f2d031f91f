//! Numbers that are written as words.

use super::Rational;
use super::scan::integer;

/// What one word can be in a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// zero to nineteen, and words such as `twice` that stand alone with a value.
    Unit(u64),
    /// twenty to ninety.
    Tens(u64),
    /// hundred, dozen: multiplies what stands before it.
    Multiplier(u64),
    /// thousand and up: multiplies and closes a group.
    Group(u64),
    /// once, twice, double …: never combined with its neighbours.
    Alone(u64),
    /// half, third …: the denominator.
    Fraction(u64),
    Percent,
    And,
    Article,
    Other,
}

/// Every number written as words in free text, in order: `twenty-five`, `three hundred and two`,
/// `two dozen`, `half`, `two thirds`, `one and a half`, `twice`, `couple`, `third`, `ten percent`.
///
/// As with [`super::numbers_in`], a number with several readings gives its parts first and its
/// whole value last: `half` gives 2 and 1/2 (halving is as often written `/2`), `two thirds` gives
/// 2, 3, 1/3 and 2/3, `two dozen` gives 2, 12 and 24. Digits are ignored.
pub fn number_words(text: &str) -> Vec<Rational> {
    let mut reader = Reader::default();
    for word in text
        .split(|c: char| !c.is_alphabetic())
        .filter(|word| !word.is_empty())
    {
        reader.on(classify(&word.to_lowercase()));
    }
    reader.flush();
    reader.out
}

/// The cardinal or fraction in words that a list of words in lower case starts with, and how many
/// of them it takes: `twenty`, `five`, `cats` gives 25 and 2. Also `half`, `a dozen`, `two thirds`
/// and `one and a half`; no ordinals, and no `twice` or `pair`.
pub fn cardinal(words: &[&str]) -> Option<(Rational, usize)> {
    let class = |at: usize| words.get(at).map_or(Word::Other, |word| classify(word));
    let mut at = usize::from(class(0) == Word::Article);
    let (mut total, mut current, mut last) = (0u64, 0u64, None);
    loop {
        let joined =
            class(at) == Word::And && matches!(last, Some(Word::Multiplier(_) | Word::Group(_)));
        let word = class(at + usize::from(joined));
        match (word, last) {
            (Word::Unit(n), Some(Word::Tens(_))) if (1..10).contains(&n) && !joined => current += n,
            (Word::Unit(n) | Word::Tens(n), None | Some(Word::Multiplier(_) | Word::Group(_))) => {
                current = current.saturating_add(n);
            }
            (Word::Multiplier(n), _) if !joined => current = current.max(1).saturating_mul(n),
            (Word::Group(n), _) if !joined => {
                total = total.saturating_add(current.max(1).saturating_mul(n));
                current = 0;
            }
            _ => break,
        }
        at += 1 + usize::from(joined);
        last = Some(word);
    }
    let whole = last.map(|_| integer(total.saturating_add(current)));
    let article = class(0) == Word::Article;
    if let Some((part, taken)) =
        fraction_after(&words[at.min(words.len())..], whole.is_some(), article)
    {
        let part = match (&whole, taken) {
            (Some(whole), 1) => whole * part,
            (Some(whole), _) => whole + part,
            (None, _) => return Some(half_of(part, words, at + taken)),
        };
        return Some((part, at + taken));
    }
    // `a` and `an` alone are no number, and an article before a plain cardinal is none of its own.
    whole.map(|whole| (whole, at))
}

/// `half`, `half an`, `half a dozen`: what it comes to, and how many words it takes.
fn half_of(half: Rational, words: &[&str], taken: usize) -> (Rational, usize) {
    let class = |at: usize| words.get(at).map_or(Word::Other, |word| classify(word));
    match (class(taken), class(taken + 1)) {
        (Word::Article, Word::Multiplier(n) | Word::Group(n)) => (half * integer(n), taken + 2),
        (Word::Article, _) => (half, taken + 1),
        _ => (half, taken),
    }
}

/// `thirds` of `two thirds`, `and a half` of `one and a half`, or `half` by itself.
fn fraction_after(words: &[&str], after_whole: bool, article: bool) -> Option<(Rational, usize)> {
    let class = |at: usize| words.get(at).map_or(Word::Other, |word| classify(word));
    let skipped = match (class(0), class(1)) {
        (Word::And, Word::Article | Word::Unit(1)) if after_whole => 2,
        (Word::And, _) if after_whole => 1,
        _ => 0,
    };
    let Word::Fraction(denominator) = class(skipped) else {
        return None;
    };
    let word = words[skipped];
    // `third` by itself, or after a number, is an ordinal.
    let plural = word.ends_with('s') || word == "halves";
    let is_half = denominator == 2 || denominator == 4 && word.starts_with("quarter");
    let allowed = match (after_whole, skipped) {
        // `a third` by itself, or of something
        (false, _) if article => matches!(words.get(1), None | Some(&"of")) || word == "half",
        (false, _) => word == "half",
        (true, 0) => plural || is_half || words.len() == 1,
        (true, _) => true,
    };
    allowed.then(|| (Rational::new(1.into(), denominator.into()), skipped + 1))
}

/// A cardinal in the making: `total` of closed groups, `current` of the open one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cardinal {
    total: u64,
    current: u64,
    last: Word,
}

impl Cardinal {
    fn value(self) -> u64 {
        self.total.saturating_add(self.current)
    }
}

#[derive(Debug, Default)]
struct Reader {
    out: Vec<Rational>,
    /// The cardinal that the next word may still extend.
    open: Option<Cardinal>,
    /// `and`, `a` or `an` seen since the last number word.
    joined: bool,
    /// The last word but an article was `half`.
    after_half: bool,
}

impl Reader {
    fn on(&mut self, word: Word) {
        let after_half = std::mem::take(&mut self.after_half);
        match word {
            Word::And | Word::Article => {
                self.joined = true;
                self.after_half = after_half && word == Word::Article;
                return;
            }
            Word::Unit(n) | Word::Tens(n) => self.add(word, n),
            Word::Multiplier(n) | Word::Group(n) => self.multiply(word, n, after_half),
            Word::Fraction(n) => self.fraction(n),
            Word::Alone(n) => {
                self.flush();
                self.push(integer(n));
            }
            Word::Percent => self.percent(),
            Word::Other => self.flush(),
        }
        self.joined = false;
        self.after_half = word == Word::Fraction(2);
    }

    fn push(&mut self, value: Rational) {
        self.out.push(value);
    }

    /// Ends the open cardinal and reports it.
    fn flush(&mut self) {
        if let Some(open) = self.open.take() {
            self.push(integer(open.value()));
        }
        self.joined = false;
    }

    fn add(&mut self, word: Word, n: u64) {
        let extends = self.open.is_some_and(|open| match open.last {
            Word::Multiplier(_) | Word::Group(_) => true,
            // `twenty-five`, but `twenty and five` are two numbers.
            Word::Tens(_) => matches!(word, Word::Unit(1..=9)) && !self.joined,
            _ => false,
        });
        let base = if extends { self.open.take() } else { None };
        self.flush();
        let base = base.unwrap_or(Cardinal {
            total: 0,
            current: 0,
            last: word,
        });
        self.open = Some(Cardinal {
            current: base.current.saturating_add(n),
            last: word,
            ..base
        });
    }

    fn multiply(&mut self, word: Word, n: u64, after_half: bool) {
        if after_half {
            self.push(integer(n));
            self.push(Rational::new(n.into(), 2.into()));
            return;
        }
        if self.joined {
            // `five and a dozen` are two numbers.
            self.flush();
        }
        let open = self.open.take().unwrap_or(Cardinal {
            total: 0,
            current: 0,
            last: word,
        });
        if n == 12 && open.current > 0 {
            self.push(integer(open.current));
            self.push(integer(n));
        }
        let product = open.current.max(1).saturating_mul(n);
        self.open = Some(match word {
            Word::Group(_) => Cardinal {
                total: open.total.saturating_add(product),
                current: 0,
                last: word,
            },
            _ => Cardinal {
                current: product,
                last: word,
                ..open
            },
        });
    }

    fn fraction(&mut self, denominator: u64) {
        let (open, joined) = (self.open.take(), self.joined);
        let part = Rational::new(1.into(), denominator.into());
        if let Some(open) = open {
            self.push(integer(open.value()));
        }
        self.push(integer(denominator));
        self.push(part.clone());
        if let Some(open) = open {
            // `one and a half` adds, `two thirds` multiplies.
            let value = integer(open.value());
            self.push(if joined { value + part } else { value * part });
        }
    }

    fn percent(&mut self) {
        if let Some(open) = self.open.take() {
            self.push(integer(open.value()));
            self.push(Rational::new(open.value().into(), 100.into()));
        }
    }
}

fn classify(word: &str) -> Word {
    const UNITS: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 8] = [
        "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
    ];
    const FRACTIONS: [(&str, u64); 12] = [
        ("half", 2),
        ("halves", 2),
        ("third", 3),
        ("quarter", 4),
        ("fourth", 4),
        ("fifth", 5),
        ("sixth", 6),
        ("seventh", 7),
        ("eighth", 8),
        ("ninth", 9),
        ("tenth", 10),
        ("hundredth", 100),
    ];
    if let Some(n) = UNITS.iter().position(|unit| *unit == word) {
        return Word::Unit(n as u64);
    }
    if let Some(n) = TENS.iter().position(|tens| *tens == word) {
        return Word::Tens(10 * (n as u64 + 2));
    }
    let singular = word.strip_suffix('s').unwrap_or(word);
    if let Some((_, n)) = FRACTIONS
        .iter()
        .find(|(name, _)| *name == singular || *name == word)
    {
        return Word::Fraction(*n);
    }
    match singular {
        "dozen" => Word::Multiplier(12),
        "hundred" => Word::Multiplier(100),
        "thousand" => Word::Group(1_000),
        "million" => Word::Group(1_000_000),
        "billion" => Word::Group(1_000_000_000),
        "once" | "first" | "single" => Word::Alone(1),
        "twice" | "double" | "doubled" | "couple" | "pair" | "both" | "second" | "twin" => {
            Word::Alone(2)
        }
        "thrice" | "triple" | "tripled" => Word::Alone(3),
        "quadruple" | "quadrupled" => Word::Alone(4),
        "percent" => Word::Percent,
        "and" => Word::And,
        "a" | "an" => Word::Article,
        _ => Word::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::{cardinal, number_words};

    #[test]
    fn cardinals_at_the_start_of_words() {
        for (text, value, taken) in [
            ("two", "2", 1),
            ("twenty five cats", "25", 2),
            ("three hundred and two", "302", 4),
            ("two thousand five hundred twelve", "2512", 5),
            ("a dozen eggs", "12", 2),
            ("one half", "1/2", 2),
            ("half an hour", "1/2", 2),
            ("half a dozen eggs", "6", 3),
            ("half of it", "1/2", 1),
            ("a third of it", "1/3", 2),
            ("two thirds of it", "2/3", 2),
            ("three quarters", "3/4", 2),
            ("one and a half hours", "3/2", 4),
            ("two and three", "2", 1),
            ("one million", "1000000", 2),
            ("zero cents", "0", 1),
        ] {
            let words: Vec<&str> = text.split(' ').collect();
            let (found, count) = cardinal(&words).expect(text);
            assert_eq!(
                (found.to_string().as_str(), count),
                (value, taken),
                "{text}"
            );
        }
        for text in [
            "", "a", "an hour", "third", "and two", "second", "twice", "cats",
        ] {
            let words: Vec<&str> = text.split(' ').collect();
            assert_eq!(cardinal(&words), None, "{text}");
        }
    }

    #[test]
    fn words_with_their_readings() {
        for (text, values) in [
            ("three cats", "3"),
            ("Twenty-five cats and two dogs", "25 2"),
            ("twenty and five", "20 5"),
            ("three hundred and two", "302"),
            ("two thousand five hundred twelve", "2512"),
            ("eleven hundred", "1100"),
            ("five, six, seven", "5 6 7"),
            ("half as many", "2 1/2"),
            ("two thirds of it", "2 3 1/3 2/3"),
            ("one and a half hours", "1 2 1/2 3/2"),
            ("a dozen eggs", "12"),
            ("two dozen eggs", "2 12 24"),
            ("half a dozen", "2 1/2 12 6"),
            ("five and a dozen", "5 12"),
            ("twice, thrice, a couple, double", "2 3 2 2"),
            ("a third and a quarter", "3 1/3 4 1/4"),
            ("three quarters", "3 4 1/4 3/4"),
            ("ten percent", "10 1/10"),
            ("one million", "1000000"),
            ("hundreds of ants", "100"),
            ("someone often weighs 12 tons", ""),
            ("", ""),
        ] {
            let found: Vec<String> = number_words(text).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), values, "{text}");
        }
    }

    #[test]
    fn absurd_cardinals_saturate_instead_of_overflowing() {
        assert_eq!(
            number_words(&"nine hundred billion ".repeat(500_000)).len(),
            1
        );
        assert_eq!(number_words(&"nine hundred ".repeat(50)).len(), 1);
    }
}
