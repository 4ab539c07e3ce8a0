//! Which bytes of a file a client wants (RFC 9110 §14).

use http::{HeaderMap, header};

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Everything: no range, one that cannot be read, or several.
    All,
    /// Bytes `first` to `last`, both included.
    Part { first: u64, last: u64 },
    /// A range that lies outside: 416.
    Nothing,
}

/// Reads `Range`, unless `If-Range` names something other than this strong validator. A date
/// there never fits: no answer of ours has a `Last-Modified`.
pub(super) fn wanted(headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let Some(range) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()) else {
        return Wanted::All;
    };
    if headers.get(header::IF_RANGE).is_some_and(|value| value.as_bytes() != etag.as_bytes()) {
        return Wanted::All;
    }
    parse(range, size)
}

fn parse(range: &str, size: u64) -> Wanted {
    let Some((unit, ranges)) = range.split_once('=') else { return Wanted::All };
    if !unit.trim().eq_ignore_ascii_case("bytes") || ranges.contains(',') {
        return Wanted::All;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else { return Wanted::All };
    let (Some(first), Some(last)) = (Position::of(first), Position::of(last)) else {
        return Wanted::All;
    };
    match (first, last) {
        (Position::Open, Position::Open) => Wanted::All,
        // The last `length` bytes.
        (Position::Open, Position::At(length)) => match size.checked_sub(1) {
            Some(last) if length > 0 => Wanted::Part { first: size - length.min(size), last },
            _ => Wanted::Nothing,
        },
        (Position::At(first), Position::At(last)) if last < first => Wanted::All,
        (Position::At(first), _) if first >= size => Wanted::Nothing,
        (Position::At(first), Position::Open) => Wanted::Part { first, last: size - 1 },
        (Position::At(first), Position::At(last)) => {
            Wanted::Part { first, last: last.min(size - 1) }
        }
    }
}

/// One side of a range.
enum Position {
    /// Left out.
    Open,
    At(u64),
}

impl Position {
    /// `None` for what is no number. More digits than fit are as good as the largest number.
    fn of(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::Open);
        }
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| Self::At(text.parse().unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges() {
        let part = |first, last| Wanted::Part { first, last };
        for (range, wanted) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=0-99", part(0, 99)),
            ("bytes=10-", part(10, 99)),
            ("bytes=90-1000", part(90, 99)),
            ("Bytes=5-6", part(5, 6)),
            ("bytes=-10", part(90, 99)),
            ("bytes=-1000", part(0, 99)),
            ("bytes=0-99999999999999999999999", part(0, 99)),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=100-200", Wanted::Nothing),
            ("bytes=5-4", Wanted::All),
            ("bytes=0-1,3-4", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("lines=0-1", Wanted::All),
            ("0-1", Wanted::All),
        ] {
            assert_eq!(parse(range, 100), wanted, "{range}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(parse("bytes=-5", 0), Wanted::Nothing);
    }

    proptest! {
        #[test]
        fn a_part_always_lies_inside(range in "bytes=[0-9]{0,20}-[0-9]{0,20}", size in 0..2000_u64) {
            if let Wanted::Part { first, last } = parse(&range, size) {
                prop_assert!(first <= last && last < size);
            }
        }

        #[test]
        fn nothing_panics(range in "\\PC{0,40}", size in any::<u64>()) {
            parse(&range, size);
        }
    }
}
