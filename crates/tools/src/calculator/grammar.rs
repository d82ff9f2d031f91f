//! Tokens to a value, by recursive descent with a bound on depth.
//!
//! ```text
//! sum     = product { ("+" | "-") product }
//! product = signed { ("*" | "/" | "//" | "mod") signed | signed-that-starts-with-a-parenthesis }
//! signed  = { "+" | "-" } power
//! power   = postfix [ "^" signed ]
//! postfix = primary { "%" | "!" | scale word | raised digit }
//! primary = number | pi | function "(" sum { "," sum } ")" | "(" sum ")"
//! ```

use super::arithmetic::{self, Value, bounded};
use super::functions::Function;
use super::lexer::Token;
use super::{CalcError, MAX_DEPTH};
use crate::number::{Rational, format_number, integer};

/// The value of an expression.
pub(crate) fn evaluate(tokens: &[Token]) -> Value {
    let mut parser = Parser {
        tokens,
        at: 0,
        depth: 0,
    };
    let value = parser.sum()?;
    match parser.peek() {
        None => Ok(value),
        Some(Token::Close(_)) => Err(CalcError::Unbalanced("one is closed that was not opened")),
        Some(token) => Err(CalcError::MissingOperator(describe(Some(token)))),
    }
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Parentheses and exponents that are open.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn eat(&mut self, wanted: &Token) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Reads what `inner` reads one level further down.
    fn nested(&mut self, inner: fn(&mut Self) -> Value) -> Value {
        if self.depth == MAX_DEPTH {
            return Err(CalcError::TooDeep);
        }
        self.depth += 1;
        let value = inner(self);
        self.depth -= 1;
        value
    }

    fn sum(&mut self) -> Value {
        let mut total = self.product()?;
        loop {
            let sign = self.peek();
            total = match sign {
                Some(Token::Plus | Token::Minus) => {
                    self.at += 1;
                    let term = self.product()?;
                    bounded(if sign == Some(&Token::Plus) {
                        total + term
                    } else {
                        total - term
                    })?
                }
                _ => return Ok(total),
            };
        }
    }

    fn product(&mut self) -> Value {
        let mut total = self.signed()?;
        loop {
            let operator = self.peek();
            let starts_factor = matches!(
                operator,
                Some(Token::Open(_) | Token::Function(_) | Token::Pi)
            );
            if matches!(operator, Some(Token::Number(_))) || starts_factor {
                self.check_no_percent()?;
            }
            match operator {
                Some(Token::Times | Token::Divide | Token::DivideFloor | Token::Modulo) => {
                    self.at += 1;
                }
                _ if starts_factor => {}
                _ => return Ok(total),
            }
            let factor = self.signed()?;
            total = match operator {
                Some(Token::Divide) => arithmetic::divide(&total, &factor)?,
                Some(Token::DivideFloor) => arithmetic::divide_floor(&total, &factor)?,
                Some(Token::Modulo) => arithmetic::modulo(&total, &factor)?,
                _ => bounded(total * factor)?,
            };
        }
    }

    /// Refuses `10 % 3` and `10 % (3)`: who writes that means a remainder.
    fn check_no_percent(&self) -> Result<(), CalcError> {
        match self.at.checked_sub(1).map(|before| &self.tokens[before]) {
            Some(Token::Percent) => Err(CalcError::PercentThenNumber),
            _ => Ok(()),
        }
    }

    fn signed(&mut self) -> Value {
        let mut negative = false;
        while let Some(Token::Plus | Token::Minus) = self.peek() {
            negative ^= self.next() == Some(&Token::Minus);
        }
        let value = self.power()?;
        Ok(if negative { -value } else { value })
    }

    fn power(&mut self) -> Value {
        let base = self.postfix()?;
        if !self.eat(&Token::Power) {
            return Ok(base);
        }
        let exponent = self.nested(Self::signed)?;
        arithmetic::power(&base, &exponent)
    }

    fn postfix(&mut self) -> Value {
        let mut value = self.primary()?;
        loop {
            value = match self.peek() {
                Some(Token::Percent) => bounded(value / integer(100))?,
                Some(Token::Scale(factor)) => bounded(value * factor)?,
                Some(Token::Factorial) => arithmetic::factorial(&value)?,
                Some(Token::Raised(n)) => arithmetic::power(&value, &integer(*n))?,
                _ => return Ok(value),
            };
            self.at += 1;
        }
    }

    fn primary(&mut self) -> Value {
        match self.next() {
            Some(Token::Number(value)) => bounded(value.clone()),
            Some(Token::Pi) => Ok(pi()),
            Some(Token::Function(function)) => self.call(*function),
            Some(Token::Open(bracket)) => {
                let value = self.nested(Self::sum)?;
                self.close(*bracket)?;
                Ok(value)
            }
            other => Err(CalcError::MissingNumber(describe(other))),
        }
    }

    fn call(&mut self, function: Function) -> Value {
        let Some(Token::Open(bracket)) = self.next() else {
            return Err(CalcError::FunctionWithoutArguments(
                function.name().to_owned(),
            ));
        };
        let mut arguments: Vec<Rational> = Vec::new();
        if !matches!(self.peek(), Some(Token::Close(_))) {
            arguments.push(self.nested(Self::sum)?);
            while self.eat(&Token::Comma) {
                arguments.push(self.nested(Self::sum)?);
            }
        }
        self.close(*bracket)?;
        function.apply(&arguments)
    }

    fn close(&mut self, bracket: char) -> Result<(), CalcError> {
        let wanted = if bracket == '(' { ')' } else { ']' };
        match self.next() {
            Some(Token::Close(found)) if *found == wanted => Ok(()),
            Some(Token::Close(_)) => Err(CalcError::Unbalanced("( must end with ) and [ with ]")),
            None => Err(CalcError::Unbalanced("one is not closed")),
            other => Err(CalcError::MissingOperator(describe(other))),
        }
    }
}

/// π to 50 decimals.
pub fn pi() -> Rational {
    let digits = "314159265358979323846264338327950288419716939937510";
    let numerator = num_bigint::BigInt::parse_bytes(digits.as_bytes(), 10);
    let power = num_traits::Pow::pow(num_bigint::BigInt::from(10), 50u32);
    Rational::new(numerator.expect("the literal above is digits"), power)
}

/// A token as a message names it.
fn describe(token: Option<&Token>) -> String {
    let Some(token) = token else {
        return "the end".to_owned();
    };
    match token {
        Token::Number(value) => format!("`{}`", format_number(value)),
        Token::Pi => "`pi`".to_owned(),
        Token::Plus => "`+`".to_owned(),
        Token::Minus => "`-`".to_owned(),
        Token::Times => "`*`".to_owned(),
        Token::Divide => "`/`".to_owned(),
        Token::DivideFloor => "`//`".to_owned(),
        Token::Modulo => "`mod`".to_owned(),
        Token::Power | Token::Raised(_) => "the power".to_owned(),
        Token::Factorial => "`!`".to_owned(),
        Token::Scale(factor) => format!("the word for {}", format_number(factor)),
        Token::Percent => "`%`".to_owned(),
        Token::Function(function) => format!("`{}`", function.name()),
        Token::Open(bracket) | Token::Close(bracket) => format!("`{bracket}`"),
        Token::Comma => "`,`".to_owned(),
    }
}
