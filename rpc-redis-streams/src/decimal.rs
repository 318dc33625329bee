//! Decimal numbers in bytes. Each entry has a dozen of them, and by way of `str` one takes three times as long.

use memchr::memchr;
use rpc_core::EntryId;

/// The number of which `digits` are all the digits; `None` if there are none, or others, or it is too large. There is no sign.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// The id of an entry: two numbers, or one, where the other is zero.
pub(crate) fn entry_id(text: &[u8]) -> Option<EntryId> {
    let (ms, seq) = match memchr(b'-', text) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b"0"[..]),
    };
    Some(EntryId {
        ms: decimal(ms)?,
        seq: decimal(seq)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_but_digits_is_a_number() {
        for text in ["", " 1", "1 ", "+1", "-1", "1-2", "x", "18446744073709551616"] {
            assert_eq!(decimal(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(decimal(b"007"), Some(7));
    }

    #[test]
    fn ids_are_read_with_and_without_their_second_number() {
        assert_eq!(entry_id(b"5-12"), Some(EntryId { ms: 5, seq: 12 }));
        assert_eq!(entry_id(b"5"), Some(EntryId { ms: 5, seq: 0 }));
        for text in ["", "-", "5-", "-5", "5-1-2", "x-1"] {
            assert_eq!(entry_id(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_reads_back(number: u64) {
            prop_assert_eq!(decimal(number.to_string().as_bytes()), Some(number));
        }
    }
}
