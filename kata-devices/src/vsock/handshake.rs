//! The line by which the host dials the guest.
//!
//! Comes from programs on the host that may open the socket; bounded anyway.

/// The longest line: `CONNECT 4294967295\r\n`.
pub(super) const MAX_LINE: usize = 20;

/// Why a line does not dial.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The port that `line`, without its newline, dials.
pub(super) fn parse(line: &[u8]) -> Result<u32, Malformed> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let digits = line
        .strip_prefix(b"CONNECT ")
        .or_else(|| line.strip_prefix(b"connect "))
        .ok_or(Malformed)?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    digits.parse().map_err(|_| Malformed)
}

/// The answer once the guest has accepted.
pub(super) fn accepted(host_port: u32) -> String {
    format!("OK {host_port}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_port_is_dialled() {
        assert_eq!(parse(b"CONNECT 1024"), Ok(1024));
        assert_eq!(parse(b"CONNECT 4294967295\r"), Ok(u32::MAX));
    }

    #[test]
    fn anything_else_is_malformed() {
        for line in [
            &b""[..],
            b"CONNECT",
            b"CONNECT ",
            b"CONNECT x",
            b"CONNECT -1",
            b"CONNECT +1",
            b"CONNECT 4294967296",
            b"CONNECT 1 2",
            b"HELLO 1",
        ] {
            assert_eq!(parse(line), Err(Malformed), "{line:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in proptest::collection::vec(any::<u8>(), 0..MAX_LINE)) {
            let _ = parse(&line);
        }
    }
}
