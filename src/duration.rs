//! Durations: as files write them (`90s`, `10m`, `1h30m`), and as people read them (`14 s`, `3 min 20 s`).

use serde::Serializer;
use std::time::Duration;

/// The longest duration in a file. CodeBuild's longest build takes 36 hours.
const MAX: Duration = Duration::from_hours(7 * 24);
/// The units with their seconds, the largest first.
const UNITS: [(char, u64); 4] = [('d', 86400), ('h', 3600), ('m', 60), ('s', 1)];

/// Parses a duration. The error is a sentence fragment.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    let mut seconds: u64 = 0;
    let mut units = UNITS.as_slice();
    if rest.is_empty() {
        return Err("this duration is empty".to_owned());
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let Some(unit) = tail.chars().next() else {
            return Err(format!("`{text}` has no unit"));
        };
        let position = units.iter().position(|(name, _)| *name == unit);
        let (Some(position), false) = (position, number.is_empty()) else {
            return Err(format!("`{text}` is not a duration"));
        };
        let amount: u64 = number.parse().map_err(|_| too_long(text))?;
        seconds = amount
            .checked_mul(units[position].1)
            .and_then(|part| seconds.checked_add(part))
            .ok_or_else(|| too_long(text))?;
        units = &units[position + 1..];
        rest = &tail[unit.len_utf8()..];
    }
    let duration = Duration::from_secs(seconds);
    if duration > MAX {
        return Err(too_long(text));
    }
    if duration.is_zero() {
        return Err(format!("`{text}` is zero"));
    }
    Ok(duration)
}

fn too_long(text: &str) -> String {
    format!("`{text}` is longer than 7 days")
}

/// The help for every error of [`parse`].
pub(crate) const HELP: &str =
    "write a number and a unit, the larger unit first (`d`, `h`, `m`, `s`): `90s`, `10m`, `1h30m`";

/// Parses an argument of the command line. The error names the units.
pub(crate) fn parse_argument(text: &str) -> Result<Duration, String> {
    parse(text).map_err(|problem| format!("{problem}; {HELP}"))
}

/// A duration as files write it.
pub(crate) fn display(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (name, unit) in &UNITS[1..] {
        if rest >= *unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Serialises a duration as files write it.
pub(crate) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&display(*duration))
}

/// A duration as people read it: `0.2 s`, `14 s`, `3 min 20 s`.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_durations() {
        let seconds = |text| parse(text).unwrap().as_secs();
        assert_eq!((seconds("90s"), seconds("10m"), seconds("1h30m"), seconds("1d")), (90, 600, 5400, 86400));
        for text in [
            "",
            "10",
            "m",
            "10 m",
            "-5m",
            "1.5h",
            "30m1h",
            "10min",
            "1h1h",
            "0s",
            "999999999999999999999s",
            "8d",
            "10µ",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(display(Duration::from_secs(5405)), "1h30m5s");
    }

    #[test]
    fn durations_for_people_are_short() {
        assert_eq!(human(Duration::from_millis(230)), "0.2 s");
        assert_eq!(human(Duration::from_secs(59)), "59 s");
        assert_eq!(human(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(human(Duration::from_secs(4000)), "1 h 6 min");
    }
}
