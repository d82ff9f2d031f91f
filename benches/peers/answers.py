"""Answers and keys as math-verify compares them, beside this project's judge.

    pip install -r requirements-answers.txt
    python answers.py --fixture crates/judge/tests/fixtures/peer_answers.json
    python answers.py --data DIR            # from the repository's root, with a Rust toolchain

Every pair is made so that it is known whether its sides are equal. Pairs of the first kind are
shapes: a key of our own with spellings of it that are right and near misses that are wrong. Pairs
of the second kind dress the keys of question files (`gsm8k_train.jsonl`, `svamp_dev.jsonl` in DIR)
in the same ways; they are made at run time and written nowhere.

With `--fixture` the first kind goes into a file with math-verify's verdicts, which
`crates/judge/tests/peer_answers.rs` reads. Otherwise `--ours` is run, which takes one `key TAB
answer` a line and prints one JSON object a line with `equal`, and every disagreement is listed
with who is right. The exit status is 1 where ours is wrong and math-verify is right.
"""

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from math_verify import parse, verify

SEED = 16
OURS = "cargo run --quiet --bin swirl -- try answer --stdin"
FILES = ("gsm8k_train.jsonl", "svamp_dev.jsonl")
KEYS_PER_FILE = 60

# A key, what is equal to it, and what is not.
SHAPES = [
    # numbers
    ("72", ["72", "72.", "72.0", "$72$", r"\boxed{72}", "The answer is 72.", "72 clips",
            "The total is 72 clips, altogether.", "seventy-two", "**72**", "x = 72",
            r"\frac{144}{2}", r"8 \cdot 9", "72 = 72.0"],
     ["-72", "7.2", "720", "7 2", "71 to 72", "72^2", r"72 \times 10", "72x", "72/2", "-(72)",
      "72 or 73", "minus 72", "–72", "72k", "72!"]),
    ("-8", ["-8", "−8", "–8", "- 8", "minus 8", "negative 8", r"\(-8\)", r"-\frac{16}{2}",
            "The answer is -8.", "x=-8", "-8.0"],
     ["8", "+8", "0.8", "--8", r"\frac{16}{2}", "The answer is 8."]),
    ("1000", ["1,000", "1{,}000", r"\$1{,}000", "$1,000", "$1,000.00", "1e3", r"10^3", "1k",
              r"1\,000", "one thousand"],
     ["1,00", "1.000", "1", "100", "10,000", r"10^4", "1M", "1, 0, 0, 0"]),
    ("3000", [r"3 \times 10^3", r"3\times10^{3}", "3 x 10^3", r"3 \cdot 10^3", "3e3", "3k",
              "3,000"],
     ["3", "10", r"3 \times 10^2", r"3 \times 10^{-3}", "30", r"3^{10}"]),
    ("1500000", ["1.5M", "1.5 million", r"1.5 \times 10^6", "1,500,000", "$1.5M", "1500k"],
     ["1.5", "1.5k", "1.5B", "15M", "1.5 billion"]),
    ("0.75", [r"\frac{3}{4}", r"\dfrac{3}{4}", r"\tfrac{3}{4}", r"\frac34", "3/4", ".75", "0.750",
              "75%", r"75\%", "6/8", "three quarters"],
     ["4/3", "75/10", r"\frac{4}{3}", "34", "0.57", "-3/4", r"-\frac{3}{4}", "7.5%"]),
    (r"\frac{2}{3}", ["2/3", r"\dfrac{2}{3}", r"\frac{4}{6}", r"\frac23", "two thirds",
                      r"1 - \frac{1}{3}"],
     ["3/2", "2", "3", r"\frac{2}{5}", r"-\frac{2}{3}", "23"]),
    ("3 1/2", ["3.5", "7/2", r"3\frac{1}{2}", r"\frac{7}{2}", "3½", "three and a half"],
     ["31/2", "15.5", "3", "1/2", "3/2", "-3.5"]),
    ("50%", ["50%", r"50\%", "50", "0.5", "50 percent", r"\frac{1}{2}"],
     ["5%", "0.05", "500%", "-50%", "50.5%"]),
    ("3.14", ["3.14", "3.140"], ["314", "31.4", "-3.14", "3.41"]),
    # units and money
    ("1.5 hours", ["1.5 hours", "1.5", "90 minutes", "1 hour 30 minutes", "3/2 hours",
                   r"1.5\text{ hours}"],
     ["15 hours", "1.5 minutes", "-1.5 hours", "1.5 days", "90"]),
    ("18 dollars", ["18", "$18", "$18.00", r"\$18", "18 dollars", "18 dollars and 0 cents"],
     ["18 cents", "-18 dollars", "180 dollars", "18 euros", "1.8 dollars"]),
    ("$1.50 per hour", ["$1.50 per hour", "$1.50", "1.5", "$1.50/hour"],
     ["$150 per hour", "$15 per hour", "$1.50 per day", "-$1.50 per hour"]),
    (r"6\text{ inches}", ["6 inches", "6", "6 in", "0.5 feet", r"6 \text{ in}"],
     ["6 feet", "6 cm", "-6 inches", "60 inches"]),
    (r"90^\circ", ["90", "90°", "90 degrees", r"90^{\circ}"], ["9", "-90", "900", r"\pi"]),
    ("18 cm^2", ["18", r"18\text{ cm}^2", "18 square centimeters"], ["18 cm^3", "18 m^2", "182"]),
    # tuples, intervals, sets
    ("(3, -4)", ["(3,-4)", r"\left(3, -4\right)", "(3.0, -4)", r"(\frac{6}{2}, -4)"],
     ["(3, 4)", "(-4, 3)", "(3, -4, 0)", "3", "-4", "(3, -5)"]),
    ("[2,5)", ["[2, 5)", r"\left[2,5\right)"], ["(2,5]", "[2,5]", "[2,6)", "[-2,5)", "2"]),
    (r"(-\infty, 3]", [r"(-\infty,3]", r"\left(-\infty, 3\right]"],
     [r"(\infty, 3]", r"(-\infty, -3]", r"(-\infty, 3)"]),
    (r"(1,2)\cup(3,4)", [r"(1,2) \cup (3,4)", r"(3,4)\cup(1,2)"], [r"(1,2)\cup(3,5)", "(1,4)"]),
    (r"\{1,2,3\}", [r"\{3,2,1\}", r"\{1, 2, 3\}", "1, 2, 3"], [r"\{1,2\}", r"\{1,2,4\}", "6"]),
    ("1, -2", ["-2, 1", "1,-2", r"1 \text{ and } -2", "x=1, x=-2"], ["1, 2", "-1, 2", "1", "-2"]),
    (r"\pm 5", [r"\pm 5", "5, -5", "-5, 5", r"5 \text{ or } -5"], ["5", "-5", r"\pm 4"]),
    (r"\begin{pmatrix} 1 \\ -2 \end{pmatrix}",
     [r"\begin{pmatrix}1\\-2\end{pmatrix}", r"\begin{bmatrix} 1 \\ -2 \end{bmatrix}"],
     [r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} -2 \\ 1 \end{pmatrix}"]),
    # expressions
    (r"2\sqrt{3}", [r"\sqrt{12}", r"2 \cdot \sqrt{3}", r"\sqrt{3} \cdot 2", r"\frac{6}{\sqrt{3}}"],
     [r"3\sqrt{2}", r"\sqrt{3}", "2", r"-2\sqrt{3}", r"2\sqrt{2}"]),
    (r"25\pi", [r"25 \pi", r"\pi \cdot 25", r"25\pi"], ["25", r"-25\pi", r"5\pi", r"\pi"]),
    (r"\frac{\sqrt{3}}{3}", [r"\frac{1}{\sqrt{3}}", r"\dfrac{\sqrt{3}}{3}"],
     [r"\frac{\sqrt{3}}{2}", r"\sqrt{3}", r"-\frac{\sqrt{3}}{3}"]),
    (r"1+\sqrt{2}", [r"\sqrt{2}+1", r"1 + \sqrt 2"], [r"1-\sqrt{2}", r"\sqrt{2}", "1"]),
    (r"\sqrt[3]{8}", ["2", r"8^{1/3}"], ["8", r"\sqrt{8}", "-2"]),
    ("x^2+2x+1", ["(x+1)^2", "x^2 + 2x + 1", "1+2x+x^2", "$x^2+2x+1$"],
     ["(x-1)^2", "x^2+2x-1", "x^2", "2x+1"]),
    (r"\frac{x+1}{2}", [r"\frac{1+x}{2}", r"\frac{1}{2}(x+1)", "(x+1)/2"],
     [r"\frac{x-1}{2}", r"\frac{x+1}{3}", "x+1"]),
    ("x=5", ["5", "x = 5", "$x=5$"], ["-5", "x=-5", "x=6"]),
    ("y=2x+3", ["y = 2x + 3", "y=3+2x", "2x+3"], ["y=2x-3", "y=3x+2", "y=-2x+3"]),
    (r"x \le 5", [r"x\leq 5", r"x \le 5", r"5 \ge x"], [r"x \ge 5", r"x < 5", r"x \le -5"]),
    (r"2^{10}", ["1024", "2^{10}", r"4^5"], ["20", "2", "10", "210", r"10^2"]),
    ("120", ["5!", r"\binom{10}{3}", r"2^3 \cdot 15"], ["5", r"\binom{10}{4}", "-120"]),
    # ratios, times, dates, words
    ("3:2", ["3:2", "3 : 2", r"3\!:\!2"], ["2:3", "32", "3:5", "-3:2"]),
    ("7:30", ["7:30", "7:30 pm"], ["730", "7:45", "7.30", "7"]),
    ("July 4, 1776", ["July 4, 1776", "4 July 1776", "July 4th, 1776"],
     ["July 5, 1776", "July 4, 1777", "1776"]),
    ("20-25", ["20 to 25", "20–25"], ["20", "25", "2025", "20-26"]),
    (r"\text{(B)}", ["(B)", "B", r"\text{B}", r"\boxed{\text{(B)}}"], ["(C)", "A", r"\text{(D)}"]),
    ("New York", ["new york.", "New York", "new  york"], ["York", "New Jersey", ""]),
    ("yes", ["Yes", "yes.", "Yes, both are."], ["no", "No.", "I do not know"]),
]


def dressed(key, rng):
    """Spellings of a whole number of a question file, and near misses of it."""
    number = int(key.replace(",", ""))
    factor = rng.randrange(2, 9)
    right = [
        key,
        f"{number:,}",
        f"{number}.00",
        f"${number}$",
        rf"\boxed{{{number}}}",
        f"The answer is {number}.",
        f"${number:,}.",
        rf"\frac{{{number * factor}}}{{{factor}}}",
        rf"\dfrac{{{number * factor}}}{{{factor}}}",
        f"x = {number}",
        rf"{number}\text{{ dollars}}",
        f"{number * 100}/100",
        f"{number}.0",
    ]
    wrong = [
        f"{number + factor}",
        f"{number}.5",
        rf"{number} \times 10^{factor}",
        rf"\frac{{{number}}}{{{factor}}}",
        f"{number} to {number + factor}",
        f"{number}k",
        f"{number + 1} = {number} + 1",
    ]
    if number != 0:
        wrong += [f"-{number}", f"−{number}", f"minus {number}", rf"-\frac{{{number * 2}}}{{2}}"]
        wrong += [f"{number}*{factor}", f"{number}0"]
    return rng.sample(right, 4), rng.sample(wrong, 3)


def pairs_of_shapes():
    for key, right, wrong in SHAPES:
        yield from ((key, answer, True) for answer in right)
        yield from ((key, answer, False) for answer in wrong)


def pairs_of_questions(folder):
    rng = random.Random(SEED)
    for name in FILES:
        with (folder / name).open() as lines:
            rows = [json.loads(line) for line in lines]
        keys = sorted({row["answer"] for row in rows if row["answer"].lstrip("-").isdigit()})
        for key in rng.sample(keys, KEYS_PER_FILE):
            right, wrong = dressed(key, rng)
            yield from ((key, answer, True) for answer in right)
            yield from ((key, answer, False) for answer in wrong)


def in_dollars(text):
    """The text as LaTeX, which math-verify wants between dollars."""
    return text if "$" in text.replace("\\$", "") else f"${text}$"


def verify_as(key, answer, form):
    """Whether math-verify finds them equal, by its own defaults."""
    try:
        return bool(verify(parse(form(key)), parse(form(answer))))
    except Exception:  # what it cannot compare it does not accept
        return False


def verdict(key, answer, right):
    """math-verify's verdict on the texts as they are or as LaTeX, whichever serves it better."""
    verdicts = {verify_as(key, answer, form) for form in (str, in_dollars)}
    return right if right in verdicts else not right


def ask_ours(pairs, command):
    lines = "".join(f"{key}\t{answer}\n" for key, answer, _ in pairs)
    done = subprocess.run(command, shell=True, input=lines, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"`{command}` failed:\n{done.stderr}")
    return [json.loads(line)["equal"] for line in done.stdout.split("\n") if line]


def report(pairs, theirs, ours):
    """Prints the disagreements; how often ours is wrong where math-verify is right."""
    counts = Counter()
    print("| key | answer | right | ours | math-verify |\n|---|---|---|---|---|")
    for (key, answer, right), peer, own in zip(pairs, theirs, ours, strict=True):
        counts["ours right" if own == right else "ours wrong"] += 1
        counts["math-verify right" if peer == right else "math-verify wrong"] += 1
        counts["ours wrong, math-verify right"] += own != right and peer == right
        if own != peer:
            words = [{True: "equal", False: "not"}[side] for side in (right, own, peer)]
            print(f"| `{key}` | `{answer}` | {' | '.join(words)} |")
    print(f"\n{len(pairs)} pairs: {dict(counts)}")
    return counts["ours wrong, math-verify right"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--data", type=Path, help="folder of question files")
    arguments.add_argument("--fixture", type=Path, help="write the shapes' verdicts there")
    arguments.add_argument("--ours", default=OURS, help=f"the command (default: {OURS})")
    options = arguments.parse_args()

    pairs = list(pairs_of_shapes())
    if options.fixture:
        rows = [
            {"key": key, "answer": answer, "equal": right, "peer": verdict(key, answer, right)}
            for key, answer, right in pairs
        ]
        peer = {"package": "math-verify", "version": version("math-verify")}
        text = json.dumps({"peer": peer, "pairs": rows}, ensure_ascii=False, indent=0)
        options.fixture.write_text(text + "\n")
        return
    if options.data:
        pairs += pairs_of_questions(options.data)
    theirs = [verdict(*pair) for pair in pairs]
    if report(pairs, theirs, ask_ours(pairs, options.ours)):
        sys.exit(1)


if __name__ == "__main__":
    main()
