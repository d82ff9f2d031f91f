//! Lines about connections that were turned away. Whoever can send packets can have thousands turned
//! away in a second, and must not fill logs with it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// In so long a reason is said once; what else is turned away is counted, and the count is said.
const WINDOW: Duration = Duration::from_secs(30);

/// Reasons that are said in a window: whoever is turned away may choose the words of some.
const REASONS: usize = 8;

/// Says what was turned away at one socket. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Refusals(Arc<Mutex<Window>>);

impl Refusals {
    /// Takes note of a connection that was turned away. Needs a tokio runtime.
    pub fn note(&self, from: SocketAddr, reason: &str) {
        let noted = self.0.lock().expect("no holder panics").note(reason);
        if noted.is_said {
            tracing::warn!(%from, reason, "A connection was turned away.");
        }
        if noted.opens {
            let refusals = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(WINDOW).await;
                let unsaid = refusals.0.lock().expect("no holder panics").end();
                if unsaid > 0 {
                    let seconds = WINDOW.as_secs();
                    tracing::warn!(
                        count = unsaid,
                        seconds,
                        "More connections were turned away."
                    );
                }
            });
        }
    }
}

/// What was turned away lately.
#[derive(Debug, Default)]
struct Window {
    is_open: bool,
    said: BTreeSet<String>,
    unsaid: u64,
}

/// What is to be done about a refusal.
#[derive(Debug, PartialEq, Eq)]
struct Noted {
    is_said: bool,
    /// The window begins: it is to be ended when its time is over.
    opens: bool,
}

impl Window {
    fn note(&mut self, reason: &str) -> Noted {
        let opens = !std::mem::replace(&mut self.is_open, true);
        let is_said = self.said.len() < REASONS && self.said.insert(reason.to_owned());
        if !is_said {
            self.unsaid += 1;
        }
        Noted { is_said, opens }
    }

    /// Ends the window; the number of those that nothing was said of.
    fn end(&mut self) -> u64 {
        std::mem::take(self).unsaid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_said_once_in_a_window_and_the_rest_is_counted() {
        let mut window = Window::default();
        let said = |is_said, opens| Noted { is_said, opens };
        assert_eq!(window.note("no certificate"), said(true, true));
        for _ in 0..1000 {
            assert_eq!(window.note("no certificate"), said(false, false));
        }
        assert_eq!(window.note("expired"), said(true, false));
        assert_eq!(window.end(), 1000);
        assert_eq!(window.note("expired"), said(true, true));
        assert_eq!(window.end(), 0);
    }

    #[test]
    fn words_of_strangers_are_no_way_around_it() {
        let mut window = Window::default();
        let said = (0..1000).filter(|n| window.note(&n.to_string()).is_said);
        assert_eq!(said.count(), REASONS);
        assert_eq!(window.end(), 1000 - REASONS as u64);
    }
}
