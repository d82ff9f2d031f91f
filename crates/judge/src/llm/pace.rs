//! When to send: pauses between tries, and the limit of requests per minute. Pure; time and
//! randomness are arguments.

use std::time::{Duration, SystemTime};

/// How often to try and how long to wait in between.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetryPolicy {
    /// The first try included.
    pub max_tries: u32,
    /// Pause before the second try, before jitter.
    pub first: Duration,
    /// Longest pause.
    pub longest: Duration,
}

impl RetryPolicy {
    /// How long to wait after the failed try number `tries` (from 1), or `None` to give up.
    /// `jitter` in [0, 1) takes up to half of the pause off, so that many clients do not come back
    /// together; a pause the endpoint asked for is never cut short.
    pub fn pause(&self, tries: u32, asked: Option<Duration>, jitter: f64) -> Option<Duration> {
        if tries >= self.max_tries || asked.is_some_and(|asked| asked > self.longest) {
            return None;
        }
        let doublings = tries.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        let pause = full.mul_f64(1.0 - jitter / 2.0);
        Some(pause.max(asked.unwrap_or_default()))
    }
}

/// The pause in a `Retry-After` header, from `now` on: seconds, which some servers give in fractions,
/// or a date in any form of RFC 9110 (10.2.3, 5.6.7); one that has passed is no pause.
pub(super) fn retry_after(header: &str, now: SystemTime) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = httpdate::parse_http_date(header).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// A token bucket, kept as the time at which it would be full of debt: one number instead of a
/// level and a time stamp (the generic cell rate algorithm). Holds one second's worth of requests.
#[derive(Debug)]
pub(super) struct TokenBucket {
    interval: Duration,
    slack: Duration,
    next: Duration,
}

impl TokenBucket {
    /// A full bucket for this many requests per minute; at least 1.
    pub fn per_minute(requests: u32) -> Self {
        let interval = Duration::from_secs(60) / requests.max(1);
        let burst = (requests / 60).max(1);
        Self {
            interval,
            slack: interval * (burst - 1),
            next: Duration::ZERO,
        }
    }

    /// Takes one token at time `now` (since any fixed moment): how long to wait before sending.
    pub fn take(&mut self, now: Duration) -> Duration {
        let due = self.next.max(now.saturating_sub(self.slack));
        self.next = due + self.interval;
        due.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_then_end() {
        let policy = RetryPolicy {
            max_tries: 5,
            first: 100 * MS,
            longest: 350 * MS,
        };
        // failed tries, asked for (ms), jitter, pause (ms)
        let rows = [
            (1, None, 0.0, Some(100)),
            (2, None, 0.0, Some(200)),
            (3, None, 0.0, Some(350)),
            (4, None, 0.0, Some(350)),
            (5, None, 0.0, None),
            (6, None, 0.0, None),
            (2, None, 0.5, Some(150)),
            (1, Some(20), 0.0, Some(100)),
            (1, Some(300), 0.9, Some(300)),
            (1, Some(350), 0.0, Some(350)),
            (1, Some(351), 0.0, None),
            (5, Some(1), 0.0, None),
        ];
        for (tries, asked, jitter, wanted) in rows {
            let found = policy.pause(tries, asked.map(|ms| ms * MS), jitter);
            assert_eq!(
                found,
                wanted.map(|ms| ms * MS),
                "{tries} {asked:?} {jitter}"
            );
        }
    }

    #[test]
    fn a_huge_number_of_tries_does_not_overflow() {
        let longest = Duration::from_secs(60);
        let policy = RetryPolicy {
            max_tries: u32::MAX,
            first: longest,
            longest,
        };
        assert_eq!(policy.pause(u32::MAX - 1, None, 0.0), Some(longest));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // Wed, 21 Oct 2015 07:28:00 GMT, less two and a half seconds.
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_445_412_477_500);
        let rows = [
            ("3", Some(3000)),
            (" 0 ", Some(0)),
            ("1.5", Some(1500)),
            ("-1", None),
            ("NaN", None),
            ("inf", None),
            ("soon", None),
            ("", None),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(2500)),
            ("Wednesday, 21-Oct-15 07:28:00 GMT", Some(2500)),
            ("Wed Oct 21 07:28:00 2015", Some(2500)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("Wed, 21 Oct 2015", None),
        ];
        for (header, wanted) in rows {
            assert_eq!(
                retry_after(header, now),
                wanted.map(Duration::from_millis),
                "{header}"
            );
        }
    }

    #[test]
    fn a_bucket_of_60_sends_one_a_second() {
        let mut bucket = TokenBucket::per_minute(60);
        let waits: Vec<_> = (0..4)
            .map(|_| bucket.take(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(waits, [0, 1000, 2000, 3000]);
        // A long rest does not save up more than the burst.
        let later = Duration::from_secs(100);
        assert_eq!(
            [bucket.take(later), bucket.take(later)].map(|d| d.as_millis()),
            [0, 1000]
        );
    }

    #[test]
    fn a_bucket_of_240_sends_four_at_once() {
        let mut bucket = TokenBucket::per_minute(240);
        let later = Duration::from_secs(100);
        let waits: Vec<_> = (0..6).map(|_| bucket.take(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 250, 500]);
    }

    proptest::proptest! {
        #[test]
        fn no_minute_sees_more_than_its_share(
            rate in 1_u32..400,
            gaps in proptest::collection::vec(0_u64..700, 1..200),
        ) {
            let mut bucket = TokenBucket::per_minute(rate);
            let mut now = Duration::ZERO;
            let mut sent = vec![];
            for gap in gaps {
                now += Duration::from_millis(gap);
                sent.push(now + bucket.take(now));
            }
            let burst = (rate / 60).max(1) as usize;
            for (index, start) in sent.iter().enumerate() {
                let end = *start + Duration::from_secs(60);
                let within = sent[index..].iter().filter(|at| **at < end).count();
                // Whole intervals in a minute, and the burst on top.
                proptest::prop_assert!(within <= rate as usize + burst, "{within} > {rate}+{burst}");
            }
        }
    }
}
