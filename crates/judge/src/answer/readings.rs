//! Tables of keys and answers by type.

use super::*;
use proptest::prelude::*;

fn check(rows: &[(&str, &str, bool)]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter(|(key, answer, wanted)| answers_match(key, answer) != *wanted)
        .map(|(key, answer, wanted)| {
            let (key_read, answer_read) = (read_key(key), read(answer));
            format!("{key:?} ({key_read}), {answer:?} ({answer_read}): {wanted} is right")
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn kinds() {
    for (key, shown) in [
        ("18", "number 18"),
        ("1,000.50", "number 1000.5"),
        ("50%", "percentage 50%"),
        ("1.5 hours", "quantity 1.5 hour"),
        ("3 red apples", "quantity 3 apple"),
        ("$1.50 per hour", "money 1.5 dollar/hour"),
        ("18 dollars", "money 18 dollar"),
        ("60 km/h", "quantity 60 kilometre/hour"),
        ("12th", "quantity 12 (ordinal)"),
        ("1011_2", "quantity 1011 in base 2"),
        ("7:30 pm", "time 7:30 pm"),
        ("July 4, 1776", "date 1776-07-04"),
        ("April 1793", "date 1793-04"),
        ("20-25", "range 20 to 25"),
        ("1892–94", "range 1892 to 1894"),
        ("3:2", "ratio 3:2"),
        ("(3, -4)", "tuple (3, -4)"),
        ("[2,5)", "interval [2, 5)"),
        ("(-\\infty, 3]", "interval (-∞, 3]"),
        ("\\{1,2\\}", "set {1, 2}"),
        ("2, 3 and 4", "set {2, 3, 4}"),
        ("2\\sqrt{3}", "number 3.46410161514"),
        ("x^2+1", "expression (x^2 + 1)"),
        ("x \\le 5", "relation x ≤ 5"),
        ("\\infty", "infinity ∞"),
        (
            "\\begin{pmatrix} 1 \\\\ -2 \\end{pmatrix}",
            "matrix [1][-2]",
        ),
        ("New York", "words new york"),
        ("50 Cent", "words 50 cent"),
        ("60 Minutes", "words 60 minutes"),
        ("Apollo 11", "words apollo 11"),
        ("1990s", "words 1990s"),
        ("B-29", "words b29"),
        ("13 seasons", "quantity 13 season"),
        ("about $1.18 trillion", "money 1180000000000 dollar"),
        ("2004 Nokia Sugar Bowl", "words 2004 nokia sugar bowl"),
        ("", "nothing "),
    ] {
        assert_eq!(read_key(key).to_string(), shown, "{key}");
    }
    let json = serde_json::to_string(&read("The total is 72 clips.")).unwrap();
    assert_eq!(json, r#"{"type":"number","value":"72"}"#);
}

#[test]
fn signs_in_every_spelling() {
    check(&[
        ("8", "–8", false),
        ("-8", "–8", true),
        ("-8", "- 8", true),
        ("8", "- 8", false),
        ("8", "minus 8", false),
        ("-8", "minus 8", true),
        ("-8", "negative 8", true),
        ("-8", "negative eight", true),
        ("8", "negative eight", false),
        ("-8", "−8", true),
        ("-8", "－8", true),
        ("-8", "‑8", true),
        ("-8", "—8", true),
        ("8", "—8", false),
        ("8", "the rest — 8 clips", true),
        ("-8", "The answer is -8.", true),
        ("8", "The answer is -8.", false),
        ("8", "The answer is minus 8.", false),
        ("8", "x = -8", false),
        ("-8", "x=-8", true),
        ("5", "-$5", false),
        ("-5", "-$5", true),
        ("-5", "$-5", true),
        ("-5", "$ -5", true),
        ("-0.5", "-1/2", true),
        ("0.5", "-1/2", false),
        ("-1/2", "-\\frac{1}{2}", true),
        ("-1/2", "\\frac{-1}{2}", true),
        ("-1/2", "\\frac{1}{2}", false),
        ("-5°C", "5°C", false),
        ("-5°C", "-5 °C", true),
        ("-5°C", "minus 5 degrees Celsius", true),
        ("+8", "8", true),
        ("-3 1/2", "-3.5", true),
        ("19", "COVID-19", false),
        ("0", "-0", true),
    ]);
}

#[test]
fn operands_are_no_answers() {
    check(&[
        ("4", "4*4", false),
        ("16", "4*4", true),
        ("9", "9^9", false),
        ("4", "4 x 4", false),
        ("4", "4x", false),
        ("4", "4*x", false),
        ("4", "4 * x", false),
        ("4", "x^4", false),
        ("4", "x/4", false),
        ("3", "\\frac{3}{3}", false),
        ("1", "\\frac{3}{3}", true),
        ("3", "\\frac{3}{x}", false),
        ("3", "3!", false),
        ("6", "3!", true),
        ("10", "10!", false),
        ("10", "10C3", false),
        ("3", "10C3", false),
        ("10", "10mod3", false),
        ("10", "5+5=10", false),
        ("5", "5+5=10", false),
        ("10", "$5 + $5", true),
        ("5", "$5 + $5", false),
        ("2", "\\sqrt{2}", false),
        ("2", "\\sqrt{4}", true),
        ("2", "2\\sqrt{3}", false),
        ("2", "2\\pi", false),
        ("2", "2^{10}", false),
        ("1024", "2^{10}", true),
        ("3000", "3 \\times 10^3", true),
        ("3000", "3 x 10^3", true),
        ("3000", "3×10³", true),
        ("0.003", "3 \\cdot 10^{-3}", true),
        ("3", "3 \\times 10^3", false),
        ("10", "3 \\times 10^3", false),
        ("3", "3e3", false),
        ("5", "5-3", false),
        ("2", "5-3", true),
        ("5", "f(5)", false),
        ("24", "48/2", true),
        ("48", "48/2", false),
    ]);
}

#[test]
fn scales() {
    check(&[
        ("5", "5k", false),
        ("5000", "5k", true),
        ("5000", "5K", true),
        ("5000", "$5k", true),
        ("1.5", "1.5M", false),
        ("1500000", "1.5M", true),
        ("1500000", "$1.5m", true),
        ("2000000000", "2B", true),
        ("2", "2B", false),
        ("2000000000", "$2bn", true),
        ("1500000", "1.5 million", true),
        ("1500000", "1.5 million dollars", true),
        ("1.5 million", "1,500,000", true),
        ("1.5 million", "1.5", false),
        ("150 million", "150 million people", true),
        ("36", "3 dozen", true),
        ("2000", "two thousand", true),
        ("5", "5m", true),
        ("5000000", "5m", false),
        ("5k", "5000", true),
        ("1.5", "1.5 M", false),
        ("1500000", "1.5 M", true),
        ("6", "half a dozen", true),
        ("30 minutes", "half an hour", true),
    ]);
}

#[test]
fn fractions_and_mixed_numbers() {
    check(&[
        ("0.75", "\\frac{3}{4}", true),
        ("\\frac{3}{4}", "0.75", true),
        ("3/4", "\\dfrac{3}{4}", true),
        ("3/4", "\\tfrac34", true),
        ("3/4", "\\frac{3}4", true),
        ("3/4", "6/8", true),
        ("3/4", "¾", true),
        ("3/4", "three quarters", true),
        ("3/4", "3⁄4", true),
        ("3/4", "0.75", true),
        ("3/4", "4/3", false),
        ("3/4", "34", false),
        ("3/4", "3", false),
        ("3 1/2", "3.5", true),
        ("3 1/2", "7/2", true),
        ("3 1/2", "3½", true),
        ("3 1/2", "3\\frac{1}{2}", true),
        ("3 1/2", "3\\frac12", true),
        ("3 1/2", "15.5", false),
        ("3 1/2", "31/2", false),
        ("3 1/2", "3", false),
        ("5.5", "5 and a half", true),
        ("5.5", "five and a half", true),
        ("5", "5 and a half", false),
        ("1/2", "half", true),
        ("1/2", "one half", true),
        ("2/3", "two thirds", true),
        ("1/4", "a quarter", true),
        ("1/3", "a third of them", true),
        ("2/3", "0.667", false),
        ("0.67", "2/3", true),
        ("1/3", "0.3333333", true),
        ("1/2 cup", "12 cup", false),
        ("1/2 cup", "0.5 cups", true),
        ("1/2 cup", "½ cup", true),
        ("1/2 cup", "1/2", true),
        ("2 3/4 hours", "2.75", true),
    ]);
}

#[test]
fn units() {
    check(&[
        ("1.5 hours", "15 hours", false),
        ("1.5 hours", "1.5 hours", true),
        ("1.5 hours", "1.5", true),
        ("1.5 hours", "90 minutes", true),
        ("1.5 hours", "1 hour 30 minutes", true),
        ("1.5 hours", "1 hour and 30 minutes", true),
        ("1.5 hours", "1h30m", true),
        ("1.5 hours", "1.5 minutes", false),
        ("1.5 hours", "90", false),
        ("1.5 hours", "one and a half hours", true),
        ("90", "1 hour 30 minutes", true),
        ("2.5", "2h30m", true),
        ("2", "2h30m", false),
        ("30", "2h30m", false),
        ("20 minutes", "20 hours", false),
        ("20", "20 hours", true),
        ("20", "20 apples", true),
        ("3 apples", "3", true),
        ("3 apples", "3 apples", true),
        ("3 apples", "3 red apples", true),
        ("3 apples", "three apples", true),
        ("3 apples", "3 oranges", false),
        ("3 apples", "4 apples", false),
        ("3 boxes of apples", "3 boxes", true),
        ("5 km", "5000 m", true),
        ("5 km", "5 kilometers", true),
        ("5 km", "5 kilometres", true),
        ("5 km", "5 m", false),
        ("5 km", "5 miles", false),
        ("5 km", "5km", true),
        ("6 feet", "2 yards", true),
        ("6 feet", "6 ft", true),
        ("5 feet 6 inches", "66 inches", true),
        ("5 feet 6 inches", "5.5 feet", true),
        ("5 feet 6 inches", "56", false),
        ("66", "5 feet 6 inches", true),
        ("18\\text{ square feet}", "18 sq ft", true),
        ("18\\text{ ft}^2", "18 square feet", true),
        ("18 square feet", "18 feet", false),
        ("18 m^2", "18 m²", true),
        ("18 cm^3", "18 cubic centimeters", true),
        ("2 liters", "2000 ml", true),
        ("60 mph", "60 miles per hour", true),
        ("60 mph", "60", true),
        ("60 km/h", "60 mph", false),
        ("12 m/s", "12 m", false),
        ("12 m/s", "12", true),
        ("18", "18/day", true),
        ("18", "18\\,\\mathrm{~km}", true),
        ("18", "< 18", false),
        ("18", "x \\ge 18", false),
        ("18", "-> 18", true),
        ("90^\\circ", "90", true),
        ("90^\\circ", "90 degrees", true),
        ("72°F", "72 degrees", true),
        ("72°F", "72°C", false),
        ("0°C", "32°F", true),
        ("6.8 inches", "68 inches", false),
        ("6.8 inches", "6.8\"", true),
        ("6'2\"", "74 inches", true),
        ("6'2\"", "6 feet 2 inches", true),
        ("6'2\"", "62", false),
        ("6′2″", "6 ft 2 in", true),
        ("1,989 mi", "1989 miles", true),
        ("32 people", "32", true),
        ("7-pound", "7 pounds", true),
        ("15 years old", "15 years", true),
        ("5 per hour", "5", true),
        ("15 years old", "15", true),
        ("12th", "12", true),
        ("12th", "12th", true),
        ("12th", "13th", false),
        ("1 year", "12 months", true),
        ("48 hours", "2 days", true),
        ("3 lb 4 oz", "52 ounces", true),
        ("2516_8", "2516_{8}", true),
        ("2516_8", "2516", true),
        ("2516_8", "2516_7", false),
        ("72", "72 in total", true),
        ("10 MB", "10 GB", false),
        ("5 N", "5 newtons", true),
    ]);
}

#[test]
fn money() {
    check(&[
        ("$1.50 per hour", "$150 per hour", false),
        ("$1.50 per hour", "$1.50 per hour", true),
        ("$1.50 per hour", "$1.50/hour", true),
        ("$1.50 per hour", "1.50 dollars an hour", true),
        ("$1.50 per hour", "$1.50", true),
        ("$1.50 per hour", "1.5", true),
        ("$1.50 per hour", "$1.50 per day", false),
        ("$3 per apple", "$3 per pear", false),
        ("18 dollars", "18", true),
        ("18 dollars", "18 dollars", true),
        ("18 dollars", "$18", true),
        ("18 dollars", "$18.00", true),
        ("18 dollars", "18 Dollars", true),
        ("18 dollars", "18 euros", false),
        ("18 dollars", "18 cents", false),
        ("18", "18 dollars and 0 cents", true),
        ("18", "18 dollars and zero cents", true),
        ("18.50", "18 dollars and 50 cents", true),
        ("18", "18 dollars and 50 cents", false),
        ("$18.50", "18 dollars and 50 cents", true),
        ("$0.50", "50 cents", true),
        ("50 cents", "$0.50", true),
        ("50 cents", "50¢", true),
        ("$10", "€10", false),
        ("10", "€10", true),
        ("£5", "5 pounds", true),
        ("5 pounds", "5 lbs", true),
        ("1000", "\\$1{,}000", true),
        ("1000", "USD 1,000", true),
        ("200000", "The new value is $200,000.", true),
        ("$5", "5", true),
        ("5 USD", "$5", true),
        ("10", "10$", true),
    ]);
}

#[test]
fn times_dates_ranges_and_ratios() {
    check(&[
        ("7:30", "730", false),
        ("7:30", "7:30", true),
        ("7:30", "7.30", false),
        ("7:30 pm", "7:30 p.m.", true),
        ("7:30 pm", "7:30 PM", true),
        ("7:30 pm", "19:30", true),
        ("7:30 pm", "7:30 am", false),
        ("7:30 pm", "7:30", true),
        ("7:30", "7:45", false),
        ("7 pm", "7:00 pm", true),
        ("3 a.m.", "3 am", true),
        ("3 a.m.", "3", true),
        ("12 pm", "noon", true),
        ("12 noon", "12 pm", true),
        ("7:30", "at 7:30 in the morning", true),
        ("10:30", "10", false),
        ("July 4, 1776", "4 July 1776", true),
        ("July 4, 1776", "July 4th, 1776", true),
        ("July 4, 1776", "july 4 1776", true),
        ("July 4, 1776", "1776-07-04", true),
        ("July 4, 1776", "7/4/1776", true),
        ("July 4, 1776", "July 5, 1776", false),
        ("July 4, 1776", "July 4, 1777", false),
        ("July 4, 1776", "July 4", false),
        ("July 4, 1776", "It was on July 4, 1776.", true),
        ("Dec. 10, 1817", "December 10, 1817", true),
        ("April 1793", "April, 1793", true),
        ("May 22", "22 May", true),
        ("1776", "July 4, 1776", false),
        ("1776", "in 1776", true),
        ("20", "20 to 25", false),
        ("25", "20 to 25", false),
        ("20", "20-25", false),
        ("20", "20–25", false),
        ("20-25", "20 to 25", true),
        ("20-25", "20–25", true),
        ("20-25", "20-26", false),
        ("20-25", "2025", false),
        ("5-6 hours", "5 to 6 hours", true),
        ("10", "between 9 and 10", false),
        ("1892–94", "1892-1894", true),
        ("3-2", "3–2", true),
        ("3-2", "2-1", false),
        ("3-2", "32", false),
        ("2", "5-3", true),
        ("4", "5-3+2", true),
        ("2024-05", "May 2024", true),
        ("2024-05", "2019", false),
        ("1892–94", "1892-94", true),
        ("3:2", "3:2", true),
        ("3:2", "3 : 2", true),
        ("3:2", "6:4", true),
        ("3:2", "2:3", false),
        ("3:2", "32", false),
        ("3:2", "3/2", true),
        ("3:2", "3 to 2", true),
        ("3", "3:1", false),
        ("7:30", "7.5", false),
        ("2:3", "2 to 3", true),
        ("1:2:3", "1:2:3", true),
        ("1:2:3", "1:2:4", false),
    ]);
}

#[test]
fn tuples_intervals_sets_and_lists() {
    check(&[
        ("(3, -4)", "(3, 4)", false),
        ("(3, -4)", "(3,-4)", true),
        ("(3, -4)", "\\left(3,-4\\right)", true),
        ("(3, -4)", "(-4, 3)", false),
        ("(3, -4)", "(3, -4, 0)", false),
        ("(3, -4)", "x = 3, y = -4", true),
        ("(1/2, 3)", "(0.5, 3)", true),
        ("(1/2, 3)", "(\\frac{1}{2}, 3)", true),
        ("(3, -4)", "The point is (3, -4).", true),
        ("[2,5)", "[2, 5)", true),
        ("[2,5)", "[2,5]", false),
        ("[2,5)", "(2,5)", false),
        ("(-\\infty, 3]", "(-∞, 3]", true),
        ("(-\\infty, 3]", "(\\infty, 3]", false),
        ("(1,2)\\cup(3,4)", "(3,4) \\cup (1,2)", true),
        ("(1,2)\\cup(3,4)", "(1,2)\\cup(3,5)", false),
        ("\\{1,2,3\\}", "{3, 2, 1}", true),
        ("\\{1,2,3\\}", "1, 2, 3", true),
        ("\\{1,2,3\\}", "1, 2", false),
        ("1, 2", "2, 1", true),
        ("1, 2", "1 and 2", true),
        ("1, 2", "12", false),
        ("1, 2", "(1, 2)", true),
        ("[1, 2, 3]", "(1, 2, 3)", true),
        ("1, 2", "1", false),
        ("2", "two or three", false),
        ("2", "2 or 3", false),
        ("2 or 3", "2, 3", true),
        ("x=2 or x=-3", "-3, 2", true),
        ("x=2 or x=-3", "3, 2", false),
        ("\\pm 5", "5, -5", true),
        ("\\pm 5", "-5 and 5", true),
        ("\\pm 5", "5", false),
        ("3 \\pm 2", "1, 5", true),
        ("1 \\pm \\sqrt{2}", "1+\\sqrt{2}, 1-\\sqrt{2}", true),
        ("(1,2), (3,4)", "(3,4), (1,2)", true),
        (
            "\\begin{pmatrix} 1 \\\\ -2 \\end{pmatrix}",
            "\\begin{bmatrix}1\\\\-2\\end{bmatrix}",
            true,
        ),
        (
            "\\begin{pmatrix} 1 \\\\ -2 \\end{pmatrix}",
            "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}",
            false,
        ),
        ("1,234", "1 234", false),
        ("\\emptyset", "\\{\\}", true),
    ]);
}

#[test]
fn expressions_and_relations() {
    check(&[
        ("x^2+2x+1", "(x+1)^2", true),
        ("x^2+2x+1", "(x-1)^2", false),
        ("2x+3", "3+2x", true),
        ("2x+3", "2x-3", false),
        ("2\\sqrt{3}", "\\sqrt{12}", true),
        ("2\\sqrt{3}", "3\\sqrt{2}", false),
        ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}", true),
        ("2\\pi", "2π", true),
        ("2\\pi", "\\pi*2", true),
        ("2\\pi", "\\pi", false),
        ("25\\pi", "25", false),
        ("3.14", "\\pi", true),
        ("\\frac{a}{b}", "a/b", true),
        ("\\frac{a}{b}", "b/a", false),
        ("\\sqrt[3]{8}", "2", true),
        ("x=5", "5", true),
        ("5", "x=5", true),
        ("5", "x = 5", true),
        ("x=5", "x=-5", false),
        ("y=2x+3", "2x+3", true),
        ("y=2x+3", "y = 3 + 2x", true),
        ("2x+3y=6", "4x+6y=12", true),
        ("2x+3y=6", "2x-3y=6", false),
        ("x \\le 5", "x ≤ 5", true),
        ("x \\le 5", "x <= 5", true),
        ("x \\le 5", "5 \\ge x", true),
        ("x \\le 5", "x \\ge 5", false),
        ("x < 5", "x \\le 5", false),
        ("\\binom{5}{2}", "10", true),
        ("\\log_2 8", "3", true),
        ("\\sin 30^\\circ", "1/2", true),
        ("x_1 + x_2", "x_2 + x_1", true),
        ("\\text{(B)}", "B", true),
        ("\\text{(B)}", "(C)", false),
        ("(A)", "A", true),
        ("A", "B", false),
        ("e^2", "e^{2}", true),
        ("3+4i", "4i+3", true),
        ("5!", "120", true),
        ("\\infty", "-\\infty", false),
    ]);
}

#[test]
fn sentences_and_typesetting() {
    check(&[
        ("72", "The total is 72 clips, altogether.", true),
        ("72", "**72**", true),
        ("72", "The answer is **72**.", true),
        ("72", "`72`", true),
        ("72", "**Answer:** 72", true),
        ("72", "72 (seventy-two)", true),
        ("72", "not 72", false),
        ("72", "\\boxed{72}", true),
        ("72", "So 48 + 24 = \\boxed{72} clips.", true),
        ("\\boxed{18}", "18", true),
        ("72", "#### 72", true),
        ("72", "Answer: 72", true),
        ("72", "\"72\"", true),
        ("72", "$72$", true),
        ("72", "The answer is $72$.", true),
        ("72", "\\(72\\)", true),
        ("72", "72!", false),
        ("72", "It is 72!", true),
        ("72", "72 or so", true),
        ("72", "about 72", true),
        ("72", "≈ 72", true),
        ("72", "~72", true),
        ("72", "72, that is 72 clips", true),
        ("72", "72 of 100", false),
        ("1000", "1{,}000", true),
        ("1000", "1,000", true),
        ("10000", "10,\\!000", true),
        ("10000", "10\\,000", true),
        ("1000", "1 000", false),
        ("2", "two", true),
        ("25", "twenty-five", true),
        ("two", "2", true),
        ("10", "It takes ten days", true),
        ("1", "no one", false),
        ("50%", "50\\%", true),
        ("50%", "50 per cent", true),
        ("13 seasons", "thirteen seasons", true),
        ("New York", "new york.", true),
        ("Version 1.5", "Version 15", false),
        ("A+", "A-", false),
        ("F-16", "F16", true),
        ("1990s", "1990", false),
        ("n/a", "N/A", true),
        ("", " ", false),
    ]);
}

#[test]
fn hostile_texts_end_at_once() {
    let long = [
        "(".repeat(100_000),
        "1+".repeat(50_000),
        "\\frac{".repeat(20_000),
        "9^".repeat(2_000) + "9",
        "1,".repeat(2_000),
        "{".repeat(2_000) + &"}".repeat(2_000),
        "x = ".repeat(1_000),
        "1 and ".repeat(600),
        "√".repeat(4_000),
        "2^9999999999".to_owned(),
        "99999!".to_owned(),
        "(x+1)^500*".repeat(190) + "1",
        "1/7^700+".repeat(190) + "x",
        "**".repeat(100_000),
        "$".repeat(100_000),
        "one hundred ".repeat(300),
        "\\boxed{".repeat(50_000),
    ];
    for text in &long {
        let _ = answers_match(text, "1");
        let _ = answers_match("1", text);
        assert!(answers_match(text, text), "{}", &text[..4]);
    }
}

/// A number as people write it, and its value in hundredths.
fn written_numbers() -> impl Strategy<Value = (String, i64)> {
    let number = (-100_000_000i64..100_000_000, 0..5usize);
    number.prop_map(|(hundredths, form)| {
        let size = hundredths.abs();
        let sign = if hundredths < 0 { "-" } else { "" };
        let (whole, cents) = (size / 100, size % 100);
        let text = match form {
            0 => format!("{sign}{whole}.{cents:02}"),
            1 => format!("{sign}${whole}.{cents:02}"),
            2 => format!("{sign}\\frac{{{size}}}{{100}}"),
            3 => format!("{sign}{size} / 100"),
            _ => format!("{sign}{size}e-2"),
        };
        (text, hundredths)
    })
}

/// Texts made of what has a meaning, so that they get past the lexer.
fn almost_answers() -> impl Strategy<Value = String> {
    let pieces = [
        "1",
        "23",
        "1,234",
        "0.5",
        ".",
        ",",
        "+",
        "-",
        "–",
        "*",
        "^",
        "/",
        "%",
        "!",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "=",
        " ",
        " ",
        "x",
        "and",
        "or",
        "\\frac",
        "\\sqrt",
        "\\pi",
        "\\text{",
        "\\pm",
        "\\le",
        "$",
        "km",
        "hours",
        "per",
        "million",
        "k",
        "half",
        "two",
        ":",
        "pm",
        "July",
        "°",
        "\\cup",
        "\\infty",
        "|",
        "_",
        "1/2",
        "½",
        "\\begin{pmatrix}",
        "&",
        "\\\\",
        "\\{",
        "\\}",
        "minus",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..16).prop_map(|p| p.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_key_equals_itself_and_nothing_panics(text in almost_answers(), other in almost_answers()) {
        let _ = answers_match(&text, &other);
        let reading = read(&text);
        let _ = (reading.to_string(), read_key(&text).value());
        prop_assert!(text.trim().is_empty() || reading.text.trim().is_empty() || answers_match(&text, &text), "{}", text);
    }

    #[test]
    fn numbers_agree_where_their_values_do((a, x) in written_numbers(), (b, y) in written_numbers()) {
        prop_assert_eq!(answers_match(&a, &b), x == y, "{} {}", a, b);
        prop_assert_eq!(answers_match(&a, &b), answers_match(&b, &a));
    }

    #[test]
    fn blanks_dollars_and_a_full_stop_change_nothing((text, value) in written_numbers()) {
        let plain = format!("{}/100", value);
        for dressed in [format!(" {text} "), format!("{text}."), format!("**{text}**"), format!("\\boxed{{{text}}}"), format!("It is {text}.")] {
            prop_assert!(answers_match(&plain, &dressed), "{}", dressed);
        }
        if !text.contains('$') {
            let mathematics = format!("${text}$");
            prop_assert!(answers_match(&plain, &mathematics));
        }
    }

    #[test]
    fn a_sign_changes_a_number((text, value) in written_numbers()) {
        prop_assume!(value != 0);
        let text = text.replace('-', "").replace("e2", "e-2");
        for sign in ["-", "–", "−", "- ", "minus ", "negative ", "The answer is -"] {
            let negative = format!("{sign}{text}");
            prop_assert!(!answers_match(&text, &negative), "{}", negative);
            let key = format!("-{text}");
            prop_assert!(answers_match(&key, &negative), "{}", negative);
        }
    }
}
