//! Tokens to expressions.
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
pub(super) use super::node::Node;
use super::typeset::{BINOMIAL, FRACTION};
use tools::number::is_currency;

/// Deepest nesting of brackets, roots and exponents.
const MAX_DEPTH: usize = 24;
/// The most operations of an expression: they bound what evaluating it costs.
const MAX_OPERATIONS: usize = 200;
/// The real functions that are known, by name.
pub(super) const FUNCTIONS: [&str; 16] = [
    "sqrt", "cbrt", "abs", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan",
    "ln", "log", "exp", "lg",
];

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

    /// The argument of a function without brackets: a factor, or several without a sign between them, in degrees where
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
