//! Days and dates of the Gregorian calendar by arithmetic alone.
//!
//! The algorithms are those of Howard Hinnant's "chrono-compatible low-level date algorithms":
//! years begin in March, so that the leap day is the last one, and repeat every 400 years.

/// Microseconds of a day.
pub(super) const DAY_MICROS: i64 = 86_400_000_000;

const DAYS_OF_400_YEARS: i64 = 146_097;

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

/// Year, month from 1 and day from 1 of a number of days since 1970-01-01.
#[inline]
pub(super) fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH;
    let era = days.div_euclid(DAYS_OF_400_YEARS);
    let day_of_era = days.rem_euclid(DAYS_OF_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Days since 1970-01-01 of a date.
pub(super) fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * DAYS_OF_400_YEARS + day_of_era - EPOCH
}

/// Day of the week; Sunday is 0. The first of 1970 was a Thursday.
pub(super) fn day_of_week(days: i64) -> i64 {
    (days + 4).rem_euclid(7)
}

/// Day of the year, from 1.
pub(super) fn day_of_year(days: i64) -> i64 {
    days - days_of(civil(days).0, 1, 1) + 1
}

/// The week by ISO 8601: the first one is that of the year's first Thursday.
pub(super) fn iso_week(days: i64) -> i64 {
    let thursday = monday(days) + 3;
    (day_of_year(thursday) - 1) / 7 + 1
}

/// The Monday of a day's week.
pub(super) fn monday(days: i64) -> i64 {
    days - (days + 3).rem_euclid(7)
}

/// A unit that time is cut or counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Months(i64),
    Weeks,
    Micros(i64),
}

impl Unit {
    pub(super) const NAMES: &str = "year, quarter, month, week, day, hour, minute, second";

    pub(super) fn named(name: &str) -> Option<Unit> {
        Some(match name.to_ascii_lowercase().as_str() {
            "year" => Unit::Months(12),
            "quarter" => Unit::Months(3),
            "month" => Unit::Months(1),
            "week" => Unit::Weeks,
            "day" => Unit::Micros(DAY_MICROS),
            "hour" => Unit::Micros(3_600_000_000),
            "minute" => Unit::Micros(60_000_000),
            "second" => Unit::Micros(1_000_000),
            _ => return None,
        })
    }

    /// Which of the units, counted from some fixed one, a moment lies in.
    pub(super) fn number(self, micros: i64) -> i64 {
        match self {
            Unit::Micros(unit) => micros.div_euclid(unit),
            _ => self.number_of_day(micros.div_euclid(DAY_MICROS)),
        }
    }

    /// As [`number`](Self::number) of the start of a day.
    pub(super) fn number_of_day(self, days: i64) -> i64 {
        match self {
            Unit::Months(months) => {
                let (year, month, _) = civil(days);
                (year * 12 + month - 1).div_euclid(months)
            }
            Unit::Weeks => (days + 3).div_euclid(7),
            Unit::Micros(unit) => days * (DAY_MICROS / unit),
        }
    }

    /// The first day of the unit that a day lies in.
    pub(super) fn first_day(self, days: i64) -> i64 {
        match self {
            Unit::Months(months) => {
                let (year, month, _) = civil(days);
                days_of(year, (month - 1) / months * months + 1, 1)
            }
            Unit::Weeks => monday(days),
            Unit::Micros(_) => days,
        }
    }

    /// The start of the unit that a moment lies in; none where that is out of range.
    pub(super) fn start(self, micros: i64) -> Option<i64> {
        match self {
            Unit::Micros(unit) => micros.div_euclid(unit).checked_mul(unit),
            _ => self
                .first_day(micros.div_euclid(DAY_MICROS))
                .checked_mul(DAY_MICROS),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{Datelike, NaiveDate};

    use super::*;

    #[test]
    fn every_day_of_a_millennium_agrees_with_the_library() {
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).expect("a date");
        let first = NaiveDate::from_ymd_opt(1595, 12, 27).expect("a date");
        for date in first.iter_days().take(366_000) {
            let days = (date - epoch).num_days();
            let (year, month, day) = civil(days);
            assert_eq!(year, i64::from(date.year()), "{date}");
            assert_eq!(month, i64::from(date.month()), "{date}");
            assert_eq!(day, i64::from(date.day()), "{date}");
            assert_eq!(days_of(year, month, day), days, "{date}");
            assert_eq!(iso_week(days), i64::from(date.iso_week().week()), "{date}");
            assert_eq!(day_of_year(days), i64::from(date.ordinal()), "{date}");
            let weekday = date.weekday().num_days_from_sunday();
            assert_eq!(day_of_week(days), i64::from(weekday), "{date}");
            assert_eq!(day_of_week(monday(days)), 1, "{date}");
        }
    }

    #[test]
    fn units_start_at_or_before_each_moment() {
        for seed in 0..2000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let micros = random.i64(-4_000_000_000_000_000..4_000_000_000_000_000);
            for name in Unit::NAMES.split(", ") {
                let unit = Unit::named(name).expect("a listed one");
                let start = unit.start(micros).expect("in range");
                assert!(start <= micros, "seed={seed} {name}");
                assert_eq!(
                    unit.number(start),
                    unit.number(micros),
                    "seed={seed} {name}"
                );
                assert_eq!(
                    unit.number(start - 1),
                    unit.number(micros) - 1,
                    "seed={seed} {name}"
                );
            }
        }
    }
}
