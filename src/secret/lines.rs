//! The output of one of several sources of a log: masked before its lines get the prefix of the source.

use super::{Masker, Masks};

/// Longer lines are returned in pieces of this size, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// Masks a stream and cuts it into lines. A prefix in a masked stream would hide a secret that continues on the next line,
/// such as one in base64.
pub(crate) struct MaskedLines {
    masker: Masker,
    /// The masked beginning of an incomplete line.
    line: Vec<u8>,
    /// Whether the last line that got a prefix is incomplete.
    torn: bool,
}

impl MaskedLines {
    pub(crate) fn new(masks: &Masks) -> Self {
        Self { masker: Masker::new(masks), line: Vec::new(), torn: false }
    }

    /// Takes the next bytes and returns the masked lines that are complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let held = self.line.len();
        self.line.append(&mut self.masker.push(bytes));
        let end = self.line[held..].iter().rposition(|byte| *byte == b'\n').map(|end| held + end + 1);
        let end = end.or((self.line.len() > MAX_LINE).then_some(self.line.len()));
        self.line.drain(..end.unwrap_or_default()).collect()
    }

    /// Ends the stream and returns the remaining masked lines, the last one complete.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.line.append(&mut self.masker.finish());
        let mut rest = std::mem::take(&mut self.line);
        if rest.last().map_or(self.torn, |last| *last != b'\n') {
            rest.push(b'\n');
        }
        rest
    }

    /// Adds a prefix to each line that [`Self::push`] or [`Self::finish`] has returned. The rest of a long line has none.
    pub(crate) fn prefixed(&mut self, prefix: &str, lines: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(lines.len() + prefix.len() * 8);
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if !std::mem::replace(&mut self.torn, !line.ends_with(b"\n")) {
                out.extend_from_slice(prefix.as_bytes());
            }
            out.extend_from_slice(line);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    /// The output of a stream that arrives in pieces of `size` bytes.
    fn decorated(masks: &Masks, text: &str, size: usize) -> String {
        let mut lines = MaskedLines::new(masks);
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            let complete = lines.push(piece);
            out.extend(lines.prefixed("#1 ", &complete));
        }
        let rest = lines.finish();
        out.extend(lines.prefixed("#1 ", &rest));
        String::from_utf8(out).unwrap()
    }

    /// Findings, A1.
    #[test]
    fn a_secret_on_several_lines_is_masked_before_lines_get_a_prefix() {
        let secret: String = ('a'..='z').cycle().take(150).collect();
        let masks = Masks::default();
        masks.add(&Secret::new(secret.as_str()));
        let hex: String = secret.bytes().map(|byte| format!(" {byte:02x}")).collect();
        let od: String =
            hex.as_bytes().chunks(48).map(|line| format!("{}\n", str::from_utf8(line).unwrap())).collect();
        let base64 = STANDARD.encode(&secret);
        let base64: String =
            base64.as_bytes().chunks(76).map(|line| format!("{}\n", str::from_utf8(line).unwrap())).collect();
        for text in [od, base64] {
            for size in [1, 7, 4096] {
                let out = decorated(&masks, &format!("before\n{text}after"), size);
                assert!(out.starts_with("#1 before\n#1 ") && out.contains("***"), "{out}");
                assert!(out.ends_with("after\n") && out.len() < 40, "{out}");
            }
        }
    }

    #[test]
    fn long_lines_are_returned_in_pieces_with_one_prefix() {
        let text = format!("{}\nnext", "x".repeat(3 * MAX_LINE));
        assert_eq!(
            decorated(&Masks::default(), &text, 1000),
            format!("#1 {}\n#1 next\n", "x".repeat(3 * MAX_LINE))
        );
    }
}
