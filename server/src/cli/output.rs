//! All that commands say: answers on standard output, everything about them on standard error.
//!
//! Nothing else writes to either, so that `thermocline sql … | head` ends quietly when nobody reads on, and so that
//! what is piped onward is only what was asked for.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// A line of the answer.
pub fn line(text: impl Display) {
    finish(writeln!(io::stdout().lock(), "{text}"));
}

/// Bytes of the answer, as they are.
pub fn bytes(bytes: &[u8]) {
    let mut out = io::stdout().lock();
    finish(out.write_all(bytes).and_then(|()| out.flush()));
}

/// A line for whoever watches.
pub fn note(text: impl Display) {
    // If standard error is gone there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn finish(written: io::Result<()>) {
    if let Err(error) = written {
        // A reader that has seen enough, as `head` does, is a good end.
        let code = if error.kind() == io::ErrorKind::BrokenPipe { 0 } else { 1 };
        std::process::exit(code);
    }
}

/// A number with its thousands parted.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 row`, `2 rows`.
pub fn rows(count: u64) -> String {
    let noun = if count == 1 { "row" } else { "rows" };
    format!("{} {noun}", grouped(count))
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands() {
        let shown = [0, 999, 1_000, 336_776, 1_234_567].map(super::grouped);
        assert_eq!(shown, ["0", "999", "1,000", "336,776", "1,234,567"]);
    }
}
