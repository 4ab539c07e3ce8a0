//! Times as text.

/// RFC 3339 in UTC of seconds and nanoseconds since 1970.
///
/// The day's date is computed as in Howard Hinnant's "chrono-Compatible Low-Level Date
/// Algorithms", `civil_from_days`.
pub(crate) fn rfc3339(seconds: i64, nanoseconds: i64) -> String {
    // A file may carry any number; years beyond four digits are no RFC 3339.
    let seconds = seconds.clamp(-62_135_596_800, 253_402_300_799);
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

#[cfg(test)]
#[test]
fn known_instants() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00.000000001Z"),
        (951_782_400, "2000-02-29T00:00:00.000000001Z"),
        (1_780_315_200, "2026-06-01T12:00:00.000000001Z"),
        (-1, "1969-12-31T23:59:59.000000001Z"),
        (i64::MAX, "9999-12-31T23:59:59.000000001Z"),
    ] {
        assert_eq!(rfc3339(seconds, 1), text);
    }
}
