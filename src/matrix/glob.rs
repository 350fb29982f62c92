//! Patterns in which `*` is a wildcard for any text, and `?` for one character.
//!
//! See the [specification](https://spec.matrix.org/v1.19/appendices/#glob-style-matching).

/// Returns whether a text matches a pattern, in a time of at most the product of their lengths.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    // The last star, and the first character of the text that it does not cover yet.
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = text.get(t) {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == c => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, swallowed)) = star else {
                    return false;
                };
                star = Some((at, swallowed + 1));
                p = at + 1;
                t = swallowed + 1;
            }
        }
    }
    pattern.iter().skip(p).all(|rest| *rest == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::matches;

    /// Matches by trying every length that a star may cover.
    fn slowly_matches(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, _) => text.is_empty(),
            (Some((&'*', pattern)), _) => {
                (0..=text.len()).any(|covered| slowly_matches(pattern, &text[covered..]))
            }
            (Some((wanted, pattern)), Some((c, text))) => {
                (*wanted == '?' || wanted == c) && slowly_matches(pattern, text)
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn a_pattern_matches_as_in_a_slow_search(pattern in "[ab?*]{0,6}", text in "[ab]{0,6}") {
            let (slow_pattern, slow_text): (Vec<_>, Vec<_>) =
                (pattern.chars().collect(), text.chars().collect());

            prop_assert_eq!(matches(&pattern, &text), slowly_matches(&slow_pattern, &slow_text));
        }

        #[test]
        fn a_text_without_wildcards_matches_only_itself(pattern in "[abc]{0,3}", text in "[abc]{0,3}") {
            prop_assert_eq!(matches(&pattern, &text), pattern == text);
        }
    }

    #[test]
    fn stars_match_any_text_but_question_marks_one_character() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a*b*c", "a__b__c", true),
            ("a*b*c", "a__c__b", false),
            ("hs?", "hs1", true),
            ("hs?", "hs", false),
            ("@user-?*", "@user-12:hs1", true),
            ("*.org", "matrix.org", true),
            ("*.org", "matrix.org.uk", false),
            ("abc", "abc", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
