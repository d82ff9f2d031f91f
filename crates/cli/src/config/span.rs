//! Lengths of time as people write them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::time::Duration;

/// A length of time, written as `"2h"`, `"90m"`, `"1h 30m"` or `"0s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wrong = "write a length of time with its unit, such as \"2h\", \"90m\" or \"0s\"";
        let text = String::deserialize(deserializer).map_err(|_| de::Error::custom(wrong))?;
        let span = humantime::parse_duration(&text);
        span.map(Self).map_err(|_| de::Error::custom(wrong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_read_back() {
        let rows = [
            ("\"2h\"", Some(7200)),
            ("\"90m\"", Some(5400)),
            ("\"1h 30m\"", Some(5400)),
            ("\"0s\"", Some(0)),
            ("\"2\"", None),
            ("\"two hours\"", None),
            ("7200", None),
        ];
        for (text, wanted) in rows {
            let found = serde_json::from_str::<Span>(text);
            match wanted {
                None => assert!(found.unwrap_err().to_string().contains("such as \"2h\"")),
                Some(seconds) => {
                    let found = found.unwrap();
                    assert_eq!(found.0, Duration::from_secs(seconds), "{text}");
                    let again = serde_json::to_string(&found).unwrap();
                    assert_eq!(serde_json::from_str::<Span>(&again).unwrap(), found);
                }
            }
        }
    }
}
