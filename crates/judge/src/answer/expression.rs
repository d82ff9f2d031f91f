//! Expressions: how they are read, and what they come to.
//!
//! ```text
//! sum     = product { ("+" | "-" | "±") product }
//! product = signed { ("*" | "/") signed | power-without-a-sign }
//! signed  = { "+" | "-" | "±" } power
//! power   = postfix [ "^" signed ]
//! postfix = atom { "!" | "%" }
//! atom    = number | currency number | constant | variable | function argument
//!         | fraction | binomial | root | "(" sum ")" | "|" sum "|"
//! ```

use super::lexer::{Kind, Token};
use super::typeset::{BINOMIAL, FRACTION};
use num_traits::{One, Signed, ToPrimitive, Zero};
use tools::calculator::arithmetic;
use tools::number::{Rational, is_currency};

/// How deep brackets, roots and exponents nest.
const MAX_DEPTH: usize = 24;
/// The most operations of an expression: they bound what evaluating it costs.
const MAX_OPERATIONS: usize = 200;
/// The real functions that are known, by name.
const FUNCTIONS: [&str; 16] = [
    "sqrt", "cbrt", "abs", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan",
    "ln", "log", "exp", "lg",
];

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
    /// A function of [`FUNCTIONS`] with its base where it is a logarithm.
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

/// Reads tokens into expressions.
pub(super) struct Parser<'a> {
    pub tokens: &'a [Token],
    pub at: usize,
    /// Whether letters are variables.
    pub variables: bool,
    /// The sign of currency that was met.
    pub currency: Option<char>,
    depth: usize,
    operations: usize,
}

impl<'a> Parser<'a> {
    pub fn new(tokens: &'a [Token], at: usize, variables: bool) -> Self {
        Self {
            tokens,
            at,
            variables,
            currency: None,
            depth: 0,
            operations: 0,
        }
    }

    pub fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    pub fn sign(&self) -> Option<char> {
        self.peek()?.sign()
    }

    pub fn eat(&mut self, wanted: char) -> bool {
        let found = self.sign() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.operations += 1;
        if self.depth == MAX_DEPTH || self.operations > MAX_OPERATIONS {
            return None;
        }
        self.depth += 1;
        let found = inner(self);
        self.depth -= 1;
        found
    }

    /// Reads an operator and what it works on, or nothing.
    fn operand(&mut self, inner: fn(&mut Self) -> Option<Node>) -> Option<Node> {
        let start = self.at;
        self.at += 1;
        let found = self.nested(inner);
        if found.is_none() {
            self.at = start;
        }
        found
    }

    pub fn sum(&mut self) -> Option<Node> {
        let mut total = self.product()?;
        while let Some(sign @ ('+' | '-' | '–' | '±' | '∓')) = self.sign() {
            let Some(term) = self.operand(Self::product) else {
                break;
            };
            let left = Box::new(total);
            total = match sign {
                '+' => Node::Sum(left, Box::new(term)),
                '±' => Node::PlusMinus(left, Box::new(term), false),
                '∓' => Node::PlusMinus(left, Box::new(term), true),
                _ => Node::Sum(left, Box::new(term.minus())),
            };
        }
        Some(total)
    }

    fn product(&mut self) -> Option<Node> {
        let mut total = self.signed()?;
        loop {
            let sign = self.sign();
            let factor = match sign {
                Some('*' | '/') => self.operand(Self::signed),
                _ if self.starts_factor() && !self.between_words() => {
                    let start = self.at;
                    let found = self.nested(Self::power);
                    if found.is_none() {
                        self.at = start;
                    }
                    found
                }
                _ => None,
            };
            let Some(factor) = factor else {
                return Some(total);
            };
            total = match (&total, sign) {
                (_, Some('/')) => Node::Quotient(Box::new(total), Box::new(factor)),
                // `3\frac{1}{2}` is a mixed number.
                (Node::Number(whole, _), Some(FRACTION))
                    if whole.is_integer() && is_proper(&factor) =>
                {
                    Node::Sum(Box::new(total), Box::new(factor))
                        .constant()
                        .map(|value| Node::Number(value, 0))?
                }
                _ => Node::Product(Box::new(total), Box::new(factor)),
            };
        }
    }

    /// Whether a factor may follow without a sign of multiplication.
    fn starts_factor(&self) -> bool {
        let Some(token) = self.peek() else {
            return false;
        };
        match &token.kind {
            Kind::Sign(c) => {
                matches!(*c, 'π' | '√' | FRACTION | BINOMIAL)
                    || (matches!(*c, '(' | '{') && !token.spaced)
                    || (*c == '(' && self.variables)
            }
            Kind::Word(word) => self.variables && self.is_factor(word),
            Kind::Number(_) => false,
        }
    }

    /// Whether a word is a function or a product of variables.
    fn is_factor(&self, word: &str) -> bool {
        FUNCTIONS.contains(&word) || word.chars().count() <= 3
    }

    /// Whether a blank stands here beside a word of several letters that is no function: then they
    /// are words, and no factors.
    fn between_words(&self) -> bool {
        let is_long = |token: Option<&Token>| {
            let word = token.and_then(Token::word);
            word.is_some_and(|w| w.chars().count() > 1 && !FUNCTIONS.contains(&w))
        };
        let before = self.at.checked_sub(1).and_then(|at| self.tokens.get(at));
        self.peek().is_some_and(|token| token.spaced) && (is_long(before) || is_long(self.peek()))
    }

    fn signed(&mut self) -> Option<Node> {
        let Some(sign @ ('+' | '-' | '–' | '±' | '∓')) = self.sign() else {
            return self.power();
        };
        let inner = self.operand(Self::signed)?;
        Some(match sign {
            '+' => inner,
            '±' => Node::PlusMinus(Box::new(Node::integer(0)), Box::new(inner), false),
            '∓' => Node::PlusMinus(Box::new(Node::integer(0)), Box::new(inner), true),
            _ => inner.minus(),
        })
    }

    fn power(&mut self) -> Option<Node> {
        let base = self.postfix()?;
        if self.sign() != Some('^') {
            return Some(base);
        }
        let Some(exponent) = self.operand(Self::signed_exponent) else {
            return Some(base);
        };
        Some(Node::Power(Box::new(base), Box::new(exponent)))
    }

    /// A sign and one factor: in `2^-3x` the x is no part of the exponent.
    fn signed_exponent(&mut self) -> Option<Node> {
        let negative = self.eat('-') || self.eat('–');
        let exponent = self.power()?;
        Some(if negative { exponent.minus() } else { exponent })
    }

    fn postfix(&mut self) -> Option<Node> {
        let mut node = self.atom()?;
        loop {
            node = match self.sign() {
                Some('!') if self.factorial_follows() => Node::Factorial(Box::new(node)),
                Some('%') => Node::Percent(Box::new(node)),
                _ => return Some(node),
            };
            self.at += 1;
        }
    }

    /// Whether an exclamation mark belongs to the mathematics and ends no sentence.
    fn factorial_follows(&self) -> bool {
        let tail = &self.tokens[self.at + 1..];
        let operator = |c| matches!(c, '+' | '-' | '*' | '/' | '^' | ')' | '}' | '(' | '=');
        self.variables || tail.first().and_then(Token::sign).is_some_and(operator)
    }

    fn atom(&mut self) -> Option<Node> {
        let token = self.peek()?;
        self.at += 1;
        match &token.kind {
            Kind::Number(literal) => Some(Node::Number(literal.value.clone(), literal.places)),
            Kind::Word(word) => self.name_or_call(word),
            Kind::Sign(c) => self.symbol(*c),
        }
    }

    fn symbol(&mut self, c: char) -> Option<Node> {
        match c {
            'π' => Some(Node::Pi),
            '∞' => Some(Node::Infinity),
            '(' => self.group(')'),
            '[' => self.group(']'),
            '{' => self.group('}'),
            '|' => Some(Node::Call("abs", None, Box::new(self.group('|')?))),
            '⌊' => Some(Node::Floor(Box::new(self.group('⌋')?))),
            '⌈' => Some(Node::Ceiling(Box::new(self.group('⌉')?))),
            '√' => self.root(),
            FRACTION => {
                let (above, below) = self.two_groups()?;
                Some(Node::Quotient(Box::new(above), Box::new(below)))
            }
            BINOMIAL => {
                let (n, k) = self.two_groups()?;
                Some(Node::Binomial(Box::new(n), Box::new(k)))
            }
            _ if is_currency(c) && self.currency.is_none_or(|known| known == c) => {
                self.currency = Some(c);
                let negative = self.eat('-') || self.eat('–');
                let amount = self.nested(Self::atom)?;
                Some(if negative { amount.minus() } else { amount })
            }
            _ => None,
        }
    }

    fn group(&mut self, close: char) -> Option<Node> {
        let inner = self.nested(Self::sum)?;
        self.eat(close).then_some(inner)
    }

    fn two_groups(&mut self) -> Option<(Node, Node)> {
        let mut one = || self.eat('{').then(|| self.group('}')).flatten();
        Some((one()?, one()?))
    }

    fn root(&mut self) -> Option<Node> {
        let degree = if self.eat('[') {
            self.group(']')?
        } else {
            Node::integer(2)
        };
        let of = self.nested(Self::atom)?;
        Some(Node::Root(Box::new(degree), Box::new(of)))
    }

    fn name_or_call(&mut self, word: &str) -> Option<Node> {
        if let Some(name) = FUNCTIONS.iter().find(|name| **name == word) {
            return self.call(name);
        }
        if !self.variables || word.chars().count() > 3 {
            return None;
        }
        let mut letters = word.chars().map(|c| Node::Variable(c.to_string()));
        let first = letters.next()?;
        let product = letters.fold(first, |product, letter| {
            Node::Product(Box::new(product), Box::new(letter))
        });
        self.subscript(product)
    }

    /// `x_1`, `x_{12}`: the index is part of the name.
    fn subscript(&mut self, node: Node) -> Option<Node> {
        if self.sign() != Some('_') {
            return Some(node);
        }
        let Node::Variable(name) = node else {
            return None;
        };
        self.at += 1;
        let braced = self.eat('{');
        let token = self.peek()?;
        self.at += 1;
        let index = match &token.kind {
            Kind::Number(literal) => literal.value.to_string(),
            Kind::Word(word) => word.clone(),
            Kind::Sign(_) => return None,
        };
        if braced && !self.eat('}') {
            return None;
        }
        Some(Node::Variable(format!("{name}_{index}")))
    }

    fn call(&mut self, name: &'static str) -> Option<Node> {
        let base = if name == "log" && self.eat('_') {
            Some(Box::new(self.nested(Self::atom)?))
        } else {
            None
        };
        let exponent = if self.eat('^') {
            Some(self.nested(Self::signed_exponent)?)
        } else {
            None
        };
        let argument = self.nested(Self::argument)?;
        let call = Node::Call(name, base, Box::new(argument));
        Some(match exponent {
            Some(exponent) => Node::Power(Box::new(call), Box::new(exponent)),
            None => call,
        })
    }

    /// What a function is of: a factor, or several without a sign between them, in degrees where
    /// it says so.
    fn argument(&mut self) -> Option<Node> {
        let mut node = self.power()?;
        while matches!(self.peek().map(|t| &t.kind), Some(Kind::Word(w)) if !FUNCTIONS.contains(&w.as_str()))
            && self.starts_factor()
        {
            node = Node::Product(Box::new(node), Box::new(self.power()?));
        }
        if self.eat('°') {
            let degree = Node::Quotient(Box::new(Node::Pi), Box::new(Node::integer(180)));
            node = Node::Product(Box::new(node), Box::new(degree));
        }
        Some(node)
    }
}

/// A fraction of numbers between 0 and 1.
fn is_proper(node: &Node) -> bool {
    let Node::Quotient(above, below) = node else {
        return false;
    };
    match (&**above, &**below) {
        (Node::Number(above, _), Node::Number(below, _)) => above < below,
        _ => false,
    }
}
