//! What a person may tune about a driver: data with defaults, checked once at the start.

use kiln_engine::{Error, Result, limits};

/// The knobs of a driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverSettings {
    /// How often an executor is asked to say that it lives, in milliseconds.
    pub heartbeat_ms: u64,
    /// Silence after which an executor is lost and its tasks go elsewhere, in milliseconds.
    pub lease_ms: u64,
    /// How long an executor whose stream broke has to come back before it is lost, in
    /// milliseconds. Shorter than the lease, because a broken stream is a stronger sign than
    /// silence; a value above the lease counts as the lease.
    pub reconnect_ms: u64,
    /// How long a job waits while there is no executor at all before it fails, in milliseconds.
    pub grace_ms: u64,
    /// The driver has one executor, in its own process, and no other will come.
    pub embedded: bool,
    /// Jobs may bring code of their own, which executors run.
    pub allow_programs: bool,
    /// Where executors and clients reach this driver, as others are told that look for who leads.
    pub url: String,
    /// How long the journal may stay as it is before a standby tries to lead, in milliseconds.
    pub leader_lease_ms: u64,
    /// Entries of the journal after which a snapshot replaces them, however small they are.
    pub snapshot_entries: u64,
    /// Jobs that have not ended; more are refused.
    pub jobs_max: usize,
}

impl Default for DriverSettings {
    fn default() -> Self {
        DriverSettings {
            heartbeat_ms: 1_000,
            lease_ms: 10_000,
            reconnect_ms: 3_000,
            grace_ms: 60_000,
            embedded: false,
            allow_programs: false,
            url: String::new(),
            leader_lease_ms: 4_000,
            snapshot_entries: 1_000,
            jobs_max: limits::JOBS_ACTIVE_MAX,
        }
    }
}

impl DriverSettings {
    /// Longest time that any setting may name: a day.
    const MS_MAX: u64 = 24 * 60 * 60 * 1_000;

    const LEADER_LEASE_MS_MIN: u64 = 2_000;

    /// For a driver whose one executor shares its process. Silence says nothing about that one: a
    /// process that was stopped for a while and goes on must not take itself for lost. An executor
    /// that has ended does not come back, so nobody waits for it.
    pub fn embedded() -> Self {
        DriverSettings {
            // Also how often people see how far their job is.
            heartbeat_ms: 200,
            lease_ms: Self::MS_MAX,
            reconnect_ms: 0,
            grace_ms: 5_000,
            embedded: true,
            allow_programs: true,
            ..DriverSettings::default()
        }
    }

    /// Refuses values that cannot work together.
    ///
    /// # Errors
    /// `Invalid`, naming the setting and its value.
    pub fn validate(&self) -> Result<()> {
        let times = [
            ("heartbeat_ms", self.heartbeat_ms),
            ("lease_ms", self.lease_ms),
            ("reconnect_ms", self.reconnect_ms),
            ("grace_ms", self.grace_ms),
            ("leader_lease_ms", self.leader_lease_ms),
        ];
        for (name, ms) in times {
            if ms > Self::MS_MAX {
                return Err(Error::invalid(format!(
                    "a setting is over a day {name}={ms}"
                )));
            }
        }
        if self.heartbeat_ms == 0 {
            return Err(Error::invalid(
                "the heartbeat interval must not be zero heartbeat_ms=0",
            ));
        }
        if self.leader_lease_ms < Self::LEADER_LEASE_MS_MIN {
            return Err(Error::invalid(format!(
                "who leads has to be able to renew its lease while the storage is slow, so it must \
                 last for two seconds leader_lease_ms={}",
                self.leader_lease_ms
            )));
        }
        if self.jobs_max == 0 {
            return Err(Error::invalid(
                "the driver must take at least one job jobs_max=0",
            ));
        }
        if self.lease_ms < 2 * self.heartbeat_ms {
            return Err(Error::invalid(format!(
                "the lease must cover at least two heartbeats lease_ms={} heartbeat_ms={}",
                self.lease_ms, self.heartbeat_ms
            )));
        }
        Ok(())
    }

    /// How long an executor whose stream broke has to come back, in milliseconds.
    pub fn reconnect_ms_effective(&self) -> u64 {
        self.reconnect_ms.min(self.lease_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::DriverSettings;

    fn check(change: fn(&mut DriverSettings), expected: Result<(), &str>) {
        let mut settings = DriverSettings::default();
        change(&mut settings);
        let found = settings
            .validate()
            .map_err(|error| error.message().to_owned());
        assert_eq!(found, expected.map_err(str::to_owned));
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        check(|_| (), Ok(()));
        check(|s| *s = DriverSettings::embedded(), Ok(()));
        check(
            |s| s.heartbeat_ms = 0,
            Err("the heartbeat interval must not be zero heartbeat_ms=0"),
        );
        check(
            |s| s.lease_ms = 1_999,
            Err("the lease must cover at least two heartbeats lease_ms=1999 heartbeat_ms=1000"),
        );
        check(
            |s| s.jobs_max = 0,
            Err("the driver must take at least one job jobs_max=0"),
        );
        check(
            |s| s.grace_ms = 86_400_001,
            Err("a setting is over a day grace_ms=86400001"),
        );
    }

    #[test]
    fn a_reconnect_time_above_the_lease_counts_as_the_lease() {
        let settings = DriverSettings {
            lease_ms: 800,
            heartbeat_ms: 200,
            ..Default::default()
        };
        assert_eq!(settings.reconnect_ms_effective(), 800);
    }
}
