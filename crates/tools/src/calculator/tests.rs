use super::*;
use crate::number::{format_number, parse_number};

fn one() -> Rational {
    Rational::from_integer(1.into())
}

#[test]
fn values() {
    for (expression, value) in [
        ("48/2", "24"),
        ("48/2 = 24", "24"),
        ("48/2=", "24"),
        ("48/2 = ?", "24"),
        ("10/3 ≈ 3.33", "10/3"),
        ("1+2*3-4/2", "5"),
        ("(1+2)*3", "9"),
        ("[1+2]*(3)", "9"),
        ("8-3-2", "3"),
        ("24/4/2", "3"),
        ("2^3^2", "512"),
        ("2**10", "1024"),
        ("-2^2", "-4"),
        ("(-2)^2", "4"),
        ("2^-2", "1/4"),
        ("--5", "5"),
        ("3 - -2", "5"),
        ("6 × 7", "42"),
        ("84 ÷ 2", "42"),
        ("50 − 8", "42"),
        ("6 x 7", "42"),
        ("6x7", "42"),
        ("6 X 7 x 2", "84"),
        ("2 x $5", "10"),
        ("2 x (3+4)", "14"),
        ("2(3+4)", "14"),
        ("(2)(3)", "6"),
        ("6/2(1+2)", "9"),
        ("2 sqrt(9)", "6"),
        (".5 + 5.", "11/2"),
        ("1,234.50 * 2", "2469"),
        ("(1,200 + 300)", "1500"),
        ("1e3 + 1.5E-1", "20003/20"),
        ("20% of 50", "10"),
        ("50*20%", "10"),
        ("50+20%", "251/5"),
        ("100 * (1 + 5%)", "105"),
        ("20 percent of 50", "10"),
        ("20 per cent of 50", "10"),
        ("$5 + $1,000", "1005"),
        ("-$5 + $-5", "-10"),
        ("5€ * 2", "10"),
        ("$(3+4)", "7"),
        ("5 km", "5"),
        ("3 apples + 2 apples", "5"),
        ("60 km/h * 2 h", "120"),
        ("$12/hour * 3 hours", "36"),
        ("5 dollars per hour * 2", "10"),
        ("5 m² * 2", "10"),
        ("1/5th of 60", "12"),
        ("3/4 of 20", "15"),
        ("5kg x 3", "15"),
        ("2 million / 4", "500000"),
        ("3 hundred thousand", "300000"),
        ("2 dozen eggs", "24"),
        ("5k + 1", "5001"),
        ("5 plus 3 minus 1", "7"),
        ("12 divided by 4", "3"),
        ("12 multiplied by 4", "48"),
        ("5 times (2+1)", "15"),
        ("100 miles over 2 hours", "50"),
        ("5²+5 squared", "50"),
        ("2³ + 2 cubed", "16"),
        ("5!", "120"),
        ("560//10", "56"),
        ("7//2", "3"),
        ("10mod3", "1"),
        ("2M + 1", "2000001"),
        ("2k + 1", "2001"),
        ("2K + 1", "2001"),
        ("1.5B", "1500000000"),
        ("$5m * 2", "10000000"),
        ("$1.5 bn", "1500000000"),
        ("48÷2", "24"),
        ("5 – 3", "2"),
        ("5 ‒ 3", "2"),
        ("3 1/2", "7/2"),
        ("3½ * 2", "7"),
        ("½ of 8", "4"),
        ("10 - 3 1/2", "13/2"),
        ("2 1/2 hours * 3", "15/2"),
        ("12 cookies * $2.50", "30"),
        ("18 red marbles + 4 blue marbles", "22"),
        ("5 square feet * 2", "10"),
        ("4 cm2 * 2", "8"),
        ("3 children * 2 sandwiches", "6"),
        ("2x3", "6"),
        ("1/4th of 8", "2"),
        ("-7//2", "-4"),
        ("17 mod 5", "2"),
        ("mod(17, 5)", "2"),
        ("mod(-1, 5)", "4"),
        ("sqrt(16)", "4"),
        ("sqrt(1/4)", "1/2"),
        ("27^(1/3)", "3"),
        ("4^0.5", "2"),
        ("4^(-1/2)", "1/2"),
        ("cbrt(-8)", "-2"),
        ("abs(-3)", "3"),
        ("min(3, 1, 2)", "1"),
        ("max(3, 1 + 5, 2)", "6"),
        ("max(12,7)", "12"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-3"),
        ("round(10/3, 2)", "333/100"),
        ("round(1234, -2)", "1200"),
        ("floor(7/2) + ceil(7/2) + ceiling(0.1)", "8"),
        ("sum(1, 2, 3)", "6"),
        ("mean(1, 2) + avg(1, 3) + average(5)", "17/2"),
        ("gcd(12, 18)", "6"),
        ("lcm(4, 6)", "12"),
        ("lcm(0, 6)", "0"),
        ("factorial(5)", "120"),
        ("pow(2, 5)", "32"),
        ("max((1,234), 5)", "1234"),
        ("SQRT(16) + Max(1, 2)", "6"),
        ("0^0", "1"),
        ("10^999 / 10^998", "10"),
        ("0 * 10^999", "0"),
    ] {
        assert_eq!(
            evaluate(expression),
            Ok(value.parse().expect(value)),
            "{expression}"
        );
    }
}

#[test]
fn written_results() {
    for (expression, text) in [
        ("pi * 2", "6.28318530718"),
        ("2π", "6.28318530718"),
        ("sqrt(2)", "1.41421356237"),
        ("sqrt(2)^2", "2"),
        ("sqrt(2)*sqrt(2)", "2"),
        ("10^18/7", "142857142857142857.14"),
        ("1/3", "0.333333333333"),
        ("0.1 + 0.2", "0.3"),
        ("1.05^(1/12)", "1.00407412378"),
        (
            "2^200",
            "1606938044258990275541962092341162602522202993782792835301376",
        ),
    ] {
        assert_eq!(
            evaluate(expression).map(|v| format_number(&v)).as_deref(),
            Ok(text),
            "{expression}"
        );
    }
}

#[test]
fn errors_say_what_to_do() {
    for (expression, part) in [
        ("", "no expression"),
        ("   ", "no expression"),
        ("= 24", "no expression"),
        ("48/0", "division by zero"),
        ("48//0", "division by zero"),
        ("mod(1, 0)", "division by zero"),
        ("0^-1", "division by zero"),
        ("48/", "missing before the end"),
        ("*3", "missing before `*`"),
        ("2 + * 3", "missing before `*`"),
        ("()", "missing before `)`"),
        ("3 4", "operator is missing before `4`"),
        ("3 3/2", "operator is missing"),
        ("1/2 3/4", "operator is missing"),
        ("(2)3", "operator is missing before `3`"),
        ("10 % 3", "mod(a, b)"),
        ("10 % (3)", "mod(a, b)"),
        ("(1+2", "not closed"),
        ("1+2)", "not opened"),
        ("(1+2]", "[ with ]"),
        ("1,23", "`1,23` is not a number"),
        ("1.2.3", "`1.2.3` is not a number"),
        ("12,34,567", "not a number"),
        ("5..", "not a number"),
        (".", "not a number"),
        ("1, 2", "separates the arguments"),
        ("max(120,150)", "space after a comma"),
        ("sum(1,200, 300)", "space after a comma"),
        ("max(1,, 2)", "missing before `,`"),
        ("sqrt()", "takes 1 argument, not 0"),
        ("mod(1)", "takes 2 arguments"),
        ("min()", "at least 1"),
        ("round(1, 2, 3)", "1 or 2"),
        ("round(1, 65)", "from -64 to 64"),
        ("round(1, 0.5)", "whole"),
        ("sqr(4)", "did you mean `sqrt`?"),
        ("sqrt 16", "sqrt(...)"),
        ("apples(3)", "no function `apples`"),
        ("total = 5*3", "`total` is not known"),
        ("2x + 3 = 7", "`x` is not known"),
        ("12y", "`y` is not known"),
        ("n * 2", "`n` is not known"),
        ("5 - hours", "`hours` is not known"),
        ("5 less 3", "`less` is not known"),
        ("24/half", "`half` is not known"),
        ("5 m^2", "leave the unit out"),
        ("5 m squared", "leave the unit out"),
        ("24 apples!", "`!`"),
        ("5 feet 6 inches", "operator is missing"),
        ("10C3", "`C` is not known"),
        ("2h30m + 1h", "operator is missing before `30`"),
        ("2xy + 3", "`xy` is not known"),
        ("2ab", "`ab` is not known"),
        ("5L2", "operator is missing"),
        ("3 blorps + 2", "`blorps` is not known"),
        ("3p", "`p` is not known"),
        ("4b + 1", "`b` is not known"),
        ("60W2", "`W` is not known"),
        ("5_000", "`_`"),
        ("x_1 + 2", "`x_1` is not known"),
        ("log2(8)", "`log` is not known"),
        ("12.5mod", "missing before the end"),
        ("\\frac{1}{2}", "`\\`"),
        ("3 & 4", "`&`"),
        ("$", "`$`"),
        ("50¢", "`¢`"),
        ("sqrt(-4)", "negative"),
        ("(-8)^(1/3)", "negative"),
        ("2^(1/33)", "denominator up to 32"),
        ("2.5!", "whole"),
        ("gcd(1.5, 2)", "whole"),
        ("(-1)!", "0 to 500"),
        ("501!", "0 to 500"),
        ("500!", "out of range"),
        ("10^999", "out of range"),
        ("10^64", "out of range"),
        ("10^-65", "out of range"),
        ("9^9^9^9", "too large"),
        ("10^5000", "too large"),
        ("1e1001", "`1e1001`"),
        ("(10^999)^2", "too large"),
        ("10^999 * 10^999", "too large"),
    ] {
        let error = evaluate(expression).expect_err(expression).to_string();
        assert!(error.contains(part), "{expression}: {error}");
        assert!(error.len() < 220, "{expression}: too long: {error}");
    }
}

#[test]
fn ca_1_hostile_expressions_are_errors_at_once() {
    let nested = |n: usize| format!("{}1{}", "(".repeat(n), ")".repeat(n));
    assert_eq!(evaluate(&nested(MAX_DEPTH)), Ok(one()));
    for (expression, error) in [
        (nested(MAX_DEPTH + 1), CalcError::TooDeep),
        ("(".repeat(4_000), CalcError::TooDeep),
        ("abs(".repeat(1_000), CalcError::TooDeep),
        ("2^".repeat(2_000), CalcError::TooDeep),
        (nested(100_000), CalcError::TooLong { bytes: 200_001 }),
        ("1+".repeat(1 << 19), CalcError::TooLong { bytes: 1 << 20 }),
    ] {
        assert_eq!(evaluate(&expression), Err(error));
    }
    assert_eq!(evaluate(&format!("{}1", "-".repeat(4_000))), Ok(one()));
    for piece in [
        "1/7^700+",
        "3^2000*3^-2000*",
        "500!/499!+",
        "2^(1/32)+",
        "sqrt(2)+",
        "sqrt(1/7^699)*",
    ] {
        let expression = piece.repeat(4_000 / piece.len());
        let _ = evaluate(&(expression + "1"));
    }
}

#[test]
fn operands_are_the_literals_of_the_left_side() {
    for (expression, literals) in [
        ("48/2 = 24", "48 2"),
        ("20% of (50 - 3)", "20 50 3"),
        ("$1,200 * -0.5", "1200 1/2"),
        ("round(3.75, 1) + pi", "15/4 1"),
        ("2 million + 5²", "2 5"),
        ("2M + 3 1/2", "2 7/2"),
        ("10mod3", "10 3"),
        ("48/", "48"),
        ("1/0", "1 0"),
    ] {
        let found: Vec<String> = operands(expression)
            .expect(expression)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found.join(" "), literals, "{expression}");
    }
    assert!(operands("hello there").is_err());
}

#[test]
fn results_read_back_as_numbers() {
    for expression in ["48/2", "1/8", "-7/4", "10^20 + 0.5"] {
        let value = evaluate(expression).expect(expression);
        assert_eq!(parse_number(&format_number(&value)), Some(value));
    }
}
