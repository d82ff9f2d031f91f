//! A process's certificate while it runs: a renewed one is taken from its folder, and its end is said
//! in time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};
use transport::certs::{CurrentCredentials, moment};

/// Pause between looks at the folder.
const LOOK: Duration = Duration::from_secs(10);

/// From so many days before its end on a certificate's end is said.
const NOTICE_DAYS: i64 = 14;

const DAY_S: i64 = 86_400;

/// A certificate that ends is spoken of once a day, one that has ended once an hour.
const SAID_EVERY_S: [i64; 2] = [DAY_S, 3_600];

/// Keeps credentials as their folder has them, for as long as the process runs.
pub async fn keep(credentials: CurrentCredentials) {
    let mut notices = Notices::default();
    loop {
        say_end(&mut notices, &credentials);
        tokio::time::sleep(LOOK).await;
        let looking = credentials.clone();
        match tokio::task::spawn_blocking(move || looking.look()).await {
            Ok(Ok(is_new)) => {
                notices.is_fine();
                if is_new {
                    let until = moment(credentials.get().not_after());
                    tracing::info!(%until, "The certificate or the list of those shut out was renewed.");
                }
            }
            Ok(Err(error)) => {
                if let Some(fault) = notices.fault(&error.to_string()) {
                    tracing::warn!(
                        fault,
                        "The folder of the certificate is of no use; what was read before stays."
                    );
                }
            }
            // The runtime ends.
            Err(_) => return,
        }
    }
}

fn say_end(notices: &mut Notices, credentials: &CurrentCredentials) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now_s = now.unwrap_or_default().as_secs() as i64;
    let ends = credentials.get().not_after();
    let until = moment(ends);
    match notices.end(ends.unix_timestamp(), now_s) {
        Some(End::Over) => tracing::error!(
            %until,
            "This node's certificate has expired: open connections stay, new ones are refused. `swirl certs renew` makes another one, which is taken while this runs."
        ),
        Some(End::Near(days)) => tracing::warn!(
            %until,
            days,
            "This node's certificate expires soon. `swirl certs renew` makes another one, which is taken while this runs."
        ),
        None => {}
    }
}

/// How near the end of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// So many whole days are left.
    Near(i64),
    Over,
}

/// Keeps account of what was said.
#[derive(Debug, Default)]
struct Notices {
    /// Of which end, and when, in seconds since 1970.
    said: Option<(i64, i64)>,
    /// The fault of the last look, and whether it was said. A folder that is being replaced is at
    /// fault for a moment.
    fault: Option<(String, bool)>,
}

impl Notices {
    /// What is to be said now of a certificate that ends at `ends_s`.
    fn end(&mut self, ends_s: i64, now_s: i64) -> Option<End> {
        let left_s = ends_s - now_s;
        let (end, every_s) = match left_s {
            ..0 => (End::Over, SAID_EVERY_S[1]),
            _ if left_s < NOTICE_DAYS * DAY_S => (End::Near(left_s / DAY_S), SAID_EVERY_S[0]),
            _ => return None,
        };
        let was_over = |said_s: i64| ends_s < said_s;
        let is_said = self.said.is_some_and(|(of_s, said_s)| {
            of_s == ends_s && now_s - said_s < every_s && was_over(said_s) == (end == End::Over)
        });
        if is_said {
            return None;
        }
        self.said = Some((ends_s, now_s));
        Some(end)
    }

    /// A look failed: the fault, when it is there for the second time in a row and was not said yet.
    fn fault(&mut self, fault: &str) -> Option<String> {
        match &mut self.fault {
            Some((known, is_said)) if known == fault => {
                (!std::mem::replace(is_said, true)).then(|| fault.to_owned())
            }
            other => {
                *other = Some((fault.to_owned(), false));
                None
            }
        }
    }

    fn is_fine(&mut self) {
        self.fault = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_said_from_two_weeks_before_it_on_once_a_day() {
        let mut notices = Notices::default();
        let ends = 100 * DAY_S;
        let cases = [
            (0, None),
            (86 * DAY_S, None),
            (86 * DAY_S + 1, Some(End::Near(13))),
            (86 * DAY_S + 11, None),
            (87 * DAY_S, None),
            (87 * DAY_S + 1, Some(End::Near(12))),
            (100 * DAY_S - 1, Some(End::Near(0))),
            (100 * DAY_S + 1, Some(End::Over)),
            (100 * DAY_S + 3_600, None),
            (100 * DAY_S + 3_601, Some(End::Over)),
        ];
        for (now, said) in cases {
            assert_eq!(notices.end(ends, now), said, "{now}");
        }
        // Renewed, and then one that is short from the start.
        assert_eq!(notices.end(200 * DAY_S, 101 * DAY_S), None);
        assert_eq!(notices.end(102 * DAY_S, 101 * DAY_S), Some(End::Near(1)));
    }

    #[test]
    fn a_fault_is_said_once_when_it_stays() {
        let mut notices = Notices::default();
        assert_eq!(notices.fault("missing"), None);
        assert_eq!(notices.fault("missing"), Some("missing".to_owned()));
        assert_eq!(notices.fault("missing"), None);
        assert_eq!(notices.fault("other key"), None);
        notices.is_fine();
        assert_eq!(notices.fault("other key"), None);
        assert_eq!(notices.fault("other key"), Some("other key".to_owned()));
    }
}
