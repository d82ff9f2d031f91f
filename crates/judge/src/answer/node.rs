//! Expressions, and what they come to.

use num_traits::{One, Signed, ToPrimitive, Zero};
use tools::calculator::arithmetic;
use tools::number::Rational;

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// A value with the decimals it is written with.
    Number(Rational, u32),
    Pi,
    Infinity,
    Variable(String),
    Negative(Box<Node>),
    Sum(Box<Node>, Box<Node>),
    /// `a ± b`, or `a ∓ b` where the flag is set.
    PlusMinus(Box<Node>, Box<Node>, bool),
    Product(Box<Node>, Box<Node>),
    Quotient(Box<Node>, Box<Node>),
    Power(Box<Node>, Box<Node>),
    /// The root of the first degree of the second.
    Root(Box<Node>, Box<Node>),
    /// A function by its name, with its base where it is a logarithm.
    Call(&'static str, Option<Box<Node>>, Box<Node>),
    Floor(Box<Node>),
    Ceiling(Box<Node>),
    Factorial(Box<Node>),
    Binomial(Box<Node>, Box<Node>),
    Percent(Box<Node>),
}

impl Node {
    pub fn integer(value: i64) -> Self {
        Self::Number(Rational::from_integer(value.into()), 0)
    }

    pub fn minus(self) -> Self {
        Self::Negative(Box::new(self))
    }

    fn children(&self) -> Vec<&Self> {
        match self {
            Self::Number(..) | Self::Pi | Self::Infinity | Self::Variable(_) => vec![],
            Self::Negative(a)
            | Self::Floor(a)
            | Self::Ceiling(a)
            | Self::Factorial(a)
            | Self::Percent(a) => vec![a],
            Self::Sum(a, b)
            | Self::PlusMinus(a, b, _)
            | Self::Product(a, b)
            | Self::Quotient(a, b)
            | Self::Power(a, b)
            | Self::Root(a, b)
            | Self::Binomial(a, b) => vec![a, b],
            Self::Call(_, base, a) => base.iter().map(|b| &**b).chain([&**a]).collect(),
        }
    }

    /// Every variable of it, each once.
    pub fn variables(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect_variables(&mut found);
        found.sort();
        found.dedup();
        found
    }

    fn collect_variables(&self, found: &mut Vec<String>) {
        if let Self::Variable(name) = self {
            found.push(name.clone());
        }
        for child in self.children() {
            child.collect_variables(found);
        }
    }

    /// Whether it is one number as it is written, and nothing that remains to be worked out:
    /// a decimal, a fraction, a power of ten, a root, π or a multiple of these two.
    pub fn is_plain(&self) -> bool {
        let number = |node: &Self| matches!(node, Self::Number(..));
        match self {
            Self::Number(..) | Self::Pi | Self::Infinity => true,
            Self::Negative(a) | Self::Percent(a) => a.is_plain(),
            Self::Quotient(a, b) => a.is_plain() && number(b),
            Self::Root(_, a) => number(a),
            Self::Product(a, b) => {
                number(a) && (matches!(**b, Self::Pi | Self::Root(..)) || b.is_power_of_ten())
            }
            _ => false,
        }
    }

    fn is_power_of_ten(&self) -> bool {
        let ten = Rational::from_integer(10.into());
        matches!(self, Self::Power(base, _) if **base == Self::Number(ten, 0))
    }

    /// The two expressions that one with `±` stands for.
    pub fn branches(&self) -> Option<(Self, Self)> {
        self.has_branches()
            .then(|| (self.branch(true), self.branch(false)))
    }

    fn has_branches(&self) -> bool {
        matches!(self, Self::PlusMinus(..)) || self.children().iter().any(|c| c.has_branches())
    }

    fn branch(&self, upper: bool) -> Self {
        let of = |node: &Self| Box::new(node.branch(upper));
        match self {
            Self::PlusMinus(a, b, flipped) if upper != *flipped => Self::Sum(of(a), of(b)),
            Self::PlusMinus(a, b, _) => Self::Sum(of(a), Box::new(Self::Negative(of(b)))),
            Self::Negative(a) => Self::Negative(of(a)),
            Self::Sum(a, b) => Self::Sum(of(a), of(b)),
            Self::Product(a, b) => Self::Product(of(a), of(b)),
            Self::Quotient(a, b) => Self::Quotient(of(a), of(b)),
            Self::Power(a, b) => Self::Power(of(a), of(b)),
            other => other.clone(),
        }
    }

    /// Its value where `point` gives each variable one. `None` where it has none: a division by
    /// zero, a root of a negative number, or numbers beyond the calculator's bounds. Roots have 30
    /// digits, functions 15.
    pub fn value(&self, point: &dyn Fn(&str) -> Rational) -> Option<Rational> {
        let of = |node: &Self| node.value(point);
        match self {
            Self::Number(value, _) => arithmetic::bounded(value.clone()).ok(),
            Self::Pi => Some(tools::calculator::pi()),
            Self::Infinity | Self::PlusMinus(..) => None,
            Self::Variable(name) => Some(point(name)),
            Self::Negative(a) => Some(-of(a)?),
            Self::Sum(a, b) => arithmetic::bounded(of(a)? + of(b)?).ok(),
            Self::Product(a, b) => arithmetic::bounded(of(a)? * of(b)?).ok(),
            Self::Quotient(a, b) => arithmetic::divide(&of(a)?, &of(b)?).ok(),
            Self::Power(a, b) => arithmetic::power(&of(a)?, &of(b)?)
                .ok()
                .or_else(|| real(of(a)?.to_f64()?.powf(of(b)?.to_f64()?))),
            Self::Root(degree, a) => {
                let degree = of(degree)?;
                let degree = degree
                    .is_integer()
                    .then(|| degree.to_integer().to_u32())??;
                let known = (2..=arithmetic::MAX_ROOT).contains(&degree);
                known.then(|| arithmetic::root(&of(a)?, degree).ok())?
            }
            Self::Floor(a) => Some(of(a)?.floor()),
            Self::Ceiling(a) => Some(of(a)?.ceil()),
            Self::Factorial(a) => arithmetic::factorial(&of(a)?).ok(),
            Self::Binomial(n, k) => binomial(&of(n)?, &of(k)?),
            Self::Percent(a) => Some(of(a)? / Rational::from_integer(100.into())),
            Self::Call(name, base, a) => {
                let base = match base {
                    Some(base) => Some(of(base)?),
                    None => None,
                };
                call(name, base, of(a)?)
            }
        }
    }

    /// Its value where it has no variable.
    pub fn constant(&self) -> Option<Rational> {
        let none = |_: &str| Rational::zero();
        self.variables()
            .is_empty()
            .then(|| self.value(&none))
            .flatten()
    }
}

fn real(value: f64) -> Option<Rational> {
    Rational::from_float(value)
}

fn binomial(n: &Rational, k: &Rational) -> Option<Rational> {
    let whole = |x: &Rational| x.is_integer().then(|| x.to_integer().to_u32()).flatten();
    let (n, k) = (whole(n)?, whole(k)?);
    if n > 500 {
        return None;
    }
    let mut value = Rational::one();
    for i in 0..k.min(n + 1) {
        value *= Rational::new(
            (i64::from(n) - i64::from(i)).into(),
            (i64::from(i) + 1).into(),
        );
    }
    Some(value)
}

fn call(name: &str, base: Option<Rational>, x: Rational) -> Option<Rational> {
    match name {
        "sqrt" => return arithmetic::root(&x, 2).ok(),
        "cbrt" => return arithmetic::root(&x, 3).ok(),
        "abs" => return Some(x.abs()),
        _ => {}
    }
    let x = x.to_f64()?;
    let value = match name {
        "sin" => x.sin(),
        "cos" => x.cos(),
        "tan" => x.tan(),
        "cot" => x.tan().recip(),
        "sec" => x.cos().recip(),
        "csc" => x.sin().recip(),
        "arcsin" => x.asin(),
        "arccos" => x.acos(),
        "arctan" => x.atan(),
        "exp" => x.exp(),
        "ln" => x.ln(),
        "lg" => x.log10(),
        // Without a base it is the natural logarithm in mathematics; answers say `ln` or a base
        // where it matters.
        "log" => match base.and_then(|base| base.to_f64()) {
            Some(base) => x.ln() / base.ln(),
            None => x.ln(),
        },
        _ => return None,
    };
    // 15 digits: what is left of a rounding must not make 3 of 2.9999999999999996.
    value.is_finite().then(|| {
        let text = format!("{value:.14e}");
        tools::number::parse_number(&text)
    })?
}
