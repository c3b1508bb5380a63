//! Figures as people read them.

use std::time::Duration;

/// A rate as a person writes it: bytes a second, with `K`, `M` or `G` for the powers of 1024.
pub(crate) fn parse_rate(text: &str) -> Result<std::num::NonZeroU64, String> {
    let wrong = || "a number of bytes a second, with K, M or G behind it or nothing".to_owned();
    let (digits, shift) = match text.trim().to_ascii_uppercase() {
        text if text.ends_with('K') => (text[..text.len() - 1].to_owned(), 10),
        text if text.ends_with('M') => (text[..text.len() - 1].to_owned(), 20),
        text if text.ends_with('G') => (text[..text.len() - 1].to_owned(), 30),
        text => (text, 0),
    };
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * (1u64 << shift) as f64;
    if !(1.0..1e15).contains(&bytes) {
        return Err(wrong());
    }
    std::num::NonZeroU64::new(bytes as u64).ok_or_else(wrong)
}

/// Bytes in IEC units with three digits: `999 B`, `1.00 KiB`, `12.3 MiB`, `512 GiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.6 would be shown as 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A number with its thousands apart: `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number with its noun: `1 object`, `2 objects`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = match noun {
        "directory" => "directories".to_owned(),
        _ if number == 1 => noun.to_owned(),
        _ => format!("{noun}s"),
    };
    let noun = if number == 1 { noun } else { &plural };
    format!("{} {noun}", count(number))
}

/// A duration in its two largest units: `45 s`, `3 min 20 s`, `14 days`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let days = |n: u64| if n == 1 { "1 day".to_owned() } else { format!("{n} days") };
    let join = |large: String, small: u64, unit: &str| match small {
        0 => large,
        _ => format!("{large} {small} {unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => join(format!("{} min", seconds / 60), seconds % 60, "s"),
        3600..86400 => join(format!("{} h", seconds / 3600), seconds % 3600 / 60, "min"),
        _ => join(days(seconds / 86400), seconds % 86400 / 3600, "h"),
    }
}

/// Reads a duration such as `14d`, `36h`, `1d 12h` or `0`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || "a duration such as 14d, 36h, 30min or 0".to_owned();
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    let span: jiff::Span = text.parse().map_err(|_| expected())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| expected())?;
    Duration::try_from(duration).map_err(|_| expected())
}

/// The first digits of a commit or an object's id, enough to tell it from others by eye.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, rate) in
            [("1000", Some(1000)), ("500K", Some(512_000)), ("1.5m", Some(3 << 19)), ("2G", Some(2 << 30))]
        {
            assert_eq!(parse_rate(text).ok().map(std::num::NonZeroU64::get), rate, "{text}");
        }
        for bad in ["", "0", "-1", "K", "1T", "nan", "inf", "1e99"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_three_digits() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10_240, "10.0 KiB"),
            (10_235, "10.0 KiB"),
            (1_048_575, "1.00 MiB"),
            (123 << 20, "123 MiB"),
            (5_770_000_000, "5.37 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(size), text, "{size}");
        }
    }

    #[test]
    fn counts_have_separators_and_nouns() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(counted(1, "object"), "1 object");
        assert_eq!(counted(1200, "object"), "1,200 objects");
        assert_eq!(counted(2, "directory"), "2 directories");
    }

    #[test]
    fn durations_read_and_print() {
        for (text, seconds, printed) in [
            ("0", 0, "0 s"),
            ("45s", 45, "45 s"),
            ("90s", 90, "1 min 30 s"),
            ("30min", 1800, "30 min"),
            ("36h", 129_600, "1 day 12 h"),
            ("14d", 1_209_600, "14 days"),
            ("2w", 1_209_600, "14 days"),
            ("1d 12h", 129_600, "1 day 12 h"),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
            assert_eq!(duration(Duration::from_secs(seconds)), printed);
        }
        for bad in ["", "14", "x", "-1d", "1 fortnight"] {
            let expected = "a duration such as 14d, 36h, 30min or 0".to_owned();
            assert_eq!(parse_duration(bad), Err(expected), "{bad:?}");
        }
    }
}
