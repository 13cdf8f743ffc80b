//! What is certain to be a card, an IBAN or an IP address: found by form, believed by checksum or parser.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::{Range, RangeInclusive};

/// Digits of a payment card number (ISO/IEC 7812-1), from the shortest in use.
const CARD_DIGITS: RangeInclusive<usize> = 12..=19;

/// Characters of an IBAN (ISO 13616), from the shortest in use (Norway).
const IBAN_CHARACTERS: RangeInclusive<usize> = 15..=34;

/// Payment cards, written at once or in groups, with a right check digit.
pub(super) fn cards(text: &str) -> Vec<Range<usize>> {
    grouped(
        text,
        |byte| byte.is_ascii_digit(),
        CARD_DIGITS,
        |number| luhn(number) && !number.trim_matches('0').is_empty(),
    )
}

/// IBANs, written at once or in groups, in either case, with right check digits. Lengths by country are not checked.
pub(super) fn ibans(text: &str) -> Vec<Range<usize>> {
    grouped(text, |byte| byte.is_ascii_alphanumeric(), IBAN_CHARACTERS, iban)
}

/// IPv4 and IPv6 addresses in any of their standard forms; not `::` alone, which is nobody's.
pub(super) fn addresses(text: &str) -> Vec<Range<usize>> {
    let member = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':');
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = at + bytes.iter().skip(at).take_while(|byte| member(byte)).count();
        if end == at {
            at += 1;
            continue;
        }
        // A label before (`ip:`) and punctuation after are not the address's.
        for (from, to) in trimmed(bytes, at, end) {
            let whole = !word(bytes, from.checked_sub(1)) && !word(bytes, Some(to));
            if whole && text.get(from..to).is_some_and(is_address) {
                found.push(from..to);
                break;
            }
        }
        at = end;
    }
    found
}

/// A run of address characters, whole first, then without what may be punctuation or a port around it.
fn trimmed(bytes: &[u8], start: usize, end: usize) -> Vec<(usize, usize)> {
    let punctuation = |at: &usize| bytes.get(*at).is_some_and(|byte| matches!(byte, b'.' | b':'));
    // A hexadecimal word that ends in a colon may be a label: `face:192.0.2.1`.
    let after_label = (start..end).find(|at| bytes.get(*at) == Some(&b':')).map(|at| at + 1);
    let before_port = (start..end).rev().find(|at| bytes.get(*at) == Some(&b':'));
    let starts = [Some(start), after_label];
    let ends = [Some(end), end.checked_sub(1).filter(punctuation), end.checked_sub(2).filter(punctuation), before_port];
    let pairs = starts.into_iter().flatten().flat_map(|from| ends.into_iter().flatten().map(move |to| (from, to)));
    pairs.filter(|(from, to)| from < to).collect()
}

fn is_address(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv6Addr>().is_ok_and(|address| !address.is_unspecified())
}

fn word(bytes: &[u8], at: Option<usize>) -> bool {
    at.and_then(|at| bytes.get(at)).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// Windows of whole groups, a group being a run of `member` bytes and one space, hyphen or dot joining it to the next,
/// whose members together have one of `lengths` and are `valid`; from each start the longest.
fn grouped(
    text: &str,
    member: impl Fn(&u8) -> bool,
    lengths: RangeInclusive<usize>,
    valid: impl Fn(&str) -> bool,
) -> Vec<Range<usize>> {
    let groups = groups(text.as_bytes(), member);
    let mut found = Vec::new();
    let mut first = 0;
    while first < groups.len() {
        let mut number = String::new();
        let mut best = None;
        let mut end = None;
        for (index, group) in groups.iter().enumerate().skip(first) {
            let joined = end.is_none_or(|end| group.start == end + 1 && joins(text.as_bytes().get(end)));
            number.push_str(text.get(group.clone()).unwrap_or_default());
            if !joined || number.len() > *lengths.end() {
                break;
            }
            end = Some(group.end);
            if lengths.contains(&number.len()) && valid(&number) {
                best = Some(index);
            }
        }
        let window = best.and_then(|last| Some((groups.get(first)?.start..groups.get(last)?.end, last + 1)));
        first = match window {
            Some((range, next)) => {
                found.push(range);
                next
            }
            None => first + 1,
        };
    }
    found
}

fn joins(separator: Option<&u8>) -> bool {
    matches!(separator, Some(b' ' | b'-' | b'.'))
}

fn groups(bytes: &[u8], member: impl Fn(&u8) -> bool) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        if member(byte) {
            match groups.last_mut() {
                Some(group) if group.end == at => group.end = at + 1,
                _ => groups.push(at..at + 1),
            }
        }
    }
    groups
}

/// The check digit of ISO/IEC 7812-1, annex B (Luhn): every second digit from the right doubled, its digits summed.
fn luhn(number: &str) -> bool {
    let digits = number.bytes().rev().map(|byte| u32::from(byte - b'0'));
    let sum: u32 = digits
        .enumerate()
        .map(|(place, digit)| if place % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
        .sum();
    sum.is_multiple_of(10)
}

/// The check digits of ISO 13616 (ISO/IEC 7064, MOD 97-10): the first four characters moved to the end, letters as 10 to
/// 35, the number leaves 1 when divided by 97.
fn iban(number: &str) -> bool {
    let Some((head, body)) = number.split_at_checked(4) else { return false };
    // Looked at first: almost every window of ordinary words ends here.
    if !head.bytes().zip([true, true, false, false]).all(|(byte, letter)| letter == byte.is_ascii_alphabetic()) {
        return false;
    }
    let values = body.chars().chain(head.chars()).filter_map(|character| character.to_digit(36));
    values.fold(0, |remainder, value| (remainder * if value < 10 { 10 } else { 100 } + value) % 97) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(text: &str, find: fn(&str) -> Vec<Range<usize>>) -> Vec<&str> {
        find(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn cards_with_a_right_check_digit_are_found() {
        // Test numbers of the card networks, as payment providers publish them.
        for card in [
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "378282246310005",
            "3782 822463 10005",
            "5555555555554444",
            "6011111111111117",
            "30569309025904",
            "4222222222222",
            "6304000000000000",
        ] {
            let text = format!("pay 2 of 7 with {card}, until 11/30");
            assert_eq!(slices(&text, cards), [card], "{text}");
        }
        assert_eq!(slices("on 4 4111 1111 1111 1111 today", cards), ["4111 1111 1111 1111"]);
        for other in ["4111111111111112", "0000000000000000", "41111111111111111111111", "4111  1111  1111  1111"] {
            assert!(cards(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn every_single_wrong_digit_is_noticed() {
        let card = "4111111111111111";
        for place in 0..card.len() {
            for digit in b'0'..=b'9' {
                let mut wrong = card.as_bytes().to_vec();
                wrong[place] = digit;
                let wrong = String::from_utf8(wrong).unwrap();
                assert_eq!(luhn(&wrong), wrong == card, "{wrong}");
            }
        }
    }

    #[test]
    fn ibans_with_right_check_digits_are_found() {
        // Examples of the SWIFT IBAN registry.
        for account in [
            "GB29 NWBK 6016 1331 9268 19",
            "DE89370400440532013000",
            "NO93 8601 1117 947",
            "fr14 2004 1010 0505 0001 3M02 606",
            "MT84MALT011000012345MTLCAST001S",
        ] {
            let text = format!("send it to {account} by noon");
            assert_eq!(slices(&text, ibans), [account], "{text}");
        }
        for other in ["GB28 NWBK 6016 1331 9268 19", "GB29 NWBK", "DE8937040044053201300"] {
            assert!(ibans(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn addresses_are_found_with_whatever_stands_around_them() {
        for (text, found) in [
            ("ping 192.0.2.1.", vec!["192.0.2.1"]),
            ("http://192.0.2.1:8080/x", vec!["192.0.2.1"]),
            ("ip:192.0.2.1, face:192.0.2.1", vec!["192.0.2.1", "192.0.2.1"]),
            ("[2001:db8::1]:443 and fe80::1%eth0", vec!["2001:db8::1", "fe80::1"]),
            ("ip:2001:db8:0:0:0:0:0:1; ::ffff:192.0.2.1.", vec!["2001:db8:0:0:0:0:0:1", "::ffff:192.0.2.1"]),
            ("addr: fe80::, ::1:", vec!["fe80::", "::1"]),
            ("std::net at 12:30:45 on 00:1b:63:84:45:e6, :: 256.1.1.1 1.2.3", vec![]),
            ("é192.0.2.1é", vec!["192.0.2.1"]),
        ] {
            assert_eq!(slices(text, addresses), found, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics_and_every_range_is_text(text in r"[ -~é:.\[\]0-9a-f]{0,60}") {
            for find in [cards, ibans, addresses] {
                slices(&text, find);
            }
        }
    }
}
