//! The arithmetic of one sentence: which operands it draws and which steps it takes.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::fmt;

/// An exact amount with up to two decimals, held in hundredths. Always positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Amount(i64);

impl Amount {
    pub(super) const fn whole(value: i64) -> Self {
        Self(value * 100)
    }

    /// As in prose: `2.50` and `2`.
    pub(super) fn price(self) -> String {
        match self.0 % 100 {
            0 => (self.0 / 100).to_string(),
            cents => format!("{}.{cents:02}", self.0 / 100),
        }
    }
}

/// As the calculator writes it: `2.5` and `2`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.price();
        f.write_str(if text.contains('.') {
            text.trim_end_matches('0')
        } else {
            &text
        })
    }
}

/// What a sentence does to the running amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Opens with `a`, no step.
    Given,
    /// Opens with `a` groups of `b`.
    Product,
    /// Opens with `a` and `b` together.
    Sum,
    /// Opens with `times` what somebody else has, which is `a`.
    TimesOf,
    /// Opens with `b` more than somebody else, who has `a`.
    MoreThan,
    /// Opens with `b` fewer than somebody else, who has `a`.
    FewerThan,
    /// Opens with `times` of `a`, and then both together.
    TimesTogether,
    /// Adds `a`.
    Add,
    /// Takes `a` away.
    Sub,
    /// Adds `a` groups of `b`.
    AddProduct,
    /// Takes `a` groups of `b` away.
    SubProduct,
    /// Leaves half.
    Halve,
    /// Makes it `times` as much.
    Multiply,
    /// Divides by `a`.
    Share,
    /// Asks what is missing to `a`.
    ShortOf,
    /// Times a price of `a`.
    Price,
    /// Times a price of `a`, less `b`.
    PriceLess,
    /// Times a price of `a`, divided by `b`.
    PriceShare,
    /// Somebody else has `times` as much; both together.
    TimesMoreTogether,
}

/// Limits of what is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    /// No amount in the problem is larger.
    pub(super) max: i64,
    /// Whether prices may have cents.
    pub(super) decimals: bool,
}

/// A form with its operands: what the sentence says and what is computed.
#[derive(Debug, Clone)]
pub(super) struct Drawn {
    pub(super) a: Amount,
    pub(super) b: Amount,
    /// Expression and result, in order.
    pub(super) steps: Vec<(String, Amount)>,
    /// The running amount afterwards.
    pub(super) value: Amount,
}

impl Form {
    /// How many calculator calls it takes.
    pub(super) const fn steps(self) -> usize {
        match self {
            Self::Given => 0,
            Self::TimesTogether
            | Self::AddProduct
            | Self::SubProduct
            | Self::PriceLess
            | Self::PriceShare
            | Self::TimesMoreTogether => 2,
            _ => 1,
        }
    }

    /// Draws operands so that every amount is positive, exact and within `range`; `None` where the
    /// running amount `v` leaves no room.
    pub(super) fn draw(self, v: Amount, range: Range, rng: &mut ChaCha8Rng) -> Option<Drawn> {
        let (a, b) = self.operands(v, range, rng)?;
        let calls = self.calls(v, a, b)?;
        let fits = |amount: Amount| amount.0 > 0 && amount <= Amount::whole(range.max);
        if !calls.iter().all(|(_, result)| fits(*result)) {
            return None;
        }
        let value = calls.last().map_or(a, |(_, result)| *result);
        Some(Drawn {
            a,
            b,
            steps: calls,
            value,
        })
    }

    fn operands(self, v: Amount, range: Range, rng: &mut ChaCha8Rng) -> Option<(Amount, Amount)> {
        let start = range.max.min(60);
        let whole = v.0 / 100;
        let mut draw = |low: i64, high: i64| {
            (low <= high).then(|| Amount::whole(rng.random_range(low..=high)))
        };
        let none = Amount::whole(1);
        Some(match self {
            Self::Given => (draw(3, start)?, none),
            Self::Product | Self::AddProduct | Self::SubProduct => (draw(2, 9)?, draw(2, 12)?),
            Self::Sum => (draw(3, start)?, draw(3, start)?),
            Self::MoreThan => (draw(3, start)?, draw(2, 30)?),
            Self::FewerThan => {
                let a = draw(5, start)?;
                (a, draw(2, a.0 / 100 - 2)?)
            }
            Self::TimesOf | Self::TimesTogether => (draw(3, 40)?, draw(2, 4)?),
            Self::Add => (draw(2, 50)?, none),
            Self::Sub => (draw(2, (whole - 1).min(80))?, none),
            Self::Halve => (Amount::whole(2), none),
            Self::Multiply | Self::TimesMoreTogether => (none, draw(2, 4)?),
            Self::Share => (draw(2, 12)?, none),
            Self::ShortOf => (draw(whole + 2, (whole + 80).min(range.max))?, none),
            Self::Price | Self::PriceLess | Self::PriceShare => {
                let price = if range.decimals {
                    Amount(25 * rng.random_range(1..=36))
                } else {
                    Amount::whole(rng.random_range(2..=9))
                };
                let b = rng.random_range(2..=if self == Self::PriceShare { 6 } else { 30 });
                (price, Amount::whole(b))
            }
        })
    }

    fn calls(self, v: Amount, a: Amount, b: Amount) -> Option<Vec<(String, Amount)>> {
        let one = |call| Some(vec![call]);
        match self {
            Self::Given => Some(Vec::new()),
            Self::Product => one(times(a, b)),
            Self::TimesOf => one(times(a, b)),
            Self::Sum | Self::MoreThan => one(plus(a, b)),
            Self::FewerThan => one(minus(a, b)),
            Self::TimesTogether => Some(then(times(a, b), |part| plus(a, part))),
            Self::Add => one(plus(v, a)),
            Self::Sub => one(minus(v, a)),
            Self::AddProduct => Some(then(times(a, b), |part| plus(v, part))),
            Self::SubProduct => Some(then(times(a, b), |part| minus(v, part))),
            Self::Halve | Self::Share => one(over(v, a)?),
            Self::Multiply => one(times(v, b)),
            Self::ShortOf => one(minus(a, v)),
            Self::Price => one(times(v, a)),
            Self::PriceLess => Some(then(times(v, a), |money| minus(money, b))),
            Self::PriceShare => {
                let money = times(v, a);
                let share = over(money.1, b)?;
                Some(vec![money, share])
            }
            Self::TimesMoreTogether => Some(then(times(v, b), |part| plus(v, part))),
        }
    }
}

type Call = (String, Amount);

fn then(first: Call, second: impl Fn(Amount) -> Call) -> Vec<Call> {
    let next = second(first.1);
    vec![first, next]
}

fn plus(x: Amount, y: Amount) -> Call {
    (format!("{x}+{y}"), Amount(x.0 + y.0))
}

fn minus(x: Amount, y: Amount) -> Call {
    (format!("{x}-{y}"), Amount(x.0 - y.0))
}

/// Exact, since at most one factor is not whole.
fn times(x: Amount, y: Amount) -> Call {
    (format!("{x}*{y}"), Amount(x.0 * y.0 / 100))
}

/// `None` unless whole amounts divide without remainder, and others to full hundredths.
fn over(x: Amount, y: Amount) -> Option<Call> {
    let divisor = y.0 / 100;
    let step = if x.0 % 100 == 0 { 100 } else { 1 };
    (x.0 % (divisor * step) == 0).then(|| (format!("{x}/{y}"), Amount(x.0 / divisor)))
}
