//! Ids and keys that are numbers, for the columns of clients of the first generation.

/// The number that an id or key stands for, if it is written the one canonical way (no sign, no leading zeros) and fits.
pub fn canonical<N: std::str::FromStr>(text: &str) -> Option<N> {
    let is_canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_canonical { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_numbers_are_answered_in_the_numeric_column() {
        assert_eq!(canonical::<u64>("0"), Some(0));
        assert_eq!(canonical::<u64>("18446744073709551615"), Some(u64::MAX));
        assert_eq!(canonical::<u32>("4294967295"), Some(u32::MAX));
        for text in ["007", "+7", "-1", "", "7a", "18446744073709551616"] {
            assert_eq!(canonical::<u64>(text), None, "{text:?}");
        }
    }
}
