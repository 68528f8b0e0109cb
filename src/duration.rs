//! Durations as people write them: `90s`, `10m`, `1h30m`.

use std::time::Duration;

/// The longest duration that the language knows: CodeBuild's longest build takes 36 hours.
const MAX: Duration = Duration::from_hours(7 * 24);
/// The units, from the largest, with their seconds.
const UNITS: [(char, u64); 4] = [('d', 86400), ('h', 3600), ('m', 60), ('s', 1)];

/// Reads a duration. The error says what is wrong, as a sentence fragment.
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
        let amount: u64 = number.parse().map_err(|_| format!("`{text}` is too long a time"))?;
        seconds = amount
            .checked_mul(units[position].1)
            .and_then(|part| seconds.checked_add(part))
            .ok_or_else(|| format!("`{text}` is too long a time"))?;
        units = &units[position + 1..];
        rest = &tail[unit.len_utf8()..];
    }
    let duration = Duration::from_secs(seconds);
    if duration > MAX {
        return Err(format!("`{text}` is longer than 7 days"));
    }
    if duration.is_zero() {
        return Err(format!("`{text}` is no time at all"));
    }
    Ok(duration)
}

/// The way out that goes with every error of [`parse`].
pub(crate) const HELP: &str =
    "write a number and a unit, the larger unit first (`d`, `h`, `m`, `s`): `90s`, `10m`, `1h30m`";

/// A duration as it is written in files.
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
}
