//! Which services somebody serves, as far as the registry has shown: plain data, so that its rules can be tested without
//! waiting.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use rustc_hash::FxBuildHasher;
use tokio::time::Instant;

/// How long after opening nobody is said to be missing: servers that start along with their clients may come later.
const GRACE: Duration = Duration::from_secs(3);

/// How long the registry must have shown nobody: a server that is restarted is away for a moment.
const EMPTY: Duration = Duration::from_secs(1);

/// Looks further apart than this are no unbroken series, and one that is older says nothing about now.
const GAP: Duration = Duration::from_millis(700);

/// How long a server that was seen counts as there.
const FRESH: Duration = Duration::from_secs(5);

/// Whether a call to a service may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Somebody served it when last seen.
    Served,
    /// Nobody has for long enough.
    NoWorkers,
    /// Another look is needed.
    Unknown,
}

/// How many live servers each service has. Looked into before each call: a hash that withstands attackers costs four times as much,
/// and these names come from where all calls go anyway.
pub(crate) type Servers = HashMap<String, usize, FxBuildHasher>;

/// What the registry has shown.
#[derive(Debug)]
pub(crate) struct Roster {
    opened: Instant,
    last: Option<Look>,
    /// Since when an unbroken series of looks has been going on.
    series: Option<Instant>,
    /// Services that were asked for and not found, and since when the series has not shown them.
    missing: HashMap<String, Instant>,
}

#[derive(Debug)]
struct Look {
    at: Instant,
    servers: Servers,
    /// How many requests waited in the stream, if that is known.
    backlog: Option<u64>,
}

impl Roster {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            opened: now,
            last: None,
            series: None,
            missing: HashMap::new(),
        }
    }

    /// The registry was read: how many live servers each service has, and how many requests wait.
    pub(crate) fn looked(&mut self, servers: Servers, backlog: Option<u64>, now: Instant) {
        let unbroken = self.last.as_ref().is_some_and(|last| now - last.at <= GAP);
        if !unbroken || self.series.is_none() {
            self.series = Some(now);
            self.missing.clear();
        }
        self.missing.retain(|service, _| !servers.contains_key(service));
        self.last = Some(Look {
            at: now,
            servers,
            backlog,
        });
    }

    /// The registry could not be read: silence counts only while it can.
    pub(crate) fn failed(&mut self) {
        self.series = None;
        self.missing.clear();
    }

    /// Whether a call to `service` that was made at `made` may be sent at `now`.
    pub(crate) fn judge(&mut self, service: &str, made: Instant, now: Instant) -> Verdict {
        let Some(last) = &self.last else {
            return Verdict::Unknown;
        };
        if last.servers.contains_key(service) && now - last.at <= FRESH {
            return Verdict::Served;
        }
        if last.servers.contains_key(service) || self.series.is_none() || now - last.at > GAP {
            return Verdict::Unknown;
        }
        let since = *self.missing.entry(service.to_owned()).or_insert(last.at);
        // Seen since the call was made: the server that it is meant for may have started just before.
        if last.at >= made && last.at - since >= EMPTY && now - self.opened >= GRACE {
            Verdict::NoWorkers
        } else {
            Verdict::Unknown
        }
    }

    /// Whether somebody asks for a service that nobody serves: then it is looked often.
    pub(crate) fn is_missing_any(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Whether no server counts as there any more for having been seen.
    pub(crate) fn is_outdated(&self, now: Instant) -> bool {
        self.last.as_ref().is_none_or(|last| now - last.at > FRESH)
    }

    /// What is known of the servers of `service`, for a person.
    pub(crate) fn standing(&self, service: &str, now: Instant) -> Standing {
        Standing(self.last.as_ref().map(|last| Seen {
            servers: last.servers.get(service).copied().unwrap_or(0),
            backlog: last.backlog,
            age: now - last.at,
        }))
    }

    /// The services that are served, for a person who has misspelt one.
    pub(crate) fn services(&self) -> Vec<String> {
        let mut services: Vec<_> = self.last.iter().flat_map(|last| last.servers.keys().cloned()).collect();
        services.sort();
        services
    }
}

/// How many live servers a service has, and how many requests wait: as last seen, if ever. Shown with what to do about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing(Option<Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    servers: usize,
    backlog: Option<u64>,
    /// Servers may have come or gone since.
    age: Duration,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const GIVE_IT_LONGER: &str =
            "; give it longer with `with_timeout` on the client, or add servers if there are many requests";
        let Some(Seen { servers, backlog, age }) = &self.0 else {
            return write!(f, "how many servers live is not known{GIVE_IT_LONGER}");
        };
        match servers {
            0 => f.write_str("no live server serves it"),
            1 => f.write_str("1 live server serves it"),
            n => write!(f, "{n} live servers serve it"),
        }?;
        match backlog {
            None => Ok(()),
            Some(1) => f.write_str(", 1 request of the stream waits or runs"),
            Some(n) => write!(f, ", {n} requests of the stream wait or run"),
        }?;
        write!(f, " (seen {:.1} s ago)", age.as_secs_f32())?;
        f.write_str(if *servers == 0 { "; start one" } else { GIVE_IT_LONGER })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOOK: Duration = Duration::from_millis(250);

    fn serving(services: &[&str]) -> Servers {
        services.iter().map(|service| ((*service).to_owned(), 1)).collect()
    }

    /// A roster that has looked every 250 ms, with nobody there, and when it looked last.
    fn empty_for(elapsed: Duration) -> (Roster, Instant) {
        let mut now = Instant::now();
        let mut roster = Roster::new(now);
        let end = now + elapsed;
        loop {
            roster.looked(Servers::default(), None, now);
            let _ = roster.judge("calc", now, now);
            if now + LOOK > end {
                return (roster, now);
            }
            now += LOOK;
        }
    }

    #[test]
    fn nobody_is_missing_before_it_was_looked_and_within_the_grace() {
        let now = Instant::now();
        assert_eq!(Roster::new(now).judge("calc", now, now), Verdict::Unknown);
        let (mut roster, now) = empty_for(Duration::from_millis(2750));
        assert_eq!(roster.judge("calc", now, now), Verdict::Unknown);
        let (mut roster, now) = empty_for(Duration::from_millis(3250));
        assert_eq!(roster.judge("calc", now, now), Verdict::NoWorkers);
    }

    #[test]
    fn a_server_that_is_away_for_less_than_a_second_is_not_missing() {
        let (mut roster, mut now) = empty_for(Duration::from_secs(10));
        roster.looked(serving(&["calc"]), None, now);
        assert_eq!(roster.judge("calc", now, now), Verdict::Served);
        for _ in 0..4 {
            now += LOOK;
            roster.looked(Servers::default(), None, now);
            assert_eq!(roster.judge("calc", now, now), Verdict::Unknown);
        }
        now += LOOK;
        roster.looked(Servers::default(), None, now);
        assert_eq!(roster.judge("calc", now, now), Verdict::NoWorkers);
    }

    #[test]
    fn an_outage_starts_the_count_anew() {
        let (mut roster, mut now) = empty_for(Duration::from_secs(10));
        roster.failed();
        assert_eq!(roster.judge("calc", now, now), Verdict::Unknown);
        now += LOOK;
        roster.looked(Servers::default(), None, now);
        assert_eq!(roster.judge("calc", now, now), Verdict::Unknown);
    }

    #[test]
    fn what_was_seen_long_ago_does_not_say_that_somebody_is_missing_now() {
        let (mut roster, now) = empty_for(Duration::from_secs(10));
        let later = now + Duration::from_secs(60);
        assert_eq!(roster.judge("calc", later, later), Verdict::Unknown);
        roster.looked(Servers::default(), None, later);
        assert_eq!(roster.judge("calc", later, later), Verdict::Unknown);
    }

    #[test]
    fn a_call_is_not_refused_for_what_was_seen_before_it_was_made() {
        let (mut roster, now) = empty_for(Duration::from_secs(10));
        let made = now + Duration::from_millis(1);
        assert_eq!(roster.judge("calc", made, made), Verdict::Unknown);
        let now = now + LOOK;
        roster.looked(Servers::default(), None, now);
        assert_eq!(roster.judge("calc", made, now), Verdict::NoWorkers);
    }

    #[test]
    fn a_service_counts_as_missing_from_when_it_is_asked_for() {
        let (mut roster, now) = empty_for(Duration::from_secs(10));
        assert_eq!(roster.judge("other", now, now), Verdict::Unknown);
        assert_eq!(roster.judge("calc", now, now), Verdict::NoWorkers);
    }

    #[test]
    fn a_server_that_was_seen_long_ago_has_to_be_seen_again() {
        let now = Instant::now();
        let mut roster = Roster::new(now);
        roster.looked(serving(&["calc"]), None, now);
        assert_eq!(roster.judge("calc", now + FRESH, now + FRESH), Verdict::Served);
        assert_eq!(
            roster.judge("calc", now + FRESH + LOOK, now + FRESH + LOOK),
            Verdict::Unknown
        );
    }

    #[test]
    fn the_standing_reads_well() {
        let now = Instant::now();
        let mut roster = Roster::new(now);
        assert_eq!(
            roster.standing("calc", now).to_string(),
            "how many servers live is not known; give it longer with `with_timeout` on the client, or add servers if there are many requests"
        );
        roster.looked(Servers::from_iter([("calc".to_owned(), 2)]), Some(7), now);
        let now = now + Duration::from_millis(1234);
        let text = "2 live servers serve it, 7 requests of the stream wait or run (seen 1.2 s ago); \
                    give it longer with `with_timeout` on the client, or add servers if there are many requests";
        assert_eq!(roster.standing("calc", now).to_string(), text);
        let text = "no live server serves it, 7 requests of the stream wait or run (seen 1.2 s ago); start one";
        assert_eq!(roster.standing("other", now).to_string(), text);
    }

    proptest! {
        /// Whatever is seen and when: no verdict of absence within the grace, nor within a second of having seen a server.
        #[test]
        fn absence_is_never_concluded_early(steps in proptest::collection::vec((0..900_u64, 0..3_u8), 1..60)) {
            let opened = Instant::now();
            let (mut roster, mut now) = (Roster::new(opened), opened);
            let mut present = None;
            for (pause, what) in steps {
                now += Duration::from_millis(pause);
                match what {
                    0 => { roster.looked(serving(&["calc"]), None, now); present = Some(now); }
                    1 => roster.looked(Servers::default(), None, now),
                    _ => { roster.failed(); present = Some(now); }
                }
                if roster.judge("calc", now, now) == Verdict::NoWorkers {
                    prop_assert!(now - opened >= GRACE);
                    prop_assert!(present.is_none_or(|present| now - present >= EMPTY));
                }
            }
        }
    }
}
