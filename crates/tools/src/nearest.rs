//! The known name that a misspelt one most likely meant.

/// The known name closest to `name`, or `None` when nothing is close enough to be worth naming: at
/// most a third of the longer name may differ, and at least one edit is always allowed.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, candidate), candidate))
        .filter(|(distance, candidate)| {
            let longer = name.chars().count().max(candidate.len());
            *distance <= (longer / 3).max(1) && *distance < longer
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn close_names_are_found_and_distant_ones_are_not() {
        let known = ["sqrt", "sum", "average"];
        for (name, expected) in [
            ("sqr", Some("sqrt")),
            ("SUMM", Some("sum")),
            ("averge", Some("average")),
            ("integral", None),
            ("q", None),
            ("", None),
        ] {
            assert_eq!(nearest(name, known).as_deref(), expected, "{name}");
        }
    }
}
