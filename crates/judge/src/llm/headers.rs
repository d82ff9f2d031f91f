//! The headers of a request, and the secrets among them.

use super::config::LlmJudgeConfig;
use super::setup_error::LlmSetupError;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// Parts of names of headers that carry secrets.
const SECRET: [&str; 6] = [
    "authorization",
    "key",
    "token",
    "secret",
    "cookie",
    "password",
];

/// Headers as they are sent, and what of them must not be shown.
#[derive(Clone, Default)]
pub(super) struct Headers {
    /// Secrets are marked sensitive: their `Debug` does not show them.
    pub map: HeaderMap,
    secrets: Vec<String>,
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.map.fmt(f)
    }
}

impl Headers {
    /// The key and the further headers of a configuration, with their values from the environment.
    ///
    /// # Errors
    /// When a variable is not set or its value cannot be sent, or when a secret stands in the
    /// configuration itself.
    pub fn new(
        config: &LlmJudgeConfig,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, LlmSetupError> {
        let mut headers = Self::default();
        if let Some(variable) = &config.api_key_env {
            headers.bearer(variable, &environment)?;
        }
        for (name, value) in &config.headers {
            headers.further(name, value, &environment)?;
        }
        Ok(headers)
    }

    /// A text in which each secret is blotted out: endpoints repeat what they were sent.
    pub fn redact(&self, text: &str) -> String {
        let blot = |text: String, secret: &String| text.replace(secret, "…");
        self.secrets.iter().fold(text.to_owned(), blot)
    }

    fn bearer(
        &mut self,
        variable: &str,
        environment: &impl Fn(&str) -> Option<String>,
    ) -> Result<(), LlmSetupError> {
        let fail = |reason| LlmSetupError::ApiKey {
            variable: variable.to_owned(),
            reason,
        };
        let key = environment(variable).ok_or_else(|| fail("is not set"))?;
        let key = key.trim();
        if key.is_empty() {
            return Err(fail("is empty"));
        }
        let value = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| fail("holds characters that no HTTP header can carry"))?;
        self.insert(AUTHORIZATION, value, Some(key));
        Ok(())
    }

    fn further(
        &mut self,
        name: &str,
        value: &str,
        environment: &impl Fn(&str) -> Option<String>,
    ) -> Result<(), LlmSetupError> {
        let fail = |reason: String| LlmSetupError::Header {
            name: name.to_owned(),
            reason,
        };
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| fail("is no name of an HTTP header".to_owned()))?;
        if [CONTENT_TYPE, CONTENT_LENGTH, HOST].contains(&header) {
            return Err(fail("is set by the client itself: remove it".to_owned()));
        }
        if self.map.contains_key(&header) {
            return Err(fail(
                "is given twice: by api_key_env, or in another spelling".to_owned(),
            ));
        }
        let variable = value
            .strip_prefix('$')
            .filter(|rest| !rest.starts_with('$'));
        let text = match variable {
            None => value.strip_prefix('$').unwrap_or(value).to_owned(),
            Some(variable) => {
                let set = environment(variable).map(|value| value.trim().to_owned());
                set.filter(|value| !value.is_empty()).ok_or_else(|| {
                    fail(format!(
                        "the environment variable {variable} is not set or empty"
                    ))
                })?
            }
        };
        let is_secret = SECRET.iter().any(|part| header.as_str().contains(part));
        if is_secret && variable.is_none() {
            return Err(fail(
                "a secret does not belong into a configuration: export it as an environment \
                 variable and write \"$NAME\""
                    .to_owned(),
            ));
        }
        let sent = HeaderValue::from_str(&text)
            .map_err(|_| fail("holds characters that no HTTP header can carry".to_owned()))?;
        self.insert(header, sent, variable.map(|_| text.as_str()));
        Ok(())
    }

    fn insert(&mut self, name: HeaderName, mut value: HeaderValue, secret: Option<&str>) {
        value.set_sensitive(secret.is_some());
        self.secrets.extend(secret.map(str::to_owned));
        self.map.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(
        key: Option<&str>,
        all: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Result<Headers, LlmSetupError> {
        let config = LlmJudgeConfig {
            api_key_env: key.map(str::to_owned),
            headers: all.iter().map(|&(n, v)| (n.into(), v.into())).collect(),
            ..Default::default()
        };
        let get = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Headers::new(&config, get)
    }

    #[test]
    fn values_come_from_the_environment_and_are_not_shown() {
        let found = headers(
            Some("K"),
            &[
                ("api-version", "2024"),
                ("X-Api-Key", "$O"),
                ("x-sign", "$$5"),
            ],
            &[("K", " sesame \n"), ("O", "other")],
        );
        let found = found.unwrap();
        let sent: Vec<(&str, &str)> = found
            .map
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        for pair in [
            ("authorization", "Bearer sesame"),
            ("api-version", "2024"),
            ("x-api-key", "other"),
            ("x-sign", "$5"),
        ] {
            assert!(sent.contains(&pair), "{sent:?}");
        }
        let shown = format!("{found:?}");
        assert!(shown.contains("2024"), "{shown}");
        assert!(
            !shown.contains("sesame") && !shown.contains("other"),
            "{shown}"
        );
        assert_eq!(
            found.redact("wrong key sesame, and other"),
            "wrong key …, and …"
        );
    }

    #[test]
    fn headers_that_cannot_be_sent_are_named() {
        type Row<'a> = (Option<&'a str>, (&'a str, &'a str), &'a str);
        let rows: [Row; 9] = [
            (None, ("a b", "x"), "no name of an HTTP header"),
            (None, ("Host", "x"), "by the client itself"),
            (None, ("content-type", "x"), "by the client itself"),
            (Some("K"), ("Authorization", "$K"), "twice"),
            (None, ("X-Api-Key", "sk-123"), "write \"$NAME\""),
            (None, ("Cookie", "sk-123"), "write \"$NAME\""),
            (None, ("x", "$NOT_SET"), "variable NOT_SET is not set"),
            (None, ("x", "$BLANK"), "variable BLANK is not set or empty"),
            (None, ("x", "$BAD"), "no HTTP header can carry"),
        ];
        for (key, header, wanted) in rows {
            let environment = [("K", "k"), ("BLANK", " "), ("BAD", "a\nsk-123")];
            let error = headers(key, &[header], &environment)
                .unwrap_err()
                .to_string();
            assert!(error.contains(wanted), "{error}");
            assert!(error.contains(header.0), "{error}");
            assert!(!error.contains("sk-123"), "{error}");
        }
    }
}
