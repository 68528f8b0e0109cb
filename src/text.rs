//! Helpers for messages: suggestions, lists, sizes and digests.

/// How many candidates are considered, which is more than real files have.
const MAX_CANDIDATES: usize = 1000;
/// How many names a message lists.
const MAX_NAMES: usize = 40;

/// Returns the candidate that is most similar to `written`, if the difference could be a typing mistake.
pub(crate) fn closest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One mistake in two letters leaves too little.
    if written.chars().count() < 3 {
        return None;
    }
    let written = written.to_lowercase().replace('_', "-");
    let allowed = (written.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .take(MAX_CANDIDATES)
        // The distance is at least the difference in length.
        .filter(|candidate| candidate.len().abs_diff(written.len()) <= 4 * allowed)
        .map(|candidate| {
            let spelled = candidate.to_lowercase().replace('_', "-");
            (strsim::damerau_levenshtein(&written, &spelled), candidate)
        })
        .filter(|(distance, _)| *distance <= allowed)
        // Of equally similar candidates, always the same one.
        .min_by_key(|(distance, candidate)| (*distance, *candidate))
        .map(|(_, candidate)| candidate)
}

/// Joins names as `a, b and c`.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    joined(names, "and", "none")
}

/// Formats bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Formats a size in human-readable form, in decimal units like the docker command.
pub(crate) fn human_size(bytes: u64) -> String {
    let units = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    for (unit, name) in units {
        if bytes >= unit {
            return format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit);
        }
    }
    format!("{bytes} B")
}

/// Joins names as `a, b or c`.
pub(crate) fn either<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    joined(names, "or", "nothing")
}

fn joined<'a>(names: impl IntoIterator<Item = &'a str>, word: &str, none: &str) -> String {
    let mut names = names.into_iter();
    let mut shown: Vec<String> = names.by_ref().take(MAX_NAMES).map(|name| format!("`{name}`")).collect();
    match names.count() {
        0 => {}
        more => shown.push(format!("{more} more")),
    }
    match shown.split_last() {
        None => none.to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
    }
}

/// Puts a text on one line: white space becomes single blanks.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Truncates a string to this many characters, with an ellipsis if something is omitted.
pub(crate) fn shortened(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_misses_only() {
        assert_eq!(closest("imagse", ["images", "phases"]), Some("images"));
        assert_eq!(closest("pre-build", ["pre_build"]), Some("pre_build"));
        assert_eq!(closest("banana", ["images", "phases"]), None);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(human_size(2_345_678), "2.3 MB");
        assert_eq!(human_size(999), "999 B");
    }
}
