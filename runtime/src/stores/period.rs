//! Days and months of the calendar in UTC, numbered.

use std::fmt;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What a limit is for. Both begin at midnight UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Period {
    /// One day.
    Day,
    /// One month.
    Month,
}

impl Period {
    pub(super) const ALL: [Self; 2] = [Self::Day, Self::Month];

    /// The byte that stands for it in a store.
    pub(super) const fn code(self) -> u8 {
        match self {
            Self::Day => 0,
            Self::Month => 1,
        }
    }

    /// Days or months from January 1970 to the moment, in milliseconds since then.
    pub(super) fn number(self, unix_ms: u64) -> u64 {
        let day = unix_ms / DAY_MS;
        match self {
            Self::Day => day,
            Self::Month => month(day),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Day => "day",
            Self::Month => "month",
        })
    }
}

/// Months from January 1970 to a day, by Howard Hinnant's `civil_from_days` (*chrono-Compatible Low-Level Date
/// Algorithms*), in which the year begins in March.
fn month(day: u64) -> u64 {
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let from_march = (5 * day + 2) / 153;
    // March of the year 0 is month 2 of that year; 1970 years are 23 640 months.
    (400 * era + year) * 12 + from_march + 2 - 23_640
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_where_the_calendar_says() {
        // python3 -c "import datetime as d; [print((d.date(*x)-d.date(1970,1,1)).days) for x in ((1970,1,31),(1970,2,1),(1999,12,31),(2000,1,1),(2000,2,29),(2000,3,1),(2026,11,24),(2100,2,28),(2100,3,1))]"
        for (day, year, of_year) in [
            (0, 1970, 1),
            (30, 1970, 1),
            (31, 1970, 2),
            (10_956, 1999, 12),
            (10_957, 2000, 1),
            (11_016, 2000, 2),
            (11_017, 2000, 3),
            (20_781, 2026, 11),
            (47_540, 2100, 2),
            (47_541, 2100, 3),
        ] {
            let expected = (year - 1970) * 12 + of_year - 1;
            assert_eq!(Period::Month.number(day * DAY_MS), expected, "{day}");
            assert_eq!(Period::Month.number(day * DAY_MS + DAY_MS - 1), expected, "{day}");
            assert_eq!(Period::Day.number(day * DAY_MS + DAY_MS - 1), day);
        }
    }

    #[test]
    fn months_of_four_centuries_have_their_lengths() {
        let mut day = 0;
        for month in 0..400 * 12 {
            let (year, of_year) = (1970 + month / 12, month % 12);
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let days = match of_year {
                1 => {
                    if leap {
                        29
                    } else {
                        28
                    }
                }
                3 | 5 | 8 | 10 => 30,
                _ => 31,
            };
            for day in [day, day + days - 1] {
                assert_eq!(Period::Month.number(day * DAY_MS), month, "{day}");
            }
            day += days;
        }
    }
}
