//! Randomness: ids for what a run creates, and fractions for jitter.

/// The letters of an id: lower case, because Docker and AWS accept those in every kind of name.
const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";

/// Returns a new id of 16 lower-case letters and digits.
pub(crate) fn id() -> String {
    let mut bytes = [0; 16];
    // Without a random source TLS fails as well. The time and the process id are unique enough for an id.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        let now = jiff::Timestamp::now().as_nanosecond();
        bytes = (now ^ i128::from(std::process::id())).to_le_bytes();
    }
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

/// Returns a random number from 0 to 1, or 0.5 if there is no random source.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_consist_of_letters_and_digits() {
        let (first, second) = (id(), id());
        assert_ne!(first, second);
        assert_eq!(first.len(), 16);
        assert!(first.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()), "{first}");
    }

    #[test]
    fn fractions_are_between_zero_and_one() {
        assert!((0..1000).all(|_| (0.0..=1.0).contains(&fraction())));
    }
}
