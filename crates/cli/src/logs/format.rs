//! How lines look: for people, or one JSON object each.

use std::fmt;
use std::sync::OnceLock;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, format::Format};
use tracing_subscriber::registry::LookupSpan;

/// How lines of logs look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Lines with the name of the node before them, once it has one.
pub struct Named<F> {
    events: F,
    name: &'static OnceLock<String>,
    format: LogFormat,
}

/// Lines for people, in a format that is as the library has it otherwise.
pub fn named_text(name: &'static OnceLock<String>) -> Named<Format> {
    Named {
        events: format::format(),
        name,
        format: LogFormat::Text,
    }
}

/// The same as JSON: the name is the field `node`.
pub fn named_json(name: &'static OnceLock<String>) -> Named<Format<format::Json>> {
    Named {
        events: format::format().json(),
        name,
        format: LogFormat::Json,
    }
}

impl<S, N, F> FormatEvent<S, N> for Named<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match (self.name.get(), self.format) {
            (None, _) => self.events.format_event(context, writer, event),
            (Some(name), LogFormat::Text) => {
                write!(writer, "{name} ")?;
                self.events.format_event(context, writer, event)
            }
            (Some(name), LogFormat::Json) => {
                let mut line = String::new();
                self.events
                    .format_event(context, Writer::new(&mut line), event)?;
                let rest = line.strip_prefix('{').ok_or(fmt::Error)?;
                write!(writer, "{{\"node\":{},{rest}", quoted(name))
            }
        }
    }
}

/// A line of this program's own, as an event of that level would be.
pub fn line_of(
    format: LogFormat,
    time: &str,
    level: &str,
    name: Option<&String>,
    text: &str,
) -> String {
    match format {
        LogFormat::Text => {
            let name = name.map(|name| format!("{name} ")).unwrap_or_default();
            format!("{name}{time} {level:>5} swirl: {text}\n")
        }
        LogFormat::Json => {
            let name = name.map(|name| format!("\"node\":{},", quoted(name)));
            format!(
                "{{{}\"timestamp\":{},\"level\":\"{level}\",\"fields\":{{\"message\":{}}},\"target\":\"swirl\"}}\n",
                name.unwrap_or_default(),
                quoted(time),
                quoted(text)
            )
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The time as events have it.
pub fn now() -> String {
    let mut text = String::new();
    // A clock that cannot be written leaves the line without it.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::Layer;
    use tracing_subscriber::layer::SubscriberExt;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    static NAME: OnceLock<String> = OnceLock::new();
    static NAMELESS: OnceLock<String> = OnceLock::new();

    /// What is written of one event.
    fn written(name: &'static OnceLock<String>, format: LogFormat) -> String {
        let buffer = Buffer::default();
        let lines = buffer.clone();
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || lines.clone());
        let layer = match format {
            LogFormat::Text => layer.event_format(named_text(name)).boxed(),
            LogFormat::Json => layer
                .fmt_fields(format::JsonFields::new())
                .event_format(named_json(name))
                .boxed(),
        };
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(reason = "a \"b\"", "A node is lost.");
        });
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn each_line_names_the_node() {
        NAME.get_or_init(|| "gpu-1".to_owned());
        let line = written(&NAME, LogFormat::Text);
        assert!(
            line.starts_with("gpu-1 ") && line.contains("WARN"),
            "{line}"
        );
        assert!(written(&NAMELESS, LogFormat::Text).starts_with('2'));
    }

    #[test]
    fn a_line_of_json_is_one_object() {
        NAME.get_or_init(|| "gpu-1".to_owned());
        let own = line_of(
            LogFormat::Json,
            "now",
            "WARN",
            NAME.get(),
            "A node\n\"is\" lost.",
        );
        for line in [&written(&NAME, LogFormat::Json), &own] {
            assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(object["node"], "gpu-1");
            assert_eq!(object["level"], "WARN");
            let message = object["fields"]["message"].as_str().unwrap();
            assert!(message.starts_with("A node"), "{line}");
        }
        let line = written(&NAMELESS, LogFormat::Json);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["fields"]["reason"], "a \"b\"");
        assert!(object.get("node").is_none());
    }
}
