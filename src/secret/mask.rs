//! Replaces secret values by `***` in texts and in streams.

use super::Secret;
use std::sync::{Arc, PoisonError, RwLock};

/// What a secret is replaced by.
const MASK: &[u8] = b"***";
/// Shorter values would mask half of every log.
const SHORTEST: usize = 4;
/// The length of the lines that the command `base64` writes.
const BASE64_LINE: usize = 76;

/// The secret values of a run, shared by everything that writes.
#[derive(Debug, Clone, Default)]
pub struct Masks {
    values: Arc<RwLock<Vec<Vec<u8>>>>,
}

impl Masks {
    /// Masks a value from now on: the value, its lines and its base64 form. Values under four bytes are not masked;
    /// the answer says whether this one is.
    pub fn add(&self, secret: &Secret) -> bool {
        use base64::Engine;
        let value = secret.expose().trim();
        let mut forms = vec![value.as_bytes().to_vec()];
        forms.extend(value.lines().map(|line| line.trim().as_bytes().to_vec()));
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(secret.expose()).into_bytes();
        // The command `base64` breaks lines.
        forms.extend(encoded.chunks(BASE64_LINE).map(<[u8]>::to_vec));
        forms.push(encoded);
        if let Ok(json) = serde_json::to_string(value) {
            forms.push(json.trim_matches('"').as_bytes().to_vec());
        }
        forms.retain(|form| form.len() >= SHORTEST && !is_structure(form));
        let mut values = self.values.write().unwrap_or_else(PoisonError::into_inner);
        for form in forms {
            if !values.contains(&form) {
                values.push(form);
            }
        }
        values.sort_by_key(|value| std::cmp::Reverse(value.len()));
        value.len() >= SHORTEST
    }

    /// The text with every secret replaced.
    pub fn text(&self, text: &str) -> String {
        let mut masker = Masker::new(self);
        let mut out = masker.push(text.as_bytes());
        out.extend(masker.finish());
        String::from_utf8_lossy(&out).into_owned()
    }
}

/// Lines of a JSON secret that hold only structure would mask every other JSON text.
fn is_structure(form: &[u8]) -> bool {
    form.iter().all(|byte| b"{}[](),:\"' \t".contains(byte))
}

/// Masks one stream of bytes. What may be the beginning of a secret is held back until the next bytes decide.
#[derive(Debug)]
pub struct Masker {
    masks: Masks,
    held: Vec<u8>,
}

impl Masker {
    /// A masker at the beginning of a stream.
    pub fn new(masks: &Masks) -> Self {
        Self { masks: masks.clone(), held: Vec::new() }
    }

    /// Takes the next bytes and gives what can be shown now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.scan(false)
    }

    /// Gives the rest at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        self.scan(true)
    }

    fn scan(&mut self, at_end: bool) -> Vec<u8> {
        let values = self.masks.values.read().unwrap_or_else(PoisonError::into_inner);
        let held = std::mem::take(&mut self.held);
        if values.is_empty() {
            return held;
        }
        let mut first = [false; 256];
        for value in values.iter() {
            first[usize::from(value[0])] = true;
        }
        let mut out = Vec::with_capacity(held.len());
        let mut at = 0;
        while at < held.len() {
            let rest = &held[at..];
            if !first[usize::from(rest[0])] {
                out.push(rest[0]);
                at += 1;
                continue;
            }
            // A longer secret that may still be coming wins over a shorter one that is already whole.
            if !at_end && values.iter().any(|value| value.len() > rest.len() && value.starts_with(rest)) {
                self.held = rest.to_vec();
                break;
            }
            if let Some(value) = values.iter().find(|value| rest.starts_with(value)) {
                out.extend_from_slice(MASK);
                at += value.len();
            } else {
                out.push(rest[0]);
                at += 1;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks(values: &[&str]) -> Masks {
        let masks = Masks::default();
        for value in values {
            masks.add(&Secret::new(*value));
        }
        masks
    }

    #[test]
    fn a_secret_is_masked_at_every_chunk_boundary() {
        let masks = masks(&["hunter2-hunter2", "hunter2"]);
        let text = b"a hunter2-hunter2 b hunter2 c hunt";
        for cut in 0..text.len() {
            let mut masker = Masker::new(&masks);
            let mut out = masker.push(&text[..cut]);
            out.extend(masker.push(&text[cut..]));
            out.extend(masker.finish());
            assert_eq!(String::from_utf8_lossy(&out), "a *** b *** c hunt", "cut at {cut}");
        }
    }

    #[test]
    fn text_that_cannot_be_a_secret_passes_at_once() {
        let mut masker = Masker::new(&masks(&["secret"]));
        assert_eq!(masker.push(b"progress 10%\rsec"), b"progress 10%\r");
        assert_eq!(masker.push(b"ond"), b"second");
    }

    #[test]
    fn lines_and_base64_of_a_secret_are_masked() {
        let masks = masks(&["-----BEGIN-----\nabcdefgh\n"]);
        assert_eq!(masks.text("got abcdefgh here"), "got *** here");
        assert_eq!(masks.text("LS0tLS1CRUdJTi0tLS0tCmFiY2RlZmdoCg"), "***");
    }

    #[test]
    fn short_values_and_structure_are_not_masked() {
        let masks = masks(&["", "abc", "{\n  \"k\": \"longvalue\"\n}"]);
        assert_eq!(masks.text("{ abc }"), "{ abc }");
    }

    #[test]
    fn debug_output_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(***)");
    }
}
