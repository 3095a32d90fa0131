//! What people type and read: sizes, names, labels, durations, instants.
//!
//! Parsing is strict: a value that could be meant in two ways is refused with the ways to write it.
use crate::error::{Error, Result};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Characters of a name at most.
pub const MAX_NAME: usize = 128;

/// Checks a name of a pool, volume or group: 1 to 128 of `A-Za-z0-9._-`, not starting with `-`, `.` or `..`.
/// The last rules keep names usable as arguments and as the last part of `/dev/plinth/NAME`.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let hint = "use 1 to 128 of A-Z a-z 0-9 . _ -";
    let refuse =
        |why: &str| Err(Error::invalid(name, format!("{name:?} is no {what} name: {why}")).hint(hint));
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.len() > MAX_NAME {
        return refuse("it is longer than 128 characters");
    }
    if let Some(bad) = name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-')) {
        return refuse(&format!("{bad:?} is not allowed"));
    }
    if name.starts_with('-') || name == "." || name == ".." {
        return refuse("it must not start with - or be . or ..");
    }
    Ok(())
}

/// A number of things: `1 leg`, `2 legs`.
pub fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Bytes as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes from hexadecimal digits; `None` if they are none.
pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    if rest.is_empty() { bytes.collect() } else { None }
}

/// Parses a size: a whole number of bytes, or with a unit; `K`, `Ki`, `KiB` and so on up to `E` are binary,
/// `KB`, `MB` and so on decimal. Result in bytes.
pub fn parse_size(text: &str) -> Result<u64> {
    let hint = "write it as 10GiB, 10G (both binary) or 10GB (decimal)";
    let refuse = |why: &str| Error::invalid(text, format!("{text:?} is no size: {why}")).hint(hint);
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(refuse("it does not start with a whole number"));
    }
    let number: u64 = number.parse().map_err(|_| refuse("the number is too large"))?;
    let mut letters = unit.trim_start().chars();
    let power = match letters.next() {
        None => return Ok(number),
        Some('B') if letters.as_str().is_empty() => return Ok(number),
        Some('K' | 'k') => 1,
        Some('M') => 2,
        Some('G') => 3,
        Some('T') => 4,
        Some('P') => 5,
        Some('E') => 6,
        Some(_) => return Err(refuse("the unit is unknown")),
    };
    let base: u64 = match letters.as_str() {
        "" | "i" | "iB" => 1024,
        "B" => 1000,
        _ => return Err(refuse("the unit is unknown")),
    };
    number.checked_mul(base.pow(power)).ok_or_else(|| refuse("it is too large"))
}

/// A size for people, in binary units with at most one decimal: `1.5GiB`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut divisor = 1u64;
    while unit + 1 < UNITS.len() && bytes / divisor >= 1024 {
        divisor *= 1024;
        unit += 1;
    }
    let tenths = u128::from(bytes) * 10 / u128::from(divisor);
    if tenths.is_multiple_of(10) {
        format!("{}{}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// Parses a length of time: `500ms`, `30s`, `5m`, `2h`, `30d`; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let refuse = || {
        Error::invalid(text, format!("{text:?} is no length of time"))
            .hint("write it as 500ms, 30s, 5m, 2h or 30d")
    };
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refuse()),
    };
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(refuse)
}

/// Parses `key=value`.
pub fn parse_pair(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(Error::invalid(text, format!("{text:?} is not of the form key=value"))),
    }
}

/// Now, as RFC 3339 in UTC with milliseconds.
pub fn now() -> String {
    show_instant(SystemTime::now())
}

/// An instant as RFC 3339 in UTC with milliseconds: `2026-11-20T09:40:00.000Z`. Before 1970 shows as 1970.
pub fn show_instant(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days as i64);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// Parses the start of a span: an RFC 3339 instant (without an offset it is UTC, without a time midnight), or a
/// length of time that reaches back from now. The result is in the form of `show_instant`.
///
/// # Errors
/// `Invalid`.
pub fn parse_since(text: &str) -> Result<String> {
    if let Ok(span) = parse_duration(text)
        && !text.bytes().all(|b| b.is_ascii_digit())
    {
        return Ok(show_instant(SystemTime::now().checked_sub(span).unwrap_or(UNIX_EPOCH)));
    }
    parse_instant(text).map(show_instant).ok_or_else(|| {
        Error::invalid(text, format!("{text:?} is no point in time"))
            .hint("write it as 10m, 2h or 2026-11-20T09:40:00Z")
    })
}

/// An RFC 3339 instant of 1970 or later; seconds, time and offset may be left away.
fn parse_instant(text: &str) -> Option<SystemTime> {
    let number = |part: &str, digits: usize| -> Option<u64> {
        (part.len() == digits && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok())?
    };
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time),
        None => (text, "00:00:00Z"),
    };
    let mut date = date.split('-');
    let (year, month, day) = (number(date.next()?, 4)?, number(date.next()?, 2)?, number(date.next()?, 2)?);
    let (time, offset) = match time.find(['Z', 'z', '+', '-']) {
        Some(at) => time.split_at(at),
        None => (time, "Z"),
    };
    let offset_minutes = match offset.split_at_checked(1)? {
        ("Z" | "z", "") => 0,
        (sign, rest) => {
            let (hours, minutes) = rest.split_once(':')?;
            let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
            let minutes = (hours <= 23 && minutes <= 59).then_some((hours * 60 + minutes) as i64)?;
            if sign == "-" { -minutes } else { minutes }
        }
    };
    let mut time = time.split(':');
    let (hour, minute) = (number(time.next()?, 2)?, number(time.next()?, 2)?);
    let second = time.next().unwrap_or("00");
    let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
    let second = number(second, 2)?;
    if date.next().is_some() || time.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let nanos = fraction.bytes().all(|b| b.is_ascii_digit()).then(|| format!("{fraction:0<9}"))?;
    let nanos: u64 = if fraction.is_empty() { return None } else { nanos[..9].parse().ok()? };
    let days = days_from_civil(year as i64, month, day);
    // The way back tells whether there is such a day.
    (civil_from_days(days) == (year as i64, month as u32, day as u32)).then_some(())?;
    let seconds = days * 86_400 + (hour * 3600 + minute * 60 + second) as i64 - offset_minutes * 60;
    let since = Duration::new(u64::try_from(seconds).ok()?, 0) + Duration::from_nanos(nanos);
    UNIX_EPOCH.checked_add(since)
}

/// Year, month, day to days since 1970-01-01 (the inverse of `civil_from_days`).
fn days_from_civil(year: i64, month: u64, day: u64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month as i64 - 3 } else { month as i64 + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day as i64 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant's civil-calendar algorithm).
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted + 2) / 5 + 1) as u32;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_unless_they_say_so() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10GiB", 10 << 30),
            ("10Gi", 10 << 30),
            ("10G", 10 << 30),
            ("10GB", 10_000_000_000),
            ("64KiB", 65536),
            ("64k", 65536),
            ("15E", 15 << 60),
        ] {
            assert_eq!(parse_size(text).expect(text), bytes, "{text}");
        }
        for text in ["", "G", "-1G", "1.5G", "10GX", "10 GiBB", "16E", "99999999999999999999"] {
            assert_eq!(parse_size(text).expect_err(text).kind.exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_shortly() {
        assert_eq!(show_size(0), "0B");
        assert_eq!(show_size(1 << 30), "1GiB");
        assert_eq!(show_size(3 << 29), "1.5GiB");
        assert_eq!(show_size(u64::MAX), "15.9EiB");
    }

    #[test]
    fn names_keep_to_their_alphabet() {
        for good in ["a", "v1", "db.data_1-x", &"x".repeat(128)] {
            assert!(check_name("volume", good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-v", "a/b", "a b", "a@b", "ä", &"x".repeat(129)] {
            assert!(check_name("volume", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn instants_follow_the_calendar() {
        let at = |s: u64| show_instant(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_795_167_600), "2026-11-20T09:40:00.000Z");
    }

    #[test]
    fn lengths_of_time() {
        assert_eq!(parse_duration("30s").expect("30s"), Duration::from_secs(30));
        assert_eq!(parse_duration("500ms").expect("500ms"), Duration::from_millis(500));
        assert!(parse_duration("soon").is_err());
        assert!(parse_since("10m").is_ok());
        for (text, instant) in [
            ("2026-11-20T09:40:00Z", "2026-11-20T09:40:00.000Z"),
            ("2026-11-20T09:40:00.5z", "2026-11-20T09:40:00.500Z"),
            ("2026-11-20T10:40:00+01:00", "2026-11-20T09:40:00.000Z"),
            ("2026-03-01T00:10:00.123456-23:59", "2026-03-02T00:09:00.123Z"),
            ("2026-11-20 09:40", "2026-11-20T09:40:00.000Z"),
            ("2024-02-29", "2024-02-29T00:00:00.000Z"),
        ] {
            assert_eq!(parse_since(text).expect(text), instant);
        }
        let bad =
            ["yesterday", "2026-13-01", "2026-02-29", "2026-11-20T24:00:00Z", "2026-11-20T09:40:00+1", "42"];
        for text in
            bad.into_iter().chain(["", "2026-11-20T", "2026-11-20T09:40:00.Z", "1969-12-31T00:00:00Z"])
        {
            assert!(parse_since(text).is_err(), "{text}");
        }
    }
}
