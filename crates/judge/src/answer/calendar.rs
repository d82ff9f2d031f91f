//! Times of day and dates.

use super::lexer::{Kind, Token};
use num_traits::ToPrimitive;

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = [
    "monday",
    "tuesday",
    "wednesday",
    "thursday",
    "friday",
    "saturday",
    "sunday",
];

/// A time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Time {
    pub hour: u32,
    pub minute: u32,
    pub second: u32,
    /// Whether it is p.m.; `None` where neither half of the day is named.
    pub afternoon: Option<bool>,
    /// Whether minutes are written.
    pub with_minutes: bool,
}

impl Time {
    /// Seconds since midnight; in the half of the day that is named, or as written.
    fn seconds(self) -> u32 {
        let hour = match self.afternoon {
            Some(afternoon) => self.hour % 12 + if afternoon { 12 } else { 0 },
            None => self.hour % 24,
        };
        (hour * 60 + self.minute) * 60 + self.second
    }

    /// Whether both may be the same time: without a half of the day, `7:30` is either.
    pub fn agrees(self, other: Self) -> bool {
        const HALF_DAY: u32 = 12 * 60 * 60;
        let open = |time: Self| time.afternoon.is_none() && time.hour <= 12;
        let one_is_open =
            open(self) != open(other) && (self.afternoon.is_some() || other.afternoon.is_some());
        match one_is_open {
            true => self.seconds() % HALF_DAY == other.seconds() % HALF_DAY,
            false => self.seconds() == other.seconds(),
        }
    }
}

/// A date, of which the year, or all but the year, may be left open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    pub year: Option<u32>,
    pub month: Option<u32>,
    pub day: Option<u32>,
}

fn whole(token: Option<&Token>) -> Option<u32> {
    let literal = token?.number()?;
    (literal.whole && literal.value.is_integer())
        .then(|| literal.value.to_integer().to_u32())
        .flatten()
}

fn is_sign(token: Option<&Token>, wanted: char) -> bool {
    token.and_then(Token::sign) == Some(wanted)
}

fn word(token: Option<&Token>) -> Option<String> {
    Some(token?.word()?.to_lowercase())
}

/// The time that the tokens start with, and how many they are: `7:30`, `7:30:15 p.m.`, `7 pm`,
/// `7 o'clock`, `noon`.
pub(super) fn time(tokens: &[Token]) -> Option<(Time, usize)> {
    let named = |hour| Time {
        hour,
        minute: 0,
        second: 0,
        afternoon: Some(hour == 12),
        with_minutes: false,
    };
    match word(tokens.first()).as_deref() {
        Some("noon" | "midday") => return Some((named(12), 1)),
        Some("midnight") => return Some((named(0), 1)),
        _ => {}
    }
    let hour = whole(tokens.first()).filter(|hour| *hour <= 24)?;
    let mut at = 1;
    let mut parts = [0, 0];
    let mut written = 0;
    while written < 2 && is_sign(tokens.get(at), ':') && !tokens[at].spaced {
        let Some(part) = sixtieth(tokens.get(at + 1)) else {
            break;
        };
        parts[written] = part;
        written += 1;
        at += 2;
    }
    // `10:30:5` and `3:30:45:10` are no times.
    if is_sign(tokens.get(at), ':') && whole(tokens.get(at + 1)).is_some() {
        return None;
    }
    // `12 noon`
    let half = half_of_day(&tokens[at..]).or_else(|| match word(tokens.get(at))?.as_str() {
        "noon" if hour == 12 => Some((true, 1)),
        "midnight" if hour == 12 => Some((false, 1)),
        _ => None,
    });
    let clock = word(tokens.get(at)).is_some_and(|w| w == "o'clock" || w == "o’clock");
    at += half.map_or(usize::from(clock), |(_, taken)| taken);
    if written == 0 && half.is_none() && !clock {
        return None;
    }
    if half.is_some() && hour > 12 {
        return None;
    }
    let time = Time {
        hour,
        minute: parts[0],
        second: parts[1],
        afternoon: half.map(|(afternoon, _)| afternoon),
        with_minutes: written > 0,
    };
    Some((time, at))
}

/// Two digits below 60, right behind a colon.
fn sixtieth(token: Option<&Token>) -> Option<u32> {
    let literal = token?.number()?;
    let two_digits = literal.width == 2 && !token?.spaced;
    whole(token).filter(|part| two_digits && *part < 60)
}

/// `am`, `p.m.`, and whether it is the afternoon.
fn half_of_day(tokens: &[Token]) -> Option<(bool, usize)> {
    let first = word(tokens.first())?;
    match first.as_str() {
        "am" => Some((false, 1)),
        "pm" => Some((true, 1)),
        "a" | "p" if is_sign(tokens.get(1), '.') => {
            let m = word(tokens.get(2)).filter(|w| w == "m")?;
            let stop = usize::from(is_sign(tokens.get(3), '.'));
            Some((first == "p", 2 + m.len() + stop))
        }
        _ => None,
    }
}

/// The date that the tokens start with, and how many they are: `July 4, 1776`, `4th of July`,
/// `Dec. 10, 1817`, `1776-07-04`, `7/4/1776` (month first, unless it is above 12), `April 1793`.
pub(super) fn date(tokens: &[Token]) -> Option<(Date, usize)> {
    let skipped = weekday(tokens);
    let tail = &tokens[skipped..];
    let found = month_first(tail)
        .or_else(|| day_first(tail))
        .or_else(|| in_figures(tail))
        .or_else(|| year_and_month(tail))?;
    Some((found.0, found.1 + skipped))
}

fn weekday(tokens: &[Token]) -> usize {
    let is_weekday = |w: &String| WEEKDAYS.contains(&w.as_str());
    match word(tokens.first()).filter(is_weekday) {
        Some(_) => 1 + usize::from(is_sign(tokens.get(1), ',')),
        None => 0,
    }
}

/// The number of a month that is named, and how many tokens the name is.
fn month(tokens: &[Token]) -> Option<(u32, usize)> {
    let name = word(tokens.first())?;
    let full = MONTHS.iter().position(|month| *month == name);
    let short = || {
        let cut = matches!(name.len(), 3) || name == "sept";
        let found = MONTHS.iter().position(|month| month.starts_with(&name));
        found.filter(|_| cut)
    };
    let month = full.or_else(short)?;
    let stop = full.is_none() && is_sign(tokens.get(1), '.');
    Some((month as u32 + 1, 1 + usize::from(stop)))
}

/// The day of a month, and how many tokens it is: `4`, `4th`.
fn day(tokens: &[Token]) -> Option<(u32, usize)> {
    let day = whole(tokens.first()).filter(|day| (1..=31).contains(day))?;
    let ending = tokens.get(1).filter(|token| !token.spaced);
    let ordinal = word(ending).is_some_and(|w| matches!(w.as_str(), "st" | "nd" | "rd" | "th"));
    Some((day, 1 + usize::from(ordinal)))
}

/// `, 1776` or `1776`: a year has three or four digits.
fn year(tokens: &[Token]) -> Option<(u32, usize)> {
    let comma = usize::from(is_sign(tokens.first(), ','));
    let literal = tokens.get(comma)?.number()?;
    let year = whole(tokens.get(comma))?;
    ((3..=4).contains(&literal.width)).then_some((year, comma + 1))
}

fn month_first(tokens: &[Token]) -> Option<(Date, usize)> {
    let (month, mut at) = month(tokens)?;
    let month = Some(month);
    if let Some((day, taken)) = day(&tokens[at..]) {
        at += taken;
        let day = Some(day);
        let year = year(&tokens[at..]);
        at += year.map_or(0, |(_, taken)| taken);
        let year = year.map(|(year, _)| year);
        return Some((Date { year, month, day }, at));
    }
    let (year, taken) = year(&tokens[at..])?;
    let date = Date {
        year: Some(year),
        month,
        day: None,
    };
    Some((date, at + taken))
}

fn day_first(tokens: &[Token]) -> Option<(Date, usize)> {
    let (day, mut at) = day(tokens)?;
    at += usize::from(word(tokens.get(at)).is_some_and(|w| w == "of"));
    let (month, taken) = month(tokens.get(at..)?)?;
    at += taken;
    let year = year(&tokens[at..]);
    at += year.map_or(0, |(_, taken)| taken);
    let date = Date {
        year: year.map(|(year, _)| year),
        month: Some(month),
        day: Some(day),
    };
    Some((date, at))
}

fn in_figures(tokens: &[Token]) -> Option<(Date, usize)> {
    let separator = tokens.get(1)?.sign().filter(|c| matches!(c, '/' | '-'))?;
    if !is_sign(tokens.get(3), separator) || tokens.iter().take(5).skip(1).any(|t| t.spaced) {
        return None;
    }
    let parts = [0, 2, 4].map(|at| whole(tokens.get(at)));
    let [Some(a), Some(b), Some(c)] = parts else {
        return None;
    };
    let width = |at: usize| match &tokens[at].kind {
        Kind::Number(literal) => literal.width,
        _ => 0,
    };
    let (year, month, day) = match (width(0), width(4)) {
        (4, 1 | 2) => (a, b, c),
        (1 | 2, 4) if a <= 12 => (c, a, b),
        (1 | 2, 4) => (c, b, a),
        _ => return None,
    };
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day);
    let date = Date {
        year: Some(year),
        month: Some(month),
        day: Some(day),
    };
    valid.then_some((date, 5))
}

/// `2024-05`; but `2004-05` are two years.
fn year_and_month(tokens: &[Token]) -> Option<(Date, usize)> {
    let width = |at: usize| Some(tokens.get(at)?.number()?.width);
    let glued = tokens.iter().take(3).skip(1).all(|token| !token.spaced);
    let shaped = width(0) == Some(4) && width(2) == Some(2) && is_sign(tokens.get(1), '-');
    if !glued || !shaped || tokens.get(3).is_some_and(|token| !token.spaced) {
        return None;
    }
    let (year, month) = (whole(tokens.first())?, whole(tokens.get(2))?);
    let date = Date {
        year: Some(year),
        month: Some(month),
        day: None,
    };
    ((1..=12).contains(&month) && year % 100 >= month).then_some((date, 3))
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{:02}", self.hour, self.minute)?;
        if self.second > 0 {
            write!(f, ":{:02}", self.second)?;
        }
        match self.afternoon {
            Some(true) => f.write_str(" pm"),
            Some(false) => f.write_str(" am"),
            None => Ok(()),
        }
    }
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let year = self.year.map_or("????".to_owned(), |y| format!("{y:04}"));
        let month = self.month.map_or("??".to_owned(), |m| format!("{m:02}"));
        match self.day {
            Some(day) => write!(f, "{year}-{month}-{day:02}"),
            None => write!(f, "{year}-{month}"),
        }
    }
}
