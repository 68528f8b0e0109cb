//! Small helpers for sentences.

/// The candidate that a typing mistake away from `written` could have been meant.
pub fn closest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase().replace('_', "-");
    let allowed = (written.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| {
            let spelled = candidate.to_lowercase().replace('_', "-");
            (strsim::damerau_levenshtein(&written, &spelled), candidate)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a, b and c`, for messages that list what is known.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
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
}
