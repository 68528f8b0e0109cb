//! A normal form of numbers, whatever their notation.

use serde_json::Number;

/// Longer runs of digits are written with an exponent.
const DIGITS: i64 = 40;

/// The normal form of a number: plain digits without redundant zeros, or scientific notation if that would be long.
/// Two numbers are equal if and only if their normal forms are, because nothing is rounded.
pub(crate) fn normal(number: &Number) -> Number {
    let text = number.to_string();
    plain(&text).and_then(|plain| plain.parse().ok()).unwrap_or_else(|| number.clone())
}

/// Returns `None` if the exponent is too large for arithmetic.
fn plain(text: &str) -> Option<String> {
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    // The number is 0.DIGITS times ten to the power of `point`.
    let leading = digits.len() - digits.trim_start_matches('0').len();
    let point = exponent
        .parse::<i64>()
        .ok()?
        .checked_add(i64::try_from(whole.len()).ok()?)?
        .checked_sub(i64::try_from(leading).ok()?)?;
    let digits = digits.trim_matches('0');
    let count = i64::try_from(digits.len()).ok()?;
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or_default());
    Some(if point >= count && point <= DIGITS {
        format!("{sign}{digits}{}", zeros(point - count))
    } else if point <= 0 && point > -DIGITS {
        format!("{sign}0.{}{digits}", zeros(-point))
    } else if (1..count).contains(&point) {
        let (whole, fraction) = digits.split_at(usize::try_from(point).ok()?);
        format!("{sign}{whole}.{fraction}")
    } else {
        let (first, rest) = digits.split_at(1);
        let rest = if rest.is_empty() { String::new() } else { format!(".{rest}") };
        format!("{sign}{first}{rest}e{}", point.checked_sub(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_notations_of_a_number_have_one_normal_form() {
        for (form, ways) in [
            ("0", vec!["0", "-0", "0.0", "0e5", "-0.00E-7", "0e99999999999"]),
            ("1.5", vec!["1.5", "1.50", "15e-1", "0.15E+1", "150e-2"]),
            ("1000", vec!["1000", "1e3", "1.0e3", "1000.0", "10000e-1"]),
            ("-0.001", vec!["-0.001", "-1e-3", "-0.0010"]),
            ("18446744073709551616", vec!["18446744073709551616", "18446744073709551616.0"]),
            ("1e+100", vec!["1e100", "10E99", "0.01e102"]),
            ("1.25e-100", vec!["1.25e-100", "125e-102"]),
            ("1e+99999999999999999999999", vec!["1e99999999999999999999999"]),
        ] {
            for way in ways {
                let number: Number = way.parse().unwrap();
                assert_eq!(normal(&number).to_string(), form, "{way}");
            }
        }
    }
}
