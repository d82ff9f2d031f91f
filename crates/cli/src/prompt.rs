//! System messages: templates into which the tools that are offered are written.
//!
//! - **PT-1 (from the registry).** Tags, descriptions and schemas of tools come from the tools, so
//!   that no configuration repeats them and none can be out of date.
//! - **PT-2 (plain text stays).** A message without `{{` and `{%` is taken as it is.

use crate::config::Config;
use crate::usage::UsageError;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{Environment, UndefinedBehavior, context};
use std::fmt;
use std::sync::Arc;
use tools::registry::{Registry, UnknownTool};

/// The system message of work in which the tools of the configuration are offered, or none.
///
/// # Errors
/// When the template cannot be rendered; names the setting.
pub fn system(config: &Config, with_tools: bool) -> Result<String, UsageError> {
    let (key, template) = template(config, with_tools);
    let registry = registry(config, with_tools);
    let registry = registry.map_err(|error| UsageError::new(error.to_string()))?;
    render(template, &registry)
        .map_err(|error| UsageError::new(format!("`{key}` cannot be rendered: {error}")))
}

/// The setting that says the system message, and its value. Where no tool is offered, the
/// message describes none.
fn template(config: &Config, with_tools: bool) -> (&'static str, &str) {
    match with_tools && !config.tools.enabled.is_empty() {
        true => ("prompt.system", &config.prompt.system),
        false => (
            "prompt.system_without_tools",
            &config.prompt.system_without_tools,
        ),
    }
}

fn registry(config: &Config, with_tools: bool) -> Result<Registry, UnknownTool> {
    let limits = config.tools.limits.clone();
    match with_tools {
        true => Registry::builtin(&config.tools.enabled, limits),
        false => Ok(Registry::empty(limits)),
    }
}

/// Every system message that a run uses, as [`check_one`].
///
/// # Errors
/// The first that is wrong.
pub fn check(config: &Config) -> Result<Vec<String>, UsageError> {
    let mut remarks = check_one(config, true)?;
    if config.evaluation.without_tools {
        remarks.extend(check_one(config, false)?);
    }
    Ok(remarks)
}

/// A system message against the tools: it may not teach a tag that nothing answers. Returns a remark
/// for each offered tool that the message does not mention.
///
/// # Errors
/// When the message cannot be rendered, or teaches a tool which is not offered.
pub fn check_one(config: &Config, with_tools: bool) -> Result<Vec<String>, UsageError> {
    let mut remarks = Vec::new();
    let key = template(config, with_tools).0;
    let text = system(config, with_tools)?;
    let offered = registry(config, with_tools)
        .map_err(|error| UsageError::new(error.to_string()))?
        .tags();
    let known = Registry::builtin(&Registry::BUILTIN.map(str::to_owned), Default::default());
    let known = known.map_err(|error| UsageError::new(error.to_string()))?;
    for tool in known.tools() {
        let tag = tool.tag();
        let is_told = text.contains(&format!("<{tag}>"));
        match (offered.tool_of(tag).is_some(), is_told) {
            (false, true) => {
                return Err(UsageError::new(format!(
                    "`{key}` teaches the model to write <{tag}>, but the tool `{}` is not \
                     offered there: add it to tools.enabled, or take it out of the message",
                    tool.name()
                )));
            }
            (true, false) => remarks.push(format!(
                "`{key}` does not mention <{tag}>, so the model is not told of the tool `{}`: \
                 write {{{{ tools }}}} where the tools are to be described",
                tool.name()
            )),
            _ => {}
        }
    }
    Ok(remarks)
}

/// Writes the tools of a registry into a message (PT-2). `{{ tools }}` describes each on a line of
/// its own; `{% for tool in tools %}` has `name`, `tag`, `description`, `purpose`, `example` (a whole
/// call) and `arguments` (a JSON Schema) of each.
fn render(template: &str, registry: &Registry) -> Result<String, minijinja::Error> {
    if !["{{", "{%"].iter().any(|mark| template.contains(mark)) {
        return Ok(template.to_owned());
    }
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_keep_trailing_newline(true);
    let tools = Value::from_object(Offered(Value::from_serialize(registry.schema())));
    environment.render_str(template, context! { tools })
}

/// The tools as a template sees them: a list that is written out as a description.
#[derive(Debug)]
struct Offered(Value);

impl Object for Offered {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0
            .get_item(key)
            .ok()
            .filter(|item| !item.is_undefined())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len().unwrap_or(0))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tools = self.0.try_iter().map_err(|_| fmt::Error)?;
        for (index, tool) in tools.enumerate() {
            let part = |name: &str| tool.get_attr(name).unwrap_or_default();
            if index > 0 {
                writeln!(f)?;
            }
            let arguments = serde_json::to_string(&part("arguments")).map_err(|_| fmt::Error)?;
            write!(
                f,
                "{}: {} Call it like this: {} Its arguments: {arguments}",
                part("name"),
                part("description"),
                part("example"),
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PromptSection;
    use async_trait::async_trait;
    use tools::registry::{Limits, Tool, ToolError};

    struct Search;

    #[async_trait]
    impl Tool for Search {
        fn name(&self) -> &str {
            "search"
        }

        fn tag(&self) -> &str {
            "find"
        }

        fn description(&self) -> &str {
            "Finds articles."
        }

        fn schema(&self) -> serde_json::Value {
            serde_json::json!({"type": "string", "examples": ["Ada Lovelace"]})
        }

        async fn call(&self, _: &str) -> Result<String, ToolError> {
            Ok(String::new())
        }
    }

    fn registry(names: &[&str]) -> Registry {
        let mut registry = Registry::empty(Limits::default());
        for name in names {
            match *name {
                "search" => registry.insert(Arc::new(Search)),
                _ => registry.insert(Arc::new(tools::calculator::Calculator)),
            }
        }
        registry
    }

    #[test]
    fn the_default_message_follows_the_tools() {
        let default = PromptSection::default().system;
        let rendered = |names: &[&str]| render(&default, &registry(names)).unwrap();
        assert_eq!(
            rendered(&["calculator"]),
            "Solve the problem one step at a time. In each turn do exactly one thing. Either \
             calculate, like this: <math_exp>12*3</math_exp>, and you will be told the result. Or, \
             once you know it, give the final number, like this: <answer>36</answer>"
        );
        assert_eq!(
            rendered(&["calculator", "search"]),
            "Solve the problem one step at a time. In each turn do exactly one thing. Either \
             calculate, like this: <math_exp>12*3</math_exp>, or use search, like this: \
             <find>Ada Lovelace</find>, and you will be told the result. Or, once you know it, give \
             the final number, like this: <answer>36</answer>"
        );
    }

    #[test]
    fn pt_1_a_message_may_use_all_that_a_tool_says_of_itself() {
        let both = registry(&["search", "calculator"]);
        let cases = [
            (
                "{% for t in tools %}{{ t.name }} {{ t.tag }} {{ t.arguments.type }};{% endfor %}",
                "search find string;calculator math_exp string;",
            ),
            (
                "{{ tools | length }} {{ tools[0].description }}\n",
                "2 Finds articles.\n",
            ),
        ];
        for (template, expected) in cases {
            assert_eq!(render(template, &both).unwrap(), expected, "{template}");
        }
        let one = render("{{ tools }}", &registry(&["search"])).unwrap();
        let (words, schema) = one.split_once(" Its arguments: ").unwrap();
        assert_eq!(
            words,
            "search: Finds articles. Call it like this: <find>Ada Lovelace</find>"
        );
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
        assert_eq!(schema, Search.schema());
        let all = render("{{ tools }}", &both).unwrap();
        assert_eq!(all.lines().count(), 2, "{all}");
        let json = render("{{ tools | tojson }}", &both).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json[1]["tag"], "math_exp");
        assert_eq!(
            render("None:{{ tools }}.", &registry(&[])).unwrap(),
            "None:."
        );
        assert!(render("{{ tool }}", &both).is_err());
    }

    #[test]
    fn pt_2_plain_text_is_taken_as_it_is() {
        for text in [
            "Say {\"a\": 1}.",
            "50 % of {# it",
            "",
            "<math_exp>1</math_exp>\n\n",
        ] {
            assert_eq!(render(text, &registry(&["search"])).unwrap(), text);
        }
    }

    #[test]
    fn no_message_teaches_what_is_not_offered() {
        let calls = "Write <math_exp>1+1</math_exp>.";
        type Expected = Result<usize, &'static str>;
        let cases: [(&[&str], &str, &str, bool, Expected); 7] = [
            (&["calculator"], "{{ tools }}", "Answer.", true, Ok(0)),
            (&["calculator"], calls, "Answer.", true, Ok(0)),
            (&["calculator"], "Solve it.", "Answer.", false, Ok(1)),
            (&["calculator"], calls, calls, false, Ok(0)),
            (
                &["calculator"],
                calls,
                calls,
                true,
                Err("`prompt.system_without_tools` teaches"),
            ),
            (&[], calls, "Answer.", false, Ok(0)),
            (
                &[],
                calls,
                calls,
                false,
                Err("`prompt.system_without_tools` teaches"),
            ),
        ];
        for (tools, system, without, without_tools, expected) in cases {
            let mut config = crate::config::tests::least();
            config.tools.enabled = tools.iter().map(|&name| name.to_owned()).collect();
            config.prompt.system = system.to_owned();
            config.prompt.system_without_tools = without.to_owned();
            config.evaluation.without_tools = without_tools;
            match (check(&config), expected) {
                (Ok(remarks), Ok(count)) => assert_eq!(remarks.len(), count, "{remarks:?}"),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{error}"),
                (found, _) => panic!("{tools:?} {system:?} {without:?}: {found:?}"),
            }
        }
    }
}
