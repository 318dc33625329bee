//! Durations as users write them: `2s`.

use std::time::Duration;

/// Reads a whole number and a unit; `None` when it is anything else, zero, or more than fits.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let unit_start = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_start);
    let millis_per_unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return None,
    };
    let millis = number.parse::<u64>().ok()?.checked_mul(millis_per_unit)?;
    (millis > 0).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit() {
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse("2s"), Some(Duration::from_secs(2)));
        assert_eq!(parse("3m"), Some(Duration::from_secs(180)));
        assert_eq!(parse("1h"), Some(Duration::from_secs(3600)));
    }

    #[test]
    fn anything_else_is_refused() {
        let others = [
            "",
            "2",
            "s",
            "2 s",
            "1.5s",
            "-1s",
            "2d",
            "2S",
            "0s",
            "18446744073709551615h",
        ];
        for text in others {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
