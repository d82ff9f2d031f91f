use super::*;
use FinishReason::{EndOfTurn, Length, StopText};
use MalformedKind::{CallAndAnswer, NoAction, SeveralActions, Truncated, UnclosedTag};

fn tags() -> ActionTags {
    let pair = |tag: &str, tool: &str| (tag.to_owned(), tool.to_owned());
    ActionTags::new([
        pair("math_exp", "calculator"),
        pair("search_query", "search"),
    ])
}

fn call(tool: &str, arguments: &str) -> Action {
    Action::Call(ToolCall {
        tool: tool.to_owned(),
        arguments: arguments.to_owned(),
    })
}

#[test]
fn pa_1_one_action_is_read() {
    for (text, thought, action) in [
        ("<math_exp>48/2</math_exp>", "", call("calculator", "48/2")),
        (
            "Half.\n<math_exp> 48/2\n</math_exp>",
            "Half.\n",
            call("calculator", "48/2"),
        ),
        (
            "Look: <search_query>a < b</search_query>",
            "Look: ",
            call("search", "a < b"),
        ),
        (
            "So <answer>24</answer>\n",
            "So ",
            Action::Answer("24".to_owned()),
        ),
        (
            "So <answer>24</answer>. Done!",
            "So ",
            Action::Answer("24".to_owned()),
        ),
        (
            "<b>x</b> <answer>é</answer>",
            "<b>x</b> ",
            Action::Answer("é".to_owned()),
        ),
        (
            "<answer><b>2</b></answer>",
            "",
            Action::Answer("<b>2</b>".to_owned()),
        ),
    ] {
        for finish in [EndOfTurn, StopText, Length] {
            let parsed = parse_action(text, finish, &tags());
            assert_eq!(
                parsed,
                Parsed {
                    thought: thought.to_owned(),
                    action: action.clone()
                },
                "{text}"
            );
        }
    }
}

fn thinking(open: &str, close: &str, begins_open: bool) -> ActionTags {
    tags().with_thinking(Some(Thinking {
        open: open.to_owned(),
        close: close.to_owned(),
        begins_open,
    }))
}

#[test]
fn pa_4_a_thinking_section_holds_no_action() {
    let malformed = Action::Malformed;
    let quoted = "<think>The prompt says to end with something like <answer>36</answer> but I must \
                  compute 6*7.</think>\n<math_exp>6*7</math_exp>";
    for (text, finish, action) in [
        (quoted, StopText, call("calculator", "6*7")),
        (
            "<think>I can use <math_exp> tags.</think>\n<math_exp>48/2</math_exp>",
            StopText,
            call("calculator", "48/2"),
        ),
        (
            "<think>either </answer> or <search_query></think><answer>5</answer>",
            EndOfTurn,
            Action::Answer("5".to_owned()),
        ),
        (
            "<think>a</think> so <think>b <answer>1</answer></think><answer>2</answer>",
            StopText,
            Action::Answer("2".to_owned()),
        ),
        // The first closing tag counts.
        (
            "<think>a <think> b</think><answer>2</answer>",
            StopText,
            Action::Answer("2".to_owned()),
        ),
        // Opened before the text, be it known or not.
        (
            "as in <answer>36</answer></think><answer>2</answer>",
            StopText,
            Action::Answer("2".to_owned()),
        ),
        ("<answer>36</answer></think>", StopText, malformed(NoAction)),
        (
            "<think>The format is <answer>number</answer>.",
            Length,
            malformed(Truncated),
        ),
        (
            "<think>The format is <answer>number</answer>.",
            EndOfTurn,
            malformed(UnclosedTag),
        ),
        (
            "<think>like <answer>1</answer></think>",
            EndOfTurn,
            malformed(NoAction),
        ),
        ("<answer>1</answer> <think>or", Length, malformed(Truncated)),
        (
            "<answer>1<think>2</think></answer>",
            StopText,
            malformed(UnclosedTag),
        ),
        (
            "<answer>1<think>2</answer>",
            StopText,
            malformed(UnclosedTag),
        ),
        (
            "<think>x</think><answer>1</answer><answer>2</answer>",
            StopText,
            malformed(SeveralActions),
        ),
    ] {
        let parsed = parse_action(text, finish, &thinking("<think>", "</think>", false));
        assert_eq!(parsed.action, action, "{text:?} {finish:?}");
    }
    let parsed = parse_action(quoted, StopText, &thinking("<think>", "</think>", false));
    let thought = &quoted[..quoted.find("\n<math_exp>").expect("it is there") + 1];
    assert_eq!(parsed.thought, thought);
}

#[test]
fn a_template_may_have_opened_the_section() {
    let tags = thinking("[THINK]", "[/THINK]", true);
    for (text, finish, action) in [
        (
            "like <answer>1</answer>.",
            Length,
            Action::Malformed(Truncated),
        ),
        (
            "like <answer>1</answer>.",
            StopText,
            Action::Malformed(UnclosedTag),
        ),
        (
            "like <answer>1</answer>[/THINK]<answer>2</answer>",
            StopText,
            Action::Answer("2".to_owned()),
        ),
        (
            "[THINK]a[/THINK]<answer>2</answer>",
            StopText,
            Action::Answer("2".to_owned()),
        ),
    ] {
        assert_eq!(parse_action(text, finish, &tags).action, action, "{text}");
    }
    let texts = tags.texts();
    for text in ["<math_exp>", "</answer>", "[THINK]", "[/THINK]"] {
        assert!(texts.iter().any(|known| known == text), "{text}");
    }
    // Other tags than the configured ones are ordinary text, and none are configured by default.
    let text = "<think><answer>1</answer>";
    let action = Action::Answer("1".to_owned());
    assert_eq!(
        parse_action(text, StopText, &tags_without_thinking()).action,
        action
    );
    let [open, close] = ["[THINK]", "[/THINK]"];
    let action = parse_action(text, StopText, &thinking(open, close, false)).action;
    assert_eq!(action, Action::Answer("1".to_owned()));
}

fn tags_without_thinking() -> ActionTags {
    thinking("a", "b", true).with_thinking(None)
}

#[test]
fn pa_2_an_action_behind_a_section_that_is_cut_off_anywhere_never_runs() {
    let whole = "<think>like <math_exp>1+1</math_exp> or <answer>36</answer></think>\n\
                 <math_exp>48/2</math_exp>";
    let tags = thinking("<think>", "</think>", false);
    for end in 0..whole.len() {
        // Up to `<think` nothing says that a section begins, and nothing is an action either.
        let action = parse_action(&whole[..end], Length, &tags).action;
        assert_eq!(action, Action::Malformed(Truncated), "{}", &whole[..end]);
    }
}

#[test]
fn every_kind_of_malformed_step() {
    for (text, finish, kind) in [
        ("", EndOfTurn, NoAction),
        ("It is 24.", EndOfTurn, NoAction),
        ("It is 24.", StopText, NoAction),
        ("<math_exp></math_exp>", EndOfTurn, NoAction),
        ("<answer> \n </answer>", StopText, NoAction),
        ("<python>1+1</python>", EndOfTurn, NoAction),
        ("<Answer>24</Answer>", EndOfTurn, NoAction),
        ("< answer >24</ answer >", EndOfTurn, NoAction),
        ("<answer", EndOfTurn, NoAction),
        (
            "<math_exp>1</math_exp><math_exp>2</math_exp>",
            EndOfTurn,
            SeveralActions,
        ),
        (
            "<math_exp>1</math_exp><search_query>2</search_query>",
            EndOfTurn,
            SeveralActions,
        ),
        (
            "<answer>1</answer> or <answer>2</answer>",
            EndOfTurn,
            SeveralActions,
        ),
        (
            "<answer>1</answer> or <answer></answer>",
            Length,
            SeveralActions,
        ),
        (
            "<math_exp>1</math_exp><answer>2</answer>",
            EndOfTurn,
            CallAndAnswer,
        ),
        (
            "<answer>2</answer><math_exp>1</math_exp>",
            Length,
            CallAndAnswer,
        ),
        ("<math_exp>48/2", EndOfTurn, UnclosedTag),
        ("48/2</math_exp>", StopText, UnclosedTag),
        ("<math_exp>48/2</answer>", StopText, UnclosedTag),
        ("<math_exp><math_exp>1</math_exp>", StopText, UnclosedTag),
        (
            "<math_exp><answer>1</answer></math_exp>",
            StopText,
            UnclosedTag,
        ),
        ("<answer>1</answer></answer>", EndOfTurn, UnclosedTag),
        ("<answer>1</answer><math_exp>", EndOfTurn, UnclosedTag),
        ("", Length, Truncated),
        ("It is", Length, Truncated),
        ("<math_exp>48/2", Length, Truncated),
        ("<math_exp>48/2</math_ex", Length, Truncated),
        ("48</math_exp>", Length, Truncated),
        ("<answer>1</answer><math_exp>2", Length, Truncated),
    ] {
        let action = parse_action(text, finish, &tags()).action;
        assert_eq!(action, Action::Malformed(kind), "{text:?} {finish:?}");
    }
}

#[test]
fn pa_2_a_call_cut_off_anywhere_never_runs() {
    let whole = "Half of 48: <math_exp>48/2</math_exp>";
    for end in 0..whole.len() {
        let action = parse_action(&whole[..end], Length, &tags()).action;
        assert_eq!(action, Action::Malformed(Truncated), "{}", &whole[..end]);
    }
}

#[test]
fn pa_3_the_thought_ends_at_the_first_known_tag() {
    for (text, thought) in [
        ("no <b>tag</b>", "no <b>tag</b>"),
        ("a <math_exp>1", "a "),
        ("b </answer> c", "b "),
    ] {
        assert_eq!(parse_action(text, EndOfTurn, &tags()).thought, thought);
    }
}

#[test]
fn a_tool_that_is_not_enabled_has_no_tag() {
    let none = ActionTags::new([]);
    let action = parse_action("<math_exp>1</math_exp>", StopText, &none).action;
    assert_eq!(action, Action::Malformed(NoAction));
    assert_eq!(none.close_tags(), ["</answer>"]);
    assert_eq!(
        tags().close_tags(),
        ["</math_exp>", "</search_query>", "</answer>"]
    );
}

#[test]
fn policies_default_to_observing_all_but_truncation() {
    let policies = MalformedPolicies::default();
    for kind in MalformedKind::ALL {
        let expected = if kind == Truncated {
            MalformedPolicy::End
        } else {
            MalformedPolicy::Observe
        };
        assert_eq!(policies.of(kind), expected, "{kind:?}");
    }
    let set: MalformedPolicies =
        serde_json::from_str(r#"{"no_action":"end"}"#).expect("a known key");
    assert_eq!(
        set,
        MalformedPolicies {
            no_action: MalformedPolicy::End,
            ..policies
        }
    );
    for bad in [r#"{"no_actions":"end"}"#, r#"{"no_action":"stop"}"#] {
        assert!(
            serde_json::from_str::<MalformedPolicies>(bad).is_err(),
            "{bad}"
        );
    }
    let written = serde_json::to_value(&set).expect("plain data");
    for kind in MalformedKind::ALL {
        assert!(
            written.get(kind.name()).is_some(),
            "the key is the kind's own name: {kind:?}"
        );
    }
}

#[test]
fn messages_name_the_fault_and_every_form() {
    let mut seen = std::collections::HashSet::new();
    for kind in MalformedKind::ALL {
        let message = malformed_message(kind, &tags());
        for form in [
            "<math_exp>...</math_exp>",
            "<search_query>...",
            "<answer>...</answer>",
        ] {
            assert!(message.contains(form), "{message}");
        }
        assert!(message.starts_with("Error: ") && seen.insert(message));
    }
}
