use super::*;

/// A tool that does what its arguments say.
struct Puppet;

#[async_trait]
impl Tool for Puppet {
    fn name(&self) -> &str {
        "puppet"
    }

    fn tag(&self) -> &str {
        "do"
    }

    fn description(&self) -> &str {
        "Does what it is told."
    }

    fn schema(&self) -> serde_json::Value {
        serde_json::json!({"type": "string"})
    }

    async fn call(&self, arguments: &str) -> Result<String, ToolError> {
        match arguments {
            "hang" => std::future::pending().await,
            "wait" => {
                tokio::time::sleep(Duration::from_millis(40)).await;
                Ok("waited".to_owned())
            }
            "panic" => panic!("told to"),
            "panic in blocking work" => blocking(|| panic!("told to")).await,
            "reject" => Err(ToolError::Rejected("told to".to_owned())),
            "network" => Err(ToolError::Infrastructure("connection reset".to_owned())),
            other => Ok(other.to_owned()),
        }
    }
}

fn registry(limits: Limits) -> Registry {
    let mut registry = Registry::builtin(&["calculator".to_owned()], limits).expect("built in");
    registry.insert(Arc::new(Puppet));
    registry
}

async fn call(limits: Limits, tool: &str, arguments: &str) -> Result<ToolReply, ToolError> {
    let call = ToolCall {
        tool: tool.to_owned(),
        arguments: arguments.to_owned(),
    };
    registry(limits).call(&call).await
}

#[tokio::test]
async fn re_1_calls_at_fault_are_observations_and_others_are_errors() {
    for (tool, arguments, text, is_error) in [
        ("calculator", "48/2 = 24", "24", false),
        ("calculator", "10/4", "2.5", false),
        ("calculator", "1/0", "Error: division by zero", true),
        (
            "calculator",
            "",
            "Error: there is no expression to calculate; write one such as 48/2",
            true,
        ),
        ("puppet", "hello", "hello", false),
        ("puppet", "reject", "Error: told to", true),
        ("search", "x", "Error: there is no tool `search`", true),
    ] {
        let reply = call(Limits::default(), tool, arguments)
            .await
            .expect(arguments);
        assert_eq!(
            (reply.text.as_str(), reply.is_error),
            (text, is_error),
            "{tool} {arguments}"
        );
    }
    let error = call(Limits::default(), "puppet", "network").await;
    assert_eq!(
        error,
        Err(ToolError::Infrastructure("connection reset".to_owned()))
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_tool_is_an_infrastructure_error_and_latency_is_measured() {
    let limits = Limits {
        timeout_ms: 50,
        ..Limits::default()
    };
    let error = call(limits.clone(), "puppet", "hang")
        .await
        .expect_err("never answers");
    assert_eq!(
        error,
        ToolError::Infrastructure("`puppet` did not answer within 50 ms".to_owned())
    );
    let reply = call(limits, "puppet", "wait")
        .await
        .expect("within the limit");
    assert!(reply.latency_us >= 40_000, "{reply:?}");
}

#[tokio::test]
async fn re_2_long_arguments_never_reach_a_tool() {
    let limits = Limits {
        max_argument_bytes: 4,
        ..Limits::default()
    };
    assert_eq!(
        call(limits.clone(), "puppet", "four")
            .await
            .expect("at the limit")
            .text,
        "four"
    );
    // Reaching the tool would panic.
    let reply = call(limits, "puppet", "panic")
        .await
        .expect("an observation");
    assert!(
        reply.is_error && reply.text.contains("at most 4"),
        "{reply:?}"
    );
    let megabyte = call(Limits::default(), "calculator", &"1+".repeat(1 << 19)).await;
    assert!(megabyte.expect("an observation").is_error);
}

#[tokio::test]
async fn long_results_are_cut_at_a_character_with_a_note() {
    let limits = Limits {
        max_result_bytes: 5,
        ..Limits::default()
    };
    for (result, text) in [
        ("12345", "12345"),
        (
            "123456",
            "12345\n[cut: the result has 6 bytes, shown are 5]",
        ),
        ("1234é6", "1234\n[cut: the result has 7 bytes, shown are 4]"),
    ] {
        assert_eq!(
            call(limits.clone(), "puppet", result)
                .await
                .expect("ok")
                .text,
            text
        );
    }
}

#[tokio::test]
async fn re_3_panics_reach_the_caller() {
    for arguments in ["panic", "panic in blocking work"] {
        let task = tokio::spawn(call(Limits::default(), "puppet", arguments));
        assert!(
            task.await.expect_err("the task fails").is_panic(),
            "{arguments}"
        );
    }
}

#[test]
fn an_unknown_tool_names_the_nearest() {
    let error = Registry::builtin(&["calculater".to_owned()], Limits::default());
    assert_eq!(
        error.expect_err("misspelt").to_string(),
        "there is no tool `calculater` (did you mean `calculator`?); known tools: calculator"
    );
    let error = Registry::builtin(&["oven".to_owned()], Limits::default()).expect_err("unknown");
    assert_eq!(error.nearest, None);
}

#[test]
fn tools_are_listed_once_with_tags_and_schema() {
    let names = ["calculator".to_owned(), "calculator".to_owned()];
    let registry = Registry::builtin(&names, Limits::default()).expect("built in");
    assert_eq!(registry.tags().close_tags(), ["</math_exp>", "</answer>"]);
    let schema = registry.schema();
    assert_eq!(schema.as_array().map(Vec::len), Some(1));
    assert_eq!(schema[0]["tag"], "math_exp");
    for example in schema[0]["arguments"]["examples"]
        .as_array()
        .expect("examples")
    {
        let example = example.as_str().expect("text");
        assert!(crate::calculator::evaluate(example).is_ok(), "{example}");
    }
    assert!(Registry::empty(Limits::default()).tags().tools().is_empty());
}

#[test]
#[should_panic(expected = "cannot be a tool's tag")]
fn the_answers_tag_is_taken() {
    struct Impostor;
    #[async_trait]
    impl Tool for Impostor {
        fn name(&self) -> &str {
            "impostor"
        }
        fn tag(&self) -> &str {
            ANSWER_TAG
        }
        fn description(&self) -> &str {
            ""
        }
        fn schema(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
        async fn call(&self, _: &str) -> Result<String, ToolError> {
            Ok(String::new())
        }
    }
    Registry::empty(Limits::default()).insert(Arc::new(Impostor));
}

#[test]
fn limits_refuse_unknown_keys() {
    let limits: Limits = serde_json::from_str(r#"{"timeout_ms": 5}"#).expect("a known key");
    assert_eq!(
        limits,
        Limits {
            timeout_ms: 5,
            ..Limits::default()
        }
    );
    assert!(serde_json::from_str::<Limits>(r#"{"timeout": 5}"#).is_err());
}
